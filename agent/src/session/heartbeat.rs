//! Heartbeats, and the looks at the machine that go with them.

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use drover_os::machine;
use drover_wire::agent::{Heartbeat, Machine, Progress};

use super::Session;

/// How soon a build that waits for the load alone is looked at again.
const LOAD_LOOK: Duration = Duration::from_secs(2);
/// How soon an executor that does not answer is asked again.
const EXECUTOR_LOOK: Duration = Duration::from_secs(5);
/// No new builds with less disk for the store.
pub(crate) const LEAST_STORE: u64 = 1 << 30;
/// No new builds with less disk for logs and results.
const LEAST_STATE: u64 = 64 << 20;

impl Session {
    /// Sends heartbeats at the coordinator's pace, and at once when something changes.
    pub(super) fn heartbeats(&self) {
        let mut next = Instant::now();
        loop {
            let looked = self.wait_for_beat(next);
            self.look_at_executor();
            if looked {
                self.start_what_fits();
                continue;
            }
            next = Instant::now() + self.beat();
        }
    }

    /// Waits until a heartbeat is due; whether something else is to be looked at before that.
    fn wait_for_beat(&self, next: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if state.beat || left.is_zero() {
                state.beat = false;
                return false;
            }
            let look = match (state.load_high, state.executor_away) {
                (true, _) => LOAD_LOOK,
                (false, true) => EXECUTOR_LOOK,
                (false, false) => left,
            };
            let (again, timeout) =
                self.changed.wait_timeout(state, left.min(look)).unwrap_or_else(PoisonError::into_inner);
            state = again;
            if timeout.timed_out() && look < left && !state.beat {
                return true;
            }
        }
    }

    /// Sends one; how long to wait before the next.
    fn beat(&self) -> Duration {
        let (state_folder, store) = (self.journal.folder(), self.executor.store());
        let machine = look_at_machine(state_folder, store);
        self.tidy_if_due(machine.store_free);
        let (heartbeat, every) = {
            let mut state = self.lock();
            let low = |free: Option<u64>, least| free.is_some_and(|free| free < least);
            let disk_low = low(machine.store_free, LEAST_STORE) || low(machine.state_free, LEAST_STATE);
            if disk_low != state.disk_low {
                state.disk_low = disk_low;
                let words = match (disk_low, state.tidying.is_under_way()) {
                    (true, true) => "too little disk is free: no builds are taken until the store is cleaned",
                    (true, false) => "too little disk is free: no builds are taken",
                    (false, _) => "disk is free again",
                };
                tracing::warn!("{words} ({machine:?})");
            }
            let progress = |(lease, held): (&_, &super::Held)| Progress { lease: *lease, phase: held.phase };
            let leases = state.held.iter().map(progress).collect();
            (Heartbeat { accepting: self.accepting(&state), machine, leases }, state.heartbeat_every)
        };
        match self.coordinator.heartbeat(&heartbeat) {
            Ok(orders) => self.obey(orders),
            // The poll says so louder, and introduces us again.
            Err(error) => tracing::debug!("{error}"),
        }
        every
    }

    /// Notices when the executor goes and when it comes back, where that costs nothing.
    fn look_at_executor(&self) {
        let away = self.lock().executor_away;
        if !away && self.executor.seems_there() {
            return;
        }
        match self.executor.builtins() {
            Ok(_) if away => {
                tracing::info!("builds are possible again");
                self.executor_answers(true);
                // The coordinator may not know our builtin builders yet.
                self.lock().introduced = false;
                self.coordinator.interrupt_poll();
            }
            Ok(_) => {}
            Err(error) => {
                if !away {
                    tracing::error!("{error}; no builds are taken until it answers");
                }
                self.executor_answers(false);
            }
        }
    }
}

fn look_at_machine(state: &Path, store: &Path) -> Machine {
    let free = |path| machine::disk(path).map(|disk| disk.free);
    Machine {
        load_1min: machine::load().map(|load| load.one),
        processors: machine::processors(),
        store_free: free(store),
        state_free: free(state),
        memory_available: machine::memory().map(|memory| memory.available),
    }
}
