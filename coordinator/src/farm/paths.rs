//! Store paths and platforms as numbers, and the readers of columns that have types of ours.

use drover_store::{Compression, Sha256Hash, StorePath};
use drover_wire::{AgentId, BuildId, BuildState};
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::depend::Provided;
use super::error::Error;

/// The number of a path, if it was named before.
pub(super) fn find(sql: &Connection, path: &StorePath) -> Result<Option<i64>, Error> {
    let mut statement = sql.prepare_cached("SELECT id FROM paths WHERE base = ?1")?;
    Ok(statement.query_row([path.base_name()], |row| row.get(0)).optional()?)
}

/// The number of a path, which gets one if it has none.
pub(super) fn number(sql: &Connection, path: &StorePath) -> Result<i64, Error> {
    if let Some(id) = find(sql, path)? {
        return Ok(id);
    }
    let mut insert = sql.prepare_cached("INSERT INTO paths (base) VALUES (?1)")?;
    Ok(insert.insert([path.base_name()])?)
}

/// As [`number`], for a path that was probably never named before; true: it was not. `provided` is for that case.
pub(super) fn new_number(
    sql: &Connection,
    path: &StorePath,
    provided: Provided,
) -> Result<(i64, bool), Error> {
    let mut insert =
        sql.prepare_cached("INSERT INTO paths (base, provided) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    if insert.execute((path.base_name(), provided as i64))? == 1 {
        return Ok((sql.last_insert_rowid(), true));
    }
    Ok((number(sql, path)?, false))
}

/// The UUID of the build with this number, if there is one.
pub(super) fn build_of_number(sql: &Connection, build: i64) -> Result<Option<BuildId>, Error> {
    let mut statement = sql.prepare_cached("SELECT uuid FROM builds WHERE id = ?1")?;
    Ok(statement.query_row([build], |row| build_id(row, 0)).optional()?)
}

/// The number of a platform, which gets one if it has none.
pub(super) fn platform(sql: &Connection, name: &str) -> Result<i64, Error> {
    let mut select = sql.prepare_cached("SELECT id FROM platforms WHERE name = ?1")?;
    if let Some(id) = select.query_row([name], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    Ok(sql.prepare_cached("INSERT INTO platforms (name) VALUES (?1)")?.insert([name])?)
}

/// The path of a number.
pub(super) fn path(sql: &Connection, id: i64) -> Result<StorePath, Error> {
    let mut statement = sql.prepare_cached("SELECT base FROM paths WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| base(row, 0))?)
}

/// The compression in a column.
pub(super) fn compression(row: &Row<'_>, column: usize) -> rusqlite::Result<Compression> {
    Compression::from_number(row.get(column)?).map_err(|error| unfit(column, Type::Integer, error))
}

fn unfit(
    column: usize,
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

/// A column with a base name.
pub(super) fn base(row: &Row<'_>, column: usize) -> rusqlite::Result<StorePath> {
    let base = row.get_ref(column)?.as_str()?;
    StorePath::parse_base(base).map_err(|error| unfit(column, Type::Text, error))
}

/// A column with a hash.
pub(super) fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<Sha256Hash> {
    row.get(column).map(Sha256Hash::from_bytes)
}

/// A column with a build's state.
pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<BuildState> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| unfit(column, Type::Text, error))
}

/// A column with a build's state, or nothing.
pub(super) fn state_if_any(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<BuildState>> {
    if row.get_ref(column)? == ValueRef::Null { Ok(None) } else { state(row, column).map(Some) }
}

/// A column with a build's UUID.
pub(super) fn build_id(row: &Row<'_>, column: usize) -> rusqlite::Result<BuildId> {
    row.get::<_, [u8; 16]>(column).map(|bytes| BuildId(Uuid::from_bytes(bytes)))
}

/// A column with an agent's UUID.
pub(super) fn agent_id(row: &Row<'_>, column: usize) -> rusqlite::Result<AgentId> {
    row.get::<_, [u8; 16]>(column).map(|bytes| AgentId(Uuid::from_bytes(bytes)))
}

/// All rows of a statement with one number.
pub(super) fn numbers(sql: &Connection, statement: &str, of: i64) -> Result<Vec<i64>, Error> {
    let mut statement = sql.prepare_cached(statement)?;
    let rows = statement.query_map([of], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// All rows of a statement with one number, as paths.
pub(super) fn bases(sql: &Connection, statement: &str, of: i64) -> Result<Vec<StorePath>, Error> {
    let mut statement = sql.prepare_cached(statement)?;
    let rows = statement.query_map([of], |row| base(row, 0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
