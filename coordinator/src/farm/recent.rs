//! What was known of store paths lately, in memory, with an end.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use drover_store::StorePath;

/// Values of the store paths that were spoken of last. It forgets half of them at a time, those that were not spoken
/// of for longest.
#[derive(Debug)]
pub(super) struct Recent<V> {
    half: usize,
    young: Map<V>,
    old: Map<V>,
}

type Map<V> = HashMap<StorePath, V, BuildHasherDefault<OfPath>>;

/// Takes the hash of a store path from the hash that is in it, of which nobody can choose much.
#[derive(Debug, Default)]
struct OfPath(u64);

impl Hasher for OfPath {
    fn write(&mut self, bytes: &[u8]) {
        // “/gnu/store/” is in front.
        for digit in bytes.iter().skip(11).take(16) {
            self.0 = (self.0 << 4) ^ (self.0 >> 59) ^ u64::from(*digit);
        }
    }

    fn finish(&self) -> u64 {
        // Maps look at the highest bits and at the lowest.
        let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    }
}

impl<V> Recent<V> {
    /// Without any yet, and never with more than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { half: most / 2, young: Map::default(), old: Map::default() }
    }

    /// The value of a path, if it was not forgotten.
    pub(super) fn get(&mut self, path: &StorePath) -> Option<&V> {
        if !self.young.contains_key(path) {
            let (path, value) = self.old.remove_entry(path)?;
            self.put(path, value);
        }
        self.young.get(path)
    }

    /// Keeps the value of a path for a while.
    pub(super) fn put(&mut self, path: StorePath, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(path, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: usize) -> StorePath {
        StorePath::parse_base(&format!("{n:032}-x")).unwrap()
    }

    #[test]
    fn what_is_spoken_of_stays_and_the_rest_is_forgotten() {
        let mut recent = Recent::new(8);
        for n in 0..100 {
            recent.put(path(n), n);
            assert_eq!(recent.get(&path(0)), Some(&0));
            assert_eq!(recent.get(&path(n)), Some(&n));
            assert!(recent.young.len() + recent.old.len() <= 9);
        }
        assert_eq!(recent.get(&path(50)), None);
    }
}
