//! The table `fixed_outputs`: what fixes an output that is held, as the derivations say that make it.

use drover_store::derivation::{Derivation, Fixed};
use rusqlite::{Connection, OptionalExtension, Transaction};

/// Notes what fixes an item, if a derivation that is here fixes it: when it becomes an item, or when such a derivation
/// comes after it.
pub(crate) fn note(sql: &Connection, item: i64) -> rusqlite::Result<()> {
    let Some(Fixed { recursive, algorithm, hash }) = said_of(sql, item)? else { return Ok(()) };
    sql.prepare_cached(
        "INSERT OR IGNORE INTO fixed_outputs (path, algorithm, recursive, hash) \
         SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM items WHERE path = ?1 AND kind = 'output')",
    )?
    .execute((item, algorithm, recursive, hash))?;
    Ok(())
}

/// What the derivations of an output say that it must be. All say the same: its path depends on it.
fn said_of(sql: &Connection, path: i64) -> rusqlite::Result<Option<Fixed>> {
    // A fixed output is its derivation's only one, and called so.
    let select = "SELECT c.bytes FROM derivation_outputs o CROSS JOIN contents c ON c.path = o.derivation \
                  WHERE o.path = ?1 AND o.name = 'out' LIMIT 1";
    let text: Option<Vec<u8>> = sql.prepare_cached(select)?.query_row([path], |row| row.get(0)).optional()?;
    // A damaged text is found, and said, by who builds it.
    let derivation = text
        .and_then(|text| zstd::stream::decode_all(&text[..]).ok())
        .and_then(|text| Derivation::parse(&text).ok());
    Ok(derivation.and_then(|derivation| Some(derivation.fixed()?.1.clone())))
}

/// Fills the table where a database had none.
pub(super) fn fill(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut select = tx.prepare("SELECT path FROM items WHERE kind = 'output'")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        note(tx, row.get(0)?)?;
    }
    Ok(())
}
