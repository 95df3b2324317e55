//! Which build users are taken.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Numbers from 0 on, each held by at most one build.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<BTreeSet<u32>>);

/// A number that nobody else has while this lives.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u32,
}

impl Slots {
    /// The lowest number that is free.
    pub(super) fn take(self: &Arc<Self>) -> Slot {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // There are fewer builds at a time than numbers.
        let number = (0..u32::MAX).find(|number| !taken.contains(number)).unwrap_or(u32::MAX);
        taken.insert(number);
        Slot { slots: Arc::clone(self), number }
    }
}

impl Slot {
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once_and_again_when_it_is_free() {
        let slots = Arc::new(Slots::default());
        let (first, second) = (slots.take(), slots.take());
        assert_eq!((first.number(), second.number()), (0, 1));
        drop(first);
        assert_eq!(slots.take().number(), 0);
        assert_eq!(second.number(), 1);
    }
}
