//! `drover storage …`

use clap::{Args, Subcommand};

use super::{Connection, Format};
use crate::cli::shapes;
use crate::config::is_place_name;

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
        #[arg(value_parser = parse_place)]
        from: String,
        /// Where its nars go; where the policy says, if it is not given
        #[arg(conflicts_with = "stop", value_parser = parse_place)]
        to: Option<String>,
        /// Stop that: what was moved stays where it is, and new nars can go to the place again
        #[arg(long)]
        stop: bool,
    },
}

fn parse_place(text: &str) -> Result<String, String> {
    if is_place_name(text) {
        return Ok(text.to_owned());
    }
    Err("the name of a place has letters, digits, dots and dashes; drover storage lists them".to_owned())
}
