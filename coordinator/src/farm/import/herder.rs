//! The database of a nar-herder as where narinfos are: the nars lie in its storage folder.
//!
//! Of its tables only `narinfos` is read, and of that three columns: `id`, `store_path` (such as `/gnu/store/…-hello`) and
//! `contents`, the narinfo's text as it was fetched (nar-herder/database.scm).

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_store::StorePath;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::said::NARINFO_LIMIT;
use super::source::SourceError;

/// How long it is waited while the nar-herder writes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many narinfos are in memory at a time, while all are gone through.
const SOME: u64 = 50;
/// The columns that are read.
const COLUMNS: [&str; 3] = ["id", "store_path", "contents"];
/// The table is found things in by an index on one of these, if there is one.
const INDEXED: [&str; 2] = [
    "SELECT store_path, substr(contents, 1, ?2) FROM narinfos WHERE substr(store_path, 12, 32) = ?1",
    "SELECT store_path, substr(contents, 1, ?2) FROM narinfos WHERE store_path = ?1",
];

/// A nar-herder's database, of which nothing is changed.
#[derive(Debug)]
pub(super) struct Herder {
    file: PathBuf,
    sql: Mutex<Connection>,
    lookup: Lookup,
}

/// How the row of an item is found.
#[derive(Debug)]
enum Lookup {
    ByHash,
    ByPath,
    /// Where no index is of use: numbers of all paths, sorted, with the rows; 16 bytes each.
    Listed(RandomState, Vec<(u64, i64)>),
}

/// A narinfo in it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) id: u64,
    /// Whose it should be.
    pub(super) store_path: String,
    pub(super) text: Vec<u8>,
}

impl Herder {
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn open(file: &Path) -> Result<Self, SourceError> {
        let shown = file.display();
        let sql = connect(file)?;
        let failed = |error: rusqlite::Error| cannot_read(file, &error);
        let columns: Vec<String> = {
            let mut select = sql.prepare("PRAGMA table_info(narinfos)").map_err(failed)?;
            let rows = select.query_map([], |row| row.get(1)).map_err(failed)?;
            rows.collect::<rusqlite::Result<_>>().map_err(failed)?
        };
        if columns.is_empty() {
            let why = format!("{shown} is not the database of a nar-herder: it has no table “narinfos”");
            return Err(SourceError::Refused(why));
        }
        let lacking: Vec<&str> =
            COLUMNS.into_iter().filter(|wanted| columns.iter().all(|column| column != wanted)).collect();
        if !lacking.is_empty() {
            let why = format!(
                "the table “narinfos” of {shown} has no column “{}”: it is of a nar-herder that is not known here",
                lacking.join("”, “")
            );
            return Err(SourceError::Refused(why));
        }
        let lookup = match INDEXED.map(|select| is_indexed(&sql, select)) {
            [true, _] => Lookup::ByHash,
            [_, true] => Lookup::ByPath,
            _ => listed(&sql).map_err(failed)?,
        };
        Ok(Self { file: file.to_owned(), sql: Mutex::new(sql), lookup })
    }

