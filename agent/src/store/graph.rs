//! Which item refers to which.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::SystemTime;

use drover_store::path::StorePath;

use super::{Inner, StoreError, Use};

/// What Linux says of a broken disk or file system: EIO, EBADMSG, EUCLEAN; and of what was repaired or meddled with: EACCES,
/// EISDIR, ELOOP.
const DAMAGED: [i32; 6] = [5, 74, 117, 13, 21, 40];

/// Whether a file about an item will be as unreadable the next time; for want of descriptors or memory it is not, and then
/// what it refers to must not go.
pub(super) fn is_lasting(error: &StoreError) -> bool {
    match error {
        StoreError::Unreadable { .. } => true,
        StoreError::Io { source, .. } => source.raw_os_error().is_some_and(|code| DAMAGED.contains(&code)),
        _ => false,
    }
}

/// All items, and which refers to which.
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
}

pub(super) struct Node {
    pub(super) path: StorePath,
    /// Its weight.
    pub(super) size: u64,
    /// When it was used last; none: it is not there.
    pub(super) used: Option<SystemTime>,
    /// Items that refer to it, itself not among them.
    pub(super) referrers: usize,
    pub(super) references: Vec<usize>,
}

impl Graph {
    /// An item of which nobody can read what it is is of no use to a build. It is the first to go, and keeps nothing: one
    /// bad sector does not keep the others from being cleaned away.
    pub(super) fn read(store: &Inner) -> Result<Self, StoreError> {
        let mut numbers: HashMap<StorePath, usize> = HashMap::new();
        let mut nodes: Vec<Node> = Vec::new();
        let mut number = |path: &StorePath, nodes: &mut Vec<Node>| {
            *numbers.entry(path.clone()).or_insert_with(|| {
                nodes.push(Node {
                    path: path.clone(),
                    size: 0,
                    used: None,
                    referrers: 0,
                    references: Vec::new(),
                });
                nodes.len() - 1
            })
        };
        for path in store.all_items()? {
            let file = store.file_of(&path);
            let item = match store.item(&path) {
                Ok(Some(item)) => item,
                Ok(None) => continue,
                Err(error) if is_lasting(&error) => {
                    tracing::warn!("{error}; the next cleaning takes it away, unless something needs it");
                    let n = number(&path, &mut nodes);
                    if let Some(node) = nodes.get_mut(n) {
                        node.used = Some(SystemTime::UNIX_EPOCH);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Ok(used) = fs::metadata(&file).and_then(|metadata| metadata.modified()) else { continue };
            let n = number(&path, &mut nodes);
            let references: Vec<usize> =
                item.others().map(|reference| number(reference, &mut nodes)).collect();
            for reference in &references {
                if let Some(node) = nodes.get_mut(*reference) {
                    node.referrers += 1;
                }
            }
            if let Some(node) = nodes.get_mut(n) {
                (node.size, node.used, node.references) = (item.weight(), Some(used), references);
            }
        }
        Ok(Self { nodes })
    }

    /// For the heap, if the item is there.
    pub(super) fn dated(&self, n: usize) -> Option<Reverse<(SystemTime, usize)>> {
        Some(Reverse((self.nodes.get(n)?.used?, n)))
    }

    /// That nothing refers to one of these but these.
    pub(super) fn check_alone(&self, doomed: &HashSet<StorePath>) -> Result<(), StoreError> {
        for node in self.nodes.iter().filter(|node| !doomed.contains(&node.path)) {
            let references = node.references.iter().filter_map(|n| self.nodes.get(*n));
            if let Some(used) = references.map(|node| &node.path).find(|path| doomed.contains(path)) {
                let by = Use::Referrer(node.path.clone());
                return Err(StoreError::InUse { item: used.clone(), by });
            }
        }
        Ok(())
    }

    /// Adds to these what refers to them, directly or not.
    pub(super) fn add_referrers(&self, doomed: &mut HashSet<StorePath>) {
        let mut referrers: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for reference in &node.references {
                if let Some(referrers) = referrers.get_mut(*reference) {
                    referrers.push(n);
                }
            }
        }
        let is_doomed = |(_, node): &(usize, &Node)| doomed.contains(&node.path);
        let mut next: Vec<usize> = self.nodes.iter().enumerate().filter(is_doomed).map(|(n, _)| n).collect();
        while let Some(n) = next.pop() {
            for referrer in referrers.get(n).into_iter().flatten() {
                if self.nodes.get(*referrer).is_some_and(|node| doomed.insert(node.path.clone())) {
                    next.push(*referrer);
                }
            }
        }
    }

    /// These, each before what it refers to.
    pub(super) fn referrers_first(&mut self, doomed: &HashSet<StorePath>) -> Vec<StorePath> {
        let mut order = Vec::new();
        let is_next = |node: &Node| node.referrers == 0 && doomed.contains(&node.path);
        let mut next: Vec<usize> =
            self.nodes.iter().enumerate().filter(|(_, node)| is_next(node)).map(|(n, _)| n).collect();
        while let Some(node) = next.pop().and_then(|n| self.nodes.get_mut(n)) {
            order.push(node.path.clone());
            for reference in std::mem::take(&mut node.references) {
                if let Some(node) = self.nodes.get_mut(reference) {
                    node.referrers -= 1;
                    if is_next(node) {
                        next.push(reference);
                    }
                }
            }
        }
        order
    }
}
