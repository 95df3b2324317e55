//! The configuration: from the command line and a file to values that need no second look.

mod choice;
mod draft;
mod sandbox;
mod sources;
mod values;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use drover_os::machine;
use drover_tls::Trust;
use uuid::Uuid;

pub use choice::{Choice, ExecutorKind, GuixDaemon};
pub(crate) use draft::Draft;
pub use sandbox::SandboxSettings;
pub use values::{BaseUrl, DaemonSocket, LogLevel, LogLevels, Secret};

/// The configuration file that is read if it is there and no other is named.
pub const DEFAULT_FILE: &str = "/etc/drover-agent.conf";

/// The exit code for a configuration that is refused.
pub const EXIT_REFUSED: u8 = 2;

/// Everything that an operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordinator's listener for agents.
    pub coordinator: BaseUrl,
    /// Whom https connections trust.
    pub trust: Trust,
    /// Who we are.
    pub credentials: Credentials,
    /// Whether this machine's clock is set by the coordinator's word.
    pub set_clock: bool,
    /// The systems to build for; at least one.
    pub systems: Vec<String>,
    /// Builds that run at a time; at least 1.
    pub max_parallel_builds: u32,
    /// Outputs that are sent at a time; at least 1.
    pub max_parallel_uploads: u32,
    /// Builds that are held at a time, running ones included; at least `max_parallel_builds`.
    pub max_allocated_builds: u32,
    /// No build starts while the load average of the last minute is above it.
    pub max_1min_load_average: f64,
    /// Substitute servers for derivations.
    pub derivation_substitute_urls: Vec<String>,
    /// Substitute servers for inputs.
    pub non_derivation_substitute_urls: Vec<String>,
    /// How long a build may take that does not say it itself.
    pub timeout: Option<Duration>,
    /// How long a build may print nothing that does not say it itself.
    pub max_silent_time: Option<Duration>,
    /// How long a first SIGTERM waits for what runs.
    pub drain_time: Duration,
    /// The folder for what must survive a restart; absolute.
    pub state_dir: PathBuf,
    /// Who builds, and why.
    pub executor: Choice,
    /// Where guix-daemon listens.
    pub daemon_socket: DaemonSocket,
    /// What a sandbox is told.
    pub sandbox: SandboxSettings,
    /// With less bytes free for the store than these, what nobody needs goes from it; none: never.
    pub gc_below: Option<u64>,
    /// Options that were given and mean nothing to this executor.
    pub unheeded: Vec<&'static str>,
    /// How to log.
    pub log: LogSettings,
}

/// How an agent proves who it is.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// An agent that the coordinator's operator made.
    Password {
        /// Its identity.
        uuid: Uuid,
        /// One of its passwords.
        password: Secret,
    },
    /// An agent that enrols itself.
    Token {
        /// Its name, which the coordinator takes at the first contact.
        name: String,
        /// A dynamic token.
        token: Secret,
        /// What tells this machine, if it is to enrol once and have a password of its own from then on.
        hardware: Option<String>,
    },
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// The least urgent lines that are printed.
    pub levels: LogLevels,
    /// Whether each line begins with the time.
    pub timestamps: bool,
    /// Whether each line is an object of JSON, with the time in any case.
    pub json: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To work.
    Run(Box<Config>),
    /// To print this and leave.
    Print(String),
}

/// What is configured, for who looks and does not work.
#[derive(Debug, Clone)]
pub struct Glance {
    /// The configuration; without an identity of its own if `nobody` says so.
    pub config: Config,
    /// Why there is nothing that proves who this agent is.
    pub nobody: Option<String>,
    /// Whether somebody said which coordinator.
    pub has_coordinator: bool,
}

/// Why a configuration is refused: one sentence that begins with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ConfigError {
    place: Place,
    reason: String,
}

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the command line, by this option.
    Option(String),
    /// In a file; the first line is 1.
    Line { file: PathBuf, line: usize },
    /// A file as a whole.
    File(PathBuf),
    /// This environment variable.
    Variable(&'static str),
    /// Nowhere: it was not said at all.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "--{name}"),
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Nowhere => write!(f, "configuration"),
        }
    }
}

impl Place {
    pub(crate) fn error(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError { place: self.clone(), reason: reason.into() }
    }
}

/// What the machine and its environment say where nothing is configured.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The configuration file that is read if it is there.
    pub default_file: PathBuf,
    /// The value of `GUIX_DAEMON_SOCKET`.
    pub daemon_socket: Option<OsString>,
    /// What there is to be seen of a guix-daemon in its usual place.
    pub daemon: GuixDaemon,
    /// The machine's list of keys.
    pub acl: PathBuf,
    /// The host's name.
    pub host_name: Option<String>,
    /// What this machine builds for.
    pub system: Option<String>,
    /// The processors.
    pub processors: Option<u32>,
}

impl Surroundings {
    /// Those of this process.
    pub fn here() -> Self {
        Self {
            default_file: DEFAULT_FILE.into(),
            daemon_socket: std::env::var_os(draft::DAEMON_VARIABLE).filter(|value| !value.is_empty()),
            daemon: GuixDaemon::here(),
            acl: sandbox::ACL.into(),
            host_name: machine::host_name(),
            system: machine::system(),
            processors: machine::processors(),
        }
    }
}

/// Reads the command line (without the program's name) and the configuration file.
///
/// # Errors
/// Whatever is unknown, unreadable, contradictory or missing, with the place where it was said.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings,
) -> Result<Request, ConfigError> {
    match sources::command_line(arguments)? {
        sources::CommandLine::Print(text) => Ok(Request::Print(text)),
        sources::CommandLine::Options(line) => {
            draft(line, surroundings)?.finish(surroundings).map(Box::new).map(Request::Run)
        }
    }
}

/// As [`read`], for who looks and does not work: an agent that is nobody yet is in order.
///
/// # Errors
/// As [`read`].
pub fn glance(
    arguments: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings,
) -> Result<Glance, ConfigError> {
    match sources::command_line(arguments)? {
        sources::CommandLine::Print(_) => Err(Place::Nowhere.error("--version is asked for by itself")),
        sources::CommandLine::Options(line) => draft(line, surroundings)?.glance(surroundings),
    }
}

/// What a command line says, and the file.
fn draft(line: sources::Line, surroundings: &Surroundings) -> Result<Draft, ConfigError> {
    let file = match &line.config {
        Some(file) => sources::file(file, &Place::Option("config".into()))?,
        None => {
            match sources::file(&surroundings.default_file, &Place::File(surroundings.default_file.clone())) {
                Err(_) if !surroundings.default_file.exists() => Vec::new(),
                read => read?,
            }
        }
    };
    Draft::from_given(&sources::merge(line.given, file)?)
}

#[cfg(test)]
mod tests;