    /// The narinfo of an item; none: it does not have it.
    ///
    /// # Errors
    /// When it cannot be read, here and below.
    pub(super) fn narinfo(&self, path: &StorePath) -> Result<Option<Vec<u8>>, SourceError> {
        let failed = |error: rusqlite::Error| cannot_read(&self.file, &error);
        let sql = self.sql();
        let find = |select: &str, key: &dyn rusqlite::ToSql| {
            let read = |row: &Row<'_>| Ok((text(row, 0)?, text(row, 1)?));
            let found = sql.prepare_cached(select)?.query_row((key, limit()), read).optional()?;
            // A number may be that of another, too.
            Ok(found.filter(|(of, _)| of == path.as_str().as_bytes()).map(|(_, text)| text))
        };
        let [by_hash, by_path] = INDEXED;
        match &self.lookup {
            Lookup::ByHash => find(by_hash, &path.hash_part()).map_err(failed),
            Lookup::ByPath => find(by_path, &path.as_str()).map_err(failed),
            Lookup::Listed(numbers, all) => {
                let by_id = "SELECT store_path, substr(contents, 1, ?2) FROM narinfos WHERE id = ?1";
                let number = numbers.hash_one(path.as_str().as_bytes());
                let first = all.partition_point(|(other, _)| *other < number);
                for (_, id) in all.iter().skip(first).take_while(|(other, _)| *other == number) {
                    if let Some(text) = find(by_id, id).map_err(failed)? {
                        return Ok(Some(text));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Some of its narinfos, those with higher numbers than this.
    pub(super) fn after(&self, id: u64) -> Result<Vec<Kept>, SourceError> {
        let read = |row: &Row<'_>| {
            let store_path = String::from_utf8_lossy(&text(row, 1)?).into_owned();
            Ok(Kept { id: row.get::<_, i64>(0)?.unsigned_abs(), store_path, text: text(row, 2)? })
        };
        let all = || {
            let sql = self.sql();
            let mut select = sql.prepare_cached(
                "SELECT id, store_path, substr(contents, 1, ?2) FROM narinfos WHERE id > ?1 ORDER BY id LIMIT ?3",
            )?;
            let rows = select.query_map((signed(id), limit(), signed(SOME)), read)?;
            rows.collect::<rusqlite::Result<Vec<Kept>>>()
        };
        all().map_err(|error| cannot_read(&self.file, &error))
    }

    fn sql(&self) -> MutexGuard<'_, Connection> {
        self.sql.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of a nar below the storage folder: a nar-herder knows it by the path of its address.
pub(super) fn path_of(url: &str) -> &str {
    let below = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    below.map_or(url, |rest| rest.split_once('/').map_or("", |(_, path)| path)).trim_start_matches('/')
}

/// Opens it for reading. One that is nobody's at the moment may lie where nothing can be written, not even what SQLite
/// has beside a database.
fn connect(file: &Path) -> Result<Connection, SourceError> {
    let access = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let ready = |opened: rusqlite::Result<Connection>| {
        let sql = opened?;
        sql.busy_timeout(PATIENCE)?;
        sql.execute_batch("PRAGMA trusted_schema = OFF; SELECT 1 FROM sqlite_master LIMIT 1")?;
        Ok(sql)
    };
    let error = match ready(Connection::open_with_flags(file, access)) {
        Ok(sql) => return Ok(sql),
        Err(error) => error,
    };
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let is_still = std::fs::metadata(&log).map_or(true, |log| log.len() == 0);
    let uri = file.to_str().filter(|_| is_still).map(|file| {
        let escaped = file.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        format!("file:{escaped}?immutable=1")
    });
    uri.and_then(|uri| ready(Connection::open_with_flags(uri, access | OpenFlags::SQLITE_OPEN_URI)).ok())
        .ok_or_else(|| cannot_read(file, &error))
}

fn cannot_read(file: &Path, error: &rusqlite::Error) -> SourceError {
    let file = file.display();
    SourceError::Failed(format!(
        "cannot read the nar-herder's database {file}: {error}; may the coordinator read it?"
    ))
}

fn is_indexed(sql: &Connection, select: &str) -> bool {
    let steps = sql.prepare(&format!("EXPLAIN QUERY PLAN {select}")).and_then(|mut plan| {
        let steps = plan.query_map(("", 1), |row| row.get::<_, String>(3))?;
        steps.collect::<rusqlite::Result<Vec<_>>>()
    });
    steps.is_ok_and(|steps| steps.iter().all(|step| step.starts_with("SEARCH")))
}

fn listed(sql: &Connection) -> rusqlite::Result<Lookup> {
    let numbers = RandomState::new();
    let mut select = sql.prepare("SELECT id, store_path FROM narinfos")?;
    let mut rows = select.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push((numbers.hash_one(text(row, 1)?.as_slice()), row.get(0)?));
    }
    all.sort_unstable();
    Ok(Lookup::Listed(numbers, all))
}

/// What a column has, be it a text, bytes, or nothing.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(column)?.as_bytes_or_null()?.unwrap_or_default().to_vec())
}

/// One more than a narinfo may have: it is seen to be too long.
fn limit() -> i64 {
    signed(NARINFO_LIMIT as u64 + 1)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_used_and_where_there_is_none_of_use_paths_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let lookup = |name: &str, index: &str| {
            let file = dir.path().join(name);
            let sql = Connection::open(&file).unwrap();
            sql.execute_batch(
                "CREATE TABLE narinfos (id INTEGER PRIMARY KEY, store_path TEXT, contents NOT NULL)",
            )
            .unwrap();
            sql.execute_batch(index).unwrap();
            Herder::open(&file).unwrap().lookup
        };
        let by_hash = "CREATE UNIQUE INDEX by_hash ON narinfos (substr(store_path, 12, 32))";
        assert!(matches!(lookup("hash", by_hash), Lookup::ByHash));
        let by_path = "CREATE INDEX by_path ON narinfos (store_path)";
        assert!(matches!(lookup("path", by_path), Lookup::ByPath));
        assert!(matches!(lookup("none", ""), Lookup::Listed(..)));
    }

    #[test]
    fn a_nar_is_below_the_folder_whatever_server_its_address_names() {
        for url in
            ["nar/lzip/x", "/nar/lzip/x", "https://a.example/nar/lzip/x", "http://a.example//nar/lzip/x"]
        {
            assert_eq!(path_of(url), "nar/lzip/x");
        }
        assert_eq!(path_of("https://a.example"), "");
    }
}
