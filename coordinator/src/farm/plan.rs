//! The builds that a submission needs: for what is wanted, and for everything below it that nobody provides.

use std::collections::{HashMap, HashSet};

use drover_wire::{BuildId, BuildState};
use rusqlite::OptionalExtension;
use uuid::Uuid;

use super::change::Change;
use super::error::Error;
use super::events::{self, Kind, Subject};
use super::{Tx, depend, hooks, now, open_states, paths, retention, sql, wants};

/// Below so many new builds each is asked for what waited for it; above, what waits for anything is asked.
const FEW: usize = if cfg!(test) { 2 } else { 200 };

/// The builds that one submission makes and takes up.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Whether what failed before is tried again. Else what needs it fails with it.
    retry: bool,
    /// Targets of which that is so in any case.
    again: HashSet<i64>,
    /// New ones.
    pub(super) made: HashSet<i64>,
    /// Those with a failed dependency that are tried again.
    reopened: Vec<i64>,
    /// Those that need something that failed before.
    doomed: Vec<i64>,
    /// Those that failed before and are not tried again here.
    failed: Vec<i64>,
    /// Builds, new or not, of what was here and is not any more.
    lost: Vec<i64>,
    /// The targets of builds that run, perhaps with the priority of somebody who does not want them any more.
    running: Vec<i64>,
    /// What was found for each derivation and each target, and the priority that it was needed with.
    derivations: HashMap<i64, (Found, i64)>,
    targets: HashMap<i64, (Found, i64)>,
}

/// What there is for something that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A build that goes on.
    Build(i64),
    /// A build that failed, or that waits for something that did, and is not tried again.
    Failed(i64),
}

impl Found {
    pub(super) fn build(self) -> i64 {
        match self {
            Self::Build(build) | Self::Failed(build) => build,
        }
    }
}

/// A derivation to be looked at, for a build that needs it.
struct Needed {
    derivation: i64,
    by: i64,
    priority: i64,
}

impl Plan {
    /// One that tries again what failed before.
    pub(super) fn that_retries() -> Self {
        Self { retry: true, ..Self::default() }
    }

    /// A build for the derivation, and for what it needs and nobody provides. Nothing here recurses, because real
    /// graphs are thousands deep.
    pub(super) fn need(&mut self, tx: &mut Tx<'_>, derivation: i64, priority: i64) -> Result<Found, Error> {
        let mut rest = Vec::new();
        let first = self.need_one(tx, derivation, priority, &mut rest)?;
        while let Some(needed) = rest.pop() {
            if let Found::Failed(_) = self.need_one(tx, needed.derivation, needed.priority, &mut rest)? {
                self.doomed.push(needed.by);
            }
        }
        Ok(first)
    }

    /// As [`Plan::need`], for something that was here, or seemed to be, and is not any more: others than the one
    /// that found out wait for it now, too.
    pub(super) fn need_again(
        &mut self,
        tx: &mut Tx<'_>,
        derivation: i64,
        priority: i64,
    ) -> Result<(), Error> {
        let found = self.need(tx, derivation, priority)?;
        self.lost.push(found.build());
        Ok(())
    }

    /// What failed before is tried again this once: to be said before anything is needed, for others may need it, too.
    pub(super) fn try_again(&mut self, target: i64) {
        self.again.insert(target);
    }

    /// What there is for the derivation; what has to be looked at for it goes to `rest`.
    fn need_one(
        &mut self,
        tx: &mut Tx<'_>,
        derivation: i64,
        priority: i64,
        rest: &mut Vec<Needed>,
    ) -> Result<Found, Error> {
        if let Some((found, _)) = self.derivations.get(&derivation).filter(|(_, had)| *had >= priority) {
            return Ok(*found);
        }
        let target = target_of(tx, derivation)?;
        let found = match self.targets.get(&target) {
            Some((found, had)) if *had >= priority => *found,
            _ => {
                let found = self.look_at(tx, derivation, target, priority, rest)?;
                self.targets.insert(target, (found, priority));
                found
            }
        };
        self.derivations.insert(derivation, (found, priority));
        Ok(found)
    }

