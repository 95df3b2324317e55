//! What is used where it lies is read: in the background at a limited rate, or at once when an agent needs it. What is
//! not what it was said to be goes from the public, with all that refers to it.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use drover_store::export::export_hash;
use drover_store::source::{self, Method};
use drover_store::{Sha256, Sha256Hash, StorePath};
use drover_wire::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::halt::Halt;
use super::pace::{Pace, Slow};
use super::rows;
use super::take::{expected, judge_all};
use crate::farm::depend::{self, Provided};
use crate::farm::error::Error;
use crate::farm::{Farm, Tx, files, now, outputs, paths, publish, retention, sources, sql, unsql};
use crate::storage::{Expected, Judge, Kind, NarFile, Plain, StoreError};

/// How often it is looked whether there is something to read; half as often each time that nothing of it could be read,
/// down to the rarest.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_RARELY: Duration = Duration::from_secs(600);
/// How many files are found at once.
const SOME: i64 = 100;

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
    /// Nothing in its place can be read now.
    Away(String),
}

/// What one look at all that was not read came to.
#[derive(Debug, Default)]
struct Round {
    /// What could not be read is left until all else was looked at.
    after: i64,
    /// Whether anything was read.
    any: bool,
    /// Places that cannot be read, or of which a file cannot: it is said once.
    away: HashSet<i64>,
    troubled: HashSet<i64>,
}

impl Round {
    fn note(&mut self, farm: &Farm, unread: &Unread, verdict: &Verdict) {
        let Unread { path, file, .. } = unread;
        let places = farm.storage.places();
        let place = places.get(file.place).map(|place| place.name.clone()).unwrap_or_default();
        match verdict {
            Verdict::Good(..) | Verdict::Bad(_) => self.any = true,
            Verdict::Unreadable(why) => {
                let file = &file.name;
                if self.troubled.insert(unread.file.place) {
                    tracing::warn!(%path, place, file, why, "a nar that is used where it lies cannot be read now");
                } else {
                    tracing::debug!(%path, place, file, why, "a nar that is used where it lies cannot be read now");
                }
            }
            Verdict::Away(why) => {
                if self.away.insert(file.place) {
                    tracing::warn!(%path, place, why, "nars that are used where they lie cannot be read now");
                }
            }
        }
    }
}

/// Starts the thread that reads what was not read yet. Called within the runtime.
pub(super) fn start(farm: &Arc<Farm>) {
    let rate = farm.config.check_mib_per_second.saturating_mul(1 << 20);
    if rate == 0 {
        return;
    }
    let halt = Halt::new(farm.stopping());
    let farm = Arc::downgrade(farm);
    let started = std::thread::Builder::new()
        .name("check".to_owned())
        .spawn(move || in_background(&farm, &halt, Pace::new(&halt, rate)));
    if let Err(error) = started {
        tracing::error!(%error, "no thread that reads what is used where it lies; it is read when an agent needs it");
    }
}

