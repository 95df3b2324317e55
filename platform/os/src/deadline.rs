//! A point in time at which a wait ends.

use std::time::{Duration, Instant};

/// Between two questions of [`Deadline::ask`].
const AGAIN: Duration = Duration::from_millis(20);

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

    /// Asks again and again until there is an answer; `None` when the deadline comes first. For what nothing can wake us
    /// for, such as what another program does in its own time.
    pub fn ask<T>(self, mut question: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            // In this order: there is one more question after the deadline.
            let last = self.is_over();
            match question() {
                None if !last => std::thread::sleep(self.remaining().unwrap_or(AGAIN).min(AGAIN)),
                answer => return answer,
            }
        }
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
    fn a_question_is_asked_until_there_is_an_answer_and_once_at_least() {
        let mut asked = 0;
        let answer = Deadline::never().ask(|| {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer, Some(3));
        let past = Deadline::at(Instant::now());
        assert_eq!(past.ask(|| Some(1)), Some(1));
        assert_eq!(past.ask(|| None::<u8>), None);
    }

    #[test]
    fn a_wait_beyond_the_clock_never_ends() {
        assert_eq!(Deadline::after(Duration::MAX).remaining(), None);
        assert!(!Deadline::never().is_over());
    }
}
