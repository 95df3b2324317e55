//! Imports in the database.

use drover_store::StorePath;
use drover_wire::import::{
    ImportDetails, ImportId, ImportRefusal, ImportState, ImportSummary, NewImport, REFUSALS,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::farm::error::Error;
use crate::farm::{Tx, now, sql, unsql};

/// The most refusals of an import that are kept; what is refused beyond them is counted only.
const KEPT: i64 = 10_000;
/// The most bytes of a reason.
const WORDS: usize = 4096;

/// An import as it was started, and where it goes on.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: i64,
    /// Without its paths.
    pub(super) options: NewImport,
    pub(super) cursor: Cursor,
}

/// What roots are numbered by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// They are not.
    #[default]
    None,
    /// The paths that an import was told.
    Told,
    /// What a drover published.
    Published,
    /// The paths that sets here want.
    Wanted,
    /// The rows of a nar-herder's database.
    Kept,
}

impl Kind {
    const ALL: [Self; 5] = [Self::None, Self::Told, Self::Published, Self::Wanted, Self::Kept];

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Told => "told",
            Self::Published => "published",
            Self::Wanted => "wanted",
            Self::Kept => "kept",
        }
    }
}

/// Where an import goes on: after which of its roots, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) kind: Kind,
    pub(super) number: u64,
}

impl Cursor {
    pub(super) fn at(kind: Kind, number: u64) -> Self {
        Self { kind, number }
    }

    /// The same among roots of this kind: a number of another kind says nothing about them.
    pub(super) fn of(self, kind: Kind) -> Self {
        if self.kind == kind { self } else { Self::at(kind, 0) }
    }

    /// As the database has it: `published:123`. What is something else is the beginning.
    fn read(text: &str) -> Self {
        let parts = text.split_once(':').and_then(|(word, number)| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
            Some(Self::at(kind, number.parse().ok()?))
        });
        parts.unwrap_or_default()
    }

    fn text(self) -> String {
        format!("{}:{}", self.kind.word(), self.number)
    }
}

pub(super) fn insert(tx: &Tx<'_>, new: &NewImport) -> Result<i64, Error> {
    let options = NewImport { paths: Vec::new(), ..new.clone() };
    let options = serde_json::to_string(&options)
        .map_err(|error| Error::BadRequest(format!("the import cannot be written down: {error}")))?;
    let id = tx
        .prepare_cached(
            "INSERT INTO imports (source, options, state, started_at) VALUES (?1, ?2, 'running', ?3)",
        )?
        .insert((&new.source, options, sql(now())))?;
    let mut insert = tx.prepare_cached("INSERT INTO import_paths VALUES (?1, ?2, ?3)")?;
    for (number, path) in (1_i64..).zip(&new.paths) {
        insert.execute((id, number, path.base_name()))?;
    }
    Ok(id)
}

const COLUMNS: &str = "id, source, options, state, taken, bytes, known, refused, error, started_at, ended_at";

fn summary(row: &Row<'_>) -> rusqlite::Result<ImportSummary> {
    let options = options(row, 2)?;
    let state = match row.get_ref(3)?.as_str()? {
        "running" => ImportState::Running,
        "done" => ImportState::Done,
        "stopped" => ImportState::Stopped,
        _ => ImportState::Failed,
    };
    Ok(ImportSummary {
        import: unsql(row.get(0)?),
        source: row.get(1)?,
        state,
        in_place: options.in_place,
        every_minutes: options.every_minutes,
        taken: unsql(row.get(4)?),
        bytes: unsql(row.get(5)?),
        known: unsql(row.get(6)?),
        refused: unsql(row.get(7)?),
        waits_for: None,
        error: row.get(8)?,
        started_at: unsql(row.get(9)?),
        ended_at: row.get::<_, Option<i64>>(10)?.map(unsql),
    })
}

