//! The open builds and what waits for what: the longest way from each to the end of everything above it.
//!
//! The way of a build is its own duration and the longest way of what waits for it. When a build comes above others their
//! ways can only grow, and when one goes they can only shrink; both go down the graph, and only as far as something changes.
//! Each build has a level above those of all that it waits for, and the highest are looked at first: so each is looked at
//! once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use super::durations::Name;
use super::queue::{ClassId, Key};
use super::shares::ShareId;
use super::{Build, BuildNumber, Millis, Platform, Stand};

/// The place of a build. Places are used once.
pub(super) type Index = u32;

/// An open build.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: BuildNumber,
    pub(super) platform: Platform,
    pub(super) class: ClassId,
    pub(super) name: Name,
    pub(super) priority: i64,
    own_share: Option<ShareId>,
    /// Its own, or that of what waits for it.
    pub(super) share: ShareId,
    pub(super) estimate: Millis,
    /// The longest way from its start to the end of everything above it.
    pub(super) way: Millis,
    pub(super) stand: Stand,
    pub(super) not_before: Option<Millis>,
    /// Since when it waits for a faster agent, because a slow one passed over it.
    pub(super) passed_over: Option<Millis>,
    /// What was charged for it, and to whom, while an agent has it.
    pub(super) charged: (ShareId, Millis),
    /// Where it is in a queue.
    queued: Option<Key>,
    /// Above that of all its inputs. It is not lowered when they go.
    level: u32,
    inputs: Vec<Index>,
    /// What waits for it; those that are gone are forgotten at the next look.
    above: Vec<Index>,
}

/// What may be different about the way of a build.
#[derive(Debug, Default)]
struct Stale {
    /// Something above it, of that share, has this way.
    at_least: Option<(Millis, ShareId)>,
    /// What made it as long as it is may be gone.
    anew: bool,
}

/// All open builds.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Option<Box<Node>>>,
    stale: BTreeMap<(Reverse<u32>, Index), Stale>,
    /// Those that are to be put into their queue, or to another place in it.
    moved: HashSet<Index>,
    moved_in_order: Vec<Index>,
}

impl Graph {
    pub(super) fn add(
        &mut self,
        build: &Build,
        class: ClassId,
        name: Name,
        share: Option<ShareId>,
        estimate: Millis,
    ) -> Index {
        let index = Index::try_from(self.nodes.len()).unwrap_or(Index::MAX);
        self.nodes.push(Some(Box::new(Node {
            number: build.number,
            platform: build.platform,
            class,
            name,
            priority: build.priority,
            own_share: share,
            share: share.unwrap_or(0),
            estimate,
            way: estimate,
            stand: Stand::Waiting,
            not_before: build.not_before,
            passed_over: None,
            charged: (0, 0),
            queued: None,
            level: 0,
            inputs: Vec::new(),
            above: Vec::new(),
        })));
        index
    }

