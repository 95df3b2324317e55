//! The session as builds see it.

use std::sync::PoisonError;
use std::time::Duration;

use drover_wire::{LeaseId, Phase};

use super::Session;
use super::drain::hand_back;
use crate::build::Host;
use crate::build::control::{Control, Heed, Order};
use crate::build::journal::Journal;
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::executor::Executor;

/// How often a build that waits for its upload looks for orders, should a wake-up have been missed.
const LOOK: Duration = Duration::from_secs(1);

impl Host for Session {
    fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    fn executor(&self) -> &dyn Executor {
        self.executor.as_ref()
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn phase(&self, lease: LeaseId, phase: Phase) {
        let mut state = self.lock();
        if let Some(held) = state.held.get_mut(&lease) {
            held.phase = phase;
            state.beat = true;
        }
        drop(state);
        self.changed.notify_all();
        if phase == Phase::UploadQueued {
            self.start_what_fits();
        }
    }

    fn begin_upload(&self, _lease: LeaseId, control: &Control) -> Result<(), Order> {
        let mut state = self.lock();
        while state.uploads >= self.config.max_parallel_uploads {
            if let Some(order) = control.ordered(Heed::Any) {
                return Err(order);
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.uploads += 1;
        Ok(())
    }

    fn end_upload(&self) {
        self.lock().uploads -= 1;
        self.changed.notify_all();
        self.start_what_fits();
    }

    fn stopping(&self) -> Option<Order> {
        self.stop.is_requested().then(hand_back)
    }

    fn executor_is_away(&self) {
        self.executor_answers(false);
    }
}
