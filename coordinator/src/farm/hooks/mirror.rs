//! Where a hook pushes to: a bucket, or a folder that is known by a mark and whose disk keeps a reserve.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use drover_os::Deadline;
use drover_os::file::{Access, replace};
use drover_store::STORE_DIR;

use super::failure::Failure;
use crate::config::Location;
use crate::storage::{Claim, Disk, Folder, Storage, StoreError, Target, device};

/// A file in a folder that is pushed to: a disk that is not mounted has none.
const MARK: &str = "drover-mirror";
const CACHE_INFO: &str = "nix-cache-info";

/// Where a hook pushes to.
#[derive(Debug)]
pub(super) struct Mirror {
    target: Target,
    /// The disk of a folder, and the bytes of it that stay free.
    disk: Arc<Disk>,
    reserve: u64,
    /// Whether it says what it serves. Held by who sees to that: two would write to the same file.
    has_info: Mutex<bool>,
}

impl Mirror {
    /// That of a location. A folder is made, and marked, if it may be new; or else it must have its mark.
    pub(super) fn open(
        to: &Location,
        reserve: u64,
        may_be_new: bool,
        storage: &Storage,
    ) -> Result<Self, Failure> {
        let (target, disk) = match to {
            Location::Folder(folder) => {
                if may_be_new {
                    make(folder)?;
                }
                check_mark(folder)?;
                (Target::Folder(Folder::at(folder)), disk_of(folder, storage))
            }
            Location::Bucket(_) => (Target::new(to)?, Arc::default()),
        };
        Ok(Self { target, disk, reserve, has_info: Mutex::new(false) })
    }

    /// The same one, for as long as there is time.
    pub(super) fn within(&self, until: Deadline) -> Within<'_> {
        Within { mirror: self, target: self.target.within(until) }
    }

    /// Takes room on the disk of a folder. It must be that of the folder now.
    fn room(&self, bytes: u64) -> Result<Option<Claim>, Failure> {
        let Some(folder) = self.target.folder() else { return Ok(None) };
        check_mark(folder)?;
        let claim = Claim::on_disk(folder, &self.disk, self.reserve, bytes);
        claim.map(Some).ok_or_else(|| {
            Failure::new(&format!(
                "the disk of the folder {} has no room for {bytes} bytes beside its reserve of {} MiB (reserve-gib); \
                 make room there",
                folder.display(),
                self.reserve >> 20
            ))
        })
    }
}

/// Where a hook pushes to, for as long as there is time.
#[derive(Debug)]
pub(super) struct Within<'m> {
    mirror: &'m Mirror,
    target: Target,
}

impl Within<'_> {
    /// What there is of a file.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Puts a file, where there is room for it.
    pub(super) fn put(&self, from: &mut (dyn Read + Send), size: u64, name: &str) -> Result<(), Failure> {
        let _room = self.mirror.room(size)?;
        Ok(self.target.put(from, size, name)?)
    }

    /// Has it say what it serves, once.
    pub(super) fn show_info(&self) -> Result<(), Failure> {
        let mut has_info = self.mirror.has_info.lock().unwrap_or_else(PoisonError::into_inner);
        if !*has_info && self.target.size(CACHE_INFO)?.is_none() {
            let text = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 0\nPriority: 100\n");
            self.put(&mut text.as_bytes(), text.len() as u64, CACHE_INFO)?;
        }
        *has_info = true;
        Ok(())
    }
}

/// Makes a folder that may be there, with its mark.
fn make(folder: &Path) -> Result<(), Failure> {
    Folder::make(folder)?;
    let mark = folder.join(MARK);
    if !mark.exists() {
        let text =
            "A hook of drover pushes to this folder. Without this file it takes the disk for not mounted.\n";
        replace(&mark, text.as_bytes(), Access::Public)
            .map_err(|error| StoreError::io(format!("write {}", mark.display()), error))?;
    }
    Ok(())
}

fn check_mark(folder: &Path) -> Result<(), Failure> {
    if folder.join(MARK).exists() {
        return Ok(());
    }
    Err(Failure::new(&format!(
        "the folder {} has no file {MARK}, which it should have: is its disk mounted? Where it is to be a new one, start \
         the coordinator with enabled = false for this hook, and then without it",
        folder.display()
    )))
}

/// The disk that a folder is on, which others may be about to write, too.
fn disk_of(folder: &Path, storage: &Storage) -> Arc<Disk> {
    let own = device(folder);
    if own.is_none() || own == device(storage.root()) {
        return Arc::clone(storage.disk());
    }
    let places = storage.places().all();
    let same = places.iter().find(|place| place.target.folder().and_then(device) == own);
    same.and_then(|place| place.disk.clone()).unwrap_or_default()
}
