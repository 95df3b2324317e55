//! Files that belong to nothing are removed: on a thread of its own, soon after they have come to be so, and at the start.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use super::error::Error;
use super::{Farm, Tx, now, sql, unsql};

/// How many are read at once.
const BATCH: i64 = 500;
/// When a place did not remove one, it is tried again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// Wakes the thread that removes leftovers.
pub(super) type Wake = SyncSender<()>;

/// The first that may go; the order is that of the index.
pub(super) const DUE: &str = "SELECT since, place, name FROM leftovers \
     WHERE since <= ?4 AND (since, place, name) > (?1, ?2, ?3) ORDER BY since, place, name LIMIT ?5";

/// A file that may be there and belongs to nothing.
type Leftover = (i64, String);

/// Starts the thread. It ends with the farm.
pub(super) fn start(farm: &Arc<Farm>, woken: Receiver<()>) {
    let farm: Weak<Farm> = Arc::downgrade(farm);
    let started = thread::Builder::new().name("leftovers".to_owned()).spawn(move || {
        loop {
            let Some(strong) = farm.upgrade() else { return };
            let again = match strong.remove_leftovers() {
                Ok(again) => again,
                Err(Error::Stopping) => return,
                Err(error) => {
                    tracing::warn!(%error, "leftover files could not be looked for; it is tried again");
                    Some(AGAIN)
                }
            };
            drop(strong);
            let woken = match again {
                None => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(time) => woken.recv_timeout(time),
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread for removing leftover files; they stay until the next start");
    }
}

impl Farm {
    /// Removes all files that belong to nothing and may go now. When it is to be looked again at the latest; none if there is
    /// nothing to wait for. Blocks.
    pub(super) fn remove_leftovers(&self) -> Result<Option<Duration>, Error> {
        // One file that a place does not remove speaks for all: each may take as long as a server that is away is asked.
        let mut away: HashSet<i64> = HashSet::new();
        let mut seen: HashSet<i64> = HashSet::new();
        let mut after = (i64::MIN, (i64::MIN, String::new()));
        while !*self.stopping.borrow() {
            let some = self.leftovers_after(after)?;
            let Some(last) = some.last() else { return self.next_leftover(!away.is_empty()) };
            after = last.clone();
            let some =
                some.into_iter().map(|(_, file)| file).filter(|(place, _)| !away.contains(place)).collect();
            let mut gone = Vec::new();
            for (id, name) in self.confirmed(some)? {
                if *self.stopping.borrow() {
                    break;
                }
                // That of a place that is not configured now waits for it.
                let Some(place) = self.storage.places().get(id) else { continue };
                if away.contains(&id) {
                    continue;
                }
                let checked = if seen.insert(id) { place.check() } else { Ok(()) };
                match checked.and_then(|()| place.target.remove(&name)) {
                    Ok(()) => gone.push((id, name)),
                    Err(error) => {
                        away.insert(id);
                        tracing::warn!(place = place.name, %error, "files that are not needed stay for now");
                    }
                }
            }
            if !gone.is_empty() {
                self.database.write_blocking::<_, Error>(move |tx| forget(tx, &gone))?;
            }
        }
        Ok(None)
    }

    /// When it is to be looked again: when the next may go, and soon if some could not be removed.
    fn next_leftover(&self, some_stay: bool) -> Result<Option<Duration>, Error> {
        let now = sql(now());
        let next: Option<i64> = self.database.read_blocking::<_, Error>(|sql| {
            let next = "SELECT min(since) FROM leftovers WHERE since > ?1";
            Ok(sql.prepare_cached(next)?.query_row([now], |row| row.get(0))?)
        })?;
        let due = next.map(|next| Duration::from_millis(unsql(next.saturating_sub(now))));
        let again = some_stay.then_some(AGAIN);
        Ok(due.into_iter().chain(again).min())
    }

    fn leftovers_after(
        &self,
        (since, (place, name)): (i64, Leftover),
    ) -> Result<Vec<(i64, Leftover)>, Error> {
        let now = sql(now());
        self.database.read_blocking(|sql| {
            let mut select = sql.prepare_cached(DUE)?;
            let rows = select.query_map((since, place, name, now, BATCH), |row| {
                Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Those that belong to nothing and are not being made. Looked up where all is seen that was written: nothing can refer
    /// to them afterwards, for their names are given to no other file while they are noted.
    fn confirmed(&self, some: Vec<Leftover>) -> Result<Vec<Leftover>, Error> {
        if some.is_empty() {
            return Ok(some);
        }
        let (hands, now) = (self.storage.places().hands().clone(), sql(now()));
        self.database.write_blocking(move |tx| {
            let mut found = Vec::with_capacity(some.len());
            for (place, name) in some {
                let due = "SELECT 1 FROM leftovers WHERE place = ?1 AND name = ?2 AND since <= ?3";
                if tx.prepare_cached(due)?.exists((place, &name, now))? && !hands.has(place, &name) {
                    found.push((place, name));
                }
            }
            Ok(found)
        })
    }
}

fn forget(tx: &Tx<'_>, gone: &[Leftover]) -> Result<(), Error> {
    for (place, name) in gone {
        tx.prepare_cached("DELETE FROM leftovers WHERE place = ?1 AND name = ?2")?.execute((place, name))?;
    }
    Ok(())
}
