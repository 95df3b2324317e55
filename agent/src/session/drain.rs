//! The end: what runs may finish for a while, the rest is handed back.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use drover_os::Deadline;
use drover_os::signal::Stage;
use drover_wire::{LeaseId, Phase};

use super::{Session, State};
use crate::build::control::Order;

/// How long builds may take to be killed and handed back, and the last of their logs to be sent.
const GRACE: Duration = Duration::from_secs(10);

/// The order to a build that the agent does not finish.
pub(super) fn hand_back() -> Order {
    Order::HandBack("the agent was told to stop".to_owned())
}

impl Session {
    /// Waits for the word to stop, and leads everything to its end.
    pub(super) fn wait_for_the_end(&self) {
        self.stop.wait(Stage::Drain, Deadline::never());
        let drain_time = self.config.drain_time;
        let count = self.lock().held.len();
        tracing::info!(
            "stopping: {count} builds are held; what ends within {} s is finished",
            drain_time.as_secs()
        );
        {
            let mut state = self.lock();
            state.draining = true;
            state.beat = true;
            for held in state.held.values().filter(|held| !held.running) {
                held.control.order(hand_back());
            }
        }
        self.changed.notify_all();
        self.start_what_fits();
        self.coordinator.interrupt_poll();
        let end = Instant::now().checked_add(drain_time);
        self.wait_while(end, |state| !state.held.is_empty() && self.stop.stage() < Stage::Now);
        self.hand_back_the_rest();
    }

    fn hand_back_the_rest(&self) {
        let unfinished: BTreeSet<LeaseId> = {
            let state = self.lock();
            for held in state.held.values() {
                held.control.order(hand_back());
            }
            let delivering = |phase| matches!(phase, Phase::UploadQueued | Phase::Uploading);
            state.held.iter().filter(|(_, held)| !delivering(held.phase)).map(|(lease, _)| *lease).collect()
        };
        if !unfinished.is_empty() {
            tracing::info!("handing back {} builds", unfinished.len());
            let end = Instant::now() + GRACE;
            self.wait_while(Some(end), |state| unfinished.iter().any(|lease| state.held.contains_key(lease)));
        }
        let state = self.lock();
        for (lease, held) in &state.held {
            tracing::info!("lease {lease}: {}; what is on disk is for the next start", held.phase);
            held.control.order(Order::Leave);
        }
        drop(state);
        self.coordinator.interrupt_all();
        // Before the machine ends, perhaps; for who is in a hurry it does that itself.
        if self.stop.stage() < Stage::Now {
            self.executor.save();
        }
        tracing::info!("stopped");
    }

    /// Waits for as long as `goes_on`, at most until `end`.
    fn wait_while(&self, end: Option<Instant>, goes_on: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while goes_on(&state) {
            state = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return,
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
