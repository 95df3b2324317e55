//! Builds that ended long ago, with their tries.
//!
//! What still says something stays: the newest build of what a set has, what open builds failed with or wait for, and
//! what a client asked for as long as that keeps its outputs.

use drover_wire::{BuildId, BuildState, Timestamp};
use rusqlite::Connection;

use super::super::error::Error;
use super::super::{Farm, Tx, depend, paths, sql};
use super::logs::OldLog;
use super::{DAY_MS, Numbers, Went, newest_revision};

/// Builds that are looked at in one read.
const SLICE: i64 = 500;
const FINAL: [BuildState; 4] =
    [BuildState::Succeeded, BuildState::Failed, BuildState::TimedOut, BuildState::Canceled];

/// What sets have, as of a revision.
#[derive(Debug)]
struct Sets {
    revision: i64,
    targets: Numbers,
}

impl Sets {
    fn read(sql: &Connection) -> Result<Self, Error> {
        let mut sets = Self { revision: newest_revision(sql)?, targets: Numbers::default() };
        let mut select = sql.prepare_cached("SELECT target FROM set_rows WHERE target IS NOT NULL")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            sets.targets.add(row.get(0)?);
        }
        Ok(sets)
    }
}

/// A build that may be old enough.
#[derive(Debug, Clone, Copy)]
struct Old {
    id: i64,
    target: i64,
    /// A set has it.
    in_set: bool,
}

impl Farm {
    /// Removes builds that ended before.
    pub(super) fn age_history(
        &self,
        at: Timestamp,
        before: Option<Timestamp>,
        gone: &mut u64,
    ) -> Result<(), Error> {
        let Some(before) = before else { return Ok(()) };
        let asked_before =
            before.min(at.saturating_sub(self.config.retention.others.days.saturating_mul(DAY_MS)));
        let mut sets = self.database.read_blocking(Sets::read)?;
        for state in FINAL {
            let mut after = 0;
            while let Some(some) = self.old_builds(state, after, (before, asked_before), &sets)? {
                after = some.last;
                self.remove_logs(at, some.logs)?;
                let mut rest = some.builds;
                while !rest.is_empty() && self.ages_on() {
                    let revision = sets.revision;
                    let (went, left) = self.batch(rest, move |tx, old| remove(tx, *old, revision))?;
                    *gone += went;
                    rest = left;
                    if !rest.is_empty() && self.database.read_blocking(newest_revision)? != sets.revision {
                        sets = self.database.read_blocking(Sets::read)?;
                        for old in &mut rest {
                            old.in_set = sets.targets.has(old.target);
                        }
                    }
                }
                if !self.ages_on() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The next builds of a state, with their logs, as far as it is likely that they go; none if all others are too young.
    fn old_builds(
        &self,
        state: BuildState,
        after: i64,
        (before, asked_before): (Timestamp, Timestamp),
        sets: &Sets,
    ) -> Result<Option<Slice>, Error> {
        self.database.read_blocking(|sql_| {
            // They end after they are submitted, and are numbered in that order.
            let mut select = sql_.prepare_cached(
                "SELECT id, uuid, target, ended_at < ?3, submitted_at < ?3, coalesce(asked_at, 0) < ?4 FROM builds \
                 WHERE state = ?1 AND id > ?2 ORDER BY id LIMIT ?5",
            )?;
            let mut rows =
                select.query((state.as_str(), after, sql(before), sql(asked_before), SLICE))?;
            let mut slice = Slice { last: after, builds: Vec::new(), logs: Vec::new() };
            while let Some(row) = rows.next()? {
                let (id, target): (i64, i64) = (row.get(0)?, row.get(2)?);
                if !row.get::<_, bool>(4)? {
                    break;
                }
                slice.last = id;
                let old = Old { id, target, in_set: sets.targets.has(target) };
                if row.get(3)? && row.get(5)? && !stays(sql_, old)? {
                    slice.builds.push(old);
                    slice.logs.extend(logs(sql_, id, paths::build_id(row, 1)?)?);
                }
            }
            Ok(Some(slice).filter(|slice| slice.last > after))
        })
    }
}

/// Builds in their order.
struct Slice {
    last: i64,
    builds: Vec<Old>,
    logs: Vec<OldLog>,
}

/// The logs of a build that are not removed yet.
fn logs(sql: &Connection, id: i64, build: BuildId) -> Result<Vec<OldLog>, Error> {
    let mut select =
        sql.prepare_cached("SELECT lease, number FROM attempts WHERE build = ?1 AND log_removed_at IS NULL")?;
    let rows =
        select.query_map([id], |row| Ok(OldLog { lease: row.get(0)?, build, attempt: row.get(1)? }))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether a build still says something.
fn stays(sql: &Connection, old: Old) -> Result<bool, Error> {
    const HELD: [&str; 3] = [
        "SELECT 1 FROM builds WHERE failed_dependency = ?1",
        "SELECT 1 FROM attempts a WHERE a.build = ?1 AND (a.ended_at IS NULL \
             OR EXISTS (SELECT 1 FROM uploads u WHERE u.lease = a.lease))",
        "SELECT 1 FROM hook_runs WHERE build = ?1 AND state = 'waiting'",
    ];
    for select in HELD {
        if sql.prepare_cached(select)?.exists([old.id])? {
            return Ok(true);
        }
    }
    let newer = "SELECT 1 FROM builds WHERE target = ?1 AND id > ?2";
    if sql.prepare_cached(newer)?.exists([old.target, old.id])? {
        return Ok(false);
    }
    // The newest tells why what waits for it does.
    Ok(old.in_set || depend::is_waited_for(sql, old.id)?)
}

fn remove(tx: &mut Tx<'_>, old: Old, revision: i64) -> Result<Went, Error> {
    if newest_revision(tx)? != revision {
        return Ok(Went::Unsure);
    }
    if stays(tx, old)? {
        return Ok(Went::Stays);
    }
    for delete in [
        "DELETE FROM build_tags WHERE build = ?1",
        "DELETE FROM avoided WHERE build = ?1",
        "DELETE FROM awaited WHERE build = ?1",
        "DELETE FROM hook_runs WHERE build = ?1",
        "DELETE FROM attempts WHERE build = ?1",
        "DELETE FROM builds WHERE id = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([old.id])?;
    }
    Ok(Went::Gone)
}
