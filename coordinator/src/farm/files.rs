//! The files that the nars of items lie in: their rows, and how they come and go.

use drover_store::{Compression, StorePath};
use rusqlite::Connection;

use super::change::Change;
use super::error::Error;
use super::{Tx, now, paths, sql, unsql};
use crate::storage::{NarFile, Storage};

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

/// Notes that an item has a file, which is no leftover any more.
pub(super) fn add(tx: &Tx<'_>, item: i64, file: &NarFile) -> Result<(), Error> {
    let path = paths::path(tx, item)?;
    tx.prepare_cached(
        "INSERT INTO files (item, compression, place, name, size, checked_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((
        item,
        file.compression as i64,
        file.place,
        unusual_name(file, &path),
        sql(file.size),
        sql(now()),
    ))?;
    keep(tx, file)
}

/// Whether a file is about to be removed, for it was that of something before.
pub(super) fn is_leftover(sql: &Connection, file: &NarFile) -> Result<bool, Error> {
    let left = "SELECT 1 FROM leftovers WHERE place = ?1 AND name = ?2";
    Ok(sql.prepare_cached(left)?.exists((file.place, &file.name))?)
}

/// Notes that an item has a file whose bytes were not read yet: one of a folder that was taken over as it is. It must be
/// no leftover.
pub(super) fn add_unread(tx: &Tx<'_>, item: i64, file: &NarFile) -> Result<(), Error> {
    let path = paths::path(tx, item)?;
    tx.prepare_cached(
        "INSERT INTO files (item, compression, place, name, size) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((item, file.compression as i64, file.place, unusual_name(file, &path), sql(file.size)))?;
    Ok(())
}

/// The name of a file as the database has it: none for the usual one.
pub(super) fn unusual_name<'n>(file: &'n NarFile, path: &StorePath) -> Option<&'n str> {
    let usual = Storage::usual_name(path, file.compression);
    Some(file.name.as_str()).filter(|name| *name != usual)
}

/// A file that was noted before it was made is no leftover any more: something refers to it.
pub(super) fn keep(tx: &Tx<'_>, file: &NarFile) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM leftovers WHERE place = ?1 AND name = ?2")?
        .execute((file.place, &file.name))?;
    Ok(())
}

/// The files of an item become leftovers, which are removed soon after.
pub(super) fn forsake(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    for file in of(tx, item)? {
        leave(tx, file.place, &file.name, 0)?;
    }
    tx.prepare_cached("DELETE FROM files WHERE item = ?1")?.execute([item])?;
    Ok(())
}

/// Nothing refers to a file any more: it is removed soon after the commit, but not before so many milliseconds are over.
pub(super) fn leave(tx: &mut Tx<'_>, place: i64, name: &str, stays: u64) -> Result<(), Error> {
    let since = sql(now().saturating_add(stays));
    tx.prepare_cached("INSERT OR IGNORE INTO leftovers VALUES (?1, ?2, ?3)")?
        .execute((place, name, since))?;
    tx.note(Change::Leftover);
    Ok(())
}

/// Notes that a file with the nar of this path is about to be made in a place, and gives it a name that no other has
/// there.
pub(super) fn expect(
    tx: &Tx<'_>,
    path: &StorePath,
    compression: Compression,
    place: i64,
) -> Result<String, Error> {
    let usual = Storage::usual_name(path, compression);
    let name = if is_taken(tx, path, compression, place, &usual)? {
        let mut apart = uuid::Uuid::new_v4().simple().to_string();
        apart.truncate(12);
        format!("{usual}.{apart}")
    } else {
        usual
    };
    tx.prepare_cached("INSERT INTO leftovers VALUES (?1, ?2, ?3)")?.execute((place, &name, sql(now())))?;
    Ok(name)
}

/// Whether a file of the usual name is in a place, or may be.
fn is_taken(
    sql: &Connection,
    path: &StorePath,
    compression: Compression,
    place: i64,
    usual: &str,
) -> Result<bool, Error> {
    let left = "SELECT 1 FROM leftovers WHERE place = ?1 AND name = ?2";
    if sql.prepare_cached(left)?.exists((place, usual))? {
        return Ok(true);
    }
    let Some(id) = paths::find(sql, path)? else { return Ok(false) };
    let held = "SELECT 1 FROM files WHERE item = ?1 AND compression = ?2 AND place = ?3 AND name IS NULL";
    if sql.prepare_cached(held)?.exists((id, compression as i64, place))? {
        return Ok(true);
    }
    // A few rows: those of leases that are open.
    let uploaded = "SELECT 1 FROM uploads WHERE path = ?1 AND complete = 1 AND place = ?2 AND name IS NULL";
    Ok(compression == Compression::Zstd && sql.prepare_cached(uploaded)?.exists([id, place])?)
}
