//! How fast a body comes, and whether that is fast enough.

use std::time::Duration;

/// What is enough for files: a link that is really slower brings nothing of use in days, and who sends a byte now and then
/// keeps nobody for ever.
pub(super) const FLOOR: Floor = Floor { bytes: 64 << 10, time: Duration::from_secs(5 * 60) };

/// What must come at the least, and within which time of waiting for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// It does not come fast enough.
#[derive(Debug, thiserror::Error)]
#[error("it is too slow: {bytes} bytes came in {} s, of {} that are the least", floor.time.as_secs(), floor.bytes)]
pub(super) struct TooSlow {
    bytes: u64,
    floor: Floor,
}

/// How fast a body comes. Only the time counts in which it is waited for, and not that of who reads it.
#[derive(Debug)]
pub(super) struct Pace {
    floor: Floor,
    bytes: u64,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(floor: Floor) -> Self {
        Self { floor, bytes: 0, waited: Duration::ZERO }
    }

    /// Notes what a wait brought.
    ///
    /// # Errors
    /// [`TooSlow`].
    pub(super) fn note(&mut self, bytes: usize, waited: Duration) -> Result<(), TooSlow> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited += waited;
        if self.waited < self.floor.time {
            return Ok(());
        }
        let Self { floor, bytes, .. } = std::mem::replace(self, Self::new(self.floor));
        if bytes < floor.bytes { Err(TooSlow { bytes, floor }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_to_nothing_is_too_slow_and_little_is_not() {
        let (mut pace, minute) = (Pace::new(FLOOR), Duration::from_secs(60));
        for bytes in [1, 10, 100, 1, 70_000, 0, 0, 0, 0, 65_536, 1, 1, 1, 1] {
            assert!(pace.note(bytes, minute).is_ok(), "{bytes}");
        }
        assert!(pace.note(65_531, minute).unwrap_err().to_string().contains("65535 bytes came in 300 s"));
    }

    #[test]
    fn who_reads_slowly_makes_nobody_slow() {
        let mut pace = Pace::new(FLOOR);
        assert!((0..1000).all(|_| pace.note(1, Duration::ZERO).is_ok()));
    }
}
