//! Which of the held builds run, and the threads that they run in.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use drover_os::machine;
use drover_wire::{LeaseId, Phase};

use super::{Held, Session, State};
use crate::build;
use crate::build::control::Heed;
use crate::build::journal::Finished;

/// The stack of every thread here: calls are shallow, and buffers are on the heap.
const STACK: usize = 512 * 1024;

impl Session {
    /// Starts held builds, the most urgent first, while there are slots for them.
    pub(super) fn start_what_fits(&self) {
        let mut state = self.lock();
        state.load_high = false;
        // What has an order only needs a thread to end it.
        let mut ready: Vec<LeaseId> =
            waiting(&state).filter(|(_, h)| h.control.ordered(Heed::Any).is_some()).map(id).collect();
        if !state.draining {
            let mut fits = self.free_slots(&state);
            if fits > 0 && waiting(&state).next().is_some() && self.load_is_high() {
                state.load_high = true;
                fits = 0;
            }
            let mut others: Vec<_> = waiting(&state).filter(|(lease, _)| !ready.contains(lease)).collect();
            others.sort_by_key(|(lease, held)| (Reverse(held.allocation.priority), **lease));
            ready.extend(others.into_iter().map(id).take(fits));
        }
        for lease in ready {
            let Some(held) = state.held.get_mut(&lease) else { continue };
            let (allocation, control) = (held.allocation.clone(), Arc::clone(&held.control));
            held.running = true;
            held.phase = Phase::FetchingInputs;
            let started = self.spawn("build", move |session| {
                build::run(session, allocation, &control);
                session.ended(lease);
            });
            if let Err(error) = started {
                tracing::error!("lease {lease}: no thread for it: {error}; it waits");
                (held.running, held.phase) = (false, Phase::Queued);
                break;
            }
        }
    }

    /// How many builds may start now: free slots for builds, unless too much waits to be uploaded.
    fn free_slots(&self, state: &State) -> usize {
        let in_phase =
            |phases: &[Phase]| state.held.values().filter(|h| h.running && phases.contains(&h.phase)).count();
        let uploads = in_phase(&[Phase::UploadQueued]);
        if uploads > count(self.config.max_parallel_uploads) {
            return 0;
        }
        let builds = in_phase(&[Phase::Queued, Phase::FetchingInputs, Phase::Building]);
        count(self.config.max_parallel_builds).saturating_sub(builds)
    }

    fn load_is_high(&self) -> bool {
        machine::load().is_some_and(|load| load.one > self.config.max_1min_load_average)
    }

    /// Delivers in a thread of its own what an earlier run has left.
    pub(super) fn spawn_delivery(&self, finished: Finished) {
        let lease = finished.allocation.lease;
        let Some(control) = self.lock().held.get(&lease).map(|held| Arc::clone(&held.control)) else {
            return;
        };
        let started = self.spawn("delivery", move |session| {
            build::resume(session, &finished, &control);
            session.ended(lease);
        });
        if let Err(error) = started {
            tracing::error!("lease {lease}: no thread for it: {error}; its result is for the next start");
        }
    }

    /// Nothing is left to do for a lease.
    fn ended(&self, lease: LeaseId) {
        let mut state = self.lock();
        state.held.remove(&lease);
        state.beat = true;
        state.worked = Some(Instant::now());
        drop(state);
        self.changed.notify_all();
        self.start_what_fits();
    }

    /// Runs something in a thread that keeps the session.
    pub(super) fn spawn(&self, name: &str, work: impl FnOnce(&Self) + Send + 'static) -> io::Result<()> {
        let Some(session) = self.me.upgrade() else { return Ok(()) };
        thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || work(&session)).map(drop)
    }
}

fn waiting(state: &State) -> impl Iterator<Item = (&LeaseId, &Held)> {
    state.held.iter().filter(|(_, held)| !held.running)
}

fn id((lease, _): (&LeaseId, &Held)) -> LeaseId {
    *lease
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