    pub(super) fn get(&self, index: Index) -> Option<&Node> {
        self.nodes.get(index as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, index: Index) -> Option<&mut Node> {
        self.nodes.get_mut(index as usize)?.as_deref_mut()
    }

    /// A build waits for another one.
    pub(super) fn link(&mut self, build: Index, input: Index) {
        let Some(level) = self.get(input).map(|below| below.level).filter(|_| build != input) else { return };
        let Some(node) = self.get_mut(build) else { return };
        node.inputs.push(input);
        let (way, share) = (node.way, node.share);
        if let Some(below) = self.get_mut(input) {
            below.above.push(build);
        }
        self.raise(build, level);
        self.is_at_least(input, way, share);
    }

    /// A level is above this one; so are then those of all that is above it.
    fn raise(&mut self, build: Index, level: u32) {
        let mut all = vec![(build, level)];
        // There are no cycles; were there one, this would still end.
        let most = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        while let Some((index, below)) = all.pop() {
            let Some(node) = self.get_mut(index).filter(|node| node.level <= below && below < most) else {
                continue;
            };
            let old = node.level;
            node.level = below + 1;
            let level = node.level;
            all.extend(node.above.iter().map(|above| (*above, level)));
            if let Some(stale) = self.stale.remove(&(Reverse(old), index)) {
                self.stale.insert((Reverse(level), index), stale);
            }
        }
    }

    pub(super) fn remove(&mut self, index: Index) {
        let Some(node) = self.nodes.get_mut(index as usize).and_then(Option::take) else { return };
        self.stale.remove(&(Reverse(node.level), index));
        self.is_shorter(&node.inputs, node.way);
    }

    /// Its own duration is thought to be this.
    pub(super) fn estimate(&mut self, index: Index, estimate: Millis) {
        let Some(node) = self.get_mut(index).filter(|node| node.estimate != estimate) else { return };
        let before = node.way;
        node.way = node.way.saturating_sub(node.estimate).saturating_add(estimate);
        node.estimate = estimate;
        self.changed(index, before);
    }

    /// It is to be queued at the next look.
    pub(super) fn requeue(&mut self, index: Index) {
        if self.moved.insert(index) {
            self.moved_in_order.push(index);
        }
    }

    /// It is not queued any more; where it was.
    pub(super) fn unqueue(&mut self, index: Index) -> Option<(ClassId, Key)> {
        let node = self.get_mut(index)?;
        node.queued.take().map(|key| (node.class, key))
    }

    /// Brings all ways up to date. Gives those that are to be queued or moved in their queue, with where they were.
    pub(super) fn settle(&mut self) -> Vec<(Index, Option<Key>)> {
        while let Some(((_, index), stale)) = self.stale.pop_first() {
            self.renew(index, &stale);
        }
        self.moved.clear();
        let moved = std::mem::take(&mut self.moved_in_order);
        let mut all = Vec::with_capacity(moved.len());
        for index in moved {
            let Some(node) = self.get_mut(index) else { continue };
            let before = node.queued.take();
            if node.stand == Stand::Ready {
                node.queued = Some(node.key());
                all.push((index, before));
            } else if before.is_some() {
                all.push((index, before));
            }
        }
        all
    }

    fn renew(&mut self, index: Index, stale: &Stale) {
        let Some(node) = self.get_mut(index) else { return };
        let (before, share) = (node.way, node.share);
        if stale.anew {
            let above = std::mem::take(&mut node.above);
            let above: Vec<Index> = above.into_iter().filter(|above| self.get(*above).is_some()).collect();
            let longest = above.iter().filter_map(|above| self.get(*above)).max_by_key(|above| above.way);
            let (way, inherited) = longest.map_or((0, share), |longest| (longest.way, longest.share));
            let Some(node) = self.get_mut(index) else { return };
            node.above = above;
            node.way = way.saturating_add(node.estimate);
            node.share = node.own_share.unwrap_or(inherited);
        } else if let Some((above, inherited)) = stale.at_least {
            let way = above.saturating_add(node.estimate);
            if way > before {
                node.way = way;
                node.share = node.own_share.unwrap_or(inherited);
            }
        }
        if self.get(index).is_some_and(|node| node.way != before || node.share != share) {
            self.changed(index, before);
        }
    }

    /// The way of a build was that before, and what is below it may have to follow.
    fn changed(&mut self, index: Index, before: Millis) {
        let Some(node) = self.get_mut(index) else { return };
        let (way, share) = (node.way, node.share);
        let is_queued = node.queued.is_some();
        let inputs = std::mem::take(&mut node.inputs);
        if is_queued {
            self.requeue(index);
        }
        // Those whose way went through here may go elsewhere now, or belong to another share.
        self.is_shorter(&inputs, before);
        if way > before {
            for input in &inputs {
                self.is_at_least(*input, way, share);
            }
        }
        if let Some(node) = self.get_mut(index) {
            node.inputs = inputs;
        }
    }

    /// Something above a build has this way.
    fn is_at_least(&mut self, index: Index, above: Millis, share: ShareId) {
        let Some(node) = self.get(index) else { return };
        if above.saturating_add(node.estimate) <= node.way {
            return;
        }
        let stale = self.stale.entry((Reverse(node.level), index)).or_default();
        if stale.at_least.is_none_or(|(known, _)| above > known) {
            stale.at_least = Some((above, share));
        }
    }

    /// What had this way is gone, or has another one: some of these may have been as long as they are because of it, or
    /// were to be.
    fn is_shorter(&mut self, inputs: &[Index], above: Millis) {
        for input in inputs {
            let Some(node) = self.get(*input) else { continue };
            let key = (Reverse(node.level), *input);
            if node.way == above.saturating_add(node.estimate) {
                self.stale.entry(key).or_default().anew = true;
            } else if let Some(stale) = self.stale.get_mut(&key) {
                stale.anew = true;
            }
        }
    }
}

impl Node {
    /// Where it is in its queue, if it is.
    pub(super) fn queued(&self) -> Option<Key> {
        self.queued
    }

    fn key(&self) -> Key {
        Key {
            priority: Reverse(self.priority),
            share: self.share,
            way: Reverse(self.way),
            number: self.number,
        }
    }
}
