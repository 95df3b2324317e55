//! Where nars lie: the places of the configuration, which of them takes a new file, and what is read from them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use drover_os::file::{Access, Lock, LockError, replace};
use drover_store::{Compression, StorePath};
use drover_wire::hook::HookName;
use rusqlite::Connection;

use super::change::Change;
use super::error::Error;
use super::leftovers::Wake;
use super::{Farm, files, unsql};
use crate::config::{Config, Gib, Location, PlaceConfig, STATE_PLACE};
use crate::database::Database;
use crate::storage::{
    Claim, Disk, Folder, Hold, Kind, MARK, Mark, Meter, NarFile, Opened, Place, Places, Storage, StoreError,
    Target, device,
};

/// How long the start waits for buckets to say whose they are.
const ASK: Duration = Duration::from_secs(10);

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It holds nars, and the configuration does not name it.
    #[error(
        "the place “{name}” ({location}) holds {files} nars, and the configuration has no place of that name; add it, \
         and empty it with `drover storage move {name}` before it is taken out"
    )]
    Unknown {
        /// Its name.
        name: String,
        /// Where it was.
        location: String,
        /// How many files it holds.
        files: u64,
    },
    /// Its folder is not the one that it was.
    #[error(
        "the folder {folder} of the place “{name}” has no file {MARK} with that name in it, and should hold {files} \
         nars: is its disk mounted?"
    )]
    NotMounted {
        /// Its name.
        name: String,
        /// Its folder.
        folder: String,
        /// How many files it should hold.
        files: u64,
    },
    /// Its folder is another's.
    #[error("the folder {folder} of the place “{name}” is that of “{other}”, as the file {MARK} in it says")]
    Other {
        /// Its name.
        name: String,
        /// Its folder.
        folder: String,
        /// Whose it is.
        other: String,
    },
    /// An import took a folder over, and it is called so.
    #[error(
        "“{name}” is what the folder {folder} is called, whose files an import took over: give the place another name"
    )]
    Adopted {
        /// Its name.
        name: String,
        /// The folder.
        folder: String,
    },
    /// An import took over files that lie in it, or around it.
    #[error(
        "the folder {folder} of the place “{name}” and the folder {other}, whose files an import took over, lie one \
         within the other: give the place a folder of its own"
    )]
    Within {
        /// Its name.
        name: String,
        /// Its folder.
        folder: String,
        /// The other.
        other: String,
    },
    /// Another coordinator uses it.
    #[error("cannot use the place “{name}”: {source}")]
    Lock {
        /// Its name.
        name: String,
        /// Why not.
        source: LockError,
    },
    /// It was taken over by an import, and a hook pushes there.
    #[error(
        "the hook “{hook}” pushes to {folder}, where files lie that an import took over (the place “{name}”): give the \
         hook a folder of its own"
    )]
    Pushed {
        /// Its name.
        name: String,
        /// Its folder.
        folder: String,
        /// The hook.
        hook: HookName,
    },
    /// It cannot be used.
    #[error("cannot use the place “{name}”: {source}")]
    Store {
        /// Its name.
        name: String,
        /// Why not.
        source: StoreError,
    },
}

/// A file that got its place. Until something refers to it, and whenever this is dropped before, it is a leftover.
#[derive(Debug)]
pub(crate) struct Placed {
    /// The file.
    pub(crate) file: NarFile,
    _claim: Claim,
    _hold: Hold,
}

/// The kind of a folder that an import took over, as the database has it.
const ADOPTED: &str = "adopted";

/// A place as the database has it.
struct Row {
    id: i64,
    name: String,
    kind: String,
    location: String,
    mark: String,
    drained: bool,
    files: u64,
}

