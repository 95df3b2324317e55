//! Places are emptied: file after file is copied, read back and compared with what its item says, and then the row says
//! where it is now. Whoever reads meanwhile reads the old file or the new one. Killed at any moment, it goes on later.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use drover_store::{Compression, Sha256, Sha256Hash, StorePath};
use rusqlite::OptionalExtension;

use super::error::Error;
use super::{Farm, Tx, files, now, paths, places, sql, unsql};
use crate::storage::{NarFile, Place, Plain, Storage};

/// How many files are moved at once: small ones wait for the disk, or the bucket, more than for anything else.
const AT_ONCE: usize = 4;
/// How many are looked up at once.
const BATCH: i64 = 64;
/// When some could not be moved, or are not items yet, it is looked again after this time.
const AGAIN: Duration = Duration::from_secs(20);
/// For how long the old file stays, in milliseconds: who has looked up where it is may still open it.
const STAYS: u64 = 60_000;

/// Files of a place, in the order of their items. The order of the joins is as said: there may be few of them among
/// millions.
const FILES: &str = "SELECT f.item, f.compression, f.name, f.size, p.base, i.nar_hash, i.nar_size FROM files f \
     CROSS JOIN paths p ON p.id = f.item CROSS JOIN items i ON i.path = f.item \
     WHERE f.place = ?3 AND (f.item, f.compression) > (?1, ?2) ORDER BY f.item, f.compression LIMIT ?4";

/// Wakes the thread that moves files.
pub(super) type Wake = SyncSender<()>;

/// A place that is being emptied.
#[derive(Debug, Clone)]
struct Move {
    place: Arc<Place>,
    target: Option<Arc<Place>>,
}

/// A file that is to be moved, and what must come out of it.
#[derive(Debug)]
struct Moved {
    item: i64,
    path: StorePath,
    file: NarFile,
    nar_hash: Sha256Hash,
    nar_size: u64,
}

/// What came of trying to move some.
#[derive(Debug, Default)]
struct Outcome {
    moved: u64,
    failed: u64,
    error: Option<String>,
}

