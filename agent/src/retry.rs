//! The one way to wait in the agent: growing pauses with jitter, which a stop ends.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use drover_os::Deadline;
use drover_os::signal::{Stage, Stop};

/// How long to wait before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pauses {
    /// The first pause.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Default for Pauses {
    /// From half a second to half a minute: soon enough after a restart of the coordinator, and no storm of agents.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The time is over: go on.
    Elapsed,
    /// The stop has reached the stage: leave.
    Stopped,
}

/// An error after which the same attempt may succeed.
pub trait Temporary {
    /// Whether to try again.
    fn is_temporary(&self) -> bool;

    /// How long the other side wants to be left alone, if it said so.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// The pauses between tries of one thing. Each is about twice the last one.
#[derive(Debug, Clone)]
pub struct Backoff {
    pauses: Pauses,
    next: Duration,
}

impl Backoff {
    /// Begins with the first pause.
    pub fn new(pauses: Pauses) -> Self {
        Self { pauses, next: pauses.first }
    }

    /// Something worked: the next pause is the first again.
    pub fn reset(&mut self) {
        self.next = self.pauses.first;
    }

    /// The next pause: between half and all of its length, so that those who failed together do not come together.
    pub fn next_pause(&mut self) -> Duration {
        let full = self.next.min(self.pauses.longest);
        self.next = full.saturating_mul(2);
        full / 2 + (full / 2).mul_f64(random_fraction())
    }

    /// Waits for the next pause, at least `at_least`, or until the stop has reached the stage.
    pub fn wait(&mut self, stop: &Stop, stage: Stage, at_least: Option<Duration>) -> Waited {
        let pause = self.next_pause().max(at_least.unwrap_or_default().min(self.pauses.longest));
        self::pause(pause, stop, stage)
    }
}

/// Waits, or until the stop has reached the stage.
pub fn pause(time: Duration, stop: &Stop, stage: Stage) -> Waited {
    if stop.wait(stage, Deadline::after(time)) { Waited::Stopped } else { Waited::Elapsed }
}

/// Tries until it works, fails for good, or the stop has reached the stage; the last error is given back then.
///
/// `what` completes the sentence “will try again to …” in the log.
///
/// # Errors
/// The first error that is not temporary, or the last temporary one before the stop.
pub fn until_it_works<T, E: Temporary + std::fmt::Display>(
    what: &str,
    stop: &Stop,
    stage: Stage,
    pauses: Pauses,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut backoff = Backoff::new(pauses);
    loop {
        let error = match attempt() {
            Err(error) if error.is_temporary() => error,
            done => return done,
        };
        tracing::warn!("will try again to {what}: {error}");
        if backoff.wait(stop, stage, error.retry_after()) == Waited::Stopped {
            return Err(error);
        }
    }
}

/// From 0 to below 1. The standard library's hash keys are random, which is enough for jitter.
fn random_fraction() -> f64 {
    f64::from(random()) / 4_294_967_296.0
}

/// A number that others do not have; it is no secret.
pub(crate) fn random() -> u32 {
    u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Pauses = Pauses { first: Duration::from_micros(10), longest: Duration::from_micros(50) };

    #[derive(Debug, PartialEq, thiserror::Error)]
    #[error("failed")]
    struct Failure(bool);

    impl Temporary for Failure {
        fn is_temporary(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn pauses_grow_to_their_limit_with_jitter_below_it() {
        let pauses = Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        let mut backoff = Backoff::new(pauses);
        for full in [1, 2, 4, 8, 10, 10] {
            let (pause, full) = (backoff.next_pause(), Duration::from_secs(full));
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= pauses.first);
    }

    #[test]
    fn temporary_errors_are_tried_again_until_it_works() {
        let stop = Stop::new().unwrap();
        let mut tries = 0;
        let result = until_it_works("count", &stop, Stage::Drain, QUICK, || {
            tries += 1;
            if tries < 4 { Err(Failure(true)) } else { Ok(tries) }
        });
        assert_eq!(result, Ok(4));
    }

    #[test]
    fn a_final_error_ends_the_tries() {
        let stop = Stop::new().unwrap();
        let mut tries = 0;
        let result: Result<(), _> = until_it_works("count", &stop, Stage::Drain, QUICK, || {
            tries += 1;
            Err(Failure(false))
        });
        assert_eq!((result, tries), (Err(Failure(false)), 1));
    }

    #[test]
    fn a_stop_ends_the_tries_from_its_stage_on() {
        let stop = Stop::new().unwrap();
        stop.advance(Stage::Drain);
        let long = Pauses { first: Duration::from_secs(3600), longest: Duration::from_secs(3600) };
        let result: Result<(), _> = until_it_works("count", &stop, Stage::Drain, long, || Err(Failure(true)));
        assert_eq!(result, Err(Failure(true)));
        assert_eq!(pause(Duration::from_micros(1), &stop, Stage::Now), Waited::Elapsed);
    }
}
