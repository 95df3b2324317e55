//! `drover events …`

use clap::Args;
use drover_wire::BuildId;
use drover_wire::event::EventKind;

use super::{Connection, Format};

/// `drover events …`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// What came after this event; 0 for all that are kept. By default: what happens from now on
    #[arg(long, value_name = "N")]
    pub since: Option<u64>,
    /// Of this kind, such as build-failure or agent-lost; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<EventKind>,
    /// About this agent, and builds that it holds or ended
    #[arg(long, value_name = "NAME or UUID")]
    pub agent: Option<String>,
    /// About builds with this tag, or with any value of KEY
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub tag: Option<String>,
    /// About builds for this system
    #[arg(long)]
    pub system: Option<String>,
    /// About this build
    #[arg(long, value_name = "UUID")]
    pub build: Option<BuildId>,
    /// End after what there is now, instead of waiting for more
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) connection: Connection,
}
