//! What jobs of the database note about their changes, and what is made known of them.

use std::collections::HashSet;
use std::sync::Arc;

use drover_wire::agent::Allocation;
use drover_wire::{AgentId, BuildId, LeaseId, Phase};

use super::lease::Lease;
use super::numbers::Fact;

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// Its number in the database.
    pub id: i64,
    /// Its UUID.
    pub uuid: AgentId,
    /// Its name.
    pub name: String,
}

/// A lease that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What the agent is told.
    pub allocation: Allocation,
    /// The agent.
    pub agent: i64,
    /// The agent's name.
    pub agent_name: String,
    /// Which try at the build it is.
    pub attempt: u32,
    /// The build's number in the database.
    pub build: i64,
    /// Where the build can go.
    pub platform: i64,
    /// Whether the builder was seen to run already.
    pub started: bool,
    /// What the agent did for it last, as an event told.
    pub phase: Option<Phase>,
    /// Whether the build is canceled already.
    pub canceled: bool,
    /// The bytes of log that are here.
    pub log_size: u64,
}

/// What a commit changed.
#[derive(Debug)]
pub enum Change {
    /// An agent is there, or says something new about itself.
    Agent {
        /// Who it is.
        row: AgentRow,
        /// What it builds for.
        platforms: HashSet<i64>,
        /// Whether it was noted that it is there, where nothing is known of that yet.
        here: bool,
    },
    /// A build became ready.
    Ready {
        /// Where it can go.
        platform: i64,
    },
    /// A build was given back, and some agents are not to have it: all that could should look.
    Requeued {
        /// Where it can go.
        platform: i64,
    },
    /// A lease was opened.
    Opened(Box<Opened>),
    /// The build of a lease was canceled; the lease stays until the agent says so.
    Canceled(LeaseId),
    /// A lease was closed.
    Closed(LeaseId),
    /// A build ended.
    Ended(BuildId),
    /// There are new events, or runs of hooks.
    Happened {
        /// Whether there may be something for hooks to do.
        for_hooks: bool,
    },
    /// A file has become a leftover.
    Leftover,
    /// Something to count.
    Measured(Fact),
}

/// What those who wait for something are told.
#[derive(Debug, Clone)]
pub enum Event {
    /// A try at a build began.
    Opened(Arc<Lease>),
    /// A build ended.
    Ended(BuildId),
}