/// The places of the configuration, and those that were taken over. Blocks.
pub(super) fn load(
    config: &Config,
    storage: &Storage,
    database: &Database<Change>,
    wake: Wake,
) -> Result<Places, super::OpenError> {
    let mut rows: HashMap<String, Row> =
        rows(database)?.into_iter().map(|row| (row.name.clone(), row)).collect();
    let mut disks = HashMap::new();
    disks.extend(device(storage.root()).map(|device| (device, Arc::clone(storage.disk()))));
    let mut all = Vec::new();
    let implied = PlaceConfig { name: STATE_PLACE.to_owned(), ..PlaceConfig::default() };
    let is_named = config.places.iter().any(|place| place.name == STATE_PLACE);
    for place in config.places.iter().chain((!is_named).then_some(&implied)) {
        // It was checked with the rest of the configuration.
        let Ok(location) = place.location() else { continue };
        let row = rows.remove(&place.name);
        if let Some(Row { name, location: folder, .. }) = row.as_ref().filter(|row| row.kind == ADOPTED) {
            return Err(PlaceError::Adopted { name: name.clone(), folder: folder.clone() }.into());
        }
        let row = note(database, place, location.as_ref(), row)?;
        all.push(Arc::new(open(place, location, row, storage, &mut disks)?));
    }
    let hooks = config.all_hooks()?;
    for (_, row) in rows {
        match row.kind.as_str() {
            ADOPTED => {
                let at = Location::Folder(row.location.clone().into());
                check_apart(config, &at)?;
                if let Some(hook) = hooks.iter().find(|hook| hook.pushes_into(&at)) {
                    let Row { name, location: folder, .. } = row;
                    return Err(PlaceError::Pushed { name, folder, hook: hook.name.clone() }.into());
                }
                all.push(Arc::new(adopted(row.id, &row.name, Path::new(&row.location))));
            }
            _ if row.files > 0 => {
                let Row { name, location, files, .. } = row;
                return Err(PlaceError::Unknown { name, location, files }.into());
            }
            _ => {}
        }
    }
    ask_buckets(&all)?;
    Ok(Places::new(all, config.placement, wake))
}

/// Whether no place of the configuration is where an import took files over: the files of both could have the same names.
fn check_apart(config: &Config, adopted: &Location) -> Result<(), PlaceError> {
    for place in &config.places {
        if let Ok(Some(at)) = place.location() {
            if at.overlaps(adopted) {
                let (folder, other) = (at.shown(), adopted.shown());
                return Err(PlaceError::Within { name: place.name.clone(), folder, other });
            }
        }
    }
    Ok(())
}

/// Asks buckets which places they are, all at once. One that does not say it now is asked again before it is used.
fn ask_buckets(all: &[Arc<Place>]) -> Result<(), PlaceError> {
    let deadline = Instant::now() + ASK;
    let (tell, told) = mpsc::channel();
    for place in all.iter().filter(|place| place.kind == Kind::Bucket) {
        let (place, tell) = (Arc::clone(place), tell.clone());
        let asking = thread::Builder::new().name("bucket".to_owned()).spawn(move || {
            let found = place.check();
            // Nobody waits for an answer that comes late.
            let _ = tell.send((place.name.clone(), found));
        });
        if let Err(error) = asking {
            tracing::warn!(%error, "no thread to ask a bucket whose it is; it is asked later");
        }
    }
    drop(tell);
    while let Ok((name, found)) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match found {
            Ok(()) => {}
            Err(source @ StoreError::Foreign { .. }) => return Err(PlaceError::Store { name, source }),
            Err(error) => tracing::warn!(place = name, %error, "a bucket cannot be used now"),
        }
    }
    Ok(())
}

