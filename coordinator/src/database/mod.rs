//! The database: SQLite in WAL mode, one writer that commits many jobs at once, and readers apart from it.

mod commits;
pub(crate) mod fixed;
pub mod makers;
pub mod narinfos;
mod readers;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

pub use commits::Commits;
use readers::Readers;
pub use writer::Tx;
use writer::{Size, Writer};

/// Why the database did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// SQLite said no.
    #[error("the database refused: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The disk is full; nothing was written.
    #[error("the database could not be written: the disk is full")]
    Full,
    /// It could not be opened, or brought to this version.
    #[error("cannot open the database {}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: Arc<str>,
    },
    /// A program error in a job; what it did was undone.
    #[error("a job of the database failed in a way that it must not; nothing of it was kept")]
    Panicked,
    /// The coordinator is stopping.
    #[error("the database is closed: the coordinator is stopping")]
    Closed,
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        // The memory that readers and the writer share is a file, too.
        let shared = Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ if error.sqlite_error().map(|error| error.extended_code) == shared => Self::Full,
            _ => Self::Sqlite(Arc::new(error)),
        }
    }
}

/// A database. `C` is what its jobs note about the changes that they made; see [`Tx::note`].
#[derive(Debug)]
pub struct Database<C> {
    writer: Writer<C>,
    readers: Arc<Readers>,
    lookers: Readers,
}

/// How many read at a time, and how many look at one thing each; and what each of them keeps in memory, in KiB.
const READERS: usize = 8;
const READER_CACHE: i64 = 4 << 10;
const LOOKERS: usize = 16;
const LOOKER_CACHE: i64 = 4 << 10;

impl<C: Send + 'static> Database<C> {
    /// Opens the database in this file, makes it if there is none, and brings it to this version. After each commit
    /// `committed` is called with what was noted, in the order in which it was, before anybody gets an answer.
    ///
    /// # Errors
    /// When the file cannot be opened, or is of a later version.
    pub fn open(path: &Path, committed: impl FnMut(Vec<C>) + Send + 'static) -> Result<Self, Error> {
        Self::open_counted(path, Commits::default(), committed)
    }

    /// As [`Database::open`], with commits counted there.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_counted(
        path: &Path,
        commits: Commits,
        committed: impl FnMut(Vec<C>) + Send + 'static,
    ) -> Result<Self, Error> {
        let failed = |reason: String| Error::Open { path: path.to_owned(), reason: reason.into() };
        let mut connection = connect(path, Use::Write).map_err(|error| failed(error.to_string()))?;
        migrations().to_latest(&mut connection).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            writer: Writer::start(connection, commits, committed)
                .map_err(|error| failed(error.to_string()))?,
            readers: Arc::new(Readers::new(path, READERS, READER_CACHE)),
            lookers: Readers::new(path, LOOKERS, LOOKER_CACHE),
        })
    }

    /// Runs a job that writes. It is alone, sees all that was written before, and is undone when it fails. The
    /// answer comes after the commit.
    ///
    /// # Errors
    /// The job's own, or that it could not be committed.
    pub async fn write<R, E>(
        &self,
        job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.write(Size::Small, job).await
    }

    /// As [`Database::write`], from a thread that may block.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub fn write_blocking<R, E>(
        &self,
        job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.write_blocking(Size::Small, job)
    }

    /// As [`Database::write`], for a job that writes much: nobody else's job shares its transaction, so that a
    /// failure undoes all of it without a trace of every page having been kept. Such jobs should still end within
    /// seconds, since all others wait for them.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub async fn write_alone<R, E>(
        &self,
        job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.write(Size::Large, job).await
    }

    /// As [`Database::write_alone`], from a thread that may block.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub fn write_alone_blocking<R, E>(
        &self,
        job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.write_blocking(Size::Large, job)
    }

    /// Runs a job that only reads, on a thread where it may take its time.
    ///
    /// # Errors
    /// The job's own, or that there is no connection.
    pub async fn read<R, E>(
        &self,
        job: impl FnOnce(&Connection) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        match crate::traced::spawn_blocking(move || readers.read(job)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Panicked.into()),
        }
    }

    /// As [`Database::read`], from a thread that may block.
    ///
    /// # Errors
    /// As [`Database::read`].
    pub fn read_blocking<R, E: From<Error>>(
        &self,
        job: impl FnOnce(&Connection) -> Result<R, E>,
    ) -> Result<R, E> {
        self.readers.read(job)
    }

    /// Runs a job that finds a few rows by an index, on this thread: it is over sooner than another thread would have
    /// taken it up. For the few threads that do little else. Each of its statements sees a moment of its own.
    ///
    /// # Errors
    /// As [`Database::read`].
    pub fn look<R, E: From<Error>>(&self, job: impl FnOnce(&Connection) -> Result<R, E>) -> Result<R, E> {
        self.lookers.look(job)
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Write,
    Read { cache: i64 },
}

fn migrations() -> Migrations<'static> {
    Migrations::new(vec![
        M::up(include_str!("migrations/1.sql")),
        M::up_with_hook(include_str!("migrations/2.sql"), |tx| Ok(makers::fill(tx)?)),
        M::up_with_hook(include_str!("migrations/3.sql"), |tx| Ok(fixed::fill(tx)?)),
        M::up(include_str!("migrations/4.sql")),
        M::up(include_str!("migrations/5.sql")),
        M::up(include_str!("migrations/6.sql")),
        M::up(include_str!("migrations/7.sql")),
        M::up(include_str!("migrations/8.sql")),
    ])
}

fn connect(path: &Path, purpose: Use) -> Result<Connection, rusqlite::Error> {
    let (access, cache) = match purpose {
        Use::Write => (OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE, writer::CACHE),
        Use::Read { cache } => (OpenFlags::SQLITE_OPEN_READ_ONLY, cache),
    };
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(256);
    connection.pragma_update(None, "foreign_keys", true)?;
    // Sorting and temporary results are small; the cache holds the upper levels of every index.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", -cache)?;
    if purpose == Use::Write {
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "wal_autocheckpoint", writer::CHECKPOINT)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests;
