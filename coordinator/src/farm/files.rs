//! The files that the nars of items lie in: their rows, and how they come and go.

use drover_store::Compression;
use rusqlite::Connection;

use super::error::Error;
use super::{Tx, now, paths, sql, unsql};
use crate::storage::Storage;

/// The number of the place in the state folder.
pub(crate) const STATE: i64 = 1;

/// A file that has the nar of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarFile {
    /// How it is compressed.
    pub compression: Compression,
    /// The place that it lies in.
    pub place: i64,
    /// Its name there.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

/// The files of an item, those that clients like best first.
pub(super) fn of(sql: &Connection, item: i64) -> Result<Vec<NarFile>, Error> {
    let select = "SELECT f.compression, f.place, f.name, f.size, p.base FROM files f JOIN paths p ON p.id = f.item \
                  WHERE f.item = ?1 ORDER BY f.compression DESC";
    let mut statement = sql.prepare_cached(select)?;
    let rows = statement.query_map([item], |row| {
        let compression = paths::compression(row, 0)?;
        let name = match row.get::<_, Option<String>>(2)? {
            Some(name) => name,
            None => Storage::usual_name(&paths::base(row, 4)?, compression),
        };
        Ok(NarFile { compression, place: row.get(1)?, name, size: unsql(row.get(3)?) })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Notes that an item has a file of the usual name. It was not a leftover, or is none any more.
pub(super) fn add(
    tx: &Tx<'_>,
    item: i64,
    compression: Compression,
    place: i64,
    size: u64,
) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO files (item, compression, place, name, size, checked_at) VALUES (?1, ?2, ?3, NULL, ?4, ?5)",
    )?
    .execute((item, compression as i64, place, sql(size), sql(now())))?;
    Ok(())
}

/// The files of an item become leftovers, which are removed soon after.
#[expect(dead_code, reason = "retention is the one to call it")]
pub(super) fn forsake(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    for file in of(tx, item)? {
        tx.prepare_cached("INSERT OR IGNORE INTO leftovers VALUES (?1, ?2, ?3)")?.execute((
            file.place,
            file.name,
            sql(now()),
        ))?;
    }
    tx.prepare_cached("DELETE FROM files WHERE item = ?1")?.execute([item])?;
    Ok(())
}