fn options(row: &Row<'_>, column: usize) -> rusqlite::Result<NewImport> {
    serde_json::from_str(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// All of them, the newest first.
pub(super) fn list(sql: &Connection) -> Result<Vec<ImportSummary>, Error> {
    let mut select =
        sql.prepare_cached(&format!("SELECT {COLUMNS} FROM imports ORDER BY id DESC LIMIT 1000"))?;
    let rows = select.query_map([], summary)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn show(sql_: &Connection, import: ImportId) -> Result<ImportDetails, Error> {
    let found = sql_
        .prepare_cached(&format!("SELECT {COLUMNS} FROM imports WHERE id = ?1"))?
        .query_row([sql(import)], summary)
        .optional()?;
    let summary =
        found.ok_or_else(|| Error::NotFound { what: "import with the number", name: import.to_string() })?;
    let mut select = sql_
        .prepare_cached("SELECT item, why FROM import_refusals WHERE import = ?1 ORDER BY item LIMIT ?2")?;
    let rows = select.query_map((sql(import), sql(REFUSALS as u64)), |row| {
        Ok(ImportRefusal { item: row.get(0)?, why: row.get(1)? })
    })?;
    Ok(ImportDetails { summary, refusals: rows.collect::<rusqlite::Result<_>>()? })
}

/// Those that are under way.
pub(super) fn running(sql: &Connection) -> Result<Vec<Job>, Error> {
    let mut select = sql.prepare_cached(
        "SELECT id, options, coalesce(cursor, '') FROM imports WHERE state = 'running' ORDER BY id",
    )?;
    let rows = select.query_map([], |row| {
        let cursor = Cursor::read(row.get_ref(2)?.as_str()?);
        Ok(Job { id: row.get(0)?, options: options(row, 1)?, cursor })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Where an import goes on.
pub(super) fn cursor(sql: &Connection, import: i64) -> Result<Cursor, Error> {
    let select = "SELECT coalesce(cursor, '') FROM imports WHERE id = ?1";
    let text: String = sql.prepare_cached(select)?.query_row([import], |row| row.get(0))?;
    Ok(Cursor::read(&text))
}

/// Whether one of this source is under way.
pub(super) fn running_of(sql: &Connection, source: &str) -> Result<Option<i64>, Error> {
    let select = "SELECT id FROM imports WHERE state = 'running' AND source = ?1 LIMIT 1";
    Ok(sql.prepare_cached(select)?.query_row([source], |row| row.get(0)).optional()?)
}

/// The paths that an import was told, after this number: the next few of them.
pub(super) fn told(sql_: &Connection, import: i64, after: u64) -> Result<Vec<(u64, StorePath)>, Error> {
    let select =
        "SELECT number, base FROM import_paths WHERE import = ?1 AND number > ?2 ORDER BY number LIMIT 500";
    let mut statement = sql_.prepare_cached(select)?;
    let rows = statement
        .query_map((import, sql(after)), |row| Ok((unsql(row.get(0)?), crate::farm::paths::base(row, 1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether an import was told what to take.
pub(super) fn was_told(sql: &Connection, import: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM import_paths WHERE import = ?1")?.exists([import])?)
}

/// Outputs that current rows of sets here want and that are not held, after this path's number: the next few.
pub(super) fn wanted(sql_: &Connection, after: u64) -> Result<Vec<(u64, StorePath)>, Error> {
    let mut statement = sql_.prepare_cached(WANTED)?;
    let rows = statement
        .query_map([sql(after)], |row| Ok((unsql(row.get(0)?), crate::farm::paths::base(row, 1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) const WANTED: &str = "SELECT o.path, p.base FROM derivation_outputs o JOIN paths p ON p.id = o.path \
     WHERE o.path > ?1 AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = o.path) \
     AND EXISTS (SELECT 1 FROM derivations d JOIN set_rows r ON r.target = d.target AND r.wanting = 1 \
                 WHERE d.id = o.derivation) \
     ORDER BY o.path LIMIT 200";

/// Notes how far it came.
pub(super) fn advance(tx: &Tx<'_>, import: i64, cursor: Cursor, known: u64) -> Result<(), Error> {
    tx.prepare_cached("UPDATE imports SET cursor = ?2, known = known + ?3 WHERE id = ?1")?.execute((
        import,
        cursor.text(),
        sql(known),
    ))?;
    Ok(())
}

/// Notes that an item was taken.
pub(super) fn taken(tx: &Tx<'_>, import: i64, item: &str, bytes: u64) -> Result<(), Error> {
    tx.prepare_cached("UPDATE imports SET taken = taken + 1, bytes = bytes + ?2 WHERE id = ?1")?
        .execute((import, sql(bytes)))?;
    mended(tx, import, item)
}

/// So much of what was refused, after this.
pub(super) fn refusals(
    sql_: &Connection,
    import: i64,
    after: &str,
    most: usize,
) -> Result<Vec<String>, Error> {
    let select = "SELECT item FROM import_refusals WHERE import = ?1 AND item > ?2 ORDER BY item LIMIT ?3";
    let mut statement = sql_.prepare_cached(select)?;
    let rows = statement.query_map((import, after, sql(most as u64)), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Something is here, even if it was refused before.
pub(super) fn mended(tx: &Tx<'_>, import: i64, item: &str) -> Result<(), Error> {
    let delete = "DELETE FROM import_refusals WHERE import = ?1 AND item = ?2";
    if tx.prepare_cached(delete)?.execute((import, item))? > 0 {
        tx.prepare_cached("UPDATE imports SET refused = refused - 1 WHERE id = ?1")?.execute([import])?;
    }
    Ok(())
}

/// Notes that something was refused; false: it is counted, and not kept.
pub(super) fn refused(tx: &Tx<'_>, import: i64, item: &str, why: &str) -> Result<bool, Error> {
    let why: String = why.chars().take(WORDS).collect();
    let again = tx
        .prepare_cached("UPDATE import_refusals SET why = ?3 WHERE import = ?1 AND item = ?2")?
        .execute((import, item, &why))?;
    if again > 0 {
        return Ok(true);
    }
    let before: i64 = tx
        .prepare_cached("UPDATE imports SET refused = refused + 1 WHERE id = ?1 RETURNING refused - 1")?
        .query_row([import], |row| row.get(0))?;
    if before < KEPT {
        tx.prepare_cached("INSERT INTO import_refusals VALUES (?1, ?2, ?3)")?.execute((import, item, why))?;
    }
    Ok(before < KEPT)
}

/// Notes that it is under way: a mirror may have rested.
pub(super) fn begin(tx: &Tx<'_>, import: i64) -> Result<(), Error> {
    tx.prepare_cached("UPDATE imports SET rests = 0 WHERE id = ?1")?.execute([import])?;
    Ok(())
}

/// Notes how it ended, or what a mirror met this time.
pub(super) fn end(tx: &Tx<'_>, import: i64, state: ImportState, error: Option<&str>) -> Result<(), Error> {
    let ended_at = (state != ImportState::Running).then(|| sql(now()));
    tx.prepare_cached(
        "UPDATE imports SET state = ?2, error = ?3, ended_at = ?4, rests = 1 WHERE id = ?1 AND state = 'running'",
    )?
    .execute((import, state.as_str(), error, ended_at))?;
    if state != ImportState::Running {
        tx.prepare_cached("DELETE FROM import_paths WHERE import = ?1")?.execute([import])?;
    }
    Ok(())
}