/// Starts the thread. It ends with the farm.
pub(super) fn start(farm: &Arc<Farm>, woken: Receiver<()>) {
    let farm: Weak<Farm> = Arc::downgrade(farm);
    let started = thread::Builder::new().name("moves".to_owned()).spawn(move || {
        loop {
            let Some(strong) = farm.upgrade() else { return };
            let done = strong.move_all();
            if *strong.stopping.borrow() {
                return;
            }
            drop(strong);
            let woken = match done {
                Ok(true) => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Ok(false) => woken.recv_timeout(AGAIN),
                Err(error) => {
                    tracing::warn!(%error, "a place could not be emptied; it is tried again");
                    woken.recv_timeout(AGAIN)
                }
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread for emptying places; it is done after the next start");
    }
}

impl Farm {
    /// Has a place emptied: nothing is added to it from now on, and what lies there goes to `to`, or where the policy says.
    /// Asked again, it goes on, to the place that was named last.
    ///
    /// # Errors
    /// When there are no such places, or nothing can be added to `to`.
    pub async fn start_move(&self, from: &str, to: Option<&str>) -> Result<(), Error> {
        let place = self.place_named(from)?;
        let target = to.map(|to| self.place_named(to)).transpose()?;
        if let Some(target) = &target {
            if target.id == place.id {
                return Err(Error::BadRequest(format!("the place {from} cannot be emptied into itself")));
            }
            if !target.is_open() {
                let reason = format!(
                    "nothing can be moved to the place {}: it is adopted, or emptied itself",
                    target.name
                );
                return Err(Error::Conflict(reason));
            }
        }
        let others = self.storage.places().all();
        if !others.iter().any(|other| other.id != place.id && other.is_open()) {
            return Err(Error::Conflict(format!(
                "the place {from} cannot be emptied: there is no other that nars could go to; add one to the configuration"
            )));
        }
        let (id, target) = (place.id, target.map(|target| target.id));
        self.database
            .write::<_, Error>(move |tx| {
                tx.execute("UPDATE places SET drained = 1 WHERE id = ?1", [id])?;
                tx.execute(
                    "INSERT INTO moves (place, target, started_at) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (place) DO UPDATE SET target = ?2, ended_at = NULL, failed = 0, error = NULL",
                    (id, target, sql(now())),
                )?;
                Ok(())
            })
            .await?;
        place.drain(true);
        tracing::info!(place = from, to, "a place is being emptied");
        // One that waits is enough.
        let _ = self.moves.try_send(());
        Ok(())
    }

    /// Has a place no longer emptied; nars can go there again.
    ///
    /// # Errors
    /// When there is no such place, or it is not being emptied.
    pub async fn stop_move(&self, from: &str) -> Result<(), Error> {
        let place = self.place_named(from)?;
        let id = place.id;
        let was = self
            .database
            .write::<_, Error>(move |tx| {
                tx.execute("UPDATE places SET drained = 0 WHERE id = ?1", [id])?;
                Ok(tx.execute("DELETE FROM moves WHERE place = ?1", [id])? > 0)
            })
            .await?;
        place.drain(false);
        if was { Ok(()) } else { Err(Error::Conflict(format!("the place {from} is not being emptied"))) }
    }

    fn place_named(&self, name: &str) -> Result<Arc<Place>, Error> {
        let place = self.storage.places().named(name);
        place.ok_or_else(|| Error::NotFound { what: "place", name: name.chars().take(60).collect() })
    }

    /// Empties all places that are to be; whether nothing is left to be done.
    fn move_all(&self) -> Result<bool, Error> {
        let mut done = true;
        for one in self.open_moves()? {
            done &= self.empty(&one)?;
        }
        Ok(done)
    }

    fn open_moves(&self) -> Result<Vec<Move>, Error> {
        let found = self.database.read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare("SELECT place, target FROM moves WHERE ended_at IS NULL")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<Vec<(i64, Option<i64>)>>>()?)
        })?;
        let places = self.storage.places();
        let open = found.into_iter().filter_map(|(place, target)| {
            Some(Move { place: places.get(place)?, target: target.and_then(|target| places.get(target)) })
        });
        Ok(open.collect())
    }

    /// Tries to move each file of a place once; whether the place is empty then.
    fn empty(&self, one: &Move) -> Result<bool, Error> {
        let mut after = (i64::MIN, -1);
        let mut all = Outcome::default();
        loop {
            if *self.stopping.borrow() || !self.is_open_move(one)? {
                return Ok(true);
            }
            let some = self.files_after(one.place.id, after)?;
            let Some(last) = some.last() else { break };
            after = (last.item, last.file.compression as i64);
            let outcome = self.move_some(one, &some);
            all.moved += outcome.moved;
            all.failed += outcome.failed;
            all.error = outcome.error.or(all.error);
        }
        let (id, failed, error) = (one.place.id, all.failed, all.error);
        let ended = self.database.write_blocking::<_, Error>(move |tx| end_look(tx, id, failed, error))?;
        if ended {
            tracing::info!(place = one.place.name, "a place is empty");
        }
        Ok(ended)
    }

    fn is_open_move(&self, one: &Move) -> Result<bool, Error> {
        let place = one.place.id;
        self.database.read_blocking(|sql| {
            let open = "SELECT 1 FROM moves WHERE place = ?1 AND ended_at IS NULL";
            Ok(sql.prepare_cached(open)?.exists([place])?)
        })
    }

    /// Files of a place, in the order of their items.
    fn files_after(&self, place: i64, (item, compression): (i64, i64)) -> Result<Vec<Moved>, Error> {
        self.database.read_blocking(|sql| {
            let mut select = sql.prepare_cached(FILES)?;
            let rows = select.query_map((item, compression, place, BATCH), |row| {
                let (compression, path) = (paths::compression(row, 1)?, paths::base(row, 4)?);
                let name: Option<String> = row.get(2)?;
                let name = name.unwrap_or_else(|| Storage::usual_name(&path, compression));
                Ok(Moved {
                    item: row.get(0)?,
                    path,
                    file: NarFile { compression, place, name, size: unsql(row.get(3)?) },
                    nar_hash: paths::hash(row, 5)?,
                    nar_size: unsql(row.get(6)?),
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Moves these, a few at once.
    fn move_some(&self, one: &Move, some: &[Moved]) -> Outcome {
        let next = Mutex::new(some.iter());
        let all = Mutex::new(Outcome::default());
        let work = || {
            loop {
                let file = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(file) = file.filter(|_| !*self.stopping.borrow()) else { return };
                let moved = self.move_one(one, file);
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                match moved {
                    Ok(true) => all.moved += 1,
                    // It was removed meanwhile.
                    Ok(false) => {}
                    Err(error) => {
                        all.failed += 1;
                        tracing::warn!(place = one.place.name, item = file.path.base_name(), %error, "a nar was not moved");
                        all.error = Some(format!("{}: {error}", file.path));
                    }
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..AT_ONCE.min(some.len()) {
                // Where there is no other thread, this one does it all.
                let _ = thread::Builder::new().name("move".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a file; whether it was still there to be moved.
    fn move_one(&self, one: &Move, moved: &Moved) -> Result<bool, Error> {
        let used = self.database.read_blocking::<_, Error>(places::used)?;
        let all = match &one.target {
            Some(target) => vec![Arc::clone(target)],
            None => self.storage.places().candidates(|id| used.get(&id).copied().unwrap_or(0)),
        };
        let old = &moved.file;
        for to in all.iter().filter(|to| to.id != one.place.id && to.is_open()) {
            let taken = self.expect(to, &moved.path, old.compression, old.size, false)?;
            let Some((new, _claim, _hold)) = taken else { continue };
            let mut from = one.place.target.open(&old.name, old.size, 0..old.size)?.reader(old.size);
            to.target.put(&mut from, old.size, &new.name)?;
            let copy = to.target.open(&new.name, new.size, 0..new.size)?.reader(new.size);
            check(copy, old.compression, moved)?;
            let (item, old) = (moved.item, old.clone());
            return self.database.write_blocking(move |tx| switch(tx, item, &old, &new));
        }
        Err(Error::StorageFull(format!("the nar of {}, which is to be moved,", moved.path)))
    }
}

/// Whether these bytes are the nar that the item says.
fn check(from: impl std::io::Read, compression: Compression, moved: &Moved) -> Result<(), Error> {
    let failed = |error| Error::io(format!("read back the nar of {}", moved.path), error);
    let mut plain = Plain::new(compression, from).map_err(failed)?;
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = std::io::Read::read(&mut plain, &mut buffer).map_err(failed)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        if size > moved.nar_size {
            break;
        }
        hash.update(&buffer[..n]);
    }
    if size == moved.nar_size && hash.finish() == moved.nar_hash {
        return Ok(());
    }
    let NarFile { name, .. } = &moved.file;
    Err(Error::Damaged(format!(
        "the file {name} is not the nar of {} that the database knows; it stays where it is",
        moved.path
    )))
}

/// The file of an item is this now. What was its file goes, a while later. Whether it was its file.
fn switch(tx: &mut Tx<'_>, item: i64, old: &NarFile, new: &NarFile) -> Result<bool, Error> {
    let path = paths::path(tx, item)?;
    let update = "UPDATE files SET place = ?3, name = ?4, checked_at = ?5 \
                  WHERE item = ?1 AND compression = ?2 AND place = ?6 AND name IS ?7";
    let changed = tx.prepare_cached(update)?.execute((
        item,
        new.compression as i64,
        new.place,
        files::unusual_name(new, &path),
        sql(now()),
        old.place,
        files::unusual_name(old, &path),
    ))?;
    if changed == 0 {
        return Ok(false);
    }
    files::keep(tx, new)?;
    files::leave(tx, old.place, &old.name, STAYS)?;
    tx.prepare_cached("UPDATE moves SET moved = moved + 1, bytes = bytes + ?2 WHERE place = ?1")?
        .execute((old.place, sql(old.size)))?;
    Ok(true)
}

/// Notes what is known after all files of a place were tried; whether nothing is there any more, nor on its way.
fn end_look(tx: &Tx<'_>, place: i64, failed: u64, error: Option<String>) -> Result<bool, Error> {
    let left = "SELECT 1 FROM places WHERE id = ?1 AND files > 0 \
                UNION ALL SELECT 1 FROM uploads WHERE place = ?1 AND complete = 1";
    let empty = !tx.prepare(left)?.exists([place])?;
    tx.execute(
        "UPDATE moves SET failed = ?2, error = ?3, ended_at = iif(?4, ?5, NULL) WHERE place = ?1",
        (place, sql(failed), error, empty, sql(now())),
    )?;
    let found: Option<i64> =
        tx.query_row("SELECT 1 FROM moves WHERE place = ?1", [place], |row| row.get(0)).optional()?;
    // Told to stop: there is nothing to be done.
    Ok(empty || found.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_files_of_a_place_are_found_without_a_look_at_those_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), disk_reserve_mib: 0, ..Config::default() };
        let farm = Farm::open(config).unwrap();
        let plan = farm.database.read_blocking::<_, Error>(|sql| {
            let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {FILES}"))?;
            let steps = plan.query_map([0, 0, 1, 1], |row| row.get::<_, String>(3))?;
            Ok(steps.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        let plan = plan.unwrap();
        assert!(plan[0].contains("files_by_place (place=? AND"), "{plan:?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
    }
}
