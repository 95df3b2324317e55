//! The agent's own store: a folder of items, and beside it one small file about each, without a database.
//!
//! ```text
//! ROOT/gnu/store/HASH-NAME                  an item
//! ROOT/gnu/store/.drover/items/HASH-NAME    what is known of it: its narinfo. The item counts if and only if this is
//!                                           there; its time is that of the last use
//! ROOT/gnu/store/.drover/placing/HASH-NAME  an item that is on its way in or out, and does not count
//! ROOT/gnu/store/.drover/making/N           what is being unpacked, built or removed
//! ROOT/gnu/store/.drover/aside/N            an empty room that waits for the next build
//! ROOT/gnu/store/.drover/root/              empty: where builds have their root mounted
//! ROOT/gnu/store/.drover/{lock,boot,checkpoint}
//! ```
//!
//! An item's tree is moved into place whole, and then the file about it is renamed into place, so whatever ends the agent
//! leaves an item that is whole or one that does not count, and the next start removes what is left. Nothing is synced
//! item by item: after a loss of power, the next start reads again what came since the last [`Store::checkpoint`], and
//! drops what is not as it was.
//!
//! An item comes after all that it refers to and goes before it, so what counts is always there with its whole closure.

mod canonical;
mod clean;
mod coming;
mod error;
mod graph;
mod hold;
mod item;
mod place;
mod recover;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_os::file::{self, Lock};
use drover_os::{tree, user};
use drover_store::path::StorePath;

pub use canonical::{CanonicalError, OutputLimits, canonicalize, canonicalize_while};
pub use clean::Cleaned;
pub use coming::Coming;
pub use error::{StoreError, Use};
pub use hold::Hold;
pub use item::Item;
pub use place::Received;

use hold::State;

/// The store, to which all clones of this value lead.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// `ROOT/gnu/store`.
    folder: PathBuf,
    items: PathBuf,
    placing: PathBuf,
    making: PathBuf,
    aside: PathBuf,
    mount_point: PathBuf,
    /// `.drover` itself.
    own: PathBuf,
    /// Where the links are that keep items.
    roots: PathBuf,
    is_root: bool,
    state: Mutex<State>,
    /// Held by who removes items: one at a time.
    removing: Mutex<()>,
    arrivals: coming::Arrivals,
    /// The next name in `making`.
    number: AtomicU64,
    _lock: Lock,
}

impl Store {
    /// Takes the store below `root`, making it if there is none, and removes what a crash left. What the links in the
    /// folder `roots` lead to, at any depth, is kept.
    ///
    /// # Errors
    /// When it is a guix-daemon's, another agent's or another user's, or the disk says no.
    pub fn open(root: &Path, roots: &Path) -> Result<Self, StoreError> {
        recover::open(root, roots).map(|inner| Self { inner: Arc::new(inner) })
    }

    /// The folder of the items, which builders see as `/gnu/store`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Where an item is, or would be.
    #[must_use]
    pub fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.inner.on_disk(path)
    }

    /// Whether an item counts; cheaper than [`Store::item`].
    #[must_use]
    pub fn has(&self, path: &StorePath) -> bool {
        self.inner.has(path)
    }

    /// What is known of an item; none if it does not count.
    ///
    /// # Errors
    /// When the file about it cannot be read.
    pub fn item(&self, path: &StorePath) -> Result<Option<Item>, StoreError> {
        self.inner.item(path)
    }

    /// What is in an item that is a regular file of at most `most` bytes.
    ///
    /// # Errors
    /// [`StoreError::NotThere`]; when it is a link, which may lead anywhere, or whatever else, or has more bytes.
    pub fn read_file(&self, path: &StorePath, most: u64) -> Result<Vec<u8>, StoreError> {
        if !self.has(path) {
            return Err(StoreError::NotThere(path.clone()));
        }
        let place = self.on_disk(path);
        file::read_regular(&place, most).map_err(StoreError::io("read", &place))
    }

    /// A folder for something in the making, on the store's file system and for this user alone.
    ///
    /// # Errors
    /// When the disk says no.
    pub fn making(&self) -> Result<Making, StoreError> {
        let making = Making { path: self.inner.new_name() };
        let made = DirBuilder::new().mode(0o700).create(&making.path);
        made.map_err(StoreError::io("make the folder", &making.path))?;
        Ok(making)
    }

    /// Moves a folder in the making to where it waits to be [taken up](Store::take_up) again, in this run of the agent.
    ///
    /// # Errors
    /// When the disk says no; it stays where it is.
    pub fn set_aside(&self, making: &mut Making) -> Result<(), StoreError> {
        self.inner.move_making(making, &self.inner.aside)
    }

    /// Moves a folder back to those in the making.
    ///
    /// # Errors
    /// As [`Store::set_aside`].
    pub fn take_up(&self, making: &mut Making) -> Result<(), StoreError> {
        self.inner.move_making(making, &self.inner.making)
    }

    /// An empty folder of the store's own, for mounting something on it out of everybody else's sight.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.inner.mount_point
    }

    /// Keeps these items, which may come later, and all that they refer to, while the [`Hold`] lives. They are used now.
    pub fn hold(&self, paths: impl IntoIterator<Item = StorePath>) -> Hold {
        let mut hold = Hold::new(Arc::clone(&self.inner));
        hold.add(paths);
        hold
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done in it at any point where a thread could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.folder.join(path.base_name())
    }

    fn file_of(&self, path: &StorePath) -> PathBuf {
        self.items.join(path.base_name())
    }

    fn has(&self, path: &StorePath) -> bool {
        fs::symlink_metadata(self.file_of(path)).is_ok()
    }

    fn item(&self, path: &StorePath) -> Result<Option<Item>, StoreError> {
        Ok(self.item_and_period(path)?.map(|(item, _)| item))
    }

    fn item_and_period(&self, path: &StorePath) -> Result<Option<(Item, u64)>, StoreError> {
        let file = self.file_of(path);
        Item::read(&file, path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                StoreError::Unreadable { item: path.clone(), path: file, problem: error.to_string() }
            }
            _ => StoreError::io("read", &file)(error),
        })
    }

    /// A path in `making` that nothing has.
    fn new_name(&self) -> PathBuf {
        self.making.join(self.number.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn move_making(&self, making: &mut Making, to: &Path) -> Result<(), StoreError> {
        let to = to.join(self.number.fetch_add(1, Ordering::Relaxed).to_string());
        self.rename(&making.path, &to).map_err(StoreError::io("move a folder to", &to))?;
        making.path = to;
        Ok(())
    }

    /// Renames a tree. Who is not root may give a folder another parent only if he may write to the folder itself.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.is_root && fs::symlink_metadata(from)?.is_dir() {
            canonical::set_mode(from, 0o755)?;
        }
        fs::rename(from, to)
    }
}

/// A folder, or one tree, in the making. What is still there when it is dropped is removed.
#[derive(Debug)]
pub struct Making {
    path: PathBuf,
}

impl Making {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.path) {
            tracing::warn!("{error}; the next start of the agent tries again");
        }
    }
}

/// Who owns the items on disk: root, if that is who we are.
fn owner() -> Option<(u32, u32)> {
    user::is_root().then_some((0, 0))
}
