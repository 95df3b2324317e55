//! The places that nars lie in, and what room they have.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use drover_os::file::Lock;
use drover_os::{Deadline, machine};
use drover_store::Compression;
pub use drover_wire::storage::PlaceKind as Kind;

use super::mark::Mark;
use super::meter::Meter;
use super::opened::Opened;
use super::target::{StoreError, Target};
use crate::config::Placement;

/// For how long others take files before a place that failed.
const REST: Duration = Duration::from_secs(60);

/// A file that has the nar of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarFile {
    /// How it is compressed.
    pub compression: Compression,
    /// The number of the place that it lies in.
    pub place: i64,
    /// Its name there.
    pub name: String,
    /// Its bytes.
    pub size: u64,
}

/// A disk, as far as it is about to be written: bytes that have their room and are not there yet.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    claimed: AtomicU64,
}

/// A place.
#[derive(Debug)]
pub struct Place {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where files are put.
    pub target: Target,
    /// How many bytes may lie there.
    pub capacity: Option<u64>,
    /// How many bytes of its disk stay free.
    pub reserve: u64,
    /// It is being emptied: nothing is added to it.
    pub(crate) drained: AtomicBool,
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) claimed: AtomicU64,
    /// Until when others take files before it: it took none for a reason of its own.
    pub(crate) rests: Mutex<Option<Instant>>,
    /// What says that it is the place; none where that is known otherwise, or not at all.
    pub(crate) mark: Option<Mark>,
    /// Tells of its disk.
    pub(crate) meter: Meter,
    /// That no other coordinator uses it.
    pub(crate) _lock: Option<Lock>,
}

impl Place {
    /// Whether new files may go there.
    pub fn is_open(&self) -> bool {
        self.kind != Kind::Adopted && !self.drained.load(Ordering::Relaxed)
    }

    /// Whether it is being emptied, from now on.
    pub(crate) fn drain(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    /// Whether it is the place that it should be: nothing is put there or removed from there before. Blocks.
    ///
    /// # Errors
    /// When it is not, or does not say so.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.mark.as_ref().map_or(Ok(()), |mark| mark.check(&self.target))
    }

    /// Others are to take files for a while, if there are any: this place failed.
    pub(crate) fn rest(&self) {
        *self.rests.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    fn rests(&self) -> bool {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Whether a file that was not found in it is gone. Otherwise its disk may not be mounted, or its bucket not be the one.
    /// Blocks.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        let has_something = |folder: &Path| {
            std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok()))
        };
        match (&self.mark, &self.target) {
            (Some(mark), target) => mark.is_there(target).is_ok(),
            // Any folder below may be where a disk of its own is mounted.
            (None, Target::Folder(folder)) if self.kind == Kind::Adopted => {
                folder.path().join(name).parent().is_some_and(has_something)
            }
            (None, Target::Folder(folder)) => has_something(folder.path()),
            (None, Target::Bucket(_)) => true,
        }
    }

    /// The bytes that its disk has free; none where that is not known, or has no meaning.
    pub fn free(&self) -> Option<u64> {
        machine::disk(self.target.folder()?).map(|disk| disk.free)
    }

    /// As [`Place::free`], for those who only tell of it: none, too, where the disk does not say in time.
    pub(crate) fn told_free(&self) -> Option<u64> {
        self.meter.free(self.target.folder()?.to_owned())
    }

    /// The bytes that can still be put there, where `used` lie already; none if there is no end to it.
    pub fn room(&self, used: u64) -> Option<u64> {
        self.room_of(self.free(), used)
    }

    /// The same, where its disk has so many bytes free.
    pub(crate) fn room_of(&self, free: Option<u64>, used: u64) -> Option<u64> {
        let gone = used.saturating_add(self.claimed.load(Ordering::SeqCst));
        let by_capacity = self.capacity.map(|capacity| capacity.saturating_sub(gone));
        let claimed = self.disk.as_ref().map_or(0, |disk| disk.claimed.load(Ordering::SeqCst));
        let by_disk = free.map(|free| free.saturating_sub(self.reserve).saturating_sub(claimed));
        match (by_capacity, by_disk) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Whether so many bytes can be put there beside the `used` ones, if `staged` of them are in the state folder already.
    pub(crate) fn fits(&self, bytes: u64, staged: u64, used: u64, state: &Arc<Disk>) -> bool {
        let on_disk = self.disk.as_ref().is_some_and(|disk| Arc::ptr_eq(disk, state));
        let more = if on_disk { bytes.saturating_sub(staged) } else { bytes };
        let claimed = self.disk.as_ref().map_or(0, |disk| disk.claimed.load(Ordering::SeqCst));
        let needed = self.reserve.saturating_add(claimed).saturating_add(more);
        let total = used.saturating_add(self.claimed.load(Ordering::SeqCst)).saturating_add(bytes);
        self.capacity.is_none_or(|capacity| total <= capacity)
            && self.free().is_none_or(|free| free >= needed)
    }

    /// Takes room for so many bytes beside those that `used` gives, if there is. `staged`: they are on its disk already.
    pub(crate) fn claim<E>(
        self: &Arc<Self>,
        bytes: u64,
        staged: bool,
        used: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Option<Claim>, E> {
        let disk = self.disk.as_ref().filter(|_| !staged).cloned();
        let claim = Claim::new(Some(Arc::clone(self)), disk, bytes);
        // In this order: what is written meanwhile may count twice, and never not at all.
        let claimed = self.claimed.load(Ordering::SeqCst);
        let by_disk = self.disk.as_ref().map_or(0, |disk| disk.claimed.load(Ordering::SeqCst));
        let fits = match self.capacity {
            Some(capacity) => used()?.saturating_add(claimed) <= capacity,
            None => true,
        };
        let has_disk = self.free().is_none_or(|free| free >= self.reserve.saturating_add(by_disk));
        Ok((fits && has_disk).then_some(claim))
    }
}

/// Room that was taken for bytes which are on their way.
#[derive(Debug)]
pub(crate) struct Claim {
    place: Option<Arc<Place>>,
    disk: Option<Arc<Disk>>,
    bytes: u64,
}

impl Claim {
    fn new(place: Option<Arc<Place>>, disk: Option<Arc<Disk>>, bytes: u64) -> Self {
        if let Some(place) = &place {
            place.claimed.fetch_add(bytes, Ordering::SeqCst);
        }
        if let Some(disk) = &disk {
            disk.claimed.fetch_add(bytes, Ordering::SeqCst);
        }
        Self { place, disk, bytes }
    }

    /// Room on the disk that this folder is on, if there is so much without its reserve.
    pub(crate) fn on_disk(folder: &Path, disk: &Arc<Disk>, reserve: u64, bytes: u64) -> Option<Self> {
        let claim = Self::new(None, Some(Arc::clone(disk)), bytes);
        let claimed = disk.claimed.load(Ordering::SeqCst);
        let fits = |free: u64| free >= reserve.saturating_add(claimed);
        machine::disk(folder).is_none_or(|disk| fits(disk.free)).then_some(claim)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.claimed.fetch_sub(self.bytes, Ordering::SeqCst);
        }
        if let Some(disk) = &self.disk {
            disk.claimed.fetch_sub(self.bytes, Ordering::SeqCst);
        }
    }
}

