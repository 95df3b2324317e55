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
use crate::storage::{Hands, NarFile, Place, Plain, Storage, StoreError};

/// How many files are moved at once: small ones wait for the disk, or the bucket, more than for anything else.
const AT_ONCE: usize = 4;
/// How many are looked up at once.
const BATCH: i64 = 64;
/// When some could not be moved, or are not items yet, it is looked again after this time; twice as late each time that
/// nothing could be moved, up to the longest.
const AGAIN: Duration = Duration::from_secs(20);
const LONGEST: Duration = Duration::from_secs(600);
/// After so many files in a row that a place as a whole did not give or take, the rest is left for the next look.
const IN_A_ROW: u32 = 8;
/// For how long the old file stays, in milliseconds: who has looked up where it is may still open it.
const STAYS: u64 = 60_000;

/// Files of a place, in the order of their items. The order of the joins is as said: there may be few of them among
/// millions.
const FILES: &str = "SELECT f.item, f.compression, f.name, f.size, p.base, i.nar_hash, i.nar_size, \
     f.checked_at IS NULL FROM files f \
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
    /// An import uses it where it lies, and nobody has read it yet.
    is_unread: bool,
}

/// What came of trying to move some.
#[derive(Debug, Default)]
struct Outcome {
    moved: u64,
    failed: u64,
    error: Option<String>,
    /// The smallest file that there was no room for.
    full: Option<u64>,
    /// How many files in a row a place as a whole did not give or take.
    outages: u32,
}

impl Outcome {
    /// Whether one of the places is away: others would not be moved, either.
    fn is_over(&self) -> bool {
        self.outages >= IN_A_ROW
    }

    /// A file could not be moved.
    fn failed(&mut self, place: &str, file: &Moved, error: &Error) {
        self.failed += 1;
        self.error = Some(format!("{}: {error}", file.path));
        if let Error::StorageFull(_) = error {
            if self.full.is_none() {
                tracing::warn!(place, item = file.path.base_name(), %error, "there is no room for nars that are to be moved");
            }
            self.full = Some(self.full.map_or(file.file.size, |full| full.min(file.file.size)));
            return;
        }
        if matches!(error, Error::Store(error) if error.is_outage()) {
            self.outages += 1;
        }
        tracing::warn!(place, item = file.path.base_name(), %error, "a nar was not moved");
    }
}

/// How things stand after a look at all places that are being emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// None is left.
    Done,
    /// Some files are, and it goes on.
    GoesOn,
    /// Some files are, and none of them could be moved.
    Stuck,
}

