//! Sets: names with revisions, each a list of what is wanted.
//!
//! [`receive`] takes the rows of a revision, [`current`] makes it the current one, and the rest tells how it stands.

mod blockers;
mod current;
mod diff;
mod look;
mod needs;
mod pace;
mod pair;
mod private;
mod reach;
mod receive;
mod rows;
mod show;

use drover_wire::Timestamp;
use drover_wire::set::{RevisionName, SetName, SetRef};
use rusqlite::{Connection, OptionalExtension};

use super::error::Error;
use super::unsql;

pub use look::{PackageRow, PackageRows, SetAnswer, SetLook, SetQuestion};
pub use receive::Coming;

/// `last` of the rows that the current revision has.
const CURRENT: i64 = i64::MAX;

/// A revision that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    /// The set's number.
    pub(super) set: i64,
    set_name: SetName,
    /// Whether builds of superseded revisions of the set go on.
    keep: bool,
    /// Its own number: a row is in it if `first <= id AND id <= last`.
    pub(super) id: i64,
    name: RevisionName,
    /// Whether it is the current one: its rows are then those with `last = CURRENT`.
    current: bool,
    submitted_at: Timestamp,
    /// How many rows it has.
    rows: u64,
}

/// The revision that is meant.
///
/// # Errors
/// When there is none of that name, or the set was dropped.
pub(super) fn find(sql: &Connection, named: &SetRef) -> Result<Revision, Error> {
    find_among(sql, named, false)
}

/// As [`find`], among sets that were dropped or among those that were not. The rows of a dropped set's last revision
/// all have that as `last`.
fn find_among(sql: &Connection, named: &SetRef, dropped: bool) -> Result<Revision, Error> {
    let select = "SELECT s.id, s.keep, r.id, r.name, r.id = s.current, r.submitted_at, r.rows \
                  FROM sets s JOIN revisions r ON r.in_set = s.id \
                  WHERE s.name = ?1 AND (s.dropped_at IS NOT NULL) = ?3 \
                  AND CASE WHEN ?2 IS NULL THEN r.id = s.current ELSE r.name = ?2 END";
    let revision = named.revision.as_ref().map(RevisionName::as_str);
    let found = sql
        .prepare_cached(select)?
        .query_row((named.set.as_str(), revision, dropped), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        })
        .optional()?;
    type Columns = (i64, bool, i64, String, bool, i64, i64);
    let Some((set, keep, id, name, current, submitted_at, rows)): Option<Columns> = found else {
        return Err(Error::NotFound { what: "set", name: named.to_string() });
    };
    Ok(Revision {
        set,
        set_name: named.set.clone(),
        keep,
        id,
        name: revision_name(name)?,
        current,
        submitted_at: unsql(submitted_at),
        rows: unsql(rows),
    })
}

fn revision_name(name: String) -> Result<RevisionName, Error> {
    name.try_into().map_err(|error| Error::Damaged(format!("a revision has a name that cannot be: {error}")))
}

fn set_name(name: String) -> Result<SetName, Error> {
    name.try_into().map_err(|error| Error::Damaged(format!("a set has a name that cannot be: {error}")))
}

#[cfg(test)]
mod tests;
