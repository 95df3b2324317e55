//! What `drover hooks` is asked.

use clap::{Args, Subcommand};
use drover_wire::hook::HookName;

use super::{Connection, Format};

/// `drover hooks …`
#[derive(Debug, Args)]
pub struct HooksArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<HooksCommand>,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}

/// What is done with a hook.
#[derive(Debug, Clone, Subcommand)]
pub enum HooksCommand {
    /// Show what a hook gave up, the newest first, at most a hundred
    Failed {
        /// The hook's name
        hook: HookName,
    },
    /// Try again all that a hook gave up
    Retry {
        /// The hook's name
        hook: HookName,
    },
}
