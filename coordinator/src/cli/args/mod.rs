//! The grammar of the operators' commands.

mod events;
mod hooks;
mod import;
mod retention;
mod set;
mod sources;
mod storage;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_store::STORE_DIR;
use drover_store::path::StorePath;
use drover_tls::{Pin, Trust};
use drover_wire::set::SetRef;
use drover_wire::{AgentId, BuildId, BuildState};

use super::text::parse_span;
use crate::client::{ClientError, Coordinator, TokenPlaces};
use crate::config::Config;

pub use events::EventsArgs;
pub use hooks::{HooksArgs, HooksCommand};
pub use import::{ImportArgs, ImportCommand, MirrorArgs, MirrorCommand, TermsArgs};
pub(super) use retention::RETENTION;
pub use retention::{RetentionArgs, RetentionCommand};
pub use set::{SetArgs, SetCommand, SubmitArgs};
pub use sources::SourcesArgs;
pub use storage::{StorageArgs, StorageCommand};

/// Where a coordinator without an address is.
const COORDINATOR: &str = "http://127.0.0.1:8746";
/// What the coordinator's first start calls the client token that it writes to its state folder.
const TOKEN_FILE: &str = "client-token";

/// How the coordinator is reached, and what for.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The coordinator's address for clients
    #[arg(long, global = true, env = "DROVER_COORDINATOR", hide_env_values = true, value_name = "URL", default_value = COORDINATOR)]
    pub coordinator: String,
    /// A file with the client token; else DROVER_TOKEN or DROVER_TOKEN_FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Trust these authorities (PEM) only, and not the system's
    #[arg(
        long,
        global = true,
        env = "DROVER_CA_FILE",
        hide_env_values = true,
        value_name = "FILE",
        conflicts_with = "coordinator_key"
    )]
    pub ca_file: Option<PathBuf>,
    /// Trust only a coordinator with this key, sha256/…, as `drover key tls` prints it; may be repeated
    #[arg(
        long,
        global = true,
        env = "DROVER_COORDINATOR_KEY",
        hide_env_values = true,
        value_name = "KEY",
        value_delimiter = ','
    )]
    pub coordinator_key: Vec<Pin>,
}

/// For whom results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print JSON, one value on a line
    #[arg(long, global = true)]
    pub json: bool,
}

impl Connection {
    pub(super) fn coordinator(&self) -> Result<Coordinator, ClientError> {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(ClientError::BadToken { place: name.to_owned(), why: "it is not text".to_owned() })
            }
        };
        let places = TokenPlaces {
            option: self.token_file.clone(),
            variable: variable("DROVER_TOKEN")?,
            file_variable: std::env::var_os("DROVER_TOKEN_FILE").map(PathBuf::from),
            default: Config::default().state.join(TOKEN_FILE),
        };
        Coordinator::trusting(&self.coordinator, &places.find()?, self.trust()?)
    }

    fn trust(&self) -> Result<Trust, ClientError> {
        match &self.ca_file {
            Some(file) => Trust::of_file(file)
                .map_err(|reason| ClientError::Usage(format!("--ca-file cannot be used: {reason}"))),
            None if self.coordinator_key.is_empty() => Ok(Trust::System),
            None => Ok(Trust::Keys(self.coordinator_key.clone())),
        }
    }
}

/// `drover agent …`
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The agent, where one is meant
    #[arg(value_name = "UUID")]
    pub agent: Option<AgentId>,
    #[command(subcommand)]
    pub(super) command: AgentCommand,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// What is done with agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Create an agent and print its UUID
    New {
        /// Its name: letters, digits, `.`, `_` and `-`
        name: String,
    },
    /// List the agents
    List,
    /// Passwords of the agent UUID: drover agent UUID password new
    Password {
        /// What is done with them.
        #[command(subcommand)]
        command: PasswordCommand,
    },
    /// Tokens with which agents enrol themselves
    Token {
        /// What is done with them.
        #[command(subcommand)]
        command: TokenCommand,
    },
}

/// What is done with an agent's passwords.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum PasswordCommand {
    /// Make one more password and print it, this once
    New,
}

/// What is done with enrolment tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, this once
    New {
        /// What it is for
        #[arg(long, default_value = "", value_name = "TEXT")]
        note: String,
    },
}

