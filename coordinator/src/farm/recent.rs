//! What was known of store paths lately, in memory, with an end.

use std::collections::HashMap;

use drover_store::StorePath;

/// Values of the store paths that were spoken of last. It forgets half of them at a time, those that were not spoken
/// of for longest.
#[derive(Debug)]
pub(super) struct Recent<V> {
    half: usize,
    young: HashMap<StorePath, V>,
    old: HashMap<StorePath, V>,
}

impl<V> Recent<V> {
    /// Without any yet, and never with more than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { half: most / 2, young: HashMap::new(), old: HashMap::new() }
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
