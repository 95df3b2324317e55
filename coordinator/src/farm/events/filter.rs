//! Which events a reader wants.

use drover_wire::event::{EventKinds, EventsQuery, FarmEvent};
use drover_wire::{AgentId, BuildId};
use rusqlite::{Connection, OptionalExtension as _};

use crate::farm::error::Error;

/// All that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    kinds: Option<EventKinds>,
    /// By name.
    agent: Option<String>,
    /// With this value, or any.
    tag: Option<(String, Option<String>)>,
    system: Option<String>,
    build: Option<BuildId>,
}

impl Filter {
    /// What the query asks for. An agent that has no such name yet may come.
    pub(super) fn new(sql: &Connection, query: &EventsQuery) -> Result<Self, Error> {
        let agent = match query.agent.as_deref().map(|agent| (agent, agent.parse::<AgentId>())) {
            Some((given, Ok(uuid))) => {
                let name: Option<String> = sql
                    .prepare_cached("SELECT name FROM agents WHERE uuid = ?1")?
                    .query_row([uuid.0.as_bytes()], |row| row.get(0))
                    .optional()?;
                Some(name.unwrap_or_else(|| given.to_owned()))
            }
            Some((given, Err(_))) => Some(given.to_owned()),
            None => None,
        };
        let tag = query.tag.as_deref().map(|tag| match tag.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (tag.to_owned(), None),
        });
        Ok(Self { kinds: query.kind.clone(), agent, tag, system: query.system.clone(), build: query.build })
    }

    /// Whether everything is wanted.
    pub(super) fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this is.
    pub(super) fn wants(&self, event: &FarmEvent) -> bool {
        let same = |wanted: &Option<String>, is: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| is.as_ref() == Some(wanted))
        };
        let tagged = |(key, value): &(String, Option<String>)| {
            event.tags.get(key).is_some_and(|is| value.as_ref().is_none_or(|value| value == is))
        };
        self.kinds.as_ref().is_none_or(|kinds| kinds.has(event.kind))
            && self.build.is_none_or(|build| event.build == Some(build))
            && same(&self.agent, &event.agent)
            && same(&self.system, &event.system)
            && self.tag.as_ref().is_none_or(tagged)
    }
}
