//! What somebody brings into the store just now, so that others who want it wait and do not bring it as well.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_store::path::StorePath;

use super::{Inner, Store};

/// The items on their way.
#[derive(Default)]
pub(super) struct Arrivals {
    paths: Mutex<HashSet<StorePath>>,
    fewer: Condvar,
}

impl Arrivals {
    fn paths(&self) -> MutexGuard<'_, HashSet<StorePath>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That somebody brings an item, as long as this lives. Nothing hinders those who do not ask.
pub struct Coming {
    store: Arc<Inner>,
    path: StorePath,
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.store.arrivals.paths().remove(&self.path);
        self.store.arrivals.fewer.notify_all();
    }
}

impl std::fmt::Debug for Coming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Coming").field(&self.path).finish()
    }
}

impl Store {
    /// Takes it on to bring an item; none if somebody else did. Whether it has come by now is to be looked at after this.
    pub fn bring(&self, path: &StorePath) -> Option<Coming> {
        let is_new = self.inner.arrivals.paths().insert(path.clone());
        is_new.then(|| Coming { store: Arc::clone(&self.inner), path: path.clone() })
    }

    /// Waits until nobody brings this item, at most for so long.
    pub fn wait_for(&self, path: &StorePath, most: Duration) {
        let arrivals = &self.inner.arrivals;
        let is_coming = |paths: &mut HashSet<StorePath>| paths.contains(path);
        // Whether it came, the next look shows.
        drop(arrivals.fewer.wait_timeout_while(arrivals.paths(), most, is_coming));
    }
}
