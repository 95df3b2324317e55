//! Builds are submitted: what is wanted, and what that needs.

use std::collections::{BTreeMap, HashMap, HashSet};

use drover_store::StorePath;
use drover_wire::client::{Submission, Submitted, SubmittedBuild, Wanted};
use drover_wire::{BuildId, BuildState};
use rusqlite::OptionalExtension;
use uuid::Uuid;

use super::change::Change;
use super::error::Error;
use super::{Farm, Tx, depend, now, open_states, paths, sql};

/// The most missing sources that an answer names.
const NAMED: usize = 100;
const TAG_LIMIT: usize = 1024;

impl Farm {
    /// Submits builds, and builds for those of their inputs that nobody provides.
    ///
    /// # Errors
    /// When a derivation is not here, or a tag cannot be kept; nothing is submitted then.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, Error> {
        for wanted in &submission.builds {
            check_tags(&wanted.tags)?;
        }
        self.ask_substitute_servers(submission.builds.iter().map(|wanted| &wanted.derivation)).await?;
        let default_timeout = Some(self.config.timeout_seconds).filter(|seconds| *seconds > 0);
        let default_silence = Some(self.config.max_silent_seconds).filter(|seconds| *seconds > 0);
        let submitted = self
            .database
            .write(move |tx| {
                let mut all = Vec::with_capacity(submission.builds.len());
                for mut wanted in submission.builds {
                    wanted.timeout = wanted.timeout.or(default_timeout);
                    wanted.max_silent_time = wanted.max_silent_time.or(default_silence);
                    let derivation = derivation_of(tx, &wanted.derivation)?;
                    all.push((derivation, wanted));
                }
                submit(tx, &all)
            })
            .await?;
        let new = submitted.builds.iter().filter(|build| build.new).count();
        let known = submitted.builds.len() - new;
        tracing::info!(new, known, for_inputs = submitted.for_inputs, "builds submitted");
        Ok(submitted)
    }
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Error> {
    for (key, value) in tags {
        if key.is_empty() || key.contains('=') || key.len() > TAG_LIMIT || value.len() > TAG_LIMIT {
            let key: String = key.chars().take(40).collect();
            return Err(Error::BadRequest(format!(
                "the tag “{key}” cannot be kept: its name must have 1 to {TAG_LIMIT} bytes without “=”, its value \
                 at most {TAG_LIMIT}"
            )));
        }
    }
    Ok(())
}

/// The number of a derivation that must be here.
pub(super) fn derivation_of(tx: &Tx<'_>, path: &StorePath) -> Result<i64, Error> {
    let id = paths::find(tx, path)?;
    let kept = |id: &i64| tx.prepare_cached("SELECT 1 FROM derivations WHERE id = ?1")?.exists([id]);
    match id {
        Some(id) if kept(&id)? => Ok(id),
        _ => Err(Error::UnknownDerivation(path.clone())),
    }
}

fn submit(tx: &mut Tx<'_>, all: &[(i64, Wanted)]) -> Result<Submitted, Error> {
    let mut plan = Plan::default();
    let mut chosen = Vec::with_capacity(all.len());
    for (derivation, wanted) in all {
        let build = match held(tx, *derivation)? {
            true => plan.take_succeeded(tx, *derivation, wanted.priority)?,
            false => plan.need(tx, *derivation, wanted.priority)?,
        };
        want(tx, build, wanted)?;
        chosen.push((build, wanted));
    }
    plan.settle(tx)?;
    let mut builds = Vec::with_capacity(chosen.len());
    let mut wanted_new = HashSet::new();
    for (build, wanted) in chosen {
        let (id, state) = tx
            .prepare_cached("SELECT uuid, state FROM builds WHERE id = ?1")?
            .query_row([build], |row| Ok((paths::build_id(row, 0)?, paths::state(row, 1)?)))?;
        let new = plan.made.contains(&build);
        if new {
            wanted_new.insert(build);
        }
        builds.push(SubmittedBuild { derivation: wanted.derivation.clone(), build: id, state, new });
    }
    let missing = missing_sources(tx, all.iter().map(|(derivation, _)| *derivation))?;
    let named: Vec<i64> = missing.iter().copied().take(NAMED).collect();
    Ok(Submitted {
        builds,
        for_inputs: (plan.made.len() - wanted_new.len()) as u64,
        missing_sources: named.into_iter().map(|id| paths::path(tx, id)).collect::<Result<_, _>>()?,
        missing_sources_count: missing.len() as u64,
    })
}