fn in_background(farm: &Weak<Farm>, halt: &Halt, mut pace: Pace<'_>) {
    let mut pause = LOOK_EVERY;
    let mut round = Round::default();
    loop {
        let Some(strong) = farm.upgrade() else { return };
        let found = strong.database.read_blocking(|sql| unread_after(sql, &round));
        let some = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "what is used where it lies could not be looked for");
            Vec::new()
        });
        let Some(last) = some.last() else {
            let has_trouble = !round.away.is_empty() || !round.troubled.is_empty();
            pause = if has_trouble && !round.any { (pause * 2).min(LOOK_RARELY) } else { LOOK_EVERY };
            round = Round::default();
            drop(strong);
            if halt.rest(pause).is_err() {
                return;
            }
            continue;
        };
        round.after = *last;
        for item in some {
            match strong.read_item(item, Some(&mut pace), &mut round) {
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

/// Items with files that were not read, in places that can be.
fn unread_after(sql: &Connection, round: &Round) -> Result<Vec<i64>, Error> {
    let select = "SELECT DISTINCT item FROM files WHERE checked_at IS NULL AND item > ?1 \
                  AND place NOT IN (SELECT value FROM json_each(?3)) ORDER BY item LIMIT ?2";
    let mut statement = sql.prepare_cached(select)?;
    let away = serde_json::json!(round.away).to_string();
    let rows = statement.query_map((round.after, SOME, away), |row| row.get(0))?;
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
        self.read_item(item, None, &mut Round::default())
    }

    /// As [`Farm::read_now`], at a limited pace if one is given; an error, too, when the coordinator stops.
    fn read_item(
        self: &Arc<Self>,
        item: i64,
        mut pace: Option<&mut Pace<'_>>,
        round: &mut Round,
    ) -> Result<(), Error> {
        for unread in self.database.read_blocking(|sql| files_of(sql, item, true))? {
            if round.away.contains(&unread.file.place) {
                continue;
            }
            let verdict = self.read_file(&unread, pace.as_deref_mut())?;
            round.note(self, &unread, &verdict);
            match verdict {
                Verdict::Good(hash, method) => {
                    self.database.write_alone_blocking::<_, Error>(move |tx| {
                        good(tx, item, &unread, &hash, method.as_ref())
                    })?;
                }
                Verdict::Bad(why) => {
                    let (path, name) = (&unread.path, &unread.file.name);
                    tracing::error!(%path, file = name, why, "a nar that is used where it lies is not what it should be");
                    // What refers to it may be much, and is withdrawn in short jobs.
                    self.take_back_in_batches(item)?;
                    self.database.write_alone_blocking::<_, Error>(move |tx| bad(tx, item, &unread, &why))?;
                }
                Verdict::Unreadable(_) | Verdict::Away(_) => {}
            }
        }
        Ok(())
    }

    /// Looks again at a file that was not what it should be when it was read, or not there. If that is so it is not used any
    /// more: what it was of can be made again. Whether it still is used. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub(in crate::farm) fn look_again(self: &Arc<Self>, item: i64, file: &NarFile) -> Result<bool, Error> {
        let found = self.database.read_blocking::<_, Error>(|sql| {
            let is_source = sources::is_held(sql, item)?;
            let known = files_of(sql, item, false)?.into_iter().find(|known| known.file == *file);
            Ok(known.map(|known| (known, is_source)))
        })?;
        let Some((known, is_source)) = found else { return Ok(false) };
        let expected = Expected {
            nar_hash: known.nar_hash,
            nar_size: known.nar_size,
            references: known.references.clone(),
            // What it refers to was looked for when it came.
            candidates: HashSet::new(),
            unfound: true,
            fixed: None,
        };
        let Err(Verdict::Bad(why)) = self.judge_file(&known, expected, None)? else { return Ok(true) };
        let (path, name) = (&known.path, &known.file.name);
        if is_source {
            tracing::error!(%path, file = name, why, "the nar of a source is not what it should be");
            return Ok(true);
        }
        tracing::error!(%path, file = name, why, "a nar is not what it should be, and is not used any more");
        self.take_back_in_batches(item)?;
        self.database.write_alone_blocking::<_, Error>(move |tx| bad(tx, item, &known, &why))?;
        Ok(false)
    }

    fn read_file(&self, unread: &Unread, mut pace: Option<&mut Pace<'_>>) -> Result<Verdict, Error> {
        let Unread { path, references, deriver, .. } = unread;
        let expected =
            expected(self, (path, unread.nar_hash, unread.nar_size), (references, deriver.as_ref()))?;
        let after_nar = match self.judge_file(unread, expected, pace.as_deref_mut())? {
            Ok(after_nar) => after_nar,
            Err(verdict) => return Ok(verdict),
        };
        let hash = export_hash(after_nar, path, references, deriver.as_ref());
        Ok(Verdict::Good(hash, self.method(unread, pace)?))
    }

    /// Holds a file against what is expected. The answer: the hash's state after its nar, or why there is none.
    fn judge_file(
        &self,
        unread: &Unread,
        expected: Expected,
        pace: Option<&mut Pace<'_>>,
    ) -> Result<Result<Sha256, Verdict>, Error> {
        let file = &unread.file;
        let Some(place) = self.storage.places().get(file.place) else {
            return Ok(Err(Verdict::Away("its place is not configured".to_owned())));
        };
        let is_there = place.target.folder().is_none_or(|folder| {
            // One without anything in it is a disk that is not mounted.
            std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
        });
        if !is_there {
            let why = "its folder is not there, or there is nothing in it".to_owned();
            return Ok(Err(Verdict::Away(why)));
        }
        let opened = match self.storage.places().open(file, 0..file.size) {
            Ok(opened) => opened,
            Err(error @ (StoreError::Gone { .. } | StoreError::Length { .. })) if place.lacks(&file.name) => {
                return Ok(Err(Verdict::Bad(error.to_string())));
            }
            Err(error) if error.is_outage() => return Ok(Err(Verdict::Away(error.to_string()))),
            Err(error) => return Ok(Err(Verdict::Unreadable(error.to_string()))),
        };
        let mut slow = Slow::new(opened.reader(file.size), pace);
        let judged = judge_all(Plain::new(file.compression, &mut slow), Judge::new(expected));
        if slow.stopped {
            return Err(Error::Stopping);
        }
        if let Some(error) = slow.failed {
            return Ok(Err(Verdict::Unreadable(error.to_string())));
        }
        Ok(judged.map_err(Verdict::Bad))
    }

    /// By what a source that nothing built gets into a store; none for what is the output of something.
    fn method(&self, unread: &Unread, pace: Option<&mut Pace<'_>>) -> Result<Option<Method>, Error> {
        if unread.deriver.is_some() {
            return Ok(None);
        }
        let again = |error: io::Error| Error::io(format!("read the nar of {} again", unread.path), error);
        let file = &unread.file;
        let opened = self.open_file(file, 0..file.size)?;
        let plain = Plain::new(file.compression, Slow::new(opened.reader(file.size), pace)).map_err(again)?;
        let found = source::method_of(&unread.path, plain, &unread.references)
            .map_err(|error| again(io::Error::other(error)))?;
        Ok(found.filter(|method| sources::references_of(method) == unread.references))
    }
}

