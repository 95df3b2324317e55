//! What ends a build before its builder does.

use std::io;
use std::time::{Duration, Instant};

use drover_os::Deadline;
use drover_store::path::StorePath;
use drover_wire::agent::TimeLimit;

use crate::executor::{Ended, Error, Job, Sink};

/// A build's limits, and how far it is.
pub(super) struct Limits<'a> {
    sink: &'a mut dyn Sink,
    log: Option<u64>,
    written: u64,
    /// Those of its time.
    pub(super) clock: Clock,
}

/// The limits of a build's time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    timeout: Option<u64>,
    silence: Option<u64>,
    started: Instant,
    spoken: Instant,
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// So many seconds in all.
    Time(u64),
    /// So many seconds of silence.
    Silence(u64),
    /// So many bytes of log.
    Log(u64),
}

impl Limit {
    /// How a build ends that reached it.
    pub(super) fn ended(self, derivation: &StorePath) -> Ended {
        match self {
            Self::Time(seconds) => Ended::TimedOut(
                TimeLimit::Timeout,
                format!("building of `{derivation}' timed out after {seconds} seconds"),
            ),
            Self::Silence(seconds) => Ended::TimedOut(
                TimeLimit::Silence,
                format!("building of `{derivation}' timed out after {seconds} seconds of silence"),
            ),
            Self::Log(bytes) => Ended::Failed(format!(
                "builder for `{derivation}' was killed after writing more than {bytes} bytes of log output"
            )),
        }
    }
}

impl<'a> Limits<'a> {
    /// From now on. What comes as log goes to `sink`.
    pub(super) fn new(job: &Job, log: Option<u64>, sink: &'a mut dyn Sink) -> Self {
        Self { sink, log, written: 0, clock: Clock::new(job) }
    }

    /// Takes a piece of log, as far as there may be more.
    ///
    /// # Errors
    /// [`Error::Stream`] with what the sink said.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<Limit>, Error> {
        self.clock.spoke();
        let room = self.log.map_or(u64::MAX, |log| log.saturating_sub(self.written));
        let most = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
        let (taken, rest) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
        self.say(taken)?;
        self.written = self.written.saturating_add(taken.len() as u64);
        Ok(self.log.filter(|_| !rest.is_empty()).map(Limit::Log))
    }

    /// Adds words of ours to the log, whatever its limit.
    ///
    /// # Errors
    /// As [`Limits::take`].
    pub(super) fn say(&mut self, words: &[u8]) -> Result<(), Error> {
        self.sink.log(words).map_err(|source: io::Error| Error::Stream {
            attempted: "keep the log of a build".to_owned(),
            source,
        })
    }
}

impl Clock {
    fn new(job: &Job) -> Self {
        // As with guix-daemon, none at all means no limit.
        let [timeout, silence] =
            [job.timeout, job.max_silent_time].map(|time| time.filter(|time| *time != 0));
        let now = Instant::now();
        Self { timeout, silence, started: now, spoken: now }
    }

    /// Something was said now.
    pub(super) fn spoke(&mut self) {
        self.spoken = Instant::now();
    }

    /// The limit that is reached, if one is.
    pub(super) fn reached(&self) -> Option<Limit> {
        let over = |since: Instant, seconds: u64| since.elapsed() >= Duration::from_secs(seconds);
        if let Some(seconds) = self.timeout.filter(|seconds| over(self.started, *seconds)) {
            return Some(Limit::Time(seconds));
        }
        self.silence.filter(|seconds| over(self.spoken, *seconds)).map(Limit::Silence)
    }

    /// When the next limit of time will be reached if nothing is said until then.
    pub(super) fn deadline(&self) -> Deadline {
        let end = |since: Instant, seconds: Option<u64>| {
            let end = since.checked_add(Duration::from_secs(seconds?))?;
            Some(Deadline::at(end))
        };
        let never = Deadline::never();
        let (time, silence) = (end(self.started, self.timeout), end(self.spoken, self.silence));
        time.unwrap_or(never).min(silence.unwrap_or(never))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Keep(Vec<u8>);

    impl Sink for Keep {
        fn started(&mut self) {}

        fn log(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn job(timeout: Option<u64>, max_silent_time: Option<u64>) -> Job {
        let derivation = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv").unwrap();
        Job { derivation, timeout, max_silent_time }
    }

    #[test]
    fn a_log_is_kept_up_to_its_limit_and_not_beyond() {
        let mut keep = Keep::default();
        let mut limits = Limits::new(&job(None, None), Some(5), &mut keep);
        assert_eq!(limits.take(b"abc").unwrap(), None);
        assert_eq!(limits.take(b"de").unwrap(), None);
        assert_eq!(limits.take(b"fg").unwrap(), Some(Limit::Log(5)));
        assert_eq!(keep.0, b"abcde");
    }

    #[test]
    fn limits_of_time_are_reached_and_none_is_not() {
        let reached = |timeout, silence| {
            let before = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
            let clock = Clock { started: before, spoken: before, ..Clock::new(&job(timeout, silence)) };
            assert_eq!(clock.deadline().is_over(), clock.reached().is_some());
            clock.reached()
        };
        assert_eq!(reached(Some(1), Some(1)), Some(Limit::Time(1)));
        assert_eq!(reached(Some(1000), Some(2)), Some(Limit::Silence(2)));
        assert_eq!(reached(Some(u64::MAX), Some(1000)), None);
        assert_eq!(reached(Some(0), None), None);
    }

    #[test]
    fn saying_something_puts_off_the_end_for_silence() {
        let mut keep = Keep::default();
        let mut limits = Limits::new(&job(None, Some(1000)), None, &mut keep);
        limits.clock.spoken = Instant::now().checked_sub(Duration::from_secs(2000)).unwrap();
        assert!(limits.clock.reached().is_some());
        limits.take(b"x").unwrap();
        assert_eq!(limits.clock.reached(), None);
    }
}
