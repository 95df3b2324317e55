//! A revision becomes the current one, or a set goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use drover_store::StorePath;
use drover_wire::set::{Row, RowWanted, SetDropped, SetName, SetRef, SetSubmitted};
use drover_wire::{BuildState, rows};

use super::CURRENT;
use super::receive::Received;
use crate::farm::error::Error;
use crate::farm::plan::{self, Plan};
use crate::farm::submit::{self, Limits};
use crate::farm::{Farm, Tx, now, open_states, paths, publish, retention, sql, unsql, wants};

/// The most missing sources that an answer names.
const NAMED: usize = 100;

impl Farm {
    /// Drops a set: it wants nothing any more, and builds that nobody else wants and that have not started are canceled.
    /// Its rows stay for as long as its outputs are kept for their sake.
    ///
    /// # Errors
    /// When there is no such set.
    pub async fn drop_set(&self, set: SetName) -> Result<SetDropped, Error> {
        let dropped = self.database.write_alone(move |tx| drop_rows(tx, set)).await?;
        let SetDropped { set, revisions, canceled } = &dropped;
        tracing::info!(%set, revisions, canceled, "set dropped");
        Ok(dropped)
    }
}

/// A row that is wanted, as its build is planned.
struct New {
    derivation: i64,
    target: i64,
    priority: i64,
    timeout: Option<u64>,
    max_silent_time: Option<u64>,
    tags: BTreeMap<String, String>,
}

