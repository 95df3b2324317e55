//! How it stands with the publication of an item, for operators.

use drover_wire::client::{Publication, PublicationWait};
use rusqlite::{Connection, OptionalExtension};

use super::forbid;
use crate::farm::error::Error;
use crate::farm::{paths, unsql};

/// The most things that an item waits for that are named.
const NAMED: usize = 100;

/// How it stands with the publication of an item that is held.
pub(in crate::farm) fn view(sql: &Connection, item: i64) -> Result<Publication, Error> {
    let published: Option<(i64, Option<i64>)> = sql
        .prepare_cached("SELECT published_at, until FROM published WHERE path = ?1")?
        .query_row([item], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((since, until)) = published {
        return Ok(Publication::Published { since: unsql(since), until: until.map(unsql) });
    }
    if let Some(why) = forbid::noted(sql, item)? {
        return Ok(Publication::Never { why });
    }
    let waits = paths::numbers(sql, "SELECT reference FROM withheld WHERE path = ?1", item)?;
    if waits.is_empty() {
        return Ok(Publication::Pending);
    }
    let count = waits.len() as u64;
    let mut waits_for = Vec::new();
    for reference in waits.into_iter().take(NAMED) {
        let held = sql.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([reference])?;
        let never = forbid::noted(sql, reference)?;
        waits_for.push(PublicationWait { path: paths::path(sql, reference)?, held, never });
    }
    Ok(Publication::Waiting { waits_for, count })
}
