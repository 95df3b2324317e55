//! What a change at one place of the graph does to the builds above it.
//!
//! A build's `missing` counts what it waits for, and is kept right by small steps: an output that comes or goes, a
//! derivation whose last source comes. Nothing here recurses, because real graphs are thousands deep.

use drover_wire::BuildState;
use drover_wire::event::{Detail, EventKind};
use rusqlite::{Connection, OptionalExtension};

use super::change::Change;
use super::error::Error;
use super::events::{self, Kind, Subject};
use super::{Tx, now, open_states, paths, sql, wants};

/// Who has a store item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provided {
    /// Nobody.
    No = 0,
    /// The coordinator.
    Held = 1,
    /// A substitute server.
    Elsewhere = 2,
}

/// The targets of open builds that make a path.
const MAKERS: &str = concat!(
    "SELECT DISTINCT d.target FROM derivation_outputs o JOIN derivations d ON d.id = o.derivation \
     JOIN builds b ON b.target = d.target AND b.state IN ",
    open_states!(),
    " WHERE o.path = ?1"
);

/// Notes who has an item, and lets the builds that wait for it go on, or those that had it wait.
pub(super) fn provide(tx: &mut Tx<'_>, path: i64, provided: Provided) -> Result<(), Error> {
    let before: i64 =
        tx.prepare_cached("SELECT provided FROM paths WHERE id = ?1")?.query_row([path], |row| row.get(0))?;
    if before == provided as i64 {
        return Ok(());
    }
    tx.prepare_cached("UPDATE paths SET provided = ?2 WHERE id = ?1")?.execute([path, provided as i64])?;
    match (before, provided) {
        (0, _) => {
            came(tx, path)?;
            // What makes it is not wanted for the sake of those any more.
            let makers = paths::numbers(tx, MAKERS, path)?;
            wants::gone(tx, makers).map(drop)
        }
        (_, Provided::No) => went(tx, path),
        _ => Ok(()),
    }
}

/// The open builds that have a path as an input. Like all that asks for what is above something, it must begin there:
/// there may be a hundred thousand open builds.
const NEEDING: &str = concat!(
    "SELECT DISTINCT b.id FROM derivation_inputs i JOIN builds b ON b.derivation = i.derivation AND b.state IN ",
    open_states!(),
    " WHERE i.output = ?1"
);

/// Whether an open build has a path as an input.
pub(super) fn is_needed(tx: &Tx<'_>, path: i64) -> Result<bool, Error> {
    Ok(tx.prepare_cached(NEEDING)?.exists([path])?)
}

fn came(tx: &mut Tx<'_>, path: i64) -> Result<(), Error> {
    let mut builds = paths::numbers(tx, NEEDING, path)?;
    builds.extend(paths::numbers(tx, "DELETE FROM awaited WHERE path = ?1 RETURNING build", path)?);
    one_less(tx, &builds)
}

fn went(tx: &mut Tx<'_>, path: i64) -> Result<(), Error> {
    let wait = "UPDATE builds SET missing = missing + 1, \
                state = CASE state WHEN 'ready' THEN 'waiting' ELSE state END WHERE id = ?1";
    for build in paths::numbers(tx, NEEDING, path)? {
        tx.prepare_cached(wait)?.execute([build])?;
    }
    Ok(())
}

/// Builds for which one thing less is missing.
fn one_less(tx: &mut Tx<'_>, builds: &[i64]) -> Result<(), Error> {
    let mut stuck = Vec::new();
    for build in builds {
        let (state, missing) = tx
            .prepare_cached("UPDATE builds SET missing = missing - 1 WHERE id = ?1 RETURNING state, missing")?
            .query_row([build], |row| Ok((paths::state(row, 0)?, row.get::<_, i64>(1)?)))?;
        match state {
            BuildState::Waiting if missing == 0 => set_ready(tx, *build)?,
            BuildState::DependencyFailed => stuck.push(*build),
            _ => {}
        }
    }
    revive(tx, stuck)
}