/// Makes a revision the current one: its rows want their builds, those that went do not any more.
pub(super) fn supersede(tx: &mut Tx<'_>, received: &Received, limits: Limits) -> Result<SetSubmitted, Error> {
    let Received { coming, basis, .. } = received;
    let named = SetRef { set: coming.set.clone(), revision: None };
    let now_current = match super::find(tx, &named) {
        Ok(current) => Some(current),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    if now_current.as_ref().map(|current| current.id) != basis.as_ref().map(|basis| basis.id) {
        return Err(Error::Conflict(format!(
            "the set {} was changed while the rows of {} came: by another revision, or because it was dropped; look at it \
             with “drover set show”, and submit them again if they are still what is wanted",
            coming.set, coming.revision
        )));
    }
    let kept_before = basis.as_ref().is_some_and(|basis| basis.keep);
    let keep = coming.terms.keep.unwrap_or(kept_before);
    let (set, revision) = put_revision(tx, received, keep)?;

    let mut lost = Vec::new();
    if let Some(basis) = basis {
        lost = supersede_rows(tx, set, basis.id, &received.gone, keep)?;
        if kept_before && !keep {
            lost.extend(stop_keeping(tx, set)?);
        }
    }
    let mut all = Vec::new();
    received.new.each(|number, row| {
        let place = place(tx, number, &row)?;
        let (_, digest) =
            rows::written(&row).map_err(|error| Error::Damaged(format!("a row is not JSON: {error}")))?;
        insert(tx, set, revision, &digest, place, &row)?;
        if let Some((derivation, target)) = place {
            let Row { priority, timeout, max_silent_time, tags, .. } = row;
            let timeout = timeout.or(limits.timeout);
            let max_silent_time = max_silent_time.or(limits.max_silent_time);
            all.push(New { derivation, target, priority, timeout, max_silent_time, tags });
        }
        Ok(())
    })?;
    // The most urgent first, so that what is below them is looked at once.
    all.sort_by_key(|new| Reverse(new.priority));
    let planned = plan_all(tx, &all)?;
    let canceled = wants::gone(tx, lost)?;
    publish::reconsider(tx, all.iter().map(|new| new.target))?;
    if basis.is_none() {
        // What a dropped set has said before counts again.
        publish::reconsider_set(tx, set)?;
    }
    let missing = missing_sources(tx, &planned.made)?;
    Ok(SetSubmitted {
        set: coming.set.clone(),
        revision: coming.revision.clone(),
        superseded: basis.as_ref().map(|basis| basis.name.clone()),
        new: true,
        rows: received.rows,
        rows_new: received.new.count(),
        rows_gone: received.gone.len() as u64,
        not_evaluated: received.not_evaluated,
        builds: planned.for_rows,
        for_inputs: planned.made.len() as u64 - planned.for_rows,
        canceled,
        missing_sources_count: missing.len() as u64,
        missing_sources: missing.into_iter().take(NAMED).collect(),
    })
}

/// The set with its new revision; the numbers of both. One that was dropped goes on.
fn put_revision(tx: &Tx<'_>, received: &Received, keep: bool) -> Result<(i64, i64), Error> {
    let coming = &received.coming;
    let at = sql(now());
    let set = match &received.basis {
        Some(basis) => {
            tx.prepare_cached("UPDATE revisions SET superseded_at = ?2 WHERE id = ?1")?
                .execute([basis.id, at])?;
            basis.set
        }
        None => tx
            .prepare_cached(
                "INSERT INTO sets (name, keep, current) VALUES (?1, ?2, 0) \
                 ON CONFLICT (name) DO UPDATE SET dropped_at = NULL RETURNING id",
            )?
            .query_row((coming.set.as_str(), keep), |row| row.get(0))?,
    };
    // A dropped set may have had one of that name: it is this one now.
    tx.prepare_cached("DELETE FROM revisions WHERE in_set = ?1 AND name = ?2")?
        .execute((set, coming.revision.as_str()))?;
    let revision = tx
        .prepare_cached("INSERT INTO revisions (in_set, name, submitted_at, rows) VALUES (?1, ?2, ?3, ?4)")?
        .insert((set, coming.revision.as_str(), at, sql(received.rows)))?;
    tx.prepare_cached("UPDATE sets SET current = ?2, keep = ?3 WHERE id = ?1")?
        .execute((set, revision, keep))?;
    Ok((set, revision))
}

/// These rows end with a revision; the targets that they want no longer.
fn supersede_rows(
    tx: &Tx<'_>,
    set: i64,
    last: i64,
    gone: &[rows::Digest],
    keep: bool,
) -> Result<Vec<i64>, Error> {
    let mut update = tx.prepare_cached(
        "UPDATE set_rows SET last = ?3, wanting = wanting AND ?4 \
         WHERE in_set = ?1 AND last = ?5 AND digest = ?2 RETURNING target",
    )?;
    let mut lost = Vec::new();
    for digest in gone {
        let target: Option<i64> = update.query_row((set, digest, last, keep, CURRENT), |row| row.get(0))?;
        lost.extend(target.filter(|_| !keep));
    }
    Ok(lost)
}

/// What a set has kept of superseded revisions is not wanted any more.
fn stop_keeping(tx: &Tx<'_>, set: i64) -> Result<Vec<i64>, Error> {
    let mut update = tx.prepare_cached(
        "UPDATE set_rows SET wanting = 0 WHERE in_set = ?1 AND last < ?2 AND wanting = 1 RETURNING target",
    )?;
    let rows = update.query_map([set, CURRENT], |row| row.get::<_, Option<i64>>(0))?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Whether a set keeps is said again, with a revision that is here already. Gives how many builds were canceled.
pub(super) fn keep(tx: &mut Tx<'_>, set: i64, keep: bool) -> Result<u64, Error> {
    tx.prepare_cached("UPDATE sets SET keep = ?2 WHERE id = ?1")?.execute((set, keep))?;
    let lost = if keep { Vec::new() } else { stop_keeping(tx, set)? };
    wants::gone(tx, lost)
}

/// The numbers of a row's derivation and of its target; none if it could not be evaluated.
fn place(tx: &Tx<'_>, number: u64, row: &Row) -> Result<Option<(i64, i64)>, Error> {
    let RowWanted::Derivation(path) = &row.wanted else { return Ok(None) };
    match submit::derivation_of(tx, path) {
        Ok(derivation) => Ok(Some((derivation, plan::target_of(tx, derivation)?))),
        Err(Error::UnknownDerivation(path)) => Err(Error::BadRow {
            row: number,
            reason: format!("its derivation {path} is not here; upload it, and what it needs, first"),
        }),
        Err(error) => Err(error),
    }
}

fn insert(
    tx: &Tx<'_>,
    set: i64,
    revision: i64,
    digest: &rows::Digest,
    place: Option<(i64, i64)>,
    row: &Row,
) -> Result<(), Error> {
    let error = match &row.wanted {
        RowWanted::Derivation(_) => None,
        RowWanted::NotEvaluated(error) => Some(error),
    };
    let tags = Some(&row.tags).filter(|tags| !tags.is_empty()).map(serde_json::to_string);
    let tags = tags.transpose().map_err(|error| Error::Damaged(format!("tags are not JSON: {error}")))?;
    tx.prepare_cached(
        "INSERT INTO set_rows (in_set, last, digest, first, derivation, target, package, version, system, cross, \
             error, priority, timeout, max_silent_time, publish, tags, wanting) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 1)",
    )?
    .execute(rusqlite::params![
        set,
        CURRENT,
        digest,
        revision,
        place.map(|(derivation, _)| derivation),
        place.map(|(_, target)| target),
        row.package,
        row.version,
        row.system,
        row.target,
        error,
        row.priority,
        row.timeout.map(sql),
        row.max_silent_time.map(sql),
        row.publish,
        tags,
    ])?;
    Ok(())
}

struct Planned {
    /// All new builds that are to be built.
    made: HashSet<i64>,
    /// How many of them are rows' own.
    for_rows: u64,
}

fn plan_all(tx: &mut Tx<'_>, all: &[New]) -> Result<Planned, Error> {
    let mut plan = Plan::default();
    for new in all {
        if more_time(tx, new)? {
            plan.try_again(new.target);
        }
    }
    let mut own = HashSet::new();
    for new in all {
        let build = if plan::held(tx, new.derivation)? {
            retention::rescue_outputs(tx, new.derivation)?;
            plan.take_succeeded(tx, new.derivation, new.priority)?
        } else {
            plan.need(tx, new.derivation, new.priority)?.build()
        };
        // One that has ended stays as it is.
        if plan.made.contains(&build) || is_open(tx, build)? {
            submit::allow(tx, build, new.timeout, new.max_silent_time)?;
            submit::tag(tx, build, &new.tags)?;
        }
        own.insert(build);
    }
    plan.settle(tx)?;
    let mut made = plan.made;
    let mut for_rows = 0;
    for build in own {
        if made.contains(&build) {
            match is_open(tx, build)? {
                true => for_rows += 1,
                // Only noted: what it would make is here already.
                false => drop(made.remove(&build)),
            }
        }
    }
    Ok(Planned { made, for_rows })
}

fn is_open(tx: &Tx<'_>, build: i64) -> Result<bool, Error> {
    const OPEN: &str = concat!("SELECT 1 FROM builds WHERE id = ?1 AND state IN ", open_states!());
    Ok(tx.prepare_cached(OPEN)?.exists([build])?)
}

/// Whether the newest build took too long, and a row gives it more time than it had.
fn more_time(tx: &Tx<'_>, new: &New) -> Result<bool, Error> {
    let Some((build, BuildState::TimedOut)) = plan::newest(tx, new.target)? else { return Ok(false) };
    let (timeout, silence): (Option<i64>, Option<i64>) = tx
        .prepare_cached("SELECT timeout, max_silent_time FROM builds WHERE id = ?1")?
        .query_row([build], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let more =
        |had: Option<i64>, has: Option<u64>| matches!((had, has), (Some(had), Some(has)) if sql(has) > had);
    Ok(more(timeout, new.timeout) || more(silence, new.max_silent_time))
}

/// The sources that nobody has uploaded and that one of these builds names.
fn missing_sources(tx: &Tx<'_>, builds: &HashSet<i64>) -> Result<Vec<StorePath>, Error> {
    let mut sources = tx.prepare_cached("SELECT path FROM missing_sources")?;
    let sources: Vec<i64> = sources.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    const NAMING: &str = concat!(
        "SELECT b.id FROM derivation_sources s JOIN builds b ON b.derivation = s.derivation AND b.state IN ",
        open_states!(),
        " WHERE s.path = ?1"
    );
    let mut missing = Vec::new();
    for source in sources {
        if paths::numbers(tx, NAMING, source)?.iter().any(|build| builds.contains(build)) {
            missing.push(paths::path(tx, source)?);
        }
    }
    Ok(missing)
}

fn drop_rows(tx: &mut Tx<'_>, name: SetName) -> Result<SetDropped, Error> {
    let set = super::find(tx, &SetRef { set: name, revision: None })?;
    let wanted = paths::numbers(
        tx,
        "SELECT DISTINCT target FROM set_rows WHERE in_set = ?1 AND wanting = 1 AND target IS NOT NULL",
        set.set,
    )?;
    tx.prepare_cached("UPDATE set_rows SET wanting = 0 WHERE in_set = ?1 AND wanting = 1")?
        .execute([set.set])?;
    // The name may be submitted again, with the same rows.
    tx.prepare_cached("UPDATE set_rows SET last = ?2 WHERE in_set = ?1 AND last = ?3")?
        .execute([set.set, set.id, CURRENT])?;
    let at = sql(now());
    tx.prepare_cached("UPDATE revisions SET superseded_at = ?2 WHERE id = ?1")?.execute([set.id, at])?;
    tx.prepare_cached("UPDATE sets SET dropped_at = ?2 WHERE id = ?1")?.execute([set.set, at])?;
    let revisions: i64 = tx
        .prepare_cached("SELECT count(*) FROM revisions WHERE in_set = ?1")?
        .query_row([set.set], |row| row.get(0))?;
    let canceled = wants::gone(tx, wanted)?;
    publish::reconsider_set(tx, set.set)?;
    Ok(SetDropped { set: set.set_name, revisions: unsql(revisions), canceled })
}
