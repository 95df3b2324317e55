//! What is used where it lies is read: in the background at a limited rate, or at once when an agent needs it. What is
//! not what it was said to be goes from the public, with all that refers to it.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use drover_store::export::export_hash;
use drover_store::source::{self, Method};
use drover_store::{Sha256Hash, StorePath};
use drover_wire::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::halt::Halt;
use super::rows;
use super::source::SourceError;
use super::take::{expected, judge_all};
use crate::farm::depend::{self, Provided};
use crate::farm::error::Error;
use crate::farm::{Farm, Tx, files, now, outputs, paths, publish, retention, sources, sql, unsql};
use crate::storage::{Judge, NarFile, Plain, StoreError};

/// How often it is looked whether there is something to read.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many files are found at once.
const SOME: i64 = 100;
/// Between two looks at the clock, so many bytes are read.
const STEP: u64 = 1 << 20;

/// What is known of an item whose nar is to be read.
struct Unread {
    path: StorePath,
    nar_hash: Sha256Hash,
    nar_size: u64,
    references: Vec<StorePath>,
    deriver: Option<StorePath>,
    file: NarFile,
}

/// What a file turned out to be.
enum Verdict {
    /// What it was said to be; with the hash for signatures, and how it gets into a store if it is a source.
    Good(Sha256Hash, Option<Method>),
    /// Something else, or gone.
    Bad(String),
    /// It could not be read now.
    Unreadable(String),
}

/// Starts the thread that reads what was not read yet. Called within the runtime.
pub(super) fn start(farm: &Arc<Farm>) {
    let rate = farm.config.check_mib_per_second.saturating_mul(1 << 20);
    if rate == 0 {
        return;
    }
    let halt = Halt::new(farm.stopping());
    let farm = Arc::downgrade(farm);
    let started =
        std::thread::Builder::new().name("check".to_owned()).spawn(move || in_background(&farm, &halt, rate));
    if let Err(error) = started {
        tracing::error!(%error, "no thread that reads what is used where it lies; it is read when an agent needs it");
    }
}

fn in_background(farm: &Weak<Farm>, halt: &Halt, rate: u64) {
    // What could not be read is left until all else was looked at.
    let mut after = 0;
    loop {
        let Some(strong) = farm.upgrade() else { return };
        let found = strong.database.read_blocking(|sql| unread_after(sql, after));
        let some = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "what is used where it lies could not be looked for");
            Vec::new()
        });
        let Some(last) = some.last() else {
            after = 0;
            drop(strong);
            if halt.rest(LOOK_EVERY).is_err() {
                return;
            }
            continue;
        };
        after = *last;
        for item in some {
            match strong.read_item(item, Some((halt, rate))) {
                Ok(()) => {}
                Err(Error::Stopping) => return,
                Err(error) => tracing::warn!(item, %error, "what is used where it lies could not be checked"),
            }
            if halt.check().is_err() {
                return;
            }
        }
    }
}

