//! How a store is taken, after whatever happened to it: crashes of the agent, and losses of power.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use drover_os::file::{self, Access, Lock};
use drover_os::{machine, tree, user};
use drover_store::hash::HashingWriter;
use drover_store::nar;
use drover_store::path::StorePath;

use super::coming::Arrivals;
use super::graph::is_lasting;
use super::hold::State;
use super::{Inner, Item, Store, StoreError};

/// Where a guix-daemon keeps what it knows of its store.
const DATABASE: &str = "var/guix/db/db.sqlite";
const OWN: &str = ".drover";
const BOOT: &str = "boot";
const CHECKPOINT: &str = "checkpoint";
/// What ext4 has at the top of a disk, which may be mounted as the store.
const OF_THE_DISK: &str = "lost+found";

/// See [`Store::open`].
pub(super) fn open(root: &Path, roots: &Path) -> Result<Inner, StoreError> {
    let folder = root.join("gnu/store");
    let database = root.join(DATABASE);
    match fs::symlink_metadata(&database) {
        Ok(_) => return Err(StoreError::Daemon { store: folder, database }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        // Who may not even look there had better not take the store for his own.
        Err(error) => return Err(StoreError::io("look for a daemon's database,", &database)(error)),
    }
    make(&folder)?;
    let folder = fs::canonicalize(&folder).map_err(StoreError::io("find", &folder))?;
    let own = folder.join(OWN);
    match fs::symlink_metadata(&own) {
        Ok(metadata) if metadata.uid() != user::effective_id() => {
            let (owner, user) = (metadata.uid(), user::effective_id());
            return Err(StoreError::Owner { store: folder, owner, user });
        }
        Ok(_) => {}
        Err(_) => {
            for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
                if entry.map_err(StoreError::io("list", &folder))?.file_name() != OF_THE_DISK {
                    return Err(StoreError::Foreign(folder));
                }
            }
        }
    }
    let (items, placing, making) = (own.join("items"), own.join("placing"), own.join("making"));
    let (aside, mount_point) = (own.join("aside"), own.join("root"));
    for folder in [&own, &items, &placing, &making, &aside, &mount_point] {
        make(folder)?;
    }
    let lock = Lock::take(&own.join("lock"))?;
    let saved = read_number(&own.join(CHECKPOINT))?;
    let state = State {
        holds: HashMap::new(),
        spared: None,
        period: saved.saturating_add(1),
        is_unsaved: true,
        unsaved: 0,
        used: None,
    };
    let inner = Inner {
        folder,
        items,
        placing,
        making,
        aside,
        mount_point,
        own,
        roots: roots.to_owned(),
        is_root: user::is_root(),
        state: Mutex::new(state),
        removing: Mutex::new(()),
        arrivals: Arrivals::default(),
        number: AtomicU64::new(0),
        _lock: lock,
    };
    inner.clear_leftovers()?;
    inner.drop_items_without_trees()?;
    inner.check_after_boot(saved)?;
    Ok(inner)
}

impl Store {
    /// Makes all that came so far safe from a loss of power: the whole file system is written to the disk. Does nothing
    /// when nothing came since the last time. For moments when nobody waits, and now and then in between.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.inner.checkpoint()
    }

    /// Whether something came since the last checkpoint, of this process or perhaps of one before.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        self.inner.state().is_unsaved
    }

    /// Bytes of the nars of what was added since the last checkpoint: so much would be read again after a loss of power.
    #[must_use]
    pub fn unsaved(&self) -> u64 {
        self.inner.state().unsaved
    }
}

impl Inner {
    fn checkpoint(&self) -> Result<(), StoreError> {
        let period = {
            let mut state = self.state();
            if !std::mem::take(&mut state.is_unsaved) {
                return Ok(());
            }
            state.unsaved = 0;
            // What comes from now on may be too late for this one.
            let period = state.period;
            state.period += 1;
            period
        };
        let file = self.own.join(CHECKPOINT);
        let synced = tree::sync_file_system(&self.folder).map_err(StoreError::io("sync", &self.folder));
        let noted = synced.and_then(|()| {
            file::replace(&file, period.to_string().as_bytes(), Access::Public)
                .map_err(StoreError::io("write", &file))
        });
        if noted.is_err() {
            self.state().is_unsaved = true;
        }
        noted
    }

    /// What was on its way in or out.
    fn clear_leftovers(&self) -> Result<(), StoreError> {
        for folder in [&self.making, &self.aside] {
            for name in names(folder)? {
                if let Err(error) = tree::remove(&folder.join(&name)) {
                    tracing::warn!("{error}; it takes room until it is removed by hand");
                    // Its name is taken.
                    let next = name.parse::<u64>().map_or(0, |number| number.saturating_add(1));
                    self.number.fetch_max(next, Ordering::Relaxed);
                }
            }
        }
        for name in names(&self.placing)? {
            if let Err(error) = self.clear_note(&name) {
                tracing::warn!("{error}; the next start tries again");
            }
        }
        Ok(())
    }