/// A build that waited for nothing more.
fn set_ready(tx: &mut Tx<'_>, build: i64) -> Result<(), Error> {
    let platform = tx
        .prepare_cached("UPDATE builds SET state = 'ready', ready_at = ?2 WHERE id = ?1 RETURNING platform")?
        .query_row([build, sql(now())], |row| row.get(0))?;
    // An agent that is kept from it would be woken in vain.
    let avoided = tx.prepare_cached("SELECT 1 FROM avoided WHERE build = ?1")?.exists([build])?;
    tx.note(if avoided { Change::Requeued { platform } } else { Change::Ready { platform } });
    Ok(())
}

/// A source came: the derivations that name it lack one thing less, and so do those above one that lacks nothing.
pub(super) fn source_came(tx: &mut Tx<'_>, path: i64) -> Result<(), Error> {
    const OWN: &str = "UPDATE derivations SET lacking = lacking - 1 \
         WHERE id IN (SELECT derivation FROM derivation_sources WHERE path = ?1) RETURNING id, lacking";
    const ABOVE: &str = "UPDATE derivations SET lacking = lacking - 1 WHERE id IN \
         (SELECT i.derivation FROM derivation_outputs o \
          JOIN derivation_inputs i ON i.output = o.path AND i.maker = o.derivation WHERE o.derivation = ?1) \
         RETURNING id, lacking";
    const BUILDS: &str = concat!("SELECT id FROM builds WHERE derivation = ?1 AND state IN ", open_states!());
    let mut whole = lacking(tx, OWN, path)?;
    while let Some(derivation) = whole.pop() {
        let builds = paths::numbers(tx, BUILDS, derivation)?;
        one_less(tx, &builds)?;
        whole.extend(lacking(tx, ABOVE, derivation)?);
    }
    Ok(())
}

/// Runs an update of `lacking`; the derivations that lack nothing afterwards.
fn lacking(tx: &Tx<'_>, update: &str, of: i64) -> Result<Vec<i64>, Error> {
    let mut statement = tx.prepare_cached(update)?;
    let rows = statement.query_map([of], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut whole = Vec::new();
    for row in rows {
        if let (derivation, 0_i64) = row? {
            whole.push(derivation);
        }
    }
    Ok(whole)
}

/// An open build that waits for another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dependent {
    pub(super) build: i64,
    pub(super) state: BuildState,
    pub(super) priority: i64,
}

/// The open builds that wait for an output of a build, which nobody has.
macro_rules! dependents {
    ($union:literal) => {
        concat!(
            "SELECT d.id, d.state, d.priority FROM builds b \
             JOIN derivation_outputs o ON o.derivation = b.derivation \
             JOIN paths p ON p.id = o.path AND p.provided = 0 \
             JOIN derivation_inputs i ON i.output = o.path \
             JOIN builds d ON d.derivation = i.derivation AND d.state IN ",
            open_states!(),
            " WHERE b.id = ?1 ",
            $union,
            " SELECT d.id, d.state, d.priority FROM builds b \
             JOIN derivation_outputs o ON o.derivation = b.derivation \
             JOIN awaited a ON a.path = o.path JOIN builds d ON d.id = a.build WHERE b.id = ?1"
        )
    };
}
/// Each once.
const DEPENDENTS: &str = dependents!("UNION");
/// As they are found: some may come twice.
const DEPENDENTS_AS_FOUND: &str = dependents!("UNION ALL");

/// The open builds that wait for an output of this one, which nobody has.
pub(super) fn dependents(tx: &Tx<'_>, build: i64) -> Result<Vec<Dependent>, Error> {
    let mut statement = tx.prepare_cached(DEPENDENTS)?;
    let rows = statement.query_map([build], dependent)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn dependent(row: &rusqlite::Row<'_>) -> rusqlite::Result<Dependent> {
    Ok(Dependent { build: row.get(0)?, state: paths::state(row, 1)?, priority: row.get(2)? })
}

/// The highest priority of some of its [`dependents`]. Once `enough` is found no more are looked at: thousands may wait
/// for one build.
pub(super) fn highest_above(
    tx: &Tx<'_>,
    build: i64,
    enough: i64,
    counts: impl Fn(i64) -> bool,
) -> Result<Option<i64>, Error> {
    let mut statement = tx.prepare_cached(DEPENDENTS_AS_FOUND)?;
    let mut highest = None;
    for above in statement.query_map([build], dependent)? {
        let above = above?;
        if counts(above.build) {
            highest = highest.max(Some(above.priority));
            if above.priority >= enough {
                break;
            }
        }
    }
    Ok(highest)
}

/// Whether an open build waits for an output of this one, which nobody has.
pub(super) fn is_waited_for(sql: &Connection, build: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached(DEPENDENTS_AS_FOUND)?.exists([build])?)
}

