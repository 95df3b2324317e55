//! The queue in the database: events become runs, runs end, or wait for another try, or are given up.

use std::time::Duration;

use drover_wire::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::failure::Failure;
use crate::config::Hook;
use crate::farm::error::Error;
use crate::farm::events::{self, Kind, Subject};
use crate::farm::{Tx, now, sql, unsql};

/// Events that are given to hooks in one transaction.
const EVENTS: i64 = 2000;

/// Something that a hook is to do.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) id: i64,
    pub(super) kind: Kind,
    pub(super) build: Option<i64>,
    pub(super) path: Option<i64>,
    pub(super) detail: Option<String>,
    /// How often it was asked for when it was read.
    asked: i64,
    /// How often it was tried before.
    pub(super) tries: u32,
    pub(super) queued_at: Timestamp,
}

#[cfg(test)]
impl Run {
    /// One that is about nothing.
    pub(super) fn for_test(id: i64) -> Self {
        Self {
            id,
            kind: Kind::Published,
            build: None,
            path: None,
            detail: None,
            asked: 1,
            tries: 0,
            queued_at: 0,
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) run: Run,
    pub(super) result: Result<(), Failure>,
}

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
    let (again, number) = match (build, path) {
        (Some(build), _) => (
            "UPDATE hook_runs SET asked = asked + 1, detail = ?4, tries = 0, due = min(due, ?5) \
             WHERE build = ?1 AND hook = ?2 AND kind = ?3 AND state = 'waiting' RETURNING id",
            build,
        ),
        (None, Some(path)) => (
            "UPDATE hook_runs SET asked = asked + 1, detail = ?4, tries = 0, due = min(due, ?5) \
             WHERE path = ?1 AND hook = ?2 AND kind = ?3 AND state = 'waiting' RETURNING id",
            path,
        ),
        // Hooks do something about builds and items.
        (None, None) => return Ok(()),
    };
    let waiting: Option<i64> = tx
        .prepare_cached(again)?
        .query_row((number, hook, kind.as_str(), detail, sql(now())), |row| row.get(0))
        .optional()?;
    if waiting.is_none() {
        tx.prepare_cached(
            "INSERT INTO hook_runs (hook, kind, build, path, detail, queued_at, due) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
        )?
        .execute((hook, kind.as_str(), build, path, detail, sql(now())))?;
    }
    events::tell_hooks(tx);
    Ok(())
}

/// Whether a hook that is run from the queue was switched on when the coordinator started.
pub(super) fn is_on(sql: &Connection, hook: &str) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM hooks_on WHERE hook = ?1")?.exists([hook])?)
}

/// How many runs wait for a hook, or `most` if there are more.
pub(in crate::farm) fn waiting(sql: &Connection, hook: &str, most: i64) -> Result<i64, Error> {
    let count =
        "SELECT count(*) FROM (SELECT 1 FROM hook_runs WHERE hook = ?1 AND state = 'waiting' LIMIT ?2)";
    Ok(sql.prepare_cached(count)?.query_row((hook, most), |row| row.get(0))?)
}

/// The events that no hook was given yet: whether there are any.
pub(super) fn has_events(sql: &Connection) -> Result<bool, Error> {
    let select = "SELECT (SELECT max(id) FROM events) > event FROM hook_cursor";
    Ok(sql.prepare_cached(select)?.query_row([], |row| row.get::<_, Option<bool>>(0))?.unwrap_or(false))
}

/// Gives the next events to the hooks that start from them; whether there are more.
pub(super) fn take_events(tx: &Tx<'_>, hooks: &[(String, Vec<Kind>)]) -> Result<bool, Error> {
    let cursor: i64 = tx.prepare_cached("SELECT event FROM hook_cursor")?.query_row([], |row| row.get(0))?;
    let next = "SELECT max(id), count(*) FROM (SELECT id FROM events WHERE id > ?1 ORDER BY id LIMIT ?2)";
    let (top, count): (Option<i64>, i64) =
        tx.prepare_cached(next)?.query_row([cursor, EVENTS], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(top) = top else { return Ok(false) };
    for (hook, on) in hooks {
        for kind in on {
            tx.prepare_cached(
                "INSERT INTO hook_runs (hook, event, kind, build, path, detail, queued_at, due) \
                 SELECT ?1, id, kind, build, path, detail, at, ?5 FROM events \
                 WHERE id > ?2 AND id <= ?3 AND kind = ?4 ORDER BY id",
            )?
            .execute((hook, cursor, top, kind.as_str(), sql(now())))?;
        }
    }
    tx.prepare_cached("UPDATE hook_cursor SET event = ?1")?.execute([top])?;
    Ok(count == EVENTS)
}

/// The runs of a hook that may start, the first first.
pub(super) fn due(sql_: &Connection, hook: &str, most: usize) -> Result<Vec<Run>, Error> {
    let mut select = sql_.prepare_cached(
        "SELECT id, kind, build, path, detail, asked, tries, queued_at FROM hook_runs \
         WHERE hook = ?1 AND state = 'waiting' AND due <= ?2 ORDER BY due, id LIMIT ?3",
    )?;
    let mut rows = select.query((hook, sql(now()), sql(most as u64)))?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        let kind: String = row.get(1)?;
        runs.push(Run {
            id: row.get(0)?,
            kind: kind
                .parse()
                .map_err(|error| Error::Damaged(format!("a run of the hook {hook}: {error}")))?,
            build: row.get(2)?,
            path: row.get(3)?,
            detail: row.get(4)?,
            asked: row.get(5)?,
            tries: row.get(6)?,
            queued_at: unsql(row.get(7)?),
        });
    }
    Ok(runs)
}

