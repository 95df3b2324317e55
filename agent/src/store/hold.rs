//! What is kept while somebody needs it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use drover_store::path::StorePath;

use super::Inner;

/// How often a use is written down: reading an item a hundred times an hour does not wear out a card.
const NOTED_FOR: Duration = Duration::from_secs(3600);

/// Keeps items, and all that they refer to, while it lives; they may come later.
pub struct Hold {
    store: Arc<Inner>,
    paths: HashSet<StorePath>,
}

impl Hold {
    pub(super) fn new(store: Arc<Inner>) -> Self {
        Self { store, paths: HashSet::new() }
    }

    /// Keeps these, too.
    pub fn add(&mut self, paths: impl IntoIterator<Item = StorePath>) {
        let new: Vec<_> = paths.into_iter().filter(|path| self.paths.insert(path.clone())).collect();
        {
            let mut state = self.store.state();
            for path in &new {
                *state.holds.entry(path.clone()).or_insert(0) += 1;
            }
        }
        for path in &new {
            self.store.note_use(path);
        }
    }

    /// What it keeps.
    pub fn paths(&self) -> impl Iterator<Item = &StorePath> {
        self.paths.iter()
    }

    pub(super) fn has(&self, path: &StorePath) -> bool {
        self.paths.contains(path)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for path in self.paths.drain() {
            // A removal that is under way has looked at the roots already, which may have got it in the meantime.
            if let Some(spared) = &mut state.spared {
                spared.insert(path.clone());
            }
            state.release(&path);
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("paths", &self.paths.len()).finish_non_exhaustive()
    }
}

/// What all threads share.
pub(super) struct State {
    /// How many [`Hold`]s have a path.
    pub(super) holds: HashMap<StorePath, u32>,
    /// While a removal is under way: what came to be needed since it looked around.
    pub(super) spared: Option<HashSet<StorePath>>,
    /// The number of the time since the last checkpoint.
    pub(super) period: u64,
    /// Whether something may have come in this period.
    pub(super) is_unsaved: bool,
    /// Bytes of the nars of what did, as far as this process added it.
    pub(super) unsaved: u64,
    /// The weight of all items, once somebody asked.
    pub(super) used: Option<u64>,
}

impl State {
    fn release(&mut self, path: &StorePath) {
        if let Some(count) = self.holds.get_mut(path) {
            *count -= 1;
            if *count == 0 {
                self.holds.remove(path);
            }
        }
    }
}

impl Inner {
    /// Notes that an item is used now; the file about it has this as its time. Never an earlier one than it has: a board
    /// without a clock is in 1970 until it has asked for the time.
    fn note_use(&self, path: &StorePath) {
        let file = self.file_of(path);
        let Ok(metadata) = fs::metadata(&file) else { return };
        let now = SystemTime::now();
        let noted = metadata.modified().ok().and_then(|noted| now.duration_since(noted).ok());
        if noted.is_some_and(|ago| ago > NOTED_FOR) {
            // If not, then it is cleaned away earlier than it might be.
            let _ = File::options().append(true).open(&file).and_then(|file| file.set_modified(now));
        }
    }
}
