//! How fast rows end, and when the rest of them will have, if that can be said.

use drover_wire::set::Estimate;

/// The times, in milliseconds before now, within which ends count: the first that has enough of them.
const WINDOWS: [u64; 2] = [HOUR, 24 * HOUR];
const HOUR: u64 = 60 * 60 * 1000;
/// Fewer ends say nothing.
const ENOUGH: u64 = 20;
/// A burst of ends is no pace: they are taken to be of at least this time.
const LEAST: u64 = 5 * 60 * 1000;

/// The ends within each window, and how long ago the oldest of them was.
#[derive(Debug, Default)]
pub(super) struct Pace([(u64, u64); WINDOWS.len()]);

impl Pace {
    /// Something ended so many milliseconds ago.
    pub(super) fn ended(&mut self, ago: u64) {
        for (window, (ended, oldest)) in WINDOWS.into_iter().zip(&mut self.0) {
            if ago <= window {
                *ended += 1;
                *oldest = ago.max(*oldest);
            }
        }
    }

    /// When so many more will have ended. None if there are none, if too little is known, or if nothing ends any more.
    pub(super) fn estimate(&self, remaining: u64) -> Option<Estimate> {
        let [(last_hour, _), _] = self.0;
        if remaining == 0 || last_hour == 0 {
            return None;
        }
        let (ended, oldest) = self.0.into_iter().find(|(ended, _)| *ended >= ENOUGH)?;
        let within = oldest.max(LEAST).div_ceil(1000);
        let seconds = u128::from(remaining) * u128::from(within) / u128::from(ended);
        Some(Estimate { seconds: u64::try_from(seconds).unwrap_or(u64::MAX), ended, within })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60 * 1000;

    fn pace(ends: impl IntoIterator<Item = u64>) -> Pace {
        let mut pace = Pace::default();
        ends.into_iter().for_each(|ago| pace.ended(ago));
        pace
    }

    #[test]
    fn the_rest_goes_on_at_the_pace_of_the_last_hour() {
        // One each minute, the oldest half an hour ago; what ended before the hour does not count.
        let pace = pace((1..=30).map(|n| n * MINUTE).chain([2 * HOUR; 100]));
        assert_eq!(pace.estimate(10), Some(Estimate { seconds: 600, ended: 30, within: 1800 }));
    }

    #[test]
    fn when_the_last_hour_had_too_few_ends_the_last_day_counts() {
        let pace = pace((1..=24).map(|n| n * HOUR));
        assert_eq!(pace.estimate(2), Some(Estimate { seconds: 7200, ended: 24, within: 86_400 }));
    }

    #[test]
    fn nothing_is_said_when_little_is_known_nothing_ends_or_nothing_remains() {
        assert_eq!(pace([]).estimate(5), None);
        assert_eq!(pace([MINUTE; 19]).estimate(5), None);
        assert_eq!(pace([HOUR + 1; 500]).estimate(5), None);
        assert_eq!(pace([25 * HOUR; 500].into_iter().chain([MINUTE])).estimate(5), None);
        assert_eq!(pace([MINUTE; 20]).estimate(0), None);
        assert!(pace([MINUTE; 20]).estimate(1).is_some());
    }

    #[test]
    fn a_burst_of_ends_is_no_pace() {
        assert_eq!(pace([0; 20]).estimate(20), Some(Estimate { seconds: 300, ended: 20, within: 300 }));
    }

    #[test]
    fn an_estimate_beyond_all_time_is_one_without_a_panic() {
        assert!(pace([HOUR; 20]).estimate(u64::MAX).is_some());
    }
}