    /// Removes what a note is about, and then the note.
    fn clear_note(&self, name: &str) -> Result<(), StoreError> {
        let note = self.placing.join(name);
        if let Ok(item) = StorePath::parse_base(name) {
            let path = self.on_disk(&item);
            if !self.has(&item) && fs::symlink_metadata(&path).is_ok() {
                drop(self.move_away(&path)?);
            }
        }
        tree::remove(&note).map_err(StoreError::io("clear away", &note))
    }

    /// Somebody may have removed items by hand, or repaired the file system. Looks at names only.
    fn drop_items_without_trees(&self) -> Result<(), StoreError> {
        let mut trees: HashSet<String> = names(&self.folder)?.into_iter().collect();
        for name in [OWN, OF_THE_DISK] {
            trees.remove(name);
        }
        let mut gone = false;
        for item in self.all_items()? {
            if !trees.remove(item.base_name()) {
                self.drop_item(&item, "it is not in the store any more")?;
                gone = true;
            }
        }
        if !trees.is_empty() {
            let (count, folder) = (trees.len(), self.folder.display());
            tracing::warn!("{count} things in {folder} are not the agent's items; they are left alone");
        }
        if gone { self.drop_incomplete() } else { Ok(()) }
    }

    /// Checks what came after the last checkpoint if the machine was started since: power may have failed.
    fn check_after_boot(&self, saved: u64) -> Result<(), StoreError> {
        let (file, boot) = (self.own.join(BOOT), machine::boot_id());
        let failed = StoreError::io("read", &file);
        let before = match fs::read_to_string(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            before => before.ok(),
        };
        if boot.is_some() && boot == before {
            return Ok(());
        }
        let (mut checked, mut dropped) = (0, 0);
        for path in self.all_items()? {
            let problem = match self.item_and_period(&path) {
                Ok(None) => continue,
                Ok(Some((_, period))) if period <= saved => continue,
                Ok(Some((item, _))) => self.problem(&item),
                // It may be the disk, then every other item is tried all the same.
                Err(error) => Some(error.to_string()),
            };
            checked += 1;
            if let Some(problem) = problem {
                self.drop_item(&path, &format!("it did not survive the machine's end: {problem}"))?;
                dropped += 1;
            }
        }
        if dropped > 0 {
            self.drop_incomplete()?;
        }
        if checked > 0 {
            tracing::info!("{checked} new items were checked after the machine's start, {dropped} dropped");
            self.checkpoint()?;
        }
        let boot = boot.unwrap_or_default();
        file::replace(&file, boot.as_bytes(), Access::Public).map_err(StoreError::io("write", &file))
    }

    /// What is wrong with the tree of an item.
    fn problem(&self, item: &Item) -> Option<String> {
        let mut hash = HashingWriter::new(io::sink());
        if let Err(error) = nar::pack(&self.on_disk(&item.path), &mut hash) {
            return Some(error.to_string());
        }
        let (_, hash, size) = hash.finish();
        ((hash, size) != (item.nar_hash, item.nar_size)).then(|| format!("its nar has hash {hash} now"))
    }

    /// Drops what refers to an item that is not there, until nothing does, and what nobody knows of what it refers to.
    fn drop_incomplete(&self) -> Result<(), StoreError> {
        loop {
            let mut dropped = false;
            for path in self.all_items()? {
                let problem = match self.item(&path) {
                    Ok(item) => item.and_then(|item| {
                        let missing = item.others().find(|reference| !self.has(reference))?;
                        Some(format!("it refers to {missing}, which is not there"))
                    }),
                    Err(error) if is_lasting(&error) => Some(error.to_string()),
                    Err(error) => return Err(error),
                };
                if let Some(problem) = problem {
                    self.drop_item(&path, &problem)?;
                    dropped = true;
                }
            }
            if !dropped {
                return Ok(());
            }
        }
    }

    /// Has an item not count from now on. What the disk does not give up of it stays, and the store is opened without it.
    fn drop_item(&self, path: &StorePath, problem: &str) -> Result<(), StoreError> {
        tracing::warn!("{path} is dropped: {problem}");
        match self.unplace(path) {
            Ok(tree) => drop(tree),
            Err(error) if self.has(path) => return Err(error),
            Err(error) => tracing::warn!("{error}; the next start tries again"),
        }
        Ok(())
    }

    /// The paths of all items that count.
    pub(super) fn all_items(&self) -> Result<Vec<StorePath>, StoreError> {
        let names = names(&self.items)?;
        Ok(names.iter().filter_map(|name| StorePath::parse_base(name).ok()).collect())
    }
}

/// Makes a folder that everybody may read, and those above it.
fn make(folder: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.map_err(|source| StoreError::Unusable { path: folder.to_owned(), source })
}

/// A number in a file; 0 if there is none, or it was lost.
fn read_number(file: &Path) -> Result<u64, StoreError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::io("read", file)(error)),
    }
}

/// The names in a folder, of which those that are no text are none of ours.
fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let entry = entry.map_err(StoreError::io("list", folder))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