/// Those of them in this state. It is not asked for in the question itself: SQLite would then begin with all builds in
/// that state.
fn waiting_for(tx: &Tx<'_>, build: i64, state: BuildState) -> Result<Vec<i64>, Error> {
    let dependents = dependents(tx, build)?;
    Ok(dependents.iter().filter(|above| above.state == state).map(|above| above.build).collect())
}

/// A build ended without its outputs: whatever waits for them fails with it, to the top.
fn fail_dependents(tx: &mut Tx<'_>, ended: i64, root: Option<i64>) -> Result<(), Error> {
    let mut failed = vec![ended];
    while let Some(build) = failed.pop() {
        for dependent in waiting_for(tx, build, BuildState::Waiting)? {
            fail_with(tx, dependent, root)?;
            failed.push(dependent);
        }
    }
    Ok(())
}

fn fail_with(tx: &mut Tx<'_>, build: i64, root: Option<i64>) -> Result<(), Error> {
    let id = tx
        .prepare_cached(
            "UPDATE builds SET state = 'dependency-failed', failed_dependency = ?2, ended_at = ?3 \
             WHERE id = ?1 RETURNING uuid",
        )?
        .query_row((build, root, sql(now())), |row| paths::build_id(row, 0))?;
    tx.note(Change::Ended(id));
    events::note(tx, EventKind::BuildDependencyFailed, Subject::Build(build), None)
}

/// A build that was given back waits again. What it waits for may have failed while an agent had it: then it, and
/// what waits for it, has failed with that. What merely is not built by anybody is waited for: somebody may submit it.
/// Gives the state that it has now.
pub(super) fn wait_again(tx: &mut Tx<'_>, build: i64) -> Result<BuildState, Error> {
    const LAST: &str = "SELECT CASE WHEN state <> 'succeeded' THEN coalesce(failed_dependency, id) END FROM builds \
                        WHERE target = ?1 ORDER BY id DESC LIMIT 1";
    for hopeless in paths::numbers(tx, ALL_HOPELESS, build)? {
        let last: Option<Option<i64>> =
            tx.prepare_cached(LAST)?.query_row([hopeless], |row| row.get(0)).optional()?;
        if let Some(root) = last.flatten() {
            fail_with(tx, build, Some(root))?;
            fail_dependents(tx, build, Some(root))?;
            return Ok(BuildState::DependencyFailed);
        }
    }
    Ok(BuildState::Waiting)
}

/// A new build that waits for something of which the last build failed fails with that.
pub(super) fn fail_if_hopeless(tx: &mut Tx<'_>, build: i64) -> Result<(), Error> {
    let state = tx
        .prepare_cached("SELECT state FROM builds WHERE id = ?1")?
        .query_row([build], |row| paths::state(row, 0))?;
    if state == BuildState::Waiting {
        wait_again(tx, build)?;
    }
    Ok(())
}

/// The builds that wait for this one's outputs and had failed with it: those that wait for nothing that failed go on.
pub(super) fn revive_dependents(tx: &mut Tx<'_>, build: i64) -> Result<(), Error> {
    let stuck = waiting_for(tx, build, BuildState::DependencyFailed)?;
    revive(tx, stuck)
}

/// The target of something missing that no build will make as things are.
macro_rules! hopeless {
    ($limit:literal) => {
        concat!(
            "SELECT m.target FROM builds b \
             JOIN derivation_inputs i ON i.derivation = b.derivation \
             JOIN paths p ON p.id = i.output AND p.provided = 0 \
             JOIN derivations m ON m.id = i.maker \
             WHERE b.id = ?1 AND NOT EXISTS (SELECT 1 FROM builds x WHERE x.target = m.target \
                 AND x.state IN ('waiting', 'ready', 'allocated', 'running')) \
             UNION SELECT m.target FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
             JOIN derivations m ON m.id = o.derivation \
             WHERE a.build = ?1 AND NOT EXISTS (SELECT 1 FROM builds x WHERE x.target = m.target \
                 AND x.state IN ('waiting', 'ready', 'allocated', 'running'))",
            $limit
        )
    };
}
const HOPELESS: &str = hopeless!(" LIMIT 1");
const ALL_HOPELESS: &str = hopeless!("");

