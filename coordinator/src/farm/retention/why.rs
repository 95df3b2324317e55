//! Why one item stays or goes, in as much detail as there is.

use drover_store::StorePath;
use drover_wire::BuildId;
use drover_wire::retention::{Fate, OtherServer, WantedBy, Why};
use rusqlite::{Connection, OptionalExtension};

use super::super::error::Error;
use super::super::{open_states, paths, unsql};
use super::reason::Reason;
use super::revisions::Kept;
use super::walk::Reached;
use crate::config::RetentionConfig;

/// The longest way that is told.
const WAY: usize = 200;

pub(super) fn why(
    sql: &Connection,
    config: &RetentionConfig,
    sets: &[Kept],
    reached: &Reached,
    path: &StorePath,
) -> Result<Why, Error> {
    let mut why = Why {
        path: path.clone(),
        fate: Fate::NotHeld,
        ground: None,
        way: Vec::new(),
        row: None,
        build: None,
        due: None,
        unless_elsewhere: false,
        other_server: None,
        missed_at: None,
    };
    let known = paths::find(sql, path)?.and_then(|id| u32::try_from(id).ok());
    let Some(id) = known.filter(|id| reached.held.has(*id)) else { return Ok(why) };
    let due = "SELECT due FROM removals WHERE path = ?1";
    let due: Option<i64> = sql.prepare_cached(due)?.query_row([id], |row| row.get(0)).optional()?;
    why.due = due.map(unsql);
    why.other_server = other_server(sql, id)?;
    let missed = "SELECT checked_at FROM elsewhere_misses WHERE path = ?1";
    let missed: Option<i64> = sql.prepare_cached(missed)?.query_row([id], |row| row.get(0)).optional()?;
    why.missed_at = missed.map(unsql);
    let Some(reason) = reached.reason(id) else {
        why.fate = Fate::Goes;
        return Ok(why);
    };
    let is_away = super::is_away(sql, i64::from(id))?;
    why.fate = if is_away { Fate::Elsewhere } else { Fate::Kept };
    why.unless_elsewhere = reason.is_weak(config);
    why.ground = Some(reason.ground(config));
    let way = reached.way(id);
    for step in way.iter().skip(1).take(WAY) {
        why.way.push(paths::path(sql, i64::from(*step))?);
    }
    let root = i64::from(way.last().copied().unwrap_or(id));
    match reason {
        Reason::Rule(_) | Reason::Unruled => why.row = row(sql, sets, reason, root)?,
        Reason::Builds | Reason::Asked => why.build = build(sql, root)?,
        _ => {}
    }
    Ok(why)
}

/// The server that was found to have it, and still counts.
fn other_server(sql: &Connection, id: u32) -> Result<Option<OtherServer>, Error> {
    let select = "SELECT server, found_at FROM redirects WHERE path = ?1 AND until IS NULL";
    let found = sql
        .prepare_cached(select)?
        .query_row([id], |row| Ok(OtherServer { server: row.get(0)?, found_at: unsql(row.get(1)?) }));
    Ok(found.optional()?)
}

/// A row of a kept revision that wants an output, or the derivation itself.
fn row(sql: &Connection, sets: &[Kept], reason: Reason, root: i64) -> Result<Option<WantedBy>, Error> {
    let select = "SELECT r.first, r.last, r.package, r.version, r.system, r.cross FROM set_rows r WHERE r.in_set = ?1 \
                  AND (r.derivation = ?2 OR r.target IN (SELECT d.target FROM derivation_outputs o \
                      JOIN derivations d ON d.id = o.derivation WHERE o.path = ?2)) ORDER BY r.last DESC";
    let mut select = sql.prepare_cached(select)?;
    for kept in sets.iter().filter(|kept| kept.reason == reason) {
        let mut rows = select.query([kept.set, root])?;
        while let Some(row) = rows.next()? {
            let Some(revision) = kept.with(row.get(0)?, row.get(1)?) else { continue };
            let name: String = sql
                .prepare_cached("SELECT name FROM revisions WHERE id = ?1")?
                .query_row([revision], |row| row.get(0))?;
            let damaged =
                |error| Error::Damaged(format!("a set or a revision has a name that cannot be: {error}"));
            return Ok(Some(WantedBy {
                set: kept.name.clone().try_into().map_err(damaged)?,
                revision: name.try_into().map_err(damaged)?,
                package: row.get(2)?,
                version: row.get(3)?,
                system: row.get(4)?,
                target: row.get(5)?,
            }));
        }
    }
    Ok(None)
}

/// The newest build that makes it, or an open one that needs it.
fn build(sql: &Connection, root: i64) -> Result<Option<BuildId>, Error> {
    const NEEDS: &str = concat!(
        "SELECT b.uuid FROM derivation_inputs i JOIN builds b ON b.derivation = i.derivation AND b.state IN ",
        open_states!(),
        " WHERE i.output = ?1 LIMIT 1"
    );
    const MAKES: &str = "SELECT b.uuid FROM derivation_outputs o JOIN derivations d ON d.id = o.derivation \
         JOIN builds b ON b.target = d.target WHERE o.path = ?1 ORDER BY b.id DESC LIMIT 1";
    for select in [NEEDS, MAKES] {
        let found =
            sql.prepare_cached(select)?.query_row([root], |row| paths::build_id(row, 0)).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