/// Whether all outputs of a derivation are held here.
fn held(tx: &Tx<'_>, derivation: i64) -> Result<bool, Error> {
    let absent = "SELECT 1 FROM derivation_outputs o JOIN paths p ON p.id = o.path \
                  WHERE o.derivation = ?1 AND p.provided <> 1";
    Ok(!tx.prepare_cached(absent)?.exists([derivation])?)
}

/// Marks a build as wanted by a client, with what the client said about it.
fn want(tx: &Tx<'_>, build: i64, wanted: &Wanted) -> Result<(), Error> {
    tx.prepare_cached(
        "UPDATE builds SET asked = max(coalesce(asked, ?4), ?4), timeout = max(coalesce(timeout, ?2), coalesce(?2, timeout)), \
         max_silent_time = max(coalesce(max_silent_time, ?3), coalesce(?3, max_silent_time)) WHERE id = ?1",
    )?
    .execute((build, wanted.timeout.map(sql), wanted.max_silent_time.map(sql), wanted.priority))?;
    for (key, value) in &wanted.tags {
        tx.prepare_cached(
            "INSERT INTO build_tags VALUES (?1, ?2, ?3) ON CONFLICT (build, key) DO UPDATE SET value = ?3",
        )?
        .execute((build, key, value))?;
    }
    Ok(())
}

/// The builds that one submission makes and takes up.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// New ones.
    pub(super) made: HashSet<i64>,
    /// Those with a failed dependency that are tried again.
    reopened: Vec<i64>,
    /// The build of each target that was looked at, with the priority that it was needed with.
    seen: HashMap<i64, (i64, i64)>,
}

impl Plan {
    /// A build for the derivation, and for what it needs and nobody provides.
    pub(super) fn need(&mut self, tx: &mut Tx<'_>, derivation: i64, priority: i64) -> Result<i64, Error> {
        let (first, mut rest) = self.need_one(tx, derivation, priority)?;
        while let Some(derivation) = rest.pop() {
            let (_, more) = self.need_one(tx, derivation, priority)?;
            rest.extend(more);
        }
        Ok(first)
    }

