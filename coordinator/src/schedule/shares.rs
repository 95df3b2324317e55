//! Shares of the machines: who had how much of them.
//!
//! On each system a share's account grows by the time that its builds take, over its weight; that with the least goes
//! first. One that had nothing to do does not save up: it comes back level with the others.

use std::collections::{BTreeMap, HashMap};

use super::{Millis, Platform};

/// A share, by the order in which they were heard of. The first is that of builds that are of none.
pub(super) type ShareId = u32;

/// How much of the machines each share is to have, in relation to others; one that is not named has 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights(pub BTreeMap<String, u32>);

/// Time on machines, over the weight.
type Account = u64;
/// What a millisecond is for a weight of 1.
const UNIT: u64 = 1024;

/// The accounts of all shares.
#[derive(Debug)]
pub(super) struct Shares {
    weights: Weights,
    ids: HashMap<String, ShareId>,
    of: Vec<u32>,
    accounts: HashMap<(Platform, ShareId), Account>,
    /// The account of whoever was served last on a system: those that come back start from there.
    level: HashMap<Platform, Account>,
}

impl Shares {
    pub(super) fn new(weights: Weights) -> Self {
        Self {
            weights,
            ids: HashMap::from([(String::new(), 0)]),
            of: vec![1],
            accounts: HashMap::new(),
            level: HashMap::new(),
        }
    }

    pub(super) fn id(&mut self, name: &str) -> ShareId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = u32::try_from(self.of.len()).unwrap_or(0);
        self.of.push(self.weights.0.get(name).copied().unwrap_or(1).max(1));
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// What it had.
    pub(super) fn account(&self, platform: Platform, share: ShareId) -> Account {
        self.accounts.get(&(platform, share)).copied().unwrap_or(0)
    }

    /// It has something to do again, after it had nothing: what it did not use is not saved.
    pub(super) fn comes_back(&mut self, platform: Platform, share: ShareId) {
        let level = self.level.get(&platform).copied().unwrap_or(0);
        let account = self.accounts.entry((platform, share)).or_default();
        *account = (*account).max(level);
    }

    /// It is given a machine, for this long as far as anybody knows.
    pub(super) fn charge(&mut self, platform: Platform, share: ShareId, time: Millis) {
        let cost = self.cost(share, time);
        let account = self.accounts.entry((platform, share)).or_default();
        let level = self.level.entry(platform).or_default();
        *level = (*level).max(*account);
        *account = account.saturating_add(cost);
    }

    /// It had the machine for another time than was thought.
    pub(super) fn correct(&mut self, platform: Platform, share: ShareId, thought: Millis, took: Millis) {
        let (thought, took) = (self.cost(share, thought), self.cost(share, took));
        let account = self.accounts.entry((platform, share)).or_default();
        *account = account.saturating_sub(thought).saturating_add(took);
    }

    fn cost(&self, share: ShareId, time: Millis) -> Account {
        let weight = self.of.get(share as usize).copied().unwrap_or(1);
        time.saturating_mul(UNIT) / u64::from(weight)
    }
}
