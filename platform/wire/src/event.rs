//! Events: what happened on the farm, each with a number that grows, sent as server-sent events; and the snapshot that
//! they go on from.
//!
//! The stream is that of the HTML standard (“Server-sent events”): `id:` is the number, `event:` the [`EventKind`],
//! `data:` a [`FarmEvent`] as JSON on one line. Who was cut off says the last number that it saw, in the header
//! `Last-Event-ID` or as `since`, and has what came after it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use drover_store::StorePath;
use serde::{Deserialize, Serialize};

use crate::client::AgentSummary;
use crate::hook::{self, HookName, HookSummary};
use crate::state::{StateError, words};
use crate::storage::PlaceSummary;
use crate::{BuildId, BuildState, Phase, Timestamp};

/// The media type of a stream of events.
pub const EVENTS_TYPE: &str = "text/event-stream";

/// The header in which a reader that was cut off says the last event that it saw.
pub const LAST_EVENT_HEADER: &str = "last-event-id";

words!(
    /// What can happen on the farm.
    EventKind, "a kind of event" {
    /// There is a new build.
    BuildSubmitted = "build-submitted",
    /// A build was given to an agent.
    BuildAllocated = "build-allocated",
    /// An agent's builder was seen to run.
    BuildStarted = "build-started",
    /// An agent does something else with a build that it holds: the event's phase.
    BuildPhase = "build-phase",
    /// A build succeeded: its outputs are items.
    BuildSuccess = "build-success",
    /// A build failed, took too long, or failed with what it waits for: the event's state.
    BuildFailure = "build-failure",
    /// A build failed with what it waits for. It goes on when that is built after all.
    BuildDependencyFailed = "build-dependency-failed",
    /// A build was canceled.
    BuildCanceled = "build-canceled",
    /// A try ended without its build: that goes back to the queue.
    BuildRequeued = "build-requeued",
    /// A build that had failed with what it waits for goes on.
    BuildReopened = "build-reopened",
    /// An agent lacked inputs of a build that nobody provides.
    MissingInputs = "missing-inputs",
    /// An agent is there that was not.
    AgentSeen = "agent-seen",
    /// An agent has not been heard of for the time of a lease.
    AgentLost = "agent-lost",
    /// The public can have an item.
    Published = "published",
    /// A place for nars has little room left.
    StorageLow = "storage-low",
    /// A place that had little room has enough again.
    StorageEnough = "storage-enough",
    /// A run of a hook failed. Said once a minute at most for each hook.
    HookFailing = "hook-failing",
    /// There is a gap before what follows: events that were asked for are not there (any more). Never kept, and sent
    /// whatever the filter is. The snapshot has to be taken again.
    Reset = "reset",
});

impl From<hook::Event> for EventKind {
    fn from(event: hook::Event) -> Self {
        match event {
            hook::Event::BuildSubmitted => Self::BuildSubmitted,
            hook::Event::BuildStarted => Self::BuildStarted,
            hook::Event::BuildSuccess => Self::BuildSuccess,
            hook::Event::BuildFailure => Self::BuildFailure,
            hook::Event::BuildCanceled => Self::BuildCanceled,
            hook::Event::MissingInputs => Self::MissingInputs,
            hook::Event::Published => Self::Published,
        }
    }
}

impl EventKind {
    /// What hooks that start from it name it; none start from the others.
    #[must_use]
    pub fn for_hooks(self) -> Option<hook::Event> {
        hook::Event::ALL.iter().copied().find(|event| Self::from(*event) == self)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmEvent {
    /// Its number: larger than that of every event before.
    pub id: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// The build that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildId>,
    /// The build's derivation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation: Option<StorePath>,
    /// The derivation's system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The build's tags, as they are when this is sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The agent's name: of the one that it is about, or that holds the build or ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Which try at the build it is about; the first is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The store item that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<StorePath>,
    /// What more there is to say.
    #[serde(flatten)]
    pub detail: Detail,
}

/// What more an event says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The build's state, where the kind leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<BuildState>,
    /// What the agent does with the build now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The hook that fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookName>,
    /// The place for nars, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The bytes that can still be put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<u64>,
    /// What was missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<StorePath>,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Some kinds of events: their words, with a comma between two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventKinds(BTreeSet<EventKind>);

impl EventKinds {
    /// These.
    #[must_use]
    pub fn of(kinds: &[EventKind]) -> Self {
        Self(kinds.iter().copied().collect())
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, kind: EventKind) -> bool {
        self.0.contains(&kind)
    }
}

impl FromStr for EventKinds {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for EventKinds {
    type Error = StateError;

    fn try_from(text: String) -> Result<Self, StateError> {
        text.parse()
    }
}

impl From<EventKinds> for String {
    fn from(kinds: EventKinds) -> Self {
        kinds.0.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// Which events are wanted: all that is given must hold. Sent as the query of the address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Those after this one; 0 for all that are kept. Without it, and without the header `Last-Event-ID`, which goes before
    /// it: what happens from now on.
    pub since: Option<u64>,
    /// Of these kinds.
    pub kind: Option<EventKinds>,
    /// About this agent, or builds that it holds or ended: its UUID or its name.
    pub agent: Option<String>,
    /// About builds with this tag: `KEY=VALUE`, or `KEY` with any value.
    pub tag: Option<String>,
    /// About builds for this system.
    pub system: Option<String>,
    /// About this build.
    pub build: Option<BuildId>,
    /// Close the answer after what there is now, instead of waiting for more.
    #[serde(default)]
    pub once: bool,
}

/// How the farm stands at a moment. Events with larger numbers than [`FarmState::event`] go on from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FarmState {
    /// The last event that had happened.
    pub event: u64,
    /// When this was.
    pub at: Timestamp,
    /// How many builds are in each state.
    pub builds: BTreeMap<BuildState, u64>,
    /// All agents, with the builds that they hold.
    pub agents: Vec<AgentSummary>,
    /// All hooks.
    pub hooks: Vec<HookSummary>,
    /// All places for nars.
    pub places: Vec<PlaceSummary>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hooks_start_from_is_an_event_by_the_same_word() {
        for event in hook::Event::ALL {
            let kind = EventKind::from(*event);
            assert_eq!((kind.as_str(), kind.for_hooks()), (event.as_str(), Some(*event)));
        }
        assert_eq!(EventKind::BuildPhase.for_hooks(), None);
    }

    #[test]
    fn kinds_are_words_with_commas_and_a_wrong_one_is_refused_with_those_there_are() {
        let kinds: EventKinds = "build-phase,published".parse().unwrap();
        assert!(kinds.has(EventKind::Published) && !kinds.has(EventKind::AgentLost));
        assert_eq!(String::from(kinds), "build-phase,published");
        for bad in ["", "build-phase,", "all", "build-phase published"] {
            let error = bad.parse::<EventKinds>().unwrap_err().to_string();
            assert!(error.contains("agent-seen"), "{error}");
        }
    }

    #[test]
    fn an_event_has_on_the_wire_what_it_is_about_and_nothing_else() {
        let detail = Detail { phase: Some(Phase::Building), ..Detail::default() };
        let event = FarmEvent {
            id: 7,
            at: 1,
            kind: EventKind::BuildPhase,
            build: None,
            derivation: None,
            system: None,
            tags: BTreeMap::new(),
            agent: Some("one".to_owned()),
            attempt: Some(2),
            item: None,
            detail,
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"id":7,"at":1,"kind":"build-phase","agent":"one","attempt":2,"phase":"building"}"#
        );
        assert_eq!(serde_json::from_str::<FarmEvent>(&text).unwrap(), event);
    }
}