    /// A build for the derivation, and the derivations that have to be looked at for it.
    fn need_one(
        &mut self,
        tx: &mut Tx<'_>,
        derivation: i64,
        priority: i64,
    ) -> Result<(i64, Vec<i64>), Error> {
        const OPEN: &str = concat!(
            "SELECT id, state, priority, derivation FROM builds WHERE target = ?1 AND state IN ",
            open_states!()
        );
        let target: i64 = tx
            .prepare_cached("SELECT target FROM derivations WHERE id = ?1")?
            .query_row([derivation], |row| row.get(0))?;
        if let Some((build, needed)) = self.seen.get(&target) {
            if *needed >= priority {
                return Ok((*build, Vec::new()));
            }
        }
        let open: Option<(i64, BuildState, i64, i64)> = tx
            .prepare_cached(OPEN)?
            .query_row([target], |row| Ok((row.get(0)?, paths::state(row, 1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((build, state, had, own)) = open else {
            let build = make(tx, derivation, priority)?;
            self.made.insert(build);
            self.seen.insert(target, (build, priority));
            return Ok((build, missing_inputs(tx, derivation)?));
        };
        self.seen.insert(target, (build, priority.max(had)));
        if had < priority {
            tx.prepare_cached("UPDATE builds SET priority = ?2 WHERE id = ?1")?.execute([build, priority])?;
        }
        let stuck = state == BuildState::DependencyFailed;
        if stuck {
            // Its inputs get their builds below; it goes on when all of them have.
            self.reopened.push(build);
        }
        if !stuck && had >= priority {
            return Ok((build, Vec::new()));
        }
        let mut below = missing_inputs(tx, own)?;
        let awaited = "SELECT min(o.derivation) FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
                       WHERE a.build = ?1 GROUP BY a.path";
        below.extend(paths::numbers(tx, awaited, build)?);
        Ok((build, below))
    }

    /// The build that made the outputs, which are all here.
    fn take_succeeded(&mut self, tx: &mut Tx<'_>, derivation: i64, priority: i64) -> Result<i64, Error> {
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
        self.made.insert(build);
        Ok(build)
    }

    /// After the last one: builds whose dependencies are tried again go on, and so do those above them.
    pub(super) fn settle(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        for build in std::mem::take(&mut self.reopened) {
            depend::reopen(tx, build)?;
            depend::revive_dependents(tx, build)?;
        }
        for build in &self.made {
            depend::revive_dependents(tx, *build)?;
        }
        Ok(())
    }
}

/// One derivation for each input that nobody provides.
fn missing_inputs(tx: &Tx<'_>, derivation: i64) -> Result<Vec<i64>, Error> {
    let select = "SELECT min(i.maker) FROM derivation_inputs i JOIN paths p ON p.id = i.output AND p.provided = 0 \
                  WHERE i.derivation = ?1 GROUP BY i.output";
    paths::numbers(tx, select, derivation)
}

fn make(tx: &mut Tx<'_>, derivation: i64, priority: i64) -> Result<i64, Error> {
    let missing: i64 = tx
        .prepare_cached(
            "SELECT (SELECT count(DISTINCT i.output) FROM derivation_inputs i \
                     JOIN paths p ON p.id = i.output AND p.provided = 0 WHERE i.derivation = ?1) \
                  + (SELECT lacking > 0 FROM derivations WHERE id = ?1)",
        )?
        .query_row([derivation], |row| row.get(0))?;
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
            "INSERT INTO builds (uuid, derivation, target, platform, state, priority, missing, submitted_at) \
             SELECT ?1, id, target, platform, ?3, ?4, ?5, ?6 FROM derivations WHERE id = ?2 \
             RETURNING id, platform",
        )?
        .query_row((id.0.as_bytes(), derivation, state.as_str(), priority, missing, sql(now())), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if state == BuildState::Ready {
        tx.note(Change::Ready { platform });
    }
    Ok(build)
}

/// The sources that nobody has uploaded, of these derivations and of all below them.
fn missing_sources(tx: &Tx<'_>, derivations: impl Iterator<Item = i64>) -> Result<Vec<i64>, Error> {
    let lacks = |id: &i64| {
        let select = "SELECT 1 FROM derivations WHERE id = ?1 AND lacking > 0";
        tx.prepare_cached(select)?.exists([id])
    };
    let mut missing = Vec::new();
    let mut missing_seen = HashSet::new();
    let mut seen = HashSet::new();
    let mut open = Vec::new();
    for derivation in derivations {
        if lacks(&derivation)? && seen.insert(derivation) {
            open.push(derivation);
        }
    }
    while let Some(derivation) = open.pop() {
        let own = "SELECT s.path FROM derivation_sources s WHERE s.derivation = ?1 \
                   AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = s.path AND i.kind = 'source')";
        for source in paths::numbers(tx, own, derivation)? {
            if missing_seen.insert(source) {
                missing.push(source);
            }
        }
        let below = "SELECT DISTINCT i.maker FROM derivation_inputs i JOIN derivations d ON d.id = i.maker \
                     WHERE i.derivation = ?1 AND d.lacking > 0";
        open.extend(paths::numbers(tx, below, derivation)?.into_iter().filter(|id| seen.insert(*id)));
    }
    Ok(missing)
}
