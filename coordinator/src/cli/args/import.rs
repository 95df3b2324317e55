//! The grammar of `drover import …` and `drover mirror …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_store::path::StorePath;
use drover_tls::Pin;
use drover_wire::import::ImportId;

use super::{Connection, Format, parse_item};

/// `drover import …`
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub struct ImportArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<ImportCommand>,
    /// A substitute server, or a folder on the coordinator's machine
    #[arg(required = true, value_name = "URL or FOLDER")]
    pub source: Option<String>,
    /// These store items and what they refer to; all that is there by default
    #[arg(value_name = "PATH", value_parser = parse_item)]
    pub paths: Vec<StorePath>,
    /// A file with more of them, one on a line; - for standard input
    #[arg(long, value_name = "FILE")]
    pub paths_from: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) terms: TermsArgs,
    /// Use the files of the folder where they lie: nothing is copied, contents are checked in the background
    #[arg(long)]
    pub in_place: bool,
    /// The folder is the storage of a nar-herder, which has the narinfos in this database on the coordinator's machine
    #[arg(long, value_name = "DATABASE")]
    pub herder: Option<String>,
    /// Do not wait for its end
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}

/// Whom to believe.
#[derive(Debug, Clone, Args)]
pub struct TermsArgs {
    /// A file with a public key that may have signed, beside the coordinator's own; may be repeated
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Take what no known key signed, too; without --sign it is for the farm's own builds alone
    #[arg(long)]
    pub unsigned: bool,
    /// Trust the server whose certificate has this key, and no other; may be repeated
    #[arg(long = "server-key", value_name = "PIN")]
    pub server_keys: Vec<Pin>,
    /// Publish it signed by the coordinator, and not with the signature that it has
    #[arg(long)]
    pub sign: bool,
}

/// What else is done with imports.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ImportCommand {
    /// List imports and mirrors, the newest first
    List,
    /// Show how an import stands, and what was refused
    Show {
        /// Its number
        #[arg(value_name = "NUMBER")]
        import: ImportId,
    },
    /// Stop an import for good; what was taken stays
    Stop {
        /// Its number
        #[arg(value_name = "NUMBER")]
        import: ImportId,
    },
}

/// `drover mirror …`
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub struct MirrorArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<MirrorCommand>,
    /// A substitute server: of another drover all that it publishes is taken, of others what sets here want
    #[arg(required = true, value_name = "URL")]
    pub source: Option<String>,
    /// How many minutes lie between two looks
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    pub every: u64,
    #[command(flatten)]
    pub(in crate::cli) terms: TermsArgs,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}

/// What else is done with mirrors.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum MirrorCommand {
    /// List the mirrors
    List,
    /// Stop to follow a server; what was taken stays
    Stop {
        /// Its number
        #[arg(value_name = "NUMBER")]
        mirror: ImportId,
    },
}