/// The files of an item, all of them or those that were not read.
fn files_of(sql: &Connection, item: i64, unread: bool) -> Result<Vec<Unread>, Error> {
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
    let is_meant = |file: &NarFile| !unread || unchecked.contains(&(file.compression as i64));
    Ok(files::of(sql, item)?
        .into_iter()
        .filter(is_meant)
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
    Unread { path, file, .. }: &Unread,
    hash: &Sha256Hash,
    method: Option<&Method>,
) -> Result<(), Error> {
    let at: Timestamp = now();
    let update =
        "UPDATE files SET checked_at = ?5 WHERE item = ?1 AND compression = ?2 AND place = ?3 AND name IS ?4";
    let known = (item, file.compression as i64, file.place, files::unusual_name(file, path), sql(at));
    if tx.prepare_cached(update)?.execute(known)? == 0 {
        // It was removed, or moved, meanwhile: what is withdrawn for its sake may be published again.
        return publish::later(tx, item);
    }
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

/// A file is not what it was said to be, and is not used any more. One that an import took over stays where it lies.
fn bad(tx: &mut Tx<'_>, item: i64, Unread { path, file, .. }: &Unread, why: &str) -> Result<(), Error> {
    if !files::of(tx, item)?.contains(file) {
        // It was removed, or moved, meanwhile: what is withdrawn for its sake may be published again.
        return publish::later(tx, item);
    }
    let kind: String = tx
        .prepare_cached("SELECT kind FROM places WHERE id = ?1")?
        .query_row([file.place], |row| row.get(0))?;
    if kind == Kind::Adopted.as_str() {
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
    } else {
        files::leave(tx, file.place, &file.name, 0)?;
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
    for delete in [
        "DELETE FROM withheld WHERE path = ?1",
        "DELETE FROM needed WHERE path = ?1",
        "DELETE FROM unpublishable WHERE path = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([item])?;
    }
    depend::provide(tx, item, Provided::No)?;
    retention::build_again(tx, item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_was_found_of_a_file_says_nothing_of_the_one_that_took_its_place_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), disk_reserve_mib: 0, ..Config::default() };
        let farm = Farm::open(config).unwrap();
        let checked = farm.database.write_blocking::<_, Error>(|tx| {
            let id = paths::number(tx, &drover_store::path::text("one", b"", &[]).unwrap())?;
            tx.execute(
                "INSERT INTO items VALUES (?1, 'output', NULL, zeroblob(32), 1, 1, NULL, x'', 1)",
                [id],
            )?;
            tx.execute(
                "INSERT INTO files (item, compression, place, name, size) VALUES (?1, 0, 1, 'old', 1)",
                [id],
            )?;
            let known = files_of(tx, id, true)?.remove(0);
            tx.execute("UPDATE files SET name = 'new'", [])?;
            bad(tx, id, &known, "gone")?;
            good(tx, id, &known, &Sha256Hash::of(b""), None)?;
            let left = "SELECT count(*), count(f.checked_at), length(max(i.export_hash)) FROM files f \
                        JOIN items i ON i.path = f.item";
            let left = tx.query_row(left, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let known = files_of(tx, id, true)?.remove(0);
            good(tx, id, &known, &Sha256Hash::of(b""), None)?;
            assert!(files_of(tx, id, true)?.is_empty());
            bad(tx, id, &known, "gone")?;
            assert!(files::of(tx, id)?.is_empty());
            Ok::<(i64, i64, i64), Error>(left)
        });
        assert_eq!(checked.unwrap(), (1, 0, 0));
    }
}
