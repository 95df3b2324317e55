//! A point in time at which a wait ends.

use std::time::{Duration, Instant};

/// The moment at which a wait gives up; a duration says how long a step may take, a deadline how long all of
/// the steps together may.
///
/// Measured on the monotonic clock, so that a change of the machine's date moves no deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline that lies `wait` from now. A duration too long for the clock means [`Deadline::never`].
    pub fn after(wait: Duration) -> Self {
        Self(Instant::now().checked_add(wait))
    }

    /// The deadline at this moment of the monotonic clock.
    pub const fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    /// A wait that only its event ends. For waits that something else is sure to wake.
    pub const fn never() -> Self {
        Self(None)
    }

    /// The time that is left: zero once the deadline has passed, `None` when there is no deadline.
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|moment| moment.saturating_duration_since(Instant::now()))
    }

    /// Whether the moment has passed.
    pub fn is_over(self) -> bool {
        self.0.is_some_and(|moment| moment <= Instant::now())
    }

    /// The moment, or `None` for [`Deadline::never`].
    pub const fn instant(self) -> Option<Instant> {
        self.0
    }

    /// The sooner of two deadlines.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (one, None) => Self(one),
            (None, one) => Self(one),
        }
    }
}

impl From<Duration> for Deadline {
    fn from(wait: Duration) -> Self {
        Self::after(wait)
    }
}

impl From<Instant> for Deadline {
    fn from(moment: Instant) -> Self {
        Self::at(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_deadline_wins_and_never_loses_to_any() {
        let now = Instant::now();
        let soon = Deadline::at(now + Duration::from_secs(1));
        let late = Deadline::at(now + Duration::from_secs(2));
        assert_eq!(soon.min(late), soon);
        assert_eq!(late.min(soon), soon);
        assert_eq!(Deadline::never().min(late), late);
        assert_eq!(late.min(Deadline::never()), late);
    }

    #[test]
    fn a_deadline_in_the_past_leaves_nothing() {
        let past = Deadline::at(Instant::now());
        assert!(past.is_over());
        assert_eq!(past.remaining(), Some(Duration::ZERO));
    }

    #[test]
    fn a_wait_beyond_the_clock_never_ends() {
        assert_eq!(Deadline::after(Duration::MAX).remaining(), None);
        assert!(!Deadline::never().is_over());
    }
}