/// When the next run of a hook is due that is not yet.
pub(super) fn next_due(sql_: &Connection, hook: &str) -> Result<Option<Timestamp>, Error> {
    let select = "SELECT min(due) FROM hook_runs WHERE hook = ?1 AND state = 'waiting' AND due > ?2";
    let due: Option<i64> = sql_.prepare_cached(select)?.query_row((hook, sql(now())), |row| row.get(0))?;
    Ok(due.map(unsql))
}

/// A run ended: it goes, or waits for its next try, or is given up.
pub(super) fn end(tx: &Tx<'_>, hook: &Hook, ended: &Ended) -> Result<(), Error> {
    let Ended { run, result } = ended;
    let gone = match result {
        Ok(()) => {
            let gone = "DELETE FROM hook_runs WHERE id = ?1 AND asked = ?2";
            tx.prepare_cached(gone)?.execute([run.id, run.asked])?
        }
        Err(Failure::Stopped) => return Ok(()),
        Err(Failure::Failed(error)) if run.tries.saturating_add(1) >= hook.tries => {
            let failed = "UPDATE hook_runs SET state = 'failed', tries = tries + 1, error = ?3 \
                          WHERE id = ?1 AND asked = ?2";
            tx.prepare_cached(failed)?.execute((run.id, run.asked, error))?
        }
        Err(Failure::Failed(error)) => {
            let due = now().saturating_add(wait(hook, run.tries));
            let later =
                "UPDATE hook_runs SET tries = tries + 1, error = ?3, due = ?4 WHERE id = ?1 AND asked = ?2";
            tx.prepare_cached(later)?.execute((run.id, run.asked, error, sql(due)))?
        }
    };
    if gone == 0 {
        // It was asked for again meanwhile: it starts anew.
        let anew = "UPDATE hook_runs SET tries = 0, error = NULL, due = ?2 WHERE id = ?1";
        tx.prepare_cached(anew)?.execute([run.id, sql(now())])?;
    }
    Ok(())
}

/// How many milliseconds a run waits for its next try: each time about twice as long, and not all that failed together
/// at the same moment.
fn wait(hook: &Hook, tries_before: u32) -> u64 {
    let factor = 2_u32.saturating_pow(tries_before);
    let whole = hook.first_wait.saturating_mul(factor).min(hook.longest_wait);
    let mut random = [0; 2];
    // Without randomness they come together, which is no more than unpleasant.
    let _ = getrandom::fill(&mut random);
    let part =
        Duration::from_secs_f64(whole.as_secs_f64() / 4.0 * f64::from(u16::from_le_bytes(random)) / 65_536.0);
    u64::try_from((whole - part).as_millis()).unwrap_or(u64::MAX)
}

/// Has some of the runs that a hook gave up tried again, those before `below`, the newest first; how many, and where to
/// go on.
pub(super) fn revive(
    tx: &mut Tx<'_>,
    hook: &str,
    below: i64,
    most: i64,
) -> Result<(u64, Option<i64>), Error> {
    let mut again = tx.prepare_cached(
        "UPDATE hook_runs SET state = 'waiting', tries = 0, due = ?3 WHERE id IN (SELECT id FROM hook_runs \
         WHERE hook = ?1 AND state = 'failed' AND id < ?2 ORDER BY id DESC LIMIT ?4) RETURNING id",
    )?;
    let rows = again.query_map((hook, below, sql(now()), most), |row| row.get(0))?;
    let ids: Vec<i64> = rows.collect::<rusqlite::Result<_>>()?;
    drop(again);
    events::tell_hooks(tx);
    Ok((ids.len() as u64, ids.into_iter().min()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn waits_grow_to_the_longest_and_are_not_all_the_same() {
        let hook = Config::default().all_hooks().unwrap().remove(0);
        let (first, longest) = (hook.first_wait.as_millis() as u64, hook.longest_wait.as_millis() as u64);
        for (tries, whole) in [(0, first), (1, 2 * first), (3, 8 * first), (40, longest), (u32::MAX, longest)]
        {
            let waits: Vec<u64> = (0..20).map(|_| wait(&hook, tries)).collect();
            assert!(waits.iter().all(|wait| *wait <= whole && *wait >= whole / 4 * 3), "{tries}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{tries}: {waits:?}");
        }
    }
}
