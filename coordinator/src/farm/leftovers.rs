//! Files that belong to nothing are removed: on a thread of its own, soon after they have come to be so, and at the start.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rusqlite::OptionalExtension;

use super::error::Error;
use super::{Farm, Tx, now, sql};

/// How many are read at once.
const BATCH: i64 = 500;
/// When a place did not remove one, it is tried again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// Wakes the thread that removes leftovers.
pub(super) type Wake = SyncSender<()>;

/// A file that may be there and belongs to nothing.
type Leftover = (i64, String);

/// Starts the thread. It ends with the farm.
pub(super) fn start(farm: &Arc<Farm>, woken: Receiver<()>) {
    let farm: Weak<Farm> = Arc::downgrade(farm);
    let started = thread::Builder::new().name("leftovers".to_owned()).spawn(move || {
        let mut clean = false;
        loop {
            let Some(strong) = farm.upgrade() else { return };
            match strong.remove_leftovers() {
                Ok(left) => clean = left == 0,
                Err(Error::Stopping) => return,
                Err(error) => {
                    tracing::warn!(%error, "leftover files could not be looked for; it is tried again")
                }
            }
            drop(strong);
            let woken = if clean {
                woken.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                woken.recv_timeout(AGAIN)
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
    /// Removes all files that belong to nothing, and says how many could not be, or are to stay for a while. Blocks.
    pub(super) fn remove_leftovers(&self) -> Result<u64, Error> {
        let mut left = 0;
        let mut after: Leftover = (i64::MIN, String::new());
        loop {
            if *self.stopping.borrow() {
                return Ok(left);
            }
            let some = self.leftovers_after(after)?;
            let Some(last) = some.last() else { return Ok(left) };
            after = last.clone();
            let mut gone = Vec::new();
            let (confirmed, stay) = self.confirmed(some)?;
            left += stay;
            for (id, name) in confirmed {
                // That of a place that is not configured now waits for it.
                let Some(place) = self.storage.places().get(id) else { continue };
                match place.target.remove(&name) {
                    Ok(()) => gone.push((id, name)),
                    Err(error) => {
                        left += 1;
                        tracing::warn!(place = place.name, %error, "a file that is not needed stays for now");
                    }
                }
            }
            if !gone.is_empty() {
                self.database.write_blocking::<_, Error>(move |tx| forget(tx, &gone))?;
            }
        }
    }

    fn leftovers_after(&self, (place, name): Leftover) -> Result<Vec<Leftover>, Error> {
        self.database.read_blocking(|sql| {
            let mut select = sql.prepare_cached(
                "SELECT place, name FROM leftovers WHERE (place, name) > (?1, ?2) ORDER BY place, name LIMIT ?3",
            )?;
            let rows = select.query_map((place, name, BATCH), |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Those that belong to nothing and are not being made, and how many are to stay for a while. Looked up where all is seen that was written: nothing can
    /// refer to them afterwards, for their names are given to no other file while they are noted.
    fn confirmed(&self, some: Vec<Leftover>) -> Result<(Vec<Leftover>, u64), Error> {
        let (hands, now) = (self.storage.places().hands().clone(), sql(now()));
        self.database.write_blocking(move |tx| {
            let mut found = Vec::with_capacity(some.len());
            let mut stay = 0;
            for (place, name) in some {
                let since: Option<i64> = tx
                    .prepare_cached("SELECT since FROM leftovers WHERE place = ?1 AND name = ?2")?
                    .query_row((place, &name), |row| row.get(0))
                    .optional()?;
                match since {
                    Some(since) if since > now => stay += 1,
                    Some(_) if !hands.has(place, &name) => found.push((place, name)),
                    _ => {}
                }
            }
            Ok((found, stay))
        })
    }
}

fn forget(tx: &Tx<'_>, gone: &[Leftover]) -> Result<(), Error> {
    for (place, name) in gone {
        tx.prepare_cached("DELETE FROM leftovers WHERE place = ?1 AND name = ?2")?.execute((place, name))?;
    }
    Ok(())
}
