//! What is never published: what a row of a set or a derivation forbids.

use rusqlite::{Connection, OptionalExtension};

use crate::farm::Tx;
use crate::farm::error::Error;

/// The rows that say that a target is not published, each with whether a later one of its set speaks of the target.
const ROWS: &str = "SELECT s.name, r.package FROM derivation_outputs o \
     JOIN derivations d ON d.id = o.derivation \
     JOIN set_rows r ON r.target = d.target AND r.publish = 0 \
     JOIN sets s ON s.id = r.in_set AND s.dropped_at IS NULL \
     WHERE o.path = ?1 AND NOT EXISTS (SELECT 1 FROM set_rows n \
         WHERE n.target = r.target AND n.in_set = r.in_set AND n.last > r.last) LIMIT 1";

/// Why rows of sets do not let an item be published: the newest one about it in a set says so.
pub(super) fn by_row(sql: &Connection, item: i64) -> Result<Option<String>, Error> {
    let row: Option<(String, String)> =
        sql.prepare_cached(ROWS)?.query_row([item], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(row.map(|(set, package)| format!("the set {set} says that {package} is not published")))
}

/// Notes that an item is never published.
pub(super) fn note(tx: &Tx<'_>, item: i64, why: &str) -> Result<(), Error> {
    super::hold::forget(tx, item)?;
    tx.prepare_cached("INSERT INTO unpublishable VALUES (?1, ?2) ON CONFLICT (path) DO UPDATE SET why = ?2")?
        .execute((item, why))?;
    Ok(())
}

/// It may be published after all, or is not here any more.
pub(super) fn forget(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM unpublishable WHERE path = ?1")?.execute([item])?;
    Ok(())
}