/// `drover build …`
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// .drv files; - reads them from standard input, one on a line
    #[arg(required = true, value_name = "DRV")]
    pub drv: Vec<PathBuf>,
    /// Higher goes first
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_name = "N")]
    pub priority: i64,
    /// A tag for the builds; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub tags: Vec<(String, String)>,
    /// How long each may take: 90, 45min, 1h30m, 2d
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub timeout: Option<u64>,
    /// How long each may be silent
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub max_silent_time: Option<u64>,
    /// Wait until all have ended; the exit code is that of the worst
    #[arg(long)]
    pub wait: bool,
    /// Where to look for what is not beside the files given
    #[arg(long, value_name = "FOLDER", default_value = STORE_DIR)]
    pub store: PathBuf,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// `drover builds …`
#[derive(Debug, Args)]
pub struct BuildsArgs {
    /// In this state, such as ready, running or failed
    #[arg(long)]
    pub state: Option<BuildState>,
    /// For this system
    #[arg(long)]
    pub system: Option<String>,
    /// With this tag, or with any value of KEY
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub tag: Option<String>,
    /// Held or ended by this agent
    #[arg(long, value_name = "NAME or UUID")]
    pub agent: Option<String>,
    /// Whose derivation's name contains this
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// That this set wants, or this revision of it
    #[arg(long, value_name = "NAME[@REVISION]")]
    pub set: Option<SetRef>,
    /// At most this many; 0 for all
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: u64,
    /// Only those submitted before this one: the next page
    #[arg(long, value_name = "BUILD")]
    pub before: Option<BuildId>,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// `drover show …`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The build's UUID
    pub build: BuildId,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// `drover log …`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The build's UUID
    pub build: BuildId,
    /// Stay until the build has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Which try, from 1; the newest by default
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// The first byte that is wanted
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub offset: u64,
    /// Only the last bytes that are there by now, and what comes after them with --follow
    #[arg(long, conflicts_with = "offset", value_name = "BYTES")]
    pub tail: Option<u64>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// `drover cancel …`
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The builds' UUIDs
    #[arg(required = true, value_name = "BUILD")]
    pub builds: Vec<BuildId>,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// `drover fetch …`
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// A store path, or its base name
    #[arg(value_parser = parse_item)]
    pub output: StorePath,
    /// A folder that it goes into under its base name, or else a new name for it
    #[arg(long, default_value = ".", value_name = "PATH")]
    pub to: PathBuf,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// `drover derivation …`
#[derive(Debug, Subcommand)]
pub enum DerivationCommand {
    /// Check .drv files, without a coordinator: parsed, byte-exact, own name right, outputs right
    #[command(after_help = super::shapes::CHECK)]
    Check(CheckArgs),
}

/// `drover derivation check …`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// .drv files, or folders of them; - reads paths from standard input, one on a line
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Where to look for inputs that are not beside the files given
    #[arg(long, value_name = "FOLDER", default_value = STORE_DIR)]
    pub store: PathBuf,
    #[command(flatten)]
    pub(super) format: Format,
}

/// `drover key …`
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    pub(super) command: KeyCommand,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// What is done with the coordinator's keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// Print the public key that signs, for guix archive --authorize
    Show {
        /// That which is to sign next
        #[arg(long)]
        next: bool,
    },
    /// List all keys, the newest first
    List,
    /// Make a key pair in files on this machine, as guix archive --generate-key does; needs no coordinator
    Generate {
        /// The file of the secret half, such as signing-key.sec; that of the public one ends with .pub
        secret: PathBuf,
    },
    /// Have another key sign
    Rotate {
        /// In what time, so that it can be authorized before, such as 7d; at once by default
        #[arg(long, value_name = "TIME", value_parser = parse_span)]
        after: Option<u64>,
        /// A file with the secret half; a new key by default
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// Have a key go that does not sign any more, or take back one that was to sign next
    Retire {
        /// Its number, as list has it
        key: u64,
        /// Even if clients may keep something that it signed
        #[arg(long)]
        now: bool,
    },
    /// Print the name of the key of a TLS certificate, which agents and clients pin by --coordinator-key
    Tls {
        /// The certificate's file (PEM), such as the one that tls-certificate names
        #[arg(value_name = "FILE")]
        certificate: PathBuf,
    },
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it looks like KEY=VALUE".to_owned()),
    }
}

pub(super) fn parse_item(text: &str) -> Result<StorePath, String> {
    let parsed = if text.contains('/') { StorePath::parse(text) } else { StorePath::parse_base(text) };
    parsed.map_err(|error| error.to_string())
}