/// Items with files that were not read.
fn unread_after(sql: &Connection, after: i64) -> Result<Vec<i64>, Error> {
    let select =
        "SELECT DISTINCT item FROM files WHERE checked_at IS NULL AND item > ?1 ORDER BY item LIMIT ?2";
    let mut statement = sql.prepare_cached(select)?;
    let rows = statement.query_map([after, SOME], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Those of some items that were never read: agents cannot have them yet.
pub(in crate::farm) fn unread_among(sql: &Connection, items: &[i64]) -> Result<Vec<i64>, Error> {
    let mut unread = Vec::new();
    let mut select = sql.prepare_cached("SELECT 1 FROM items WHERE path = ?1 AND length(export_hash) = 0")?;
    for item in items {
        if select.exists([item])? {
            unread.push(*item);
        }
    }
    Ok(unread)
}

impl Farm {
    /// Reads all files of an item that were not read yet, as fast as it goes. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub(in crate::farm) fn read_now(self: &Arc<Self>, item: i64) -> Result<(), Error> {
        self.read_item(item, None)
    }

    /// As [`Farm::read_now`], at a limited rate if one is given; an error, too, when the coordinator stops.
    fn read_item(self: &Arc<Self>, item: i64, rate: Option<(&Halt, u64)>) -> Result<(), Error> {
        for unread in self.database.read_blocking(|sql| unread_files(sql, item))? {
            let Unread { path, file, .. } = &unread;
            let verdict = match self.read_file(&unread, rate)? {
                Verdict::Good(hash, method) => {
                    let compression = file.compression;
                    self.database.write_alone_blocking::<_, Error>(move |tx| {
                        good(tx, item, compression as i64, &hash, method.as_ref())
                    })?;
                    continue;
                }
                verdict => verdict,
            };
            let name = &file.name;
            match verdict {
                Verdict::Bad(why) => {
                    tracing::error!(%path, file = name, why, "a nar that is used where it lies is not what it should be");
                    let (path, file) = (path.clone(), file.clone());
                    self.take_back_in_batches(item)?;
                    self.database
                        .write_alone_blocking::<_, Error>(move |tx| bad(tx, item, &path, &file, &why))?;
                }
                Verdict::Unreadable(why) => {
                    tracing::warn!(%path, file = name, why, "a nar that is used where it lies cannot be read now");
                }
                Verdict::Good(..) => {}
            }
        }
        Ok(())
    }

    fn read_file(&self, unread: &Unread, rate: Option<(&Halt, u64)>) -> Result<Verdict, Error> {
        let Unread { path, file, .. } = unread;
        let place = self.storage.places().get(file.place);
        let is_there = place.as_ref().and_then(|place| place.target.folder()).is_some_and(|folder| {
            // One without anything in it is a disk that is not mounted.
            std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
        });
        if !is_there {
            return Ok(Verdict::Unreadable("its folder is not there, or there is nothing in it".to_owned()));
        }
        let opened = match self.storage.places().open(file, 0..file.size) {
            Ok(opened) => opened,
            Err(error @ (StoreError::Gone { .. } | StoreError::Length { .. })) => {
                return Ok(Verdict::Bad(error.to_string()));
            }
            Err(error) => return Ok(Verdict::Unreadable(error.to_string())),
        };
        let mut slow = Slow::new(opened.reader(file.size), rate);
        let judge = Judge::new(expected(
            self,
            (path, unread.nar_hash, unread.nar_size),
            (&unread.references, unread.deriver.as_ref()),
        )?);
        let judged = judge_all(Plain::new(file.compression, &mut slow), judge);
        if slow.stopped {
            return Err(Error::Stopping);
        }
        if let Some(error) = slow.failed {
            return Ok(Verdict::Unreadable(error.to_string()));
        }
        let after_nar = match judged {
            Ok(after_nar) => after_nar,
            Err(why) => return Ok(Verdict::Bad(why)),
        };
        let hash = export_hash(after_nar, path, &unread.references, unread.deriver.as_ref());
        Ok(Verdict::Good(hash, self.method(unread, rate)?))
    }

    /// By what a source that nothing built gets into a store; none for what is the output of something.
    fn method(&self, unread: &Unread, rate: Option<(&Halt, u64)>) -> Result<Option<Method>, Error> {
        if unread.deriver.is_some() {
            return Ok(None);
        }
        let again = |error: io::Error| Error::io(format!("read the nar of {} again", unread.path), error);
        let file = &unread.file;
        let opened = self.open_file(file, 0..file.size)?;
        let plain = Plain::new(file.compression, Slow::new(opened.reader(file.size), rate)).map_err(again)?;
        let found = source::method_of(&unread.path, plain, &unread.references)
            .map_err(|error| again(io::Error::other(error)))?;
        Ok(found.filter(|method| sources::references_of(method) == unread.references))
    }
}

fn unread_files(sql: &Connection, item: i64) -> Result<Vec<Unread>, Error> {
    type Columns = (Sha256Hash, i64, Option<i64>);
    let columns: Option<Columns> = sql
        .prepare_cached("SELECT nar_hash, nar_size, deriver FROM items WHERE path = ?1")?
        .query_row([item], |row| Ok((paths::hash(row, 0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((nar_hash, nar_size, deriver)) = columns else { return Ok(Vec::new()) };
    let (path, references) = (paths::path(sql, item)?, outputs::references(sql, item)?);
    let deriver = deriver.map(|deriver| paths::path(sql, deriver)).transpose()?;
    let unchecked = "SELECT compression FROM files WHERE item = ?1 AND checked_at IS NULL";
    let unchecked: HashSet<i64> = paths::numbers(sql, unchecked, item)?.into_iter().collect();
    let files =
        files::of(sql, item)?.into_iter().filter(|file| unchecked.contains(&(file.compression as i64)));
    Ok(files
        .map(|file| Unread {
            path: path.clone(),
            nar_hash,
            nar_size: unsql(nar_size),
            references: references.clone(),
            deriver: deriver.clone(),
            file,
        })
        .collect())
}

/// A file is what it was said to be.
fn good(
    tx: &mut Tx<'_>,
    item: i64,
    compression: i64,
    hash: &Sha256Hash,
    method: Option<&Method>,
) -> Result<(), Error> {
    let at: Timestamp = now();
    tx.prepare_cached("UPDATE files SET checked_at = ?3 WHERE item = ?1 AND compression = ?2")?.execute((
        item,
        compression,
        sql(at),
    ))?;
    tx.prepare_cached("UPDATE items SET export_hash = ?2 WHERE path = ?1 AND length(export_hash) = 0")?
        .execute((item, hash.as_bytes()))?;
    let Some(method) = method else { return Ok(()) };
    let source = "UPDATE items SET kind = 'source', method = ?2 WHERE path = ?1 AND kind = 'output'";
    if tx.prepare_cached(source)?.execute((item, sources::word(method)))? > 0 {
        retention::rescue(tx, item)?;
        sources::came(tx, item)?;
    }
    Ok(())
}

/// A file is not what it was said to be. It stays where it lies, and is not used any more.
fn bad(tx: &mut Tx<'_>, item: i64, path: &StorePath, file: &NarFile, why: &str) -> Result<(), Error> {
    let import: Option<i64> = tx
        .prepare_cached(
            "SELECT i.id FROM imports i JOIN places p ON p.id = ?1 AND json_extract(i.options, '$.in_place') \
             ORDER BY i.source = p.location DESC, i.id DESC LIMIT 1",
        )?
        .query_row([file.place], |row| row.get(0))
        .optional()?;
    if let Some(import) = import {
        rows::refused(tx, import, path.base_name(), &format!("{}: {why}", file.name))?;
    }
    // What is published names the file.
    publish::take_back(tx, item)?;
    tx.prepare_cached("DELETE FROM files WHERE item = ?1 AND compression = ?2")?
        .execute((item, file.compression as i64))?;
    if !files::of(tx, item)?.is_empty() {
        return publish::later(tx, item);
    }
    tx.prepare_cached("DELETE FROM items WHERE path = ?1")?.execute([item])?;
    retention::forget(tx, item)?;
    tx.prepare_cached("DELETE FROM fixed_outputs WHERE path = ?1")?.execute([item])?;
    tx.prepare_cached("DELETE FROM withheld WHERE path = ?1")?.execute([item])?;
    depend::provide(tx, item, Provided::No)
}

/// Reads no faster than so many bytes a second.
struct Slow<'h, R> {
    from: R,
    rate: Option<(&'h Halt, u64)>,
    began: Instant,
    count: u64,
    /// Up to which byte was waited already.
    waited: u64,
    stopped: bool,
    failed: Option<io::Error>,
}

impl<'h, R> Slow<'h, R> {
    fn new(from: R, rate: Option<(&'h Halt, u64)>) -> Self {
        Self { from, rate, began: Instant::now(), count: 0, waited: 0, stopped: false, failed: None }
    }

    fn wait(&mut self) -> Result<(), SourceError> {
        let Some((halt, rate)) = self.rate else { return Ok(()) };
        if self.count < self.waited + STEP {
            return Ok(());
        }
        self.waited = self.count;
        let due = Duration::from_millis(self.count.saturating_mul(1000) / rate.max(1));
        halt.rest(due.saturating_sub(self.began.elapsed()))
    }
}

impl<R: Read> Read for Slow<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.wait().is_err() {
            self.stopped = true;
            return Err(io::Error::other("the coordinator stops"));
        }
        match self.from.read(buffer) {
            Ok(n) => {
                self.count += n as u64;
                Ok(n)
            }
            Err(error) => {
                let told = io::Error::new(error.kind(), error.to_string());
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Gives bytes without end, and tells how many each time.
    struct Endless(mpsc::Sender<u64>);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // Nobody listens any more when it ends.
            let _ = self.0.send(buffer.len() as u64);
            Ok(buffer.len())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_read_faster_than_it_may_be_waits_until_it_is_due_or_to_stop() {
        let (_coordinator, stopping) = tokio::sync::watch::channel(false);
        let halt = Halt::new(stopping);
        let (counts, counted) = mpsc::channel();
        let reading = thread::spawn({
            let halt = halt.clone();
            move || {
                // What was read in the first moment is due weeks later.
                let mut slow = Slow::new(Endless(counts), Some((&halt, 1)));
                let read = io::copy(&mut (&mut slow).take(1 << 30), &mut io::sink());
                (read.is_err(), slow.stopped, slow.count)
            }
        });
        let mut count = 0;
        while count < STEP {
            count += counted.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        halt.stop();
        let (failed, stopped, count) = reading.join().unwrap();
        assert!(failed && stopped, "it read {count} bytes");
        assert!((STEP..2 * STEP).contains(&count), "it read {count} bytes at a rate of one a second");
    }
}
