//! Which events a reader wants.

use drover_wire::event::{EventKinds, EventsQuery};
use drover_wire::{AgentId, BuildId};

use super::page::Sent;

/// All that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    kinds: Option<EventKinds>,
    agent: Option<Who>,
    /// With this value, or any.
    tag: Option<(String, Option<String>)>,
    system: Option<String>,
    build: Option<BuildId>,
}

/// An agent. It may come later than who asks for it: whether it is the one is seen at each event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    name: String,
    /// What was given, if it can be a UUID. An agent may have a name that looks like one.
    uuid: Option<AgentId>,
}

impl Filter {
    /// What the query asks for.
    pub(super) fn new(query: &EventsQuery) -> Self {
        let agent = query.agent.as_ref().map(|given| Who { name: given.clone(), uuid: given.parse().ok() });
        let tag = query.tag.as_deref().map(|tag| match tag.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (tag.to_owned(), None),
        });
        Self { kinds: query.kind.clone(), agent, tag, system: query.system.clone(), build: query.build }
    }

    /// Whether everything is wanted.
    pub(super) fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this is.
    pub(super) fn wants(&self, sent: &Sent) -> bool {
        let event = &sent.event;
        let of_agent = |who: &Who| {
            event.agent.as_ref() == Some(&who.name) || who.uuid.is_some() && who.uuid == sent.agent
        };
        let tagged = |(key, value): &(String, Option<String>)| {
            event.tags.get(key).is_some_and(|is| value.as_ref().is_none_or(|value| value == is))
        };
        self.kinds.as_ref().is_none_or(|kinds| kinds.has(event.kind))
            && self.build.is_none_or(|build| event.build == Some(build))
            && self.agent.as_ref().is_none_or(of_agent)
            && self.system.as_ref().is_none_or(|system| event.system.as_ref() == Some(system))
            && self.tag.as_ref().is_none_or(tagged)
    }
}
