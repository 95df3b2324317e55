//! What happened, noted in the transaction in which it did: what hooks start from.

pub(crate) use drover_wire::hook::Event as Kind;

use super::change::Change;
use super::error::Error;
use super::{Tx, now, sql};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A build, by its number.
    Build(i64),
    /// A store item, by the number of its path.
    Item(i64),
}

impl Subject {
    /// As the tables have it: a build or a path.
    pub(super) fn columns(self) -> (Option<i64>, Option<i64>) {
        match self {
            Self::Build(build) => (Some(build), None),
            Self::Item(path) => (None, Some(path)),
        }
    }
}

/// Notes that something happened. The detail is JSON; that of `missing-inputs` is a list of their paths.
pub(super) fn note(tx: &mut Tx<'_>, kind: Kind, subject: Subject, detail: Option<&str>) -> Result<(), Error> {
    let (build, path) = subject.columns();
    tx.prepare_cached("INSERT INTO events (at, kind, build, path, detail) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((sql(now()), kind.as_str(), build, path, detail))?;
    tell_hooks(tx);
    Ok(())
}

/// Hooks are woken after the commit. A set makes many thousands of events in one job: what was said is not said again.
pub(super) fn tell_hooks(tx: &mut Tx<'_>) {
    if !matches!(tx.last_noted(), Some(Change::ForHooks)) {
        tx.note(Change::ForHooks);
    }
}
