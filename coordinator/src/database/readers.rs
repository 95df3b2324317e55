//! Connections that only read.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::Connection;

use super::{Error, Use, connect};

/// A pool of connections, opened when they are first needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    /// How many read at a time. The rest waits on its thread.
    limit: usize,
    /// What each keeps of the database in memory, in KiB.
    cache: i64,
    free: Mutex<Free>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Free {
    connections: Vec<Connection>,
    opened: usize,
}

impl Readers {
    pub(super) fn new(path: &Path, limit: usize, cache: i64) -> Self {
        Self { path: path.to_owned(), limit, cache, free: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs a job in a transaction of its own, so that all it sees is of one moment.
    pub(super) fn read<R, E: From<Error>>(
        &self,
        job: impl FnOnce(&Connection) -> Result<R, E>,
    ) -> Result<R, E> {
        let lease = self.take()?;
        let Some(connection) = &lease.connection else { return Err(Error::Closed.into()) };
        let moment = connection.unchecked_transaction().map_err(Error::from)?;
        let result = job(&moment);
        // Nothing was written: how the transaction ends makes no difference.
        drop(moment);
        result
    }

    /// Runs a job whose statements each see a moment of their own.
    pub(super) fn look<R, E: From<Error>>(
        &self,
        job: impl FnOnce(&Connection) -> Result<R, E>,
    ) -> Result<R, E> {
        let lease = self.take()?;
        let Some(connection) = &lease.connection else { return Err(Error::Closed.into()) };
        job(connection)
    }

    fn take(&self) -> Result<Taken<'_>, Error> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = free.connections.pop() {
                return Ok(Taken { pool: self, connection: Some(connection) });
            }
            if free.opened < self.limit {
                let connection = connect(&self.path, Use::Read { cache: self.cache })?;
                free.opened += 1;
                return Ok(Taken { pool: self, connection: Some(connection) });
            }
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A connection that goes back when this is dropped.
struct Taken<'p> {
    pool: &'p Readers,
    connection: Option<Connection>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.connections.extend(self.connection.take());
        self.pool.returned.notify_one();
    }
}
