//! What happened, noted in the transaction in which it did: what hooks start from ([`super::hooks`]), and what readers of
//! events are sent ([`feed`]).

mod feed;
mod filter;
mod here;
mod page;
mod reader;
mod room;
mod state;

pub(crate) use drover_wire::hook::Event as Kind;

use drover_wire::event::{Detail, EventKind};

use super::change::Change;
use super::error::Error;
use super::{Tx, now, sql};

pub(super) use feed::{Feed, start};
pub use reader::EventReader;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A build, by its number; and the agent that holds it or ended it.
    Build(i64),
    /// A build that an agent has given back, by both their numbers.
    GivenBack(i64, i64),
    /// A store item, by the number of its path.
    Item(i64),
    /// An agent, by its number.
    Agent(i64),
    /// The farm.
    Farm,
}

impl Subject {
    /// As the tables have it: a build or a path.
    pub(super) fn columns(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::Build(build) | Self::GivenBack(build, _) => (Some(build), None),
            Self::Item(path) => (None, Some(path)),
            Self::Agent(_) | Self::Farm => (None, None),
        }
    }
}

/// Notes that something happened. The detail is JSON: a [`Detail`], but for that of `missing-inputs`, a list of their paths.
pub(super) fn note(
    tx: &mut Tx<'_>,
    kind: impl Into<EventKind>,
    subject: Subject,
    detail: Option<&str>,
) -> Result<(), Error> {
    // Of a new build there is nothing to look up, and sets have many.
    const PLAIN: &str =
        "INSERT INTO events (at, kind, build, path, detail, agent) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    const BY_HOLDER: &str = "INSERT INTO events (at, kind, build, path, detail, agent, attempt) VALUES (?1, ?2, ?3, ?4, \
         ?5, coalesce(?6, (SELECT agent FROM builds WHERE id = ?3)), (SELECT max(number) FROM attempts WHERE build = ?3))";
    let kind = kind.into();
    let (build, path) = subject.columns();
    let agent = match subject {
        Subject::GivenBack(_, agent) | Subject::Agent(agent) => Some(agent),
        Subject::Build(_) | Subject::Item(_) | Subject::Farm => None,
    };
    let insert = if build.is_none() || kind == EventKind::BuildSubmitted { PLAIN } else { BY_HOLDER };
    tx.prepare_cached(insert)?.execute((sql(now()), kind.as_str(), build, path, detail, agent))?;
    tell(tx, kind.for_hooks().is_some());
    Ok(())
}

/// As [`note`], with more to say.
pub(super) fn note_with(
    tx: &mut Tx<'_>,
    kind: impl Into<EventKind>,
    subject: Subject,
    detail: &Detail,
) -> Result<(), Error> {
    let detail = serde_json::to_string(detail)
        .map_err(|error| Error::Damaged(format!("an event's detail is no JSON: {error}")))?;
    note(tx, kind, subject, Some(&detail))
}

/// Hooks are woken after the commit.
pub(super) fn tell_hooks(tx: &mut Tx<'_>) {
    tell(tx, true);
}

#[cfg(test)]
impl super::Farm {
    /// Something happens that takes about so many bytes to tell. Blocks.
    pub(crate) fn happen(&self, bytes: usize) {
        let detail = Detail { text: Some("x".repeat(bytes)), ..Detail::default() };
        let noted = self.database.write_blocking::<_, Error>(move |tx| {
            note_with(tx, EventKind::HookFailing, Subject::Farm, &detail)
        });
        noted.unwrap();
    }

    /// Changes the database behind the farm's back. Blocks.
    pub(crate) fn change(&self, statement: &'static str) {
        let changed = self.database.write_blocking::<_, Error>(move |tx| Ok(tx.execute_batch(statement)?));
        changed.unwrap();
    }
}

/// A set makes many thousands of events in one job: what was said is not said again.
fn tell(tx: &mut Tx<'_>, for_hooks: bool) {
    match tx.last_noted() {
        Some(Change::Happened { for_hooks: true }) => {}
        Some(Change::Happened { for_hooks: false }) if !for_hooks => {}
        _ => tx.note(Change::Happened { for_hooks }),
    }
}
