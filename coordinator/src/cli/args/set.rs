//! The grammar of `drover set …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use drover_store::STORE_DIR;
use drover_wire::set::{RevisionName, SetName, SetRef};

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
    #[command(after_help = format!("{SUBMIT}\n\n{}", shapes::SET_SUBMIT))]
    Submit(SubmitArgs),
    /// List the sets, and how they stand
    #[command(after_help = format!("{COLUMNS}\n\n{}", shapes::SET_LIST))]
    List {
        /// Those that were dropped and are not forgotten yet
        #[arg(long)]
        dropped: bool,
    },
    /// Show how a set stands, for each system and cross target
    #[command(after_help = format!("{COLUMNS}\n\n{}", shapes::SET_SHOW))]
    Show {
        /// The set; without a revision the current one
        #[arg(value_name = "NAME[@REVISION]")]
        set: SetRef,
    },
    /// Show what differs between two revisions, or between two sets
    #[command(after_help = format!("{DIFF}\n\n{}", shapes::SET_DIFF))]
    Diff {
        /// A set, or NAME@REVISION
        #[arg(value_name = "BEFORE")]
        a: SetRef,
        /// Another one, or another revision of it
        #[arg(value_name = "AFTER")]
        b: SetRef,
        /// End with 1 if something is newly broken, or is broken and was not known
        #[arg(long)]
        fail_if_broken: bool,
    },
    /// List what failed or is missing, by how many rows it holds up
    #[command(after_help = shapes::SET_BLOCKERS)]
    Blockers {
        /// The set; without a revision the current one
        #[arg(value_name = "NAME[@REVISION]")]
        set: SetRef,
        /// At most this many; 10,000 at most
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: u32,
    },
    /// Drop a set: it wants nothing any more, and what only it wanted is canceled
    #[command(after_help = format!("{DROP}\n\n{}", shapes::SET_DROP))]
    Drop {
        /// The set
        #[arg(value_name = "NAME")]
        set: SetName,
    },
}

const SUBMIT: &str = "\
A revision supersedes the one before: builds that have not started and that nobody else wants are canceled, unless
the set keeps them. Nothing of it is current until all of it is in. To repeat the command is safe: it goes on where
it was. What failed before is not tried again because a revision wants it, unless it took too long and its row gives
it more time; drover build tries again.";
const COLUMNS: &str = "\
WANTED counts rows. Each is in one of the other columns, by the newest build of its outputs: DEP-FAILED waits for
something that failed, CANCELED has no build that goes on. 100 % is all of them.";
const DIFF: &str = "\
Broken is what could not be evaluated, or what failed, timed out or needs something that did. “newly broken” was
built before, “broken” was not known before; “changed” is another derivation, priority or timeout.";
const DROP: &str = "\
Builds that have not started and that no other set and no client wants are canceled. What was built stays
for as long as the rules of retention say; until then “set list --dropped” has the set, and to submit the name again
goes on with it.";

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
