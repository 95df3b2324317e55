//! Reading no faster than so many bytes a second, whatever they are bytes of.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::halt::Halt;
use super::source::SourceError;

/// What is owed is waited for when it is worth so many bytes.
const STEP: u64 = 1 << 20;

/// How long it would have taken to read what was read, but for the time that has passed: that is owed.
#[derive(Debug)]
struct Debt {
    /// Bytes a second.
    rate: u64,
    owed: Duration,
}

impl Debt {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), owed: Duration::ZERO }
    }

    fn worth(&self, bytes: u64) -> Duration {
        Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(self.rate)).unwrap_or(u64::MAX),
        )
    }

    /// So many bytes were read, and so much time has passed since this was called last. How long to wait now: not at all
    /// while little is owed. Time that passes while nothing is owed is lost.
    fn after(&mut self, bytes: u64, passed: Duration) -> Duration {
        self.owed = self.owed.saturating_sub(passed).saturating_add(self.worth(bytes));
        if self.owed < self.worth(STEP) { Duration::ZERO } else { self.owed }
    }
}

/// The pace of a thread that reads one file after the other.
#[derive(Debug)]
pub(super) struct Pace<'h> {
    halt: &'h Halt,
    debt: Debt,
    last: Instant,
    /// What was read since.
    bytes: u64,
}

impl<'h> Pace<'h> {
    /// So many bytes a second.
    pub(super) fn new(halt: &'h Halt, rate: u64) -> Self {
        Self { halt, debt: Debt::new(rate), last: Instant::now(), bytes: 0 }
    }

    fn keep(&mut self) -> Result<(), SourceError> {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        let wait = self.debt.after(std::mem::take(&mut self.bytes), passed);
        if wait.is_zero() { Ok(()) } else { self.halt.rest(wait) }
    }
}

/// Reads no faster than a pace, if there is one.
pub(super) struct Slow<'p, 'h, R> {
    from: R,
    pace: Option<&'p mut Pace<'h>>,
    /// The coordinator stops: nothing more was read.
    pub(super) stopped: bool,
    /// What reading failed with.
    pub(super) failed: Option<io::Error>,
}

impl<'p, 'h, R> Slow<'p, 'h, R> {
    pub(super) fn new(from: R, pace: Option<&'p mut Pace<'h>>) -> Self {
        Self { from, pace, stopped: false, failed: None }
    }
}

impl<R: Read> Read for Slow<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pace.as_mut().is_some_and(|pace| pace.keep().is_err()) {
            self.stopped = true;
            return Err(io::Error::other("the coordinator stops"));
        }
        match self.from.read(buffer) {
            Ok(n) => {
                if let Some(pace) = &mut self.pace {
                    pace.bytes += n as u64;
                }
                Ok(n)
            }
            Err(error) => {
                let told = io::Error::new(error.kind(), error.to_string());
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failed = Some(error);
                }
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn many_small_files_are_as_slow_as_a_large_one() {
        let mut debt = Debt::new(MIB);
        let waited: Duration = (0..1024).map(|_| debt.after(4096, Duration::ZERO)).max().unwrap();
        assert!(waited >= Duration::from_secs(4), "{waited:?}");
        assert_eq!(Debt::new(MIB).after(4 * MIB, Duration::ZERO), Duration::from_secs(4));
    }

    #[test]
    fn what_was_waited_for_is_paid_and_nothing_is_put_by() {
        let mut debt = Debt::new(2 * MIB);
        assert_eq!(debt.after(MIB / 2, Duration::ZERO), Duration::ZERO);
        assert_eq!(debt.after(MIB, Duration::ZERO), Duration::from_millis(750));
        assert_eq!(debt.after(MIB, Duration::from_millis(750)), Duration::from_millis(500));
        // An hour without anything to read.
        assert_eq!(debt.after(0, Duration::from_secs(3600)), Duration::ZERO);
        assert_eq!(debt.after(2 * MIB, Duration::ZERO), Duration::from_secs(1));
    }
}
