//! What goes together, and how items go: one by one on demand, or those that nobody used for longest.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use drover_os::tree;
use drover_store::STORE_DIR;
use drover_store::path::StorePath;

use super::graph::{Graph, is_lasting};
use super::hold::State;
use super::{Hold, Inner, Making, Store, StoreError, Use};

/// Folders within the folder of roots.
const ROOTS_DEPTH: usize = 16;
/// At least so many items go before others have their turn to remove something; or such a part of them all, so that a
/// cleaning, which looks at all of them each time, does not spend its time with that.
pub(super) const AT_A_TIME: usize = 128;
pub(super) const PART_AT_A_TIME: usize = 8;
/// With more items than these that cannot be removed, it is not they what is wrong.
const STUCK_AT_MOST: usize = 16;

/// What a cleaning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Items that went.
    pub items: u64,
    /// Their [weight](super::Item::weight).
    pub freed: u64,
    /// The weight of all items that are left.
    pub used: u64,
}

impl Store {
    /// These items and all that they refer to, directly or not, in ascending order.
    ///
    /// # Errors
    /// [`StoreError::NotThere`] with the first that is not there.
    pub fn closure(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        let mut found: BTreeSet<StorePath> = paths.iter().cloned().collect();
        let mut next: Vec<StorePath> = found.iter().cloned().collect();
        while let Some(path) = next.pop() {
            let Some(item) = self.item(&path)? else { return Err(StoreError::NotThere(path)) };
            for reference in item.references {
                if found.insert(reference.clone()) {
                    next.push(reference);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The [weight](super::Item::weight) of all items. The first answer takes a look at each.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn used(&self) -> Result<u64, StoreError> {
        // Kept up to date once it is known.
        let known = self.inner.state().used;
        known.map_or_else(|| self.inner.count(), Ok)
    }

    /// Removes these items, together or not at all; those that are not there are left out.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when one is held, kept by a root, or referred to by an item that is not among them.
    pub fn remove(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        self.remove_with(paths, None, |graph, doomed| graph.check_alone(doomed))
    }

    /// As [`Store::remove`], together with all items that refer to one of these, directly or not.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when one of them all is held or kept by a root.
    pub fn remove_with_referrers(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        self.remove_with(paths, None, |graph, doomed| {
            graph.add_referrers(doomed);
            Ok(())
        })
    }

    /// Removes those of these items of which nobody will ever read what they are, each with all that refers to it, so that
    /// they can come again. What somebody besides `own` needs stays, and is told to the log.
    pub fn drop_unreadable<'a>(&self, paths: impl Iterator<Item = &'a StorePath>, own: &Hold) {
        for path in paths {
            let Err(error) = self.item(path) else { continue };
            if !is_lasting(&error) {
                continue;
            }
            let dropped = self.remove_with(std::slice::from_ref(path), Some(own), |graph, doomed| {
                graph.add_referrers(doomed);
                Ok(())
            });
            match dropped {
                Ok(()) => tracing::warn!("{path} was dropped, with what refers to it: {error}"),
                Err(why) => tracing::warn!("{path} is of no use: {error}; and it stays: {why}"),
            }
        }
    }

    fn remove_with(
        &self,
        paths: &[StorePath],
        own: Option<&Hold>,
        decide: impl FnOnce(&Graph, &mut HashSet<StorePath>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut doomed: HashSet<StorePath> = paths.iter().filter(|path| self.has(path)).cloned().collect();
        if doomed.is_empty() {
            return Ok(());
        }
        let removal = self.inner.begin_removal();
        let roots = self.inner.rooted()?;
        let mut order = Graph::read(&self.inner)?;
        decide(&order, &mut doomed)?;
        let gone = {
            let mut state = self.inner.state();
            for path in &doomed {
                let by = match () {
                    () if state.is_needed(path, own) => Use::Hold,
                    () if roots.contains(path) => Use::Root,
                    () => continue,
                };
                return Err(StoreError::InUse { item: path.clone(), by });
            }
            let mut gone = Vec::new();
            for path in order.referrers_first(&doomed) {
                gone.extend(self.inner.take_out(&mut state, &path)?);
            }
            gone
        };
        drop(removal);
        // The trees go while nobody has to wait.
        drop(gone);
        Ok(())
    }

    /// Removes items until those that are left weigh no more than `budget` bytes together, or nothing is left that may go:
    /// those first that nobody used for longest, and never one that is held or kept by a root, or that one refers to which
    /// stays.
    ///
    /// # Errors
    /// When the disk says no, and not of a few items only, which are left. What was removed until then is.
    pub fn clean(&self, budget: u64) -> Result<Cleaned, StoreError> {
        self.clean_until(&mut |cleaned| cleaned.used <= budget)
    }

    /// As [`Store::clean`], until `enough` says so of what was done so far; asked before each item. Others may remove items
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Store::clean`].
    pub fn clean_until(&self, enough: &mut dyn FnMut(&Cleaned) -> bool) -> Result<Cleaned, StoreError> {
        let mut cleaned = Cleaned { used: self.used()?, ..Cleaned::default() };
        if enough(&cleaned) {
            return Ok(cleaned);
        }
        let mut stuck = HashSet::new();
        loop {
            let (gone, is_over) = self.clean_some(&mut cleaned, &mut stuck, enough)?;
            // Trees may take long, and who removes something for a build does not wait for them.
            drop(gone);
            if is_over {
                return Ok(cleaned);
            }
        }
    }

    /// A part of a cleaning: the trees that are to be removed, and whether that was all. What is `stuck` stays.
    fn clean_some(
        &self,
        cleaned: &mut Cleaned,
        stuck: &mut HashSet<StorePath>,
        enough: &mut dyn FnMut(&Cleaned) -> bool,
    ) -> Result<(Vec<Making>, bool), StoreError> {
        let _removal = self.inner.begin_removal();
        let mut gone = Vec::new();
        let roots = self.inner.rooted()?;
        let mut graph = Graph::read(&self.inner)?;
        let most = AT_A_TIME.max(graph.nodes.len() / PART_AT_A_TIME);
        let mut oldest: BinaryHeap<Reverse<(SystemTime, usize)>> = BinaryHeap::new();
        let may_go = |graph: &Graph, n: usize| {
            graph.nodes.get(n).is_some_and(|node| node.referrers == 0 && !roots.contains(&node.path))
        };
        oldest.extend((0..graph.nodes.len()).filter(|n| may_go(&graph, *n)).filter_map(|n| graph.dated(n)));
        while !enough(cleaned) {
            if gone.len() >= most {
                return Ok((gone, false));
            }
            let Some(Reverse((_, n))) = oldest.pop() else { break };
            let Some(node) = graph.nodes.get_mut(n) else { break };
            {
                let mut state = self.inner.state();
                if state.is_needed(&node.path, None) || stuck.contains(&node.path) {
                    continue;
                }
                match self.inner.take_out(&mut state, &node.path) {
                    Ok(tree) => gone.extend(tree),
                    Err(error) if stuck.len() < STUCK_AT_MOST => {
                        tracing::warn!("{error}; the cleaning goes on with the others");
                        stuck.insert(node.path.clone());
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                cleaned.used = state.used.unwrap_or(cleaned.used);
            }
            cleaned.items += 1;
            cleaned.freed += node.size;
            for reference in std::mem::take(&mut node.references) {
                if let Some(node) = graph.nodes.get_mut(reference) {
                    node.referrers -= 1;
                }
                if may_go(&graph, reference) {
                    oldest.extend(graph.dated(reference));
                }
            }
        }
        Ok((gone, true))
    }
}

/// While it lives, nobody else removes anything, and what comes to be needed is noted.
struct Removal<'a> {
    store: &'a Inner,
    _alone: MutexGuard<'a, ()>,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.store.state().spared = None;
    }
}

impl State {
    /// Whether an item is held, by another one than this, or came to be needed since the removal began.
    fn is_needed(&self, path: &StorePath, own: Option<&Hold>) -> bool {
        let own = u32::from(own.is_some_and(|own| own.has(path)));
        self.holds.get(path).is_some_and(|count| *count > own)
            || self.spared.as_ref().is_some_and(|spared| spared.contains(path))
    }
}

impl Inner {
    fn begin_removal(&self) -> Removal<'_> {
        let alone = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        self.state().spared = Some(HashSet::new());
        Removal { store: self, _alone: alone }
    }

    /// Weighs all items.
    fn count(&self) -> Result<u64, StoreError> {
        // Nothing may come or go while it is counted.
        let mut state = self.state();
        let mut used = 0_u64;
        for path in self.all_items()? {
            // One that cannot be read has a size that nobody knows.
            if let Ok(Some(item)) = self.item(&path) {
                used = used.saturating_add(item.weight());
            }
        }
        state.used = Some(used);
        Ok(used)
    }

    /// The items that links in the folder of roots lead to.
    fn rooted(&self) -> Result<HashSet<StorePath>, StoreError> {
        let mut rooted = HashSet::new();
        let mut folders = vec![(self.roots.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(StoreError::io("look for roots in", &folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(StoreError::io("look for roots in", &folder))?;
                let path = entry.path();
                let kind = entry.file_type().map_err(StoreError::io("look at the root", &path))?;
                if kind.is_dir() && depth < ROOTS_DEPTH {
                    folders.push((path, depth + 1));
                } else if kind.is_symlink() {
                    match fs::read_link(&path) {
                        Ok(target) => rooted.extend(item_of(&target)),
                        // Removed meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(StoreError::io("read the root", &path)(error)),
                    }
                }
            }
        }
        Ok(rooted)
    }

    /// Makes an item not count any more, and moves its tree to where it is removed.
    fn take_out(&self, state: &mut State, path: &StorePath) -> Result<Option<Making>, StoreError> {
        let size = self.item(path).ok().flatten().map_or(0, |item| item.weight());
        let tree = self.unplace(path)?;
        state.used = state.used.map(|used| used.saturating_sub(size));
        Ok(tree)
    }

    /// See [`Inner::take_out`]; for when nobody else is there yet.
    pub(super) fn unplace(&self, path: &StorePath) -> Result<Option<Making>, StoreError> {
        let (file, note, tree) =
            (self.file_of(path), self.placing.join(path.base_name()), self.on_disk(path));
        match fs::rename(&file, &note) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            renamed => renamed.map_err(StoreError::io("remove", &file))?,
        }
        let doomed = match fs::symlink_metadata(&tree) {
            Ok(_) => Some(self.move_away(&tree)?),
            Err(_) => None,
        };
        // After a damage it may be a folder.
        fs::remove_file(&note).or_else(|_| tree::remove(&note)).map_err(StoreError::io("remove", &note))?;
        Ok(doomed)
    }
}

/// The item that a link leads to, or into.
fn item_of(target: &Path) -> Option<StorePath> {
    let inside = target.strip_prefix(STORE_DIR).ok()?;
    StorePath::parse_base(inside.iter().next()?.to_str()?).ok()
}
