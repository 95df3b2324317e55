//! The grammar of `drover set …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_store::STORE_DIR;
use drover_wire::set::{RevisionName, SetName};

use super::{Connection, Format};
use crate::cli::shapes;

/// `drover set …`
#[derive(Debug, Args)]
pub struct SetArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: SetCommand,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}

/// What is done with sets.
#[derive(Debug, Subcommand)]
pub enum SetCommand {
    /// Make rows the current revision of a set, and submit builds for them
    ///
    /// A revision supersedes the one before: builds that have not started and that nobody else wants are canceled,
    /// unless the set keeps them. Nothing of it becomes current until all of it is in; to repeat the command is safe,
    /// and after an interruption it goes on where it was. What is known to have failed is not tried again: drover
    /// build does that.
    #[command(after_help = shapes::SET_SUBMIT)]
    Submit(SubmitArgs),
}

/// `drover set submit …`
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The set, such as master or patch-71234; a new name makes a new set
    #[arg(value_name = "NAME")]
    pub set: SetName,
    /// The revision's name, such as a commit
    #[arg(long, value_name = "NAME")]
    pub revision: RevisionName,
    /// A file with its rows as lines of JSON; - for standard input
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Where to look for derivations and sources; may be repeated
    #[arg(long, value_name = "FOLDER", default_value = STORE_DIR)]
    pub store: Vec<PathBuf>,
    /// From now on, builds that only superseded revisions want go on
    #[arg(long, overrides_with = "no_keep")]
    pub keep: bool,
    /// From now on they are canceled, as in a new set
    #[arg(long)]
    pub no_keep: bool,
}

impl SubmitArgs {
    /// What is said about keeping, if anything is.
    pub(in crate::cli) fn keeps(&self) -> Option<bool> {
        (self.keep || self.no_keep).then_some(self.keep)
    }
}
