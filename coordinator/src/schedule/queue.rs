//! The queues of what could start: one for each class of builds that the same agents can have.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::graph::Index;
use super::shares::{ShareId, Shares};
use super::{BuildNumber, Millis, Platform};

/// Builds that ask the same of an agent, by the order in which they were heard of.
pub(super) type ClassId = u32;

/// What a class asks of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) platform: Platform,
    /// Sorted, each once.
    pub(super) needs: Vec<String>,
    pub(super) may_be_emulated: bool,
}

/// The place of a build in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) priority: Reverse<i64>,
    pub(super) share: ShareId,
    pub(super) way: Reverse<Millis>,
    pub(super) number: BuildNumber,
}

/// Builds of one priority and share: those with the longest way first, and then the oldest.
pub(super) type Line = BTreeSet<(Reverse<Millis>, BuildNumber, Index)>;

/// The builds of one class that could start.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) lines: BTreeMap<Reverse<i64>, BTreeMap<ShareId, Line>>,
    pub(super) len: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Queues {
    ids: HashMap<Class, ClassId>,
    classes: Vec<Class>,
    queues: Vec<Queue>,
    by_platform: BTreeMap<Platform, Vec<ClassId>>,
    /// How many builds a share has that could start, by platform.
    counts: HashMap<(Platform, ShareId), usize>,
    /// Those with something new in them.
    touched: BTreeSet<ClassId>,
}

impl Queues {
    pub(super) fn class(&mut self, platform: Platform, needs: &[String], may_be_emulated: bool) -> ClassId {
        let mut needs = needs.to_vec();
        needs.sort();
        needs.dedup();
        let class = Class { platform, needs, may_be_emulated };
        if let Some(id) = self.ids.get(&class) {
            return *id;
        }
        let id = ClassId::try_from(self.classes.len()).unwrap_or(ClassId::MAX);
        self.by_platform.entry(platform).or_default().push(id);
        self.classes.push(class.clone());
        self.queues.push(Queue::default());
        self.ids.insert(class, id);
        id
    }

    pub(super) fn get(&self, id: ClassId) -> Option<(&Class, &Queue)> {
        Some((self.classes.get(id as usize)?, self.queues.get(id as usize)?))
    }

    /// The classes of builds for a platform.
    pub(super) fn on(&self, platform: Platform) -> &[ClassId] {
        self.by_platform.get(&platform).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn insert(&mut self, class: ClassId, key: Key, index: Index, shares: &mut Shares) {
        let (Some(of), Some(queue)) = (self.classes.get(class as usize), self.queues.get_mut(class as usize))
        else {
            return;
        };
        let line = queue.lines.entry(key.priority).or_default().entry(key.share).or_default();
        if line.insert((key.way, key.number, index)) {
            queue.len += 1;
            let count = self.counts.entry((of.platform, key.share)).or_default();
            if *count == 0 {
                shares.comes_back(of.platform, key.share);
            }
            *count += 1;
        }
        self.touched.insert(class);
    }

    pub(super) fn remove(&mut self, class: ClassId, key: &Key, index: Index) {
        let (Some(of), Some(queue)) = (self.classes.get(class as usize), self.queues.get_mut(class as usize))
        else {
            return;
        };
        let Some(shares) = queue.lines.get_mut(&key.priority) else { return };
        let Some(line) = shares.get_mut(&key.share) else { return };
        if !line.remove(&(key.way, key.number, index)) {
            return;
        }
        if line.is_empty() {
            shares.remove(&key.share);
        }
        if shares.is_empty() {
            queue.lines.remove(&key.priority);
        }
        queue.len -= 1;
        if let Some(count) = self.counts.get_mut(&(of.platform, key.share)) {
            *count = count.saturating_sub(1);
        }
    }

    /// It is to be looked at for those that have nothing to do.
    pub(super) fn touch(&mut self, class: ClassId) {
        self.touched.insert(class);
    }

    /// The classes with something new.
    pub(super) fn take_touched(&mut self) -> BTreeSet<ClassId> {
        std::mem::take(&mut self.touched)
    }
}
