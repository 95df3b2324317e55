//! Builds are submitted: what is wanted, and what that needs.

use std::collections::{BTreeMap, HashSet};

use drover_store::StorePath;
use drover_wire::client::{Submission, Submitted, SubmittedBuild, Wanted, check_tags};

use super::error::Error;
use super::plan::{self, Plan};
use super::{Farm, Tx, now, paths, retention, sql};

/// The most missing sources that an answer names.
const NAMED: usize = 100;

impl Farm {
    /// Submits builds, and builds for those of their inputs that nobody provides.
    ///
    /// # Errors
    /// When a derivation is not here, or a tag cannot be kept; nothing is submitted then.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, Error> {
        for wanted in &submission.builds {
            check_tags(&wanted.tags).map_err(Error::BadRequest)?;
        }
        self.ask_substitute_servers(submission.builds.iter().map(|wanted| &wanted.derivation)).await?;
        let limits = self.default_limits();
        let submitted = self
            .database
            .write_alone(move |tx| {
                let mut all = Vec::with_capacity(submission.builds.len());
                for mut wanted in submission.builds {
                    wanted.timeout = wanted.timeout.or(limits.timeout);
                    wanted.max_silent_time = wanted.max_silent_time.or(limits.max_silent_time);
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

/// How long a build may take and be silent, in seconds, unless its submission says so; none: as its agent has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) timeout: Option<u64>,
    pub(super) max_silent_time: Option<u64>,
}

impl Farm {
    pub(super) fn default_limits(&self) -> Limits {
        let given = |seconds: u64| Some(seconds).filter(|seconds| *seconds > 0);
        Limits {
            timeout: given(self.config.timeout_seconds),
            max_silent_time: given(self.config.max_silent_seconds),
        }
    }
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
    let mut plan = Plan::that_retries();
    let mut chosen = Vec::with_capacity(all.len());
    for (derivation, wanted) in all {
        let build = match plan::held(tx, *derivation)? {
            true => {
                retention::rescue_outputs(tx, *derivation)?;
                plan.take_succeeded(tx, *derivation, wanted.priority)?
            }
            false => plan.need(tx, *derivation, wanted.priority)?.build(),
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

/// Marks a build as wanted by a client, with what the client said about it.
fn want(tx: &Tx<'_>, build: i64, wanted: &Wanted) -> Result<(), Error> {
    tx.prepare_cached("UPDATE builds SET asked = max(coalesce(asked, ?2), ?2), asked_at = ?3 WHERE id = ?1")?
        .execute((build, wanted.priority, sql(now())))?;
    allow(tx, build, wanted.timeout, wanted.max_silent_time)?;
    tag(tx, build, &wanted.tags)
}

/// Gives a build at least so much time.
pub(super) fn allow(
    tx: &Tx<'_>,
    build: i64,
    timeout: Option<u64>,
    max_silent_time: Option<u64>,
) -> Result<(), Error> {
    if timeout.is_some() || max_silent_time.is_some() {
        tx.prepare_cached(
            "UPDATE builds SET timeout = max(coalesce(timeout, ?2), coalesce(?2, timeout)), \
             max_silent_time = max(coalesce(max_silent_time, ?3), coalesce(?3, max_silent_time)) WHERE id = ?1",
        )?
        .execute((build, timeout.map(sql), max_silent_time.map(sql)))?;
    }
    Ok(())
}

/// Gives a build tags; one that it has already gets the new value.
pub(super) fn tag(tx: &Tx<'_>, build: i64, tags: &BTreeMap<String, String>) -> Result<(), Error> {
    for (key, value) in tags {
        tx.prepare_cached(
            "INSERT INTO build_tags VALUES (?1, ?2, ?3) ON CONFLICT (build, key) DO UPDATE SET value = ?3",
        )?
        .execute((build, key, value))?;
    }
    Ok(())
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
