//! What was noted goes when it is old enough: logs, the history of builds, events, runs of hooks that were given up,
//! and derivations that nothing needs any more.
//!
//! Each part goes in batches that take the database's writer a fraction of a second, and is where it was when it is cut
//! off anywhere: what a batch decides, it decides from what is there at that time.

mod derivations;
mod estimate;

mod history;
mod logs;
mod notes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use drover_wire::Timestamp;
use rusqlite::Connection;

use super::error::Error;
use super::{Farm, Tx, now};

/// How long a batch may take the writer, about.
const BATCH_TIME: Duration = Duration::from_millis(50);
/// How long after the start it is looked for the first time: some are started anew every day.
const FIRST: Duration = Duration::from_secs(30 * 60);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What has gone by its age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Aged {
    /// Logs of tries.
    pub(crate) logs: u64,
    /// Builds, with their tries.
    pub(crate) builds: u64,
    /// Events.
    pub(crate) events: u64,
    /// Runs of hooks that were given up, or whose hook is gone.
    pub(crate) hook_runs: u64,
    /// Derivations.
    pub(crate) derivations: u64,
    /// Sources that only these named.
    pub(crate) sources: u64,
}

/// Has go what is old enough from time to time, as often as retention looks for what may go.
pub(super) fn start(farm: &Arc<Farm>) {
    let weak = Arc::downgrade(farm);
    let mut stopping = farm.stopping();
    let pause = Duration::from_secs(farm.config.retention.sweep_hours.saturating_mul(3600));
    tokio::spawn(async move {
        let mut wait = FIRST.min(pause);
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let Some(farm) = weak.upgrade() else { return };
            // What goes wrong is logged there, and tried again.
            let _ = crate::traced::spawn_blocking(move || farm.age()).await;
            wait = pause;
        }
    });
}

impl Farm {
    /// Has go what is old enough. Blocks for as long as that takes.
    ///
    /// # Errors
    /// When a part cannot be done; the others are.
    pub(crate) fn age(&self) -> Result<Aged, Error> {
        self.age_at(now())
    }

    /// As [`Farm::age`], at a time.
    pub(super) fn age_at(&self, at: Timestamp) -> Result<Aged, Error> {
        let ages = &self.config.retention.ages;
        let before = |days: u32| match days {
            0 => None,
            days => Some(at.saturating_sub(u64::from(days) * DAY_MS)),
        };
        let mut aged = Aged::default();
        let mut failed = None;
        let mut part = |done: Result<(), Error>| {
            if let Err(error) = done {
                tracing::error!(%error, "what is old enough could not all be removed; it is tried again");
                failed.get_or_insert(error);
            }
        };
        part(self.age_logs(at, before(ages.logs_days), before(ages.failed_logs_days), &mut aged.logs));
        part(self.age_history(at, before(ages.history_days), &mut aged.builds));
        part(self.age_events(before(ages.events_days), &mut aged.events));
        part(self.age_hook_runs(before(ages.hook_runs_days), &mut aged.hook_runs));
        part(self.age_derivations(at, before(ages.derivations_days), &mut aged));
        let Aged { logs, builds, events, hook_runs, derivations, sources } = aged;
        tracing::info!(logs, builds, events, hook_runs, derivations, sources, "what was old enough has gone");
        failed.map_or(Ok(aged), Err)
    }

    /// Whether to go on with the next batch.
    fn ages_on(&self) -> bool {
        !*self.stopping().borrow()
    }

    /// Does this with one after the other, for as long as a batch may take, in one transaction; the rest comes back.
    fn batch<T: Send + 'static>(
        &self,
        all: Vec<T>,
        mut each: impl FnMut(&mut Tx<'_>, &T) -> Result<Went, Error> + Send + 'static,
    ) -> Result<(u64, Vec<T>), Error> {
        self.database.write_alone_blocking(move |tx| {
            let start = Instant::now();
            let mut rest = all.into_iter();
            let mut gone = 0;
            while start.elapsed() < BATCH_TIME {
                let Some(one) = rest.next() else { break };
                match each(tx, &one)? {
                    Went::Gone => gone += 1,
                    Went::Stays => {}
                    Went::Unsure => return Ok((gone, std::iter::once(one).chain(rest).collect())),
                }
            }
            Ok((gone, rest.collect()))
        })
    }
}

/// What became of something that may be old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    Gone,
    Stays,
    /// Something that all of them depend on has changed: it is to be looked at anew.
    Unsure,
}

/// The newest revision of all sets: as long as it is the same, no set wants anything more than before.
fn newest_revision(sql: &Connection) -> Result<i64, Error> {
    let select = "SELECT coalesce(max(id), 0) FROM revisions";
    Ok(sql.prepare_cached(select)?.query_row([], |row| row.get(0))?)
}

/// A set of numbers of the database, a bit for each up to the largest.
#[derive(Debug, Default)]
struct Numbers(Vec<u64>);

impl Numbers {
    fn place(number: i64) -> Option<(usize, u64)> {
        let number = usize::try_from(number).ok()?;
        Some((number / 64, 1 << (number % 64)))
    }

    fn has(&self, number: i64) -> bool {
        Self::place(number).is_some_and(|(word, bit)| self.0.get(word).is_some_and(|word| word & bit != 0))
    }

    /// Adds one; whether it was not there.
    fn add(&mut self, number: i64) -> bool {
        let Some((word, bit)) = Self::place(number) else { return false };
        if word >= self.0.len() {
            self.0.resize((word + 1).next_power_of_two(), 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// All of them, from the largest to the smallest.
    fn descending(&self) -> impl Iterator<Item = i64> {
        let words = self.0.iter().enumerate().rev().filter(|(_, word)| **word != 0);
        words.flat_map(|(place, word)| {
            let word = *word;
            (0..64).rev().filter(move |bit| word >> bit & 1 == 1).map(move |bit| (place * 64 + bit) as i64)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back_from_the_largest_on(all in proptest::collection::btree_set(0..2_000_i64, 0..60)) {
            let mut numbers = Numbers::default();
            for number in &all {
                prop_assert!(numbers.add(*number));
                prop_assert!(!numbers.add(*number));
            }
            prop_assert!(numbers.descending().eq(all.iter().rev().copied()));
            prop_assert!((0..2_100).all(|number| numbers.has(number) == all.contains(&number)));
        }
    }
}
