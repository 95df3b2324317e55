//! The grammar of `drover retention …`.

use clap::{Args, Subcommand};
use drover_store::StorePath;

use super::{Connection, Format};

/// `drover retention …`
#[derive(Debug, Args)]
pub struct RetentionArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<RetentionCommand>,
    /// Show what would stay and go, and change nothing; so does the command without a word
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Estimate instead what logs, history, events and derivations will take, by [retention.ages] of the configuration
    #[arg(long, conflicts_with_all = ["why", "dry_run"])]
    pub(in crate::cli) estimate: bool,
    /// And why these stay or go; at most 100
    #[arg(long, value_name = "PATH", num_args = 1..=100)]
    pub(in crate::cli) why: Vec<StorePath>,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}

pub(in crate::cli) const RETENTION: &str = "\
Items stay for the first reason that is found, whoever built them and whenever, with all that they refer to. What
nothing keeps is first announced, by a shorter time to live; when nobody can believe any more that it is here, it is
withdrawn, what refers to something before that, and removed. What is needed again meanwhile stays.";

/// What is done about what may go.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum RetentionCommand {
    /// Look now what may go, and wait until that is done
    Run,
    /// Show what is announced and withdrawn, and what the last look came to
    Status,
}
