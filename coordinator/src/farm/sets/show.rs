//! How sets stand.

use std::collections::BTreeMap;

use drover_wire::BuildState;
use drover_wire::set::{
    Estimate, RevisionSummary, SetDetails, SetPart, SetRef, SetSummary, SetsQuestion, Tally,
};
use rusqlite::{Connection, OptionalExtension, Row};

use super::pace::Pace;
use super::{Revision, find, find_among, revision_name, set_name};
use crate::farm::error::Error;
use crate::farm::{Farm, now, sql, unsql};

/// The most revisions that are named.
const REVISIONS: i64 = 100;

impl Farm {
    /// All sets that were not dropped, or all that were, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn sets(&self, question: SetsQuestion) -> Result<Vec<SetSummary>, Error> {
        self.database.read(move |sql| summaries(sql, question.dropped)).await
    }

    /// How a revision stands, by system and target.
    ///
    /// # Errors
    /// When there is no such set or revision.
    pub async fn set(&self, named: SetRef) -> Result<SetDetails, Error> {
        self.database.read(move |sql| details(sql, &named)).await
    }
}

fn summaries(sql: &Connection, dropped: bool) -> Result<Vec<SetSummary>, Error> {
    let select = "SELECT s.name, (SELECT count(*) FROM revisions r WHERE r.in_set = s.id), s.dropped_at FROM sets s \
                  WHERE (s.dropped_at IS NOT NULL) = ?1 ORDER BY s.name";
    let mut statement = sql.prepare_cached(select)?;
    let rows = statement.query_map([dropped], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let named = rows.collect::<rusqlite::Result<Vec<(String, i64, Option<i64>)>>>()?;
    let mut all = Vec::with_capacity(named.len());
    for (name, revisions, dropped_at) in named {
        let revision = find_among(sql, &SetRef { set: set_name(name)?, revision: None }, dropped)?;
        let total = total(&parts(sql, &revision)?);
        all.push(SetSummary {
            set: revision.set_name,
            revision: revision.name,
            submitted_at: revision.submitted_at,
            revisions: unsql(revisions),
            keep: revision.keep,
            dropped_at: dropped_at.map(unsql),
            total,
        });
    }
    Ok(all)
}

pub(super) fn details(sql: &Connection, named: &SetRef) -> Result<SetDetails, Error> {
    let revision = find(sql, named)?;
    let all = parts(sql, &revision)?;
    let total = total(&all);
    let mut parts = Vec::new();
    for (system, targets) in all {
        for (target, mut part) in targets {
            // Nothing is promised for what was superseded.
            let estimate = if revision.current { part.estimate(sql)? } else { None };
            let target = if target.is_empty() { None } else { Some(target) };
            parts.push(SetPart { system: system.clone(), target, tally: part.tally, estimate });
        }
    }
    // They go on beside each other, so the last one counts; if one cannot be said, nothing is said of all.
    let open = || parts.iter().filter(|part| part.tally.waiting + part.tally.running > 0);
    let known = open().all(|part| part.estimate.is_some());
    let last = open().filter_map(|part| part.estimate).max_by_key(|estimate| estimate.seconds);
    Ok(SetDetails {
        estimate: if known { last } else { None },
        revisions: revisions(sql, revision.set)?,
        set: revision.set_name,
        revision: revision.name,
        current: revision.current,
        submitted_at: revision.submitted_at,
        keep: revision.keep,
        parts,
        total,
    })
}

/// The newest revisions of a set.
fn revisions(sql: &Connection, set: i64) -> Result<Vec<RevisionSummary>, Error> {
    let select = "SELECT name, submitted_at, rows FROM revisions WHERE in_set = ?1 ORDER BY id DESC LIMIT ?2";
    let mut statement = sql.prepare_cached(select)?;
    let mut rows = statement.query([set, REVISIONS])?;
    let mut revisions = Vec::new();
    while let Some(row) = rows.next()? {
        revisions.push(RevisionSummary {
            revision: revision_name(row.get(0)?)?,
            submitted_at: unsql(row.get(1)?),
            rows: unsql(row.get(2)?),
        });
    }
    Ok(revisions)
}

/// The rows of one system and cross target.
#[derive(Debug, Default)]
struct Part {
    tally: Tally,
    /// The builds that have ended.
    ended: Vec<i64>,
}

impl Part {
    /// When the rest will have ended, if that can be said.
    fn estimate(&mut self, sql_: &Connection) -> Result<Option<Estimate>, Error> {
        let remaining = self.tally.waiting + self.tally.running;
        if remaining == 0 {
            return Ok(None);
        }
        // An end counts if an agent came to it: what was here when it was asked for says nothing about the farm.
        let select =
            "SELECT ended_at FROM builds WHERE id = ?1 AND agent IS NOT NULL AND ended_at IS NOT NULL";
        let mut statement = sql_.prepare_cached(select)?;
        let (now, mut pace) = (sql(now()), Pace::default());
        self.ended.sort_unstable();
        for build in &self.ended {
            if let Some(ended_at) = statement.query_row([build], |row| row.get::<_, i64>(0)).optional()? {
                pace.ended(unsql(now.saturating_sub(ended_at)));
            }
        }
        Ok(pace.estimate(remaining))
    }
}

/// By system and cross target; for none that is empty, which no target's name is.
type Parts = BTreeMap<String, BTreeMap<String, Part>>;

fn total(parts: &Parts) -> Tally {
    let mut total = Tally::default();
    for part in parts.values().flat_map(BTreeMap::values) {
        total.add(&part.tally);
    }
    total
}

/// Counts the rows of a revision, in one pass over them.
fn parts(sql: &Connection, revision: &Revision) -> Result<Parts, Error> {
    // Those of the current revision, too, are all that have their last one here or later, and lie together. The
    // newest build's number and state are in one text because they come from one look into an index.
    const ROWS: &str = "SELECT r.system, coalesce(r.cross, ''), r.derivation IS NOT NULL, \
             coalesce((SELECT n.id || ' ' || n.state FROM builds n WHERE n.target = r.target \
                 ORDER BY n.id DESC LIMIT 1), '') \
         FROM set_rows r WHERE r.in_set = ?1 AND r.last >= ?2 AND r.first <= ?2";
    let mut parts = Parts::new();
    let mut statement = sql.prepare_cached(ROWS)?;
    let mut rows = statement.query([revision.set, revision.id])?;
    while let Some(row) = rows.next()? {
        let Part { tally, ended } = part(&mut parts, row)?;
        if !row.get::<_, bool>(2)? {
            tally.wanted += 1;
            tally.not_evaluated += 1;
            continue;
        }
        let newest = newest(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?;
        tally.count(newest.map(|(_, state)| state), 1);
        if let Some((build, BuildState::Succeeded | BuildState::Failed | BuildState::TimedOut)) = newest {
            ended.push(build);
        }
    }
    Ok(parts)
}

fn newest(text: &str) -> Result<Option<(i64, BuildState)>, Error> {
    let Some((build, state)) = text.split_once(' ') else { return Ok(None) };
    match (build.parse(), state.parse()) {
        (Ok(build), Ok(state)) => Ok(Some((build, state))),
        _ => Err(Error::Damaged(format!("the state of a build is “{text}”"))),
    }
}

/// The part that a row is counted in.
fn part<'p>(parts: &'p mut Parts, row: &Row<'_>) -> rusqlite::Result<&'p mut Part> {
    let (system, cross) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
    let targets = parts.entry(system.to_owned()).or_default();
    Ok(targets.entry(cross.to_owned()).or_default())
}
