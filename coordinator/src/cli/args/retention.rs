//! What `drover retention` is asked.

use clap::Args;

use super::{Connection, Format};

/// `drover retention`
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Estimate what logs, history, events and derivations will take, by [retention.ages] of the configuration
    #[arg(long, required = true)]
    pub(in crate::cli) estimate: bool,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}
