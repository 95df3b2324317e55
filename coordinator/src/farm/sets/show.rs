//! How sets stand.

use std::collections::BTreeMap;

use drover_wire::set::{RevisionSummary, SetDetails, SetPart, SetRef, SetSummary, Tally};
use rusqlite::{Connection, Row};

use super::pace::Pace;
use super::{Revision, find, revision_name, set_name};
use crate::farm::error::Error;
use crate::farm::{Farm, now, paths, sql, unsql};

/// The most revisions that are named.
const REVISIONS: i64 = 100;

impl Farm {
    /// All sets, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn sets(&self) -> Result<Vec<SetSummary>, Error> {
        self.database.read(summaries).await
    }

    /// How a revision stands, by system and target.
    ///
    /// # Errors
    /// When there is no such set or revision.
    pub async fn set(&self, named: SetRef) -> Result<SetDetails, Error> {
        self.database.read(move |sql| details(sql, &named)).await
    }
}

fn summaries(sql: &Connection) -> Result<Vec<SetSummary>, Error> {
    let select =
        "SELECT s.name, (SELECT count(*) FROM revisions r WHERE r.in_set = s.id) FROM sets s ORDER BY s.name";
    let mut statement = sql.prepare_cached(select)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let named = rows.collect::<rusqlite::Result<Vec<(String, i64)>>>()?;
    let mut all = Vec::with_capacity(named.len());
    for (name, revisions) in named {
        let revision = find(sql, &SetRef { set: set_name(name)?, revision: None })?;
        let total = total(&parts(sql, &revision)?);
        all.push(SetSummary {
            set: revision.set_name,
            revision: revision.name,
            submitted_at: revision.submitted_at,
            revisions: unsql(revisions),
            keep: revision.keep,
            total,
        });
    }
    Ok(all)
}

fn details(sql: &Connection, named: &SetRef) -> Result<SetDetails, Error> {
    let revision = find(sql, named)?;
    let all = parts(sql, &revision)?;
    let total = total(&all);
    let mut parts = Vec::new();
    for (system, targets) in all {
        for (target, Part { tally, pace }) in targets {
            // Nothing is promised for what was superseded.
            let estimate = if revision.current { pace.estimate(tally.waiting + tally.running) } else { None };
            let target = if target.is_empty() { None } else { Some(target) };
            parts.push(SetPart { system: system.clone(), target, tally, estimate });
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
    pace: Pace,
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
fn parts(sql_: &Connection, revision: &Revision) -> Result<Parts, Error> {
    // Those of the current revision, too, are all that have their last one here or later, and lie together. An end
    // counts if an agent came to it: what was here when it was asked for says nothing about the farm's pace.
    const ROWS: &str = "SELECT r.system, coalesce(r.cross, ''), r.derivation IS NOT NULL, b.state, \
             CASE WHEN b.agent IS NOT NULL AND b.state IN ('succeeded', 'failed', 'timed-out') THEN b.ended_at END \
         FROM set_rows r LEFT JOIN builds b \
             ON b.id = (SELECT n.id FROM builds n WHERE n.target = r.target ORDER BY n.id DESC LIMIT 1) \
         WHERE r.in_set = ?1 AND r.last >= ?2 AND r.first <= ?2";
    let now = sql(now());
    let mut parts = Parts::new();
    let mut statement = sql_.prepare_cached(ROWS)?;
    let mut rows = statement.query([revision.set, revision.id])?;
    while let Some(row) = rows.next()? {
        let Part { tally, pace } = part(&mut parts, row)?;
        if !row.get::<_, bool>(2)? {
            tally.wanted += 1;
            tally.not_evaluated += 1;
            continue;
        }
        tally.count(paths::state_if_any(row, 3)?, 1);
        if let Some(ended_at) = row.get::<_, Option<i64>>(4)? {
            pace.ended(unsql(now.saturating_sub(ended_at)));
        }
    }
    Ok(parts)
}

/// The part that a row is counted in.
fn part<'p>(parts: &'p mut Parts, row: &Row<'_>) -> rusqlite::Result<&'p mut Part> {
    let (system, cross) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
    let targets = parts.entry(system.to_owned()).or_default();
    Ok(targets.entry(cross.to_owned()).or_default())
}