/// Starts the thread. It ends with the farm.
pub(super) fn start(farm: &Arc<Farm>, woken: Receiver<()>) {
    let farm: Weak<Farm> = Arc::downgrade(farm);
    let started = thread::Builder::new().name("moves".to_owned()).spawn(move || {
        let mut pause = AGAIN;
        loop {
            let Some(strong) = farm.upgrade() else { return };
            let done = strong.move_all();
            if *strong.stopping.borrow() {
                return;
            }
            drop(strong);
            let look = done.unwrap_or_else(|error| {
                tracing::warn!(%error, "a place could not be emptied; it is tried again");
                Look::Stuck
            });
            let woken = match look {
                Look::Done => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Look::GoesOn => woken.recv_timeout(AGAIN),
                Look::Stuck => woken.recv_timeout(pause),
            };
            pause = match (look, woken) {
                (_, Err(RecvTimeoutError::Disconnected)) => return,
                (Look::Stuck, Err(RecvTimeoutError::Timeout)) => (pause * 2).min(LONGEST),
                _ => AGAIN,
            };
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

    /// Tries to empty all places that are to be.
    pub(super) fn move_all(self: &Arc<Self>) -> Result<Look, Error> {
        let mut all = Look::Done;
        let places = self.database.read_blocking::<_, Error>(|sql| {
            paths::numbers(sql, "SELECT place FROM moves WHERE ended_at IS NULL AND place > ?1", i64::MIN)
        })?;
        for place in places.into_iter().filter_map(|place| self.storage.places().get(place)) {
            let look = self.empty(&place)?;
            if all == Look::Done || look == Look::GoesOn {
                all = look;
            }
        }
        Ok(all)
    }

    /// Tries to move each file of a place once.
    fn empty(self: &Arc<Self>, place: &Arc<Place>) -> Result<Look, Error> {
        let mut after = (i64::MIN, -1);
        let mut all = Outcome::default();
        let mut target = None;
        while !all.is_over() {
            if *self.stopping.borrow() {
                return Ok(Look::Done);
            }
            // It may be told to stop, or to go elsewhere, at any time.
            let Some(one) = self.open_move(place)? else { return Ok(Look::Done) };
            let to = one.target.as_ref().map(|target| target.id);
            if target.replace(to) != Some(to) {
                all.full = None;
            }
            let some = self.files_after(place.id, after)?;
            let Some(last) = some.last() else { break };
            after = (last.item, last.file.compression as i64);
            all = self.move_some(&one, &some, all);
            if all.failed > 0 {
                let (id, failed, error) = (place.id, all.failed, all.error.clone());
                self.database.write_blocking::<_, Error>(move |tx| note_failed(tx, id, failed, error))?;
            }
        }
        let is_stuck = all.moved == 0 && all.failed > 0;
        if all.is_over() {
            tracing::warn!(
                place = place.name,
                "a place, or one that nars of it are to go to, is away; they are moved later"
            );
        }
        let (id, hands) = (place.id, self.storage.places().hands().clone());
        let ended = self.database.write_blocking::<_, Error>(move |tx| end_look(tx, id, &hands, all))?;
        if ended {
            tracing::info!(place = place.name, "a place is empty");
        }
        Ok(match (ended, is_stuck) {
            (true, _) => Look::Done,
            (false, false) => Look::GoesOn,
            (false, true) => Look::Stuck,
        })
    }

    /// How a place is to be emptied now; none if it is not.
    fn open_move(&self, place: &Arc<Place>) -> Result<Option<Move>, Error> {
        let found: Option<Option<i64>> = self.database.read_blocking::<_, Error>(|sql| {
            let open = "SELECT target FROM moves WHERE place = ?1 AND ended_at IS NULL";
            Ok(sql.prepare_cached(open)?.query_row([place.id], |row| row.get(0)).optional()?)
        })?;
        let target = |id| self.storage.places().get(id);
        Ok(found.map(|to| Move { place: Arc::clone(place), target: to.and_then(target) }))
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
                    is_unread: row.get(7)?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Moves these, a few at once.
    fn move_some(self: &Arc<Self>, one: &Move, some: &[Moved], before: Outcome) -> Outcome {
        let next = Mutex::new(some.iter());
        let all = Mutex::new(before);
        let known = || all.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            loop {
                let file = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(file) = file.filter(|_| !*self.stopping.borrow() && !known().is_over()) else {
                    return;
                };
                if known().full.is_some_and(|full| file.file.size >= full) {
                    // Nothing is read in vain.
                    known().failed += 1;
                    continue;
                }
                match self.move_one(one, file) {
                    Ok(true) => {
                        let mut all = known();
                        all.moved += 1;
                        all.outages = 0;
                    }
                    // It was removed meanwhile.
                    Ok(false) => {}
                    Err(error) => known().failed(&one.place.name, file, &error),
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

    /// Moves a file; whether it was still there to be moved. One that turns out not to be what it should be is not used any
    /// more: it can be made again.
    fn move_one(self: &Arc<Self>, one: &Move, moved: &Moved) -> Result<bool, Error> {
        if moved.is_unread {
            self.read_now(moved.item)?;
            match self.is_read(moved)? {
                Some(true) => {}
                Some(false) => {
                    let reason = format!(
                        "the file {} of {} could not be read yet; it is moved when it was",
                        moved.file.name, moved.path
                    );
                    return Err(away(&one.place, &moved.file, Error::Conflict(reason)));
                }
                None => return Ok(false),
            }
        }
        let error = match self.copy(one, moved) {
            Ok(was_there) => return Ok(was_there),
            Err(error) => error,
        };
        let is_doubtful = match &error {
            Error::Damaged(_) | Error::Io { .. } => true,
            Error::Store(error) => !error.is_outage(),
            _ => false,
        };
        if !is_doubtful {
            return Err(error);
        }
        if !self.look_again(moved.item, &moved.file)? {
            return Ok(false);
        }
        Err(away(&one.place, &moved.file, error))
    }

    /// Whether a file was read; none if it is not that of the item any more.
    fn is_read(&self, Moved { item, path, file, .. }: &Moved) -> Result<Option<bool>, Error> {
        self.database.read_blocking(|sql| {
            let select = "SELECT checked_at IS NOT NULL FROM files \
                          WHERE item = ?1 AND compression = ?2 AND place = ?3 AND name IS ?4";
            let known = (item, file.compression as i64, file.place, files::unusual_name(file, path));
            Ok(sql.prepare_cached(select)?.query_row(known, |row| row.get(0)).optional()?)
        })
    }

    fn copy(&self, one: &Move, moved: &Moved) -> Result<bool, Error> {
        let used = self.database.read_blocking::<_, Error>(places::used)?;
        let all = match &one.target {
            Some(target) => vec![Arc::clone(target)],
            None => self.storage.places().candidates(|id| used.get(&id).copied().unwrap_or(0)),
        };
        let old = &moved.file;
        let mut failed = None;
        for to in all.iter().filter(|to| to.id != one.place.id && to.is_open()) {
            let into = || {
                let taken = self.expect(to, &moved.path, old.compression, old.size, false)?;
                let Some((new, claim, hold)) = taken else { return Ok(None) };
                let mut from = match one.place.target.open(&old.name, old.size, 0..old.size) {
                    Ok(opened) => opened.reader(old.size),
                    Err(error) => return Ok(Some(Err(error))),
                };
                to.target.put(&mut from, old.size, &new.name)?;
                let copy = to.target.open(&new.name, new.size, 0..new.size)?.reader(new.size);
                check(copy, old.compression, moved)?;
                Ok(Some(Ok((new, claim, hold))))
            };
            match into() {
                Ok(Some(put)) => {
                    // Where it is not to be had, no other place helps.
                    let (new, _claim, _hold) = put?;
                    let (item, old) = (moved.item, old.clone());
                    return self.database.write_blocking(move |tx| switch(tx, item, &old, &new));
                }
                Ok(None) => {}
                Err(error) => {
                    let error = places::passed_over(to, error)?;
                    failed.get_or_insert(error);
                }
            }
        }
        let full = || Error::StorageFull(format!("the nar of {}, which is to be moved,", moved.path));
        Err(failed.unwrap_or_else(full))
    }
}

/// Why a file was not moved: that its place is not there, if it is not.
fn away(place: &Place, file: &NarFile, error: Error) -> Error {
    if place.lacks(&file.name) {
        return error;
    }
    let reason = "its folder is not there, or not the one; is its disk mounted?".to_owned();
    StoreError::Foreign { place: place.target.address(), reason }.into()
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

/// Notes what could not be moved as yet.
fn note_failed(tx: &Tx<'_>, place: i64, failed: u64, error: Option<String>) -> Result<(), Error> {
    tx.prepare_cached("UPDATE moves SET failed = ?2, error = ?3 WHERE place = ?1")?.execute((
        place,
        sql(failed),
        error,
    ))?;
    Ok(())
}

/// Notes what is known after all files of a place were tried, or it was given up for now; whether nothing is there any
/// more, nor on its way.
fn end_look(tx: &Tx<'_>, place: i64, hands: &Hands, all: Outcome) -> Result<bool, Error> {
    let files = "SELECT files FROM places WHERE id = ?1";
    let files: i64 = tx.prepare_cached(files)?.query_row([place], |row| row.get(0))?;
    let uploaded = "SELECT 1 FROM uploads WHERE place = ?1 AND complete = 1";
    let empty = files == 0 && !hands.has_any(place) && !tx.prepare_cached(uploaded)?.exists([place])?;
    let failed = if all.is_over() { unsql(files) } else { all.failed };
    note_failed(tx, place, failed, all.error)?;
    tx.execute("UPDATE moves SET ended_at = iif(?2, ?3, NULL) WHERE place = ?1", (place, empty, sql(now())))?;
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