    fn look_at(
        &mut self,
        tx: &mut Tx<'_>,
        derivation: i64,
        target: i64,
        priority: i64,
        rest: &mut Vec<Needed>,
    ) -> Result<Found, Error> {
        const OPEN: &str = concat!(
            "SELECT id, state, priority, derivation FROM builds WHERE target = ?1 AND state IN ",
            open_states!()
        );
        let open: Option<(i64, BuildState, i64, i64)> = tx
            .prepare_cached(OPEN)?
            .query_row([target], |row| Ok((row.get(0)?, paths::state(row, 1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((build, state, had, own)) = open else {
            if let Some(failed) = self.failed_before(tx, target)? {
                return Ok(failed);
            }
            // Rows may want it whose last build was canceled.
            let wish = wants::row_wish(tx, target)?;
            let priority = wish.map_or(priority, |wish| wish.max(priority));
            let below = missing_inputs(tx, derivation)?;
            let build = make(tx, derivation, priority, below.len())?;
            if wish.is_some() {
                wants::allow_as_rows(tx, build)?;
            }
            self.made.insert(build);
            rest.extend(below.into_iter().map(|derivation| Needed { derivation, by: build, priority }));
            return Ok(Found::Build(build));
        };
        if had < priority {
            tx.prepare_cached("UPDATE builds SET priority = ?2 WHERE id = ?1")?.execute([build, priority])?;
        }
        if had > priority && state == BuildState::Running {
            self.running.push(target);
        }
        let stuck = state == BuildState::DependencyFailed;
        if stuck && self.retry {
            // Its inputs get their builds below; it goes on when all of them have.
            self.reopened.push(build);
        }
        if had < priority || stuck {
            // What was canceled below something stuck is built after all.
            let priority = priority.max(had);
            let below = missing_below(tx, build, own)?;
            rest.extend(below.into_iter().map(|derivation| Needed { derivation, by: build, priority }));
        }
        Ok(match stuck && !self.retry {
            true => Found::Failed(build),
            false => Found::Build(build),
        })
    }

    /// The newest build of a target, if it failed and is not tried again.
    fn failed_before(&mut self, tx: &Tx<'_>, target: i64) -> Result<Option<Found>, Error> {
        if self.retry || self.again.contains(&target) {
            return Ok(None);
        }
        let Some((build, BuildState::Failed | BuildState::TimedOut)) = newest(tx, target)? else {
            return Ok(None);
        };
        self.failed.push(build);
        Ok(Some(Found::Failed(build)))
    }

    /// The build that made the outputs, which are all here.
    pub(super) fn take_succeeded(
        &mut self,
        tx: &mut Tx<'_>,
        derivation: i64,
        priority: i64,
    ) -> Result<i64, Error> {
        let found = tx
            .prepare_cached(
                "SELECT b.id FROM builds b JOIN derivations d ON d.target = b.target \
                 WHERE d.id = ?1 AND b.state = 'succeeded' ORDER BY b.id DESC LIMIT 1",
            )?
            .query_row([derivation], |row| row.get(0))
            .optional()?;
        if let Some(build) = found {
            return Ok(build);
        }
        let build = insert(tx, derivation, priority, BuildState::Succeeded, 0)?;
        tx.prepare_cached("UPDATE builds SET ended_at = submitted_at WHERE id = ?1")?.execute([build])?;
        events::note(tx, Kind::BuildSuccess, Subject::Build(build), None)?;
        self.made.insert(build);
        Ok(build)
    }

    /// After the last one: what waited already for something that is built now lifts it, and goes on if nothing else
    /// is in its way, as do those above it; what needs something that failed before fails, until that is tried again.
    pub(super) fn settle(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let above = self.above(tx)?;
        for (derivation, priority) in above.lifted {
            self.need(tx, derivation, priority)?;
        }
        for build in std::mem::take(&mut self.reopened) {
            depend::reopen(tx, build)?;
            depend::revive_dependents(tx, build)?;
        }
        depend::revive(tx, above.stuck)?;
        for build in std::mem::take(&mut self.doomed) {
            depend::fail_if_hopeless(tx, build)?;
        }
        hooks::reconsider(tx, std::mem::take(&mut self.failed))?;
        wants::gone(tx, std::mem::take(&mut self.running)).map(drop)
    }

    /// The builds that were there before and wait for new ones.
    fn above(&self, tx: &Tx<'_>) -> Result<Above, Error> {
        let mut above = Above::default();
        let all_stuck = "SELECT id FROM builds WHERE state = ?1";
        for build in &self.lost {
            above.wait_for(tx, *build)?;
        }
        if self.made.len() <= FEW {
            for build in &self.made {
                above.wait_for(tx, *build)?;
            }
            return Ok(above);
        }
        // Only what is stuck can have waited for something of which there was no build: there are fewer of them than
        // edges above so many new builds.
        let mut statement = tx.prepare_cached(all_stuck)?;
        let rows = statement.query_map([BuildState::DependencyFailed.as_str()], |row| row.get(0))?;
        let stuck: Vec<i64> = rows.collect::<rusqlite::Result<_>>()?;
        for build in &stuck {
            let (derivation, priority): (i64, i64) = tx
                .prepare_cached("SELECT derivation, priority FROM builds WHERE id = ?1")?
                .query_row([*build], |row| Ok((row.get(0)?, row.get(1)?)))?;
            for input in missing_below(tx, *build, derivation)? {
                if self.is_made(tx, input)? {
                    above.lift(input, priority);
                }
            }
        }
        above.stuck.extend(stuck);
        Ok(above)
    }

    /// Whether the build for this derivation is a new one.
    fn is_made(&self, tx: &Tx<'_>, derivation: i64) -> Result<bool, Error> {
        let target = target_of(tx, derivation)?;
        let found = self.targets.get(&target);
        Ok(found.is_some_and(|(found, _)| self.made.contains(&found.build())))
    }
}

#[derive(Debug, Default)]
struct Above {
    stuck: Vec<i64>,
    /// Derivations with the priority of what waits for them.
    lifted: HashMap<i64, i64>,
}

impl Above {
    /// All that waits for this build.
    fn wait_for(&mut self, tx: &Tx<'_>, build: i64) -> Result<(), Error> {
        let derivation: i64 = tx
            .prepare_cached("SELECT derivation FROM builds WHERE id = ?1")?
            .query_row([build], |row| row.get(0))?;
        for waiting in depend::dependents(tx, build)? {
            if waiting.state == BuildState::DependencyFailed {
                self.stuck.push(waiting.build);
            }
            self.lift(derivation, waiting.priority);
        }
        Ok(())
    }

    fn lift(&mut self, derivation: i64, priority: i64) {
        let lifted = self.lifted.entry(derivation).or_insert(priority);
        *lifted = priority.max(*lifted);
    }
}

/// The newest build of a target, and its state.
pub(super) fn newest(tx: &Tx<'_>, target: i64) -> Result<Option<(i64, BuildState)>, Error> {
    let select = "SELECT id, state FROM builds WHERE target = ?1 ORDER BY id DESC LIMIT 1";
    let newest = tx
        .prepare_cached(select)?
        .query_row([target], |row| Ok((row.get(0)?, paths::state(row, 1)?)))
        .optional()?;
    Ok(newest)
}

/// The target of a derivation.
pub(super) fn target_of(tx: &Tx<'_>, derivation: i64) -> Result<i64, Error> {
    let select = "SELECT target FROM derivations WHERE id = ?1";
    Ok(tx.prepare_cached(select)?.query_row([derivation], |row| row.get(0))?)
}

/// Whether all outputs of a derivation are held here.
pub(super) fn held(tx: &Tx<'_>, derivation: i64) -> Result<bool, Error> {
    let absent = "SELECT 1 FROM derivation_outputs o JOIN paths p ON p.id = o.path \
                  WHERE o.derivation = ?1 AND p.provided <> 1";
    Ok(!tx.prepare_cached(absent)?.exists([derivation])?)
}

/// One derivation for each input that nobody provides.
pub(super) fn missing_inputs(tx: &Tx<'_>, derivation: i64) -> Result<Vec<i64>, Error> {
    let select = "SELECT min(i.maker) FROM derivation_inputs i JOIN paths p ON p.id = i.output AND p.provided = 0 \
                  WHERE i.derivation = ?1 GROUP BY i.output";
    paths::numbers(tx, select, derivation)
}

/// One derivation for each thing that an open build waits for: its inputs, and what they refer to.
fn missing_below(tx: &Tx<'_>, build: i64, derivation: i64) -> Result<Vec<i64>, Error> {
    let mut below = missing_inputs(tx, derivation)?;
    let awaited = "SELECT min(o.derivation) FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
                   WHERE a.build = ?1 GROUP BY a.path";
    below.extend(paths::numbers(tx, awaited, build)?);
    Ok(below)
}

fn make(tx: &mut Tx<'_>, derivation: i64, priority: i64, missing_inputs: usize) -> Result<i64, Error> {
    let lacks: bool = tx
        .prepare_cached("SELECT lacking > 0 FROM derivations WHERE id = ?1")?
        .query_row([derivation], |row| row.get(0))?;
    let missing = sql(missing_inputs as u64) + i64::from(lacks);
    let state = if missing == 0 { BuildState::Ready } else { BuildState::Waiting };
    insert(tx, derivation, priority, state, missing)
}

fn insert(
    tx: &mut Tx<'_>,
    derivation: i64,
    priority: i64,
    state: BuildState,
    missing: i64,
) -> Result<i64, Error> {
    let id = BuildId(Uuid::new_v4());
    let (build, platform) = tx
        .prepare_cached(
            "INSERT INTO builds (uuid, derivation, target, platform, state, priority, missing, submitted_at, ready_at) \
             SELECT ?1, id, target, platform, ?3, ?4, ?5, ?6, iif(?5 = 0, ?6, NULL) FROM derivations WHERE id = ?2 \
             RETURNING id, platform",
        )?
        .query_row((id.0.as_bytes(), derivation, state.as_str(), priority, missing, sql(now())), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    retention::rescue_for_build(tx, derivation)?;
    events::note(tx, Kind::BuildSubmitted, Subject::Build(build), None)?;
    if state == BuildState::Ready {
        tx.note(Change::Ready { platform });
    }
    Ok(build)
}
