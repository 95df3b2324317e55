//! `drover storage …`

use clap::{Args, Subcommand};

use super::{Connection, Format};
use crate::cli::shapes;

/// `drover storage …`
#[derive(Debug, Args)]
pub struct StorageArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<StorageCommand>,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}

/// What is done with places.
#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Empty a place: nothing new goes there, and what lies there goes elsewhere while it is served
    #[command(after_help = shapes::STORAGE)]
    Move {
        /// The place that is emptied
        from: String,
        /// Where its nars go; where the policy says, if it is not given
        #[arg(conflicts_with = "stop")]
        to: Option<String>,
        /// Stop that: what was moved stays where it is, and new nars can go to the place again
        #[arg(long)]
        stop: bool,
    },
}
