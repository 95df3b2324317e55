//! `drover sources …`

use clap::Args;
use drover_store::path::StorePath;

use super::{Connection, Format, parse_item};

/// `drover sources …`
#[derive(Debug, Args)]
pub struct SourcesArgs {
    /// Only those whose upstream has vanished
    #[arg(long)]
    pub vanished: bool,
    /// Only those whose upstream gives something else; with --vanished both
    #[arg(long)]
    pub changed: bool,
    /// Look at the upstreams of these now, each for up to 100 seconds
    #[arg(long, num_args = 1.., value_name = "PATH", value_parser = parse_item, conflicts_with_all = ["vanished", "changed"])]
    pub check: Vec<StorePath>,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}
