//! Which store items a stream of bytes refers to: those whose hash part stands in it.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::StorePath;
use crate::base32;
use crate::path::HASH_LEN;

/// Looks for the hash parts of candidates in bytes that are given in any pieces. Fed with a nar it finds the
/// references of an output; its candidates are then the closure of the build's inputs and the outputs.
#[derive(Debug, Clone)]
pub struct Scanner {
    /// The candidates that were not met yet.
    wanted: HashMap<[u8; HASH_LEN], Vec<StorePath>>,
    found: Vec<StorePath>,
    /// The end of the bytes so far, where a hash part may have begun.
    tail: Vec<u8>,
}

impl Scanner {
    /// Will look for these.
    pub fn new<'a>(candidates: impl IntoIterator<Item = &'a StorePath>) -> Self {
        let mut wanted: HashMap<_, Vec<StorePath>> = HashMap::new();
        for candidate in candidates {
            if let Ok(hash) = <[u8; HASH_LEN]>::try_from(candidate.hash_part().as_bytes()) {
                let same = wanted.entry(hash).or_default();
                if !same.contains(candidate) {
                    same.push(candidate.clone());
                }
            }
        }
        Self { wanted, found: Vec::new(), tail: Vec::with_capacity(2 * HASH_LEN) }
    }

    /// Looks at the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.wanted.is_empty() {
            return;
        }
        if !self.tail.is_empty() {
            // What begins in the tail ends within one hash part of it.
            let mut seam = std::mem::take(&mut self.tail);
            seam.extend_from_slice(&bytes[..bytes.len().min(HASH_LEN - 1)]);
            self.scan(&seam);
            self.tail = seam;
        }
        if bytes.len() >= HASH_LEN {
            self.scan(bytes);
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - (HASH_LEN - 1)..]);
        } else if self.tail.is_empty() {
            self.tail.extend_from_slice(bytes);
        } else {
            // The seam holds all of these bytes already.
            let surplus = self.tail.len().saturating_sub(HASH_LEN - 1);
            self.tail.drain(..surplus);
        }
    }

    /// The candidates met so far, sorted.
    pub fn found(&self) -> Vec<StorePath> {
        let mut found = self.found.clone();
        found.sort_unstable();
        found
    }

    fn scan(&mut self, bytes: &[u8]) {
        let mut start = 0;
        while let Some(window) = bytes.get(start..).and_then(|rest| rest.first_chunk::<HASH_LEN>()) {
            // From the right: a byte that is no digit rules out every window that it is in.
            match window.iter().rposition(|byte| !base32::is_digit(*byte)) {
                Some(place) => start += place + 1,
                None => {
                    if let Some(paths) = self.wanted.remove(window) {
                        self.found.extend(paths);
                    }
                    start += 1;
                }
            }
        }
    }
}

impl Write for Scanner {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sha256Hash, path};
    use proptest::prelude::*;

    fn candidates() -> Vec<StorePath> {
        let mut paths: Vec<_> =
            (0u8..6).map(|n| path::source("item", &Sha256Hash::of(&[n])).unwrap()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn a_hash_part_within_a_longer_run_of_digits_is_found() {
        let paths = candidates();
        let mut scanner = Scanner::new(&paths);
        scanner.update(format!("0123{}4567", paths[2].hash_part()).as_bytes());
        assert_eq!(scanner.found(), [paths[2].clone()]);
    }

    #[test]
    fn what_is_no_candidate_is_not_reported() {
        let paths = candidates();
        let mut scanner = Scanner::new(&paths[..1]);
        scanner.update(paths[1].as_str().as_bytes());
        assert_eq!(scanner.found(), []);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_find_what_the_whole_finds(
            parts in proptest::collection::vec((any::<Vec<u8>>(), 0usize..6, 0usize..33), 0..6),
            cuts in proptest::collection::vec(1usize..50, 1..40),
        ) {
            let paths = candidates();
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (noise, index, len) in parts {
                bytes.extend_from_slice(&noise);
                bytes.extend_from_slice(&paths[index].hash_part().as_bytes()[..len]);
                bytes.push(b' ');
                if len == HASH_LEN {
                    expected.push(paths[index].clone());
                }
            }
            expected.sort();
            expected.dedup();
            let mut scanner = Scanner::new(&paths);
            let (mut rest, mut cuts) = (&bytes[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                scanner.update(piece);
                rest = after;
            }
            prop_assert_eq!(scanner.found(), expected);
        }
    }
}
