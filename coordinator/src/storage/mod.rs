//! The state folder: where nars, logs and uploads lie, and who may use it.

mod algorithm;
#[cfg(feature = "s3")]
mod bucket;
#[cfg(not(feature = "s3"))]
#[path = "no_bucket.rs"]
mod bucket;
mod decode;
mod folder;
mod incoming;
mod logs;
mod mark;
mod meter;
mod opened;
mod place;
mod target;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_os::file::{self, Lock, LockError};
use drover_store::{Compression, StorePath};
use drover_wire::{BuildId, LeaseId};

pub(crate) use algorithm::Algorithm;
pub use bucket::Bucket;
pub use decode::Plain;
#[cfg(test)]
pub(crate) use decode::lzip;
pub use folder::Folder;
pub use incoming::{Expected, Incoming, Judge, Refused, Verified, packed_limit};
pub use logs::{Effort, LogReader, length as log_length, pack as pack_log};
pub(crate) use mark::{MARK, Mark};
pub(crate) use meter::Meter;
pub use opened::{Chunks, Opened};
pub(crate) use place::{Claim, Disk, Hands, Hold, device};
pub use place::{Kind, NarFile, Place, Places};
pub use target::{StoreError, Target};

/// The bytes of a window that is accepted in zstd streams from outside, as a power of two: what `zstd --long` uses.
pub const WINDOW_LOG_MAX: u32 = 27;

/// The state folder, locked.
#[derive(Debug)]
pub struct Storage {
    root: PathBuf,
    reserve: u64,
    disk: Arc<Disk>,
    places: Places,
    _lock: Lock,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Another coordinator uses it, or it could not be locked.
    #[error("cannot use the state folder: {0}")]
    Lock(#[from] LockError),
    /// It could not be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Storage {
    /// Takes the state folder, which is made if need be. `reserve` is the free space, in bytes, that is left to
    /// others.
    ///
    /// # Errors
    /// When it cannot be made, or is in use.
    pub fn open(root: &Path, reserve: u64) -> Result<Self, StorageError> {
        let make = |path: PathBuf| {
            std::fs::create_dir_all(&path).map_err(|source| StorageError::Folder { path, source })
        };
        make(root.to_owned())?;
        let lock = Lock::take(&root.join("lock"))?;
        for folder in ["nars", "uploads", "logs"] {
            make(root.join(folder))?;
        }
        Ok(Self {
            root: root.to_owned(),
            reserve,
            disk: Arc::default(),
            places: Places::default(),
            _lock: lock,
        })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database's file.
    pub fn database(&self) -> PathBuf {
        self.root.join("drover.sqlite")
    }

    /// The usual name of the file with the nar of an item, in whatever place it lies.
    pub fn usual_name(path: &StorePath, compression: Compression) -> String {
        let base = path.base_name();
        format!("{}/{base}.nar{}", base.get(..2).unwrap_or("__"), compression.extension())
    }

    /// The folder of the nars that lie in the state folder.
    pub fn nars(&self) -> PathBuf {
        self.root.join("nars")
    }

    /// The folder of what is on its way.
    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Where an output is kept while it is on its way.
    pub fn upload(&self, lease: LeaseId, path: &StorePath) -> PathBuf {
        self.uploads().join(format!("{lease}-{}", path.base_name()))
    }

    /// A fresh name for something that is on its way.
    pub fn fresh_upload(&self) -> PathBuf {
        self.uploads().join(format!("new-{}", uuid::Uuid::new_v4().simple()))
    }

    /// The log of a try, raw, as it is while it grows.
    pub fn log(&self, build: BuildId, attempt: u32) -> PathBuf {
        let name = format!("{build}-{attempt}.log");
        self.root.join("logs").join(name.get(..2).unwrap_or("__")).join(name)
    }

    /// The log of a try, compressed, as it is afterwards.
    pub fn packed_log(&self, build: BuildId, attempt: u32) -> PathBuf {
        self.log(build, attempt).with_extension("log.zst")
    }

    /// The places that nars lie in.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Has nars lie there.
    pub(crate) fn furnish(&mut self, places: Places) {
        self.places = places;
    }

    /// What is about to be written on the disk of the state folder.
    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The free space in bytes that is left to others.
    pub(crate) fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Whether `more` bytes can be written into the state folder and the reserve is still there afterwards.
    pub fn has_room(&self, more: u64) -> bool {
        self.claim(more).is_some()
    }

    /// Takes room for bytes that are about to be written into the state folder.
    pub(crate) fn claim(&self, bytes: u64) -> Option<Claim> {
        Claim::on_disk(&self.root, &self.disk, self.reserve, bytes)
    }
}

/// Makes the folder of a file that is about to be made, and those above it, durably.
pub(crate) fn make_folder_of(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let made = match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder_of(folder)?;
            std::fs::create_dir(folder)
        }
        made => made,
    };
    match made {
        Ok(()) => file::sync_folder_of(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a file that may not be there.
///
/// # Errors
/// What the system reports, unless there was none.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Storage::open(folder.path(), 0).unwrap();
        assert!(matches!(Storage::open(folder.path(), 0), Err(StorageError::Lock(_))));
        drop(first);
        Storage::open(folder.path(), 0).unwrap();
    }

    #[test]
    fn there_is_no_room_within_the_reserve() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path(), u64::MAX / 2).unwrap();
        assert!(!storage.has_room(0));
    }
}