/// Names of files that are being made, which are not leftovers yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hands {
    names: Arc<Mutex<HashSet<(i64, String)>>>,
    /// Told when a name is let go, for its file may be a leftover.
    wake: Option<SyncSender<()>>,
}

/// A name in somebody's hands.
#[derive(Debug)]
pub(crate) struct Hold {
    hands: Hands,
    file: (i64, String),
}

impl Hands {
    fn names(&self) -> MutexGuard<'_, HashSet<(i64, String)>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name.
    pub(crate) fn take(&self, place: i64, name: String) -> Hold {
        let file = (place, name);
        self.names().insert(file.clone());
        Hold { hands: self.clone(), file }
    }

    /// Whether somebody has a name in that place: a file is on its way there.
    pub(crate) fn has_any(&self, place: i64) -> bool {
        self.names().iter().any(|(one, _)| *one == place)
    }

    /// Whether somebody has that name.
    pub(crate) fn has(&self, place: i64, name: &str) -> bool {
        self.names().contains(&(place, name.to_owned()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.hands.names().remove(&self.file);
        if let Some(wake) = &self.hands.wake {
            // One that waits is enough.
            let _ = wake.try_send(());
        }
    }
}

/// All places.
#[derive(Debug, Default)]
pub struct Places {
    all: RwLock<Vec<Arc<Place>>>,
    placement: Placement,
    hands: Hands,
}

impl Places {
    /// These, in the order in which they take files. `wake` is told when there may be a leftover.
    pub(crate) fn new(all: Vec<Arc<Place>>, placement: Placement, wake: SyncSender<()>) -> Self {
        let hands = Hands { wake: Some(wake), ..Hands::default() };
        Self { all: RwLock::new(all), placement, hands }
    }

    /// All of them, in the order in which they take files.
    pub fn all(&self) -> Vec<Arc<Place>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That with this number.
    pub fn get(&self, id: i64) -> Option<Arc<Place>> {
        self.all().into_iter().find(|place| place.id == id)
    }

    /// That with this name.
    pub fn named(&self, name: &str) -> Option<Arc<Place>> {
        self.all().into_iter().find(|place| place.name == name)
    }

    /// There is one more: one that an import took over.
    pub(crate) fn add(&self, place: Place) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(place));
    }

    /// Names that are in somebody's hands.
    pub(crate) fn hands(&self) -> &Hands {
        &self.hands
    }

    /// Those that could take a file, the one to be tried first first. `used` says how many bytes lie in one.
    pub(crate) fn candidates(&self, used: impl Fn(i64) -> u64) -> Vec<Arc<Place>> {
        let mut open = self.all();
        open.retain(|place| place.is_open());
        if self.placement == Placement::MostFree {
            // What has no end has most.
            open.sort_by_cached_key(|place| {
                std::cmp::Reverse(place.room(used(place.id)).unwrap_or(u64::MAX))
            });
        }
        // Each try would take as long as a server that is away is asked.
        open.sort_by_cached_key(|place| place.rests());
        open
    }

    /// Opens a part of a file. Blocks.
    ///
    /// # Errors
    /// When it is not there, is not as long as it should be, or cannot be read.
    pub fn open(&self, file: &NarFile, range: Range<u64>) -> Result<Opened, StoreError> {
        self.open_within(file, range, Deadline::never())
    }

    /// As [`Places::open`], and nothing is waited for beyond a deadline.
    ///
    /// # Errors
    /// As [`Places::open`].
    pub fn open_within(
        &self,
        file: &NarFile,
        range: Range<u64>,
        until: Deadline,
    ) -> Result<Opened, StoreError> {
        let place = self.get(file.place).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::NotFound, "the place is not configured");
            StoreError::io(format!("read {} in the place {}", file.name, file.place), source)
        })?;
        place.target.within(until).open(&file.name, file.size, range)
    }
}

/// What tells one disk from another.
pub(crate) fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.dev())
}