/// Lets builds with failed dependencies go on, as far as each missing input has a build that goes on.
pub(super) fn revive(tx: &mut Tx<'_>, mut stuck: Vec<i64>) -> Result<(), Error> {
    while let Some(build) = stuck.pop() {
        let state = tx
            .prepare_cached("SELECT state FROM builds WHERE id = ?1")?
            .query_row([build], |row| paths::state(row, 0))?;
        if state != BuildState::DependencyFailed || !paths::numbers(tx, HOPELESS, build)?.is_empty() {
            continue;
        }
        reopen(tx, build)?;
        stuck.extend(waiting_for(tx, build, BuildState::DependencyFailed)?);
    }
    Ok(())
}

/// A build goes (back) to waiting, or at once to ready.
pub(super) fn reopen(tx: &mut Tx<'_>, build: i64) -> Result<(), Error> {
    let missing: i64 = tx
        .prepare_cached(
            "UPDATE builds SET state = 'waiting', failed_dependency = NULL, started_at = NULL, ended_at = NULL, \
             agent = NULL, why = NULL WHERE id = ?1 RETURNING missing",
        )?
        .query_row([build], |row| row.get(0))?;
    events::note(tx, EventKind::BuildReopened, Subject::Build(build), None)?;
    if missing == 0 { set_ready(tx, build) } else { Ok(()) }
}

/// How a build ends.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) state: BuildState,
    pub(super) why: Option<&'a str>,
}

/// A build ends, once: whoever calls this has seen that it has not ended. What it still waited for is not wanted for
/// its sake any more.
pub(super) fn end(tx: &mut Tx<'_>, build: i64, end: &End<'_>) -> Result<(), Error> {
    let (id, missing) = tx
        .prepare_cached(
            "UPDATE builds SET state = ?2, why = ?3, ended_at = ?4, failed_dependency = NULL \
             WHERE id = ?1 RETURNING uuid, missing",
        )?
        .query_row((build, end.state.as_str(), end.why, sql(now())), |row| {
            Ok((paths::build_id(row, 0)?, row.get::<_, i64>(1)?))
        })?;
    tx.prepare_cached("DELETE FROM awaited WHERE build = ?1")?.execute([build])?;
    tx.prepare_cached("DELETE FROM avoided WHERE build = ?1")?.execute([build])?;
    tx.note(Change::Ended(id));
    let kind = match end.state {
        BuildState::Succeeded => Kind::BuildSuccess,
        BuildState::Canceled => Kind::BuildCanceled,
        _ => Kind::BuildFailure,
    };
    let state = (kind == Kind::BuildFailure).then_some(end.state);
    events::note_with(tx, kind, Subject::Build(build), &Detail { state, ..Detail::default() })?;
    if end.state != BuildState::Succeeded {
        fail_dependents(tx, build, Some(build))?;
    }
    if missing > 0 {
        wants::gone_below(tx, build)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Farm;
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_above_something_is_found_without_a_look_at_all_builds() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), disk_reserve_mib: 0, ..Config::default() };
        let farm = Farm::open(config).unwrap();
        for question in [NEEDING, DEPENDENTS, DEPENDENTS_AS_FOUND, MAKERS, HOPELESS, ALL_HOPELESS] {
            let plan = farm.database.read_blocking::<_, Error>(|sql| {
                let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {question}"))?;
                let steps = plan.query_map([1], |row| row.get::<_, String>(3))?;
                Ok(steps.collect::<rusqlite::Result<Vec<_>>>()?)
            });
            let plan = plan.unwrap();
            let is_long = |step: &&String| step.starts_with("SCAN") || step.contains("builds_by_state");
            assert_eq!(plan.iter().find(is_long), None, "{question}: {plan:?}");
        }
    }
}
