//! The queue in the database.

use rusqlite::OptionalExtension;

use crate::farm::error::Error;
use crate::farm::events::{self, Kind, Subject};
use crate::farm::{Tx, now, sql};

/// Has a hook run about something, without an event. Asked for again while it waits, it runs once; while it runs, it
/// runs once more.
pub(in crate::farm) fn enqueue(
    tx: &mut Tx<'_>,
    hook: &str,
    kind: Kind,
    subject: Subject,
    detail: Option<&str>,
) -> Result<(), Error> {
    let (build, path) = subject.columns();
    let (column, number) = match subject {
        Subject::Build(build) => ("build", build),
        Subject::Item(path) => ("path", path),
    };
    let again = format!(
        "UPDATE hook_runs SET asked = asked + 1, detail = ?4, tries = 0, due = min(due, ?5) \
         WHERE {column} = ?1 AND hook = ?2 AND kind = ?3 AND state = 'waiting' RETURNING id"
    );
    let waiting: Option<i64> = tx
        .prepare_cached(&again)?
        .query_row((number, hook, kind.as_str(), detail, sql(now())), |row| row.get(0))
        .optional()?;
    if waiting.is_none() {
        insert(tx, hook, kind, None, (build, path), detail)?;
    }
    events::tell_hooks(tx);
    Ok(())
}

fn insert(
    tx: &Tx<'_>,
    hook: &str,
    kind: Kind,
    event: Option<i64>,
    (build, path): (Option<i64>, Option<i64>),
    detail: Option<&str>,
) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO hook_runs (hook, event, kind, build, path, detail, queued_at, due) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
    )?
    .execute((hook, event, kind.as_str(), build, path, detail, sql(now())))?;
    Ok(())
}
