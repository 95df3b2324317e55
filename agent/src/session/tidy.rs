//! The store is cleaned before its disk is full.
//!
//! Each heartbeat looks how much disk is free for the store. When that is less than the operator wants (`gc-below`), or
//! hardly any more files can be made there, or the store has outgrown a limit of its own, the executor is asked, in a thread of its own, to have as much go as is
//! missing, and a little more, so that not every build brings the next cleaning. What is still to be uploaded is rooted
//! by its build (see [`crate::build::journal`]). With so little disk that no builds are taken, the end of a cleaning
//! brings a new look at once.

use std::time::{Duration, Instant};

use drover_os::machine::Disk;

use super::Session;
use super::heartbeat::LEAST_STORE_FILES;

/// The shortest time between two cleanings, and how many times as long as the last one took.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_TIMES: u32 = 10;
/// How long nothing is tried again when nothing was left to remove, or it was refused.
const PAUSE_FRUITLESS: Duration = Duration::from_secs(15 * 60);

/// While fewer files than this can be made, some go; twice what builds must find.
const ENOUGH_FILES: u64 = 2 * LEAST_STORE_FILES;

/// What is done about a store that grows.
#[derive(Debug, Default)]
pub(super) struct Tidying {
    under_way: bool,
    /// No cleaning begins before.
    not_before: Option<Instant>,
}

impl Tidying {
    /// Whether one runs.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Begins a cleaning, if one may begin.
    fn begin(&mut self, now: Instant) -> bool {
        if self.under_way || self.not_before.is_some_and(|then| now < then) {
            return false;
        }
        self.under_way = true;
        true
    }

    fn end(&mut self, now: Instant, pause: Duration) {
        // A time that no clock can count to is never.
        *self = Self { under_way: false, not_before: now.checked_add(pause) };
    }
}

impl Session {
    /// Begins to clean the store if that is wanted.
    pub(super) fn tidy_if_due(&self, disk: Option<Disk>) {
        let bytes = missing(disk, self.config.gc_below).max(self.executor.excess());
        if bytes == 0 {
            return;
        }
        {
            let mut state = self.lock();
            if state.draining || state.executor_away || !state.tidying.begin(Instant::now()) {
                return;
            }
        }
        if let Err(error) = self.spawn("tidy", move |session| session.tidy(bytes)) {
            tracing::warn!("no thread to clean the store: {error}");
            self.lock().tidying.end(Instant::now(), PAUSE);
        }
    }

    fn tidy(&self, bytes: u64) {
        tracing::info!("the store is cleaned: {bytes} bytes are to go");
        let begun = Instant::now();
        let freed = self.executor.tidy(bytes);
        let took = begun.elapsed();
        match &freed {
            Ok(freed) => {
                tracing::info!("the store is clean: {freed} bytes went in {:.1} s", took.as_secs_f64())
            }
            Err(error) => tracing::warn!("the store could not be cleaned: {error}"),
        }
        let mut state = self.lock();
        state.tidying.end(Instant::now(), pause(bytes, freed.ok(), took));
        // Whether the disk is still too full for builds is to be said now, not at the next heartbeat.
        state.beat = true;
        drop(state);
        self.changed.notify_all();
    }
}

/// How many bytes should go so that enough is free, and a tenth more; the tenth alone, again and again, while there is
/// little room for files.
fn missing(disk: Option<Disk>, enough: Option<u64>) -> u64 {
    match (disk, enough) {
        (Some(disk), Some(enough)) if disk.free < enough => (enough - disk.free).saturating_add(enough / 10),
        (Some(disk), Some(enough)) if disk.files < ENOUGH_FILES => enough / 10,
        _ => 0,
    }
}

/// How long to wait after a cleaning that was to free `bytes`.
fn pause(bytes: u64, freed: Option<u64>, took: Duration) -> Duration {
    let least = if freed.is_some_and(|freed| freed >= bytes) { PAUSE } else { PAUSE_FRUITLESS };
    took.saturating_mul(PAUSE_TIMES).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_goes_and_a_tenth_of_what_is_to_be_free() {
        let free = |free| Some(Disk { total: 1000, free, files: u64::MAX });
        assert_eq!(missing(free(70), Some(100)), 40);
        assert_eq!(missing(free(0), Some(u64::MAX)), u64::MAX);
        for (disk, enough) in [(free(100), Some(100)), (free(1), None), (None, Some(100)), (None, None)] {
            assert_eq!(missing(disk, enough), 0);
        }
    }

    #[test]
    fn something_goes_while_there_is_little_room_for_files() {
        let files = |files| Some(Disk { total: 1000, free: 1000, files });
        assert_eq!(missing(files(ENOUGH_FILES - 1), Some(100)), 10);
        assert_eq!(missing(files(ENOUGH_FILES), Some(100)), 0);
        assert_eq!(missing(files(0), None), 0);
    }

    #[test]
    fn one_cleaning_runs_at_a_time_and_the_next_comes_after_a_pause() {
        let now = Instant::now();
        let mut tidying = Tidying::default();
        assert!(tidying.begin(now));
        assert!(tidying.is_under_way() && !tidying.begin(now));
        tidying.end(now, PAUSE);
        assert!(!tidying.is_under_way() && !tidying.begin(now + PAUSE - Duration::from_nanos(1)));
        assert!(tidying.begin(now + PAUSE));
    }

    #[test]
    fn the_pause_is_longer_where_little_went_and_where_it_took_long() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(10, Some(10), second), PAUSE);
        assert_eq!(pause(10, Some(11), 100 * second), 1000 * second);
        assert_eq!(pause(10, Some(9), second), PAUSE_FRUITLESS);
        assert_eq!(pause(10, None, second), PAUSE_FRUITLESS);
        assert_eq!(pause(10, Some(0), 3600 * second), 36000 * second);
    }
}