fn rows(database: &Database<Change>) -> Result<Vec<Row>, Error> {
    database.read_blocking::<_, Error>(|sql| {
        let mut select = sql.prepare(
            "SELECT p.id, p.name, p.kind, p.location, p.mark, p.drained, p.files + \
             (SELECT count(*) FROM uploads u WHERE u.place = p.id AND u.complete = 1) FROM places p",
        )?;
        let rows = select.query_map([], |row| {
            Ok(Row {
                id: row.get(0)?,
                name: row.get(1)?,
                kind: row.get(2)?,
                location: row.get(3)?,
                mark: row.get(4)?,
                drained: row.get(5)?,
                files: unsql(row.get(6)?),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    })
}

/// The row of a place, which is made if need be, and says where it is now.
fn note(
    database: &Database<Change>,
    place: &PlaceConfig,
    location: Option<&Location>,
    row: Option<Row>,
) -> Result<Row, Error> {
    let at = location.map(Location::shown).unwrap_or_default();
    let kind = if matches!(location, Some(Location::Bucket(_))) { Kind::Bucket } else { Kind::Folder };
    if let Some(row) = row {
        if row.kind == kind.as_str() && row.location == at {
            return Ok(row);
        }
        if row.files > 0 {
            tracing::warn!(place = row.name, was = row.location, is = at, "a place is elsewhere now");
        }
        let (id, now_at) = (row.id, at.clone());
        database.write_blocking::<_, Error>(move |tx| {
            tx.execute(
                "UPDATE places SET kind = ?2, location = ?3 WHERE id = ?1",
                (id, kind.as_str(), now_at),
            )?;
            Ok(())
        })?;
        return Ok(Row { kind: kind.as_str().to_owned(), location: at, ..row });
    }
    let (name, kind) = (place.name.clone(), kind.as_str());
    database.write_blocking::<_, Error>(move |tx| {
        let insert = "INSERT INTO places (name, kind, location) VALUES (?1, ?2, ?3) RETURNING id, mark";
        let (id, mark) = tx.query_row(insert, (&name, kind, &at), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Row { id, name, kind: kind.to_owned(), location: at, mark, drained: false, files: 0 })
    })
}

fn open(
    place: &PlaceConfig,
    location: Option<Location>,
    row: Row,
    storage: &Storage,
    disks: &mut HashMap<u64, Arc<Disk>>,
) -> Result<Place, PlaceError> {
    let failed = |source| PlaceError::Store { name: place.name.clone(), source };
    let mut lock = None;
    let target = match &location {
        None => Target::Folder(Folder::at(&storage.nars())),
        Some(Location::Folder(folder)) => {
            let target = Target::new(&Location::Folder(folder.clone())).map_err(failed)?;
            let held = Lock::take(&folder.join("lock"));
            lock = Some(held.map_err(|source| PlaceError::Lock { name: place.name.clone(), source })?);
            check_mark(folder, &row)?;
            target
        }
        Some(bucket) => Target::new(bucket).map_err(failed)?,
    };
    let mark = location.as_ref().map(|location| match location {
        Location::Folder(_) => Mark::new(row.name.clone(), false),
        Location::Bucket(_) => Mark::new(format!("{} {}", row.name, row.mark), row.files == 0),
    });
    let disk = target.folder().and_then(device).map(|device| Arc::clone(disks.entry(device).or_default()));
    Ok(Place {
        id: row.id,
        name: row.name,
        kind: if matches!(location, Some(Location::Bucket(_))) { Kind::Bucket } else { Kind::Folder },
        target,
        capacity: place.capacity_gib.map(|Gib(bytes)| bytes),
        reserve: match location {
            None => storage.reserve(),
            Some(_) => place.reserve_gib.map_or(0, |Gib(bytes)| bytes),
        },
        drained: AtomicBool::new(row.drained),
        disk,
        claimed: AtomicU64::new(0),
        rests: Mutex::default(),
        mark,
        meter: Meter::default(),
        _lock: lock,
    })
}

/// A folder that was taken over as it is.
pub(super) fn adopted(id: i64, name: &str, folder: &Path) -> Place {
    if !folder.is_dir() {
        tracing::error!(place = name, folder = %folder.display(), "the folder of a place is not there; is its disk mounted?");
    }
    Place {
        id,
        name: name.to_owned(),
        kind: Kind::Adopted,
        target: Target::Folder(Folder::at(folder)),
        capacity: None,
        reserve: 0,
        drained: AtomicBool::new(false),
        disk: None,
        claimed: AtomicU64::new(0),
        rests: Mutex::default(),
        mark: None,
        meter: Meter::default(),
        _lock: None,
    }
}

/// Whether the folder is that of the place; one that is new, or empty, becomes it.
fn check_mark(folder: &Path, row: &Row) -> Result<(), PlaceError> {
    let shown = || folder.display().to_string();
    let mark = folder.join(MARK);
    let failed = |what: &str, source| PlaceError::Store {
        name: row.name.clone(),
        source: StoreError::io(format!("{what} {}", mark.display()), source),
    };
    match std::fs::read(&mark) {
        Ok(text) if text.trim_ascii() == row.name.as_bytes() => Ok(()),
        Ok(text) => {
            let other = String::from_utf8_lossy(text.trim_ascii()).chars().take(80).collect();
            Err(PlaceError::Other { name: row.name.clone(), folder: shown(), other })
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("read", error)),
        Err(_) if row.files > 0 => {
            Err(PlaceError::NotMounted { name: row.name.clone(), folder: shown(), files: row.files })
        }
        Err(_) => replace(&mark, format!("{}\n", row.name).as_bytes(), Access::Public)
            .map_err(|error| failed("write", error)),
    }
}

/// The bytes that lie in each place, those that no item has yet among them.
pub(super) fn used(sql: &Connection) -> Result<HashMap<i64, u64>, Error> {
    let mut select = sql.prepare_cached(
        "SELECT p.id, p.bytes + coalesce((SELECT sum(u.file_size) FROM uploads u \
             WHERE u.place = p.id AND u.complete = 1), 0) FROM places p",
    )?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, unsql(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A place did not take a file: the next may. An error: that would not help.
pub(super) fn passed_over(place: &Place, error: Error) -> Result<Error, Error> {
    match &error {
        Error::Store(_) | Error::Io { .. } | Error::StorageFull(_) => {}
        _ => return Err(error),
    }
    if matches!(&error, Error::Store(error) if error.is_outage()) {
        place.rest();
    }
    tracing::warn!(place = place.name, %error, "a place did not take a nar");
    Ok(error)
}

impl Farm {
    /// Gives a file, which is synced, one of the places, as the nar of this path. It is a leftover until
    /// [`files::add`]. Blocks.
    ///
    /// # Errors
    /// When no place has room for it: [`Error::StorageFull`], and the file is still where it was. When it cannot be put.
    pub(crate) fn put(
        &self,
        from: &Path,
        path: &StorePath,
        compression: Compression,
    ) -> Result<Placed, Error> {
        let failed = |error| Error::io(format!("look at the copy of {path}"), error);
        let size = std::fs::metadata(from).map_err(failed)?.len();
        let from_disk = device(from);
        let used = self.database.read_blocking::<_, Error>(used)?;
        let mut failed = None;
        for place in self.storage.places().candidates(|id| used.get(&id).copied().unwrap_or(0)) {
            let staged = from_disk.is_some() && place.target.folder().and_then(device) == from_disk;
            let into = || {
                let Some((file, claim, hold)) = self.expect(&place, path, compression, size, staged)? else {
                    return Ok(None);
                };
                place.target.take(from, &file.name)?;
                Ok(Some(Placed { file, _claim: claim, _hold: hold }))
            };
            match into() {
                Ok(Some(placed)) => return Ok(placed),
                Ok(None) => {}
                Err(error) => {
                    let error = passed_over(&place, error)?;
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::StorageFull(format!("the nar of {path}"))))
    }

    /// Takes room and a name in a place; none if it has not so much.
    pub(super) fn expect(
        &self,
        place: &Arc<Place>,
        path: &StorePath,
        compression: Compression,
        size: u64,
        staged: bool,
    ) -> Result<Option<(NarFile, Claim, Hold)>, Error> {
        let id = place.id;
        let lie = || {
            let used = self.database.read_blocking::<_, Error>(used)?;
            Ok::<_, Error>(used.get(&id).copied().unwrap_or(0))
        };
        let Some(claim) = place.claim(size, staged, lie)? else { return Ok(None) };
        place.check()?;
        let (path, hands, to) = (path.clone(), self.storage.places().hands().clone(), Arc::clone(place));
        let taken = self.database.write_blocking::<_, Error>(move |tx| {
            // Once it is being emptied, nothing is on its way there but what has its name already.
            if !to.is_open() {
                return Ok(None);
            }
            let name = files::expect(tx, &path, compression, id)?;
            let hold = hands.take(id, name.clone());
            Ok(Some((name, hold)))
        })?;
        Ok(taken.map(|(name, hold)| (NarFile { compression, place: id, name, size }, claim, hold)))
    }

    /// Whether a nar of so many bytes could be taken: brought together in the state folder, and given a place. Blocks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) fn room_for(&self, bytes: u64) -> Result<bool, Error> {
        if !self.storage.has_room(bytes) {
            return Ok(false);
        }
        self.has_place_for(bytes, 0)
    }

    /// Whether one of the places has room for so many bytes, of which `staged` are in the state folder already.
    pub(super) fn has_place_for(&self, bytes: u64, staged: u64) -> Result<bool, Error> {
        let used = self.database.read_blocking::<_, Error>(used)?;
        let used = |id| used.get(&id).copied().unwrap_or(0);
        let mut places = self.storage.places().all().into_iter().filter(|place| place.is_open());
        Ok(places.any(|place| place.fits(bytes, staged, used(place.id), self.storage.disk())))
    }

    /// Opens a part of a file. Blocks.
    ///
    /// # Errors
    /// When it is not there (any more), or cannot be read.
    pub(crate) fn open_file(&self, file: &NarFile, range: Range<u64>) -> Result<Opened, Error> {
        Ok(self.storage.places().open(file, range)?)
    }
}
