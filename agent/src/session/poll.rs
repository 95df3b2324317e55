//! The poll that is always open, and what happens when the coordinator was away.

use drover_os::signal::Stage;
use drover_wire::agent::Poll;

use super::Session;
use crate::retry::{Backoff, Pauses, Temporary, Waited};

impl Session {
    /// Asks for work until the agent stops taking any.
    pub(super) fn polls(&self) {
        let mut backoff = Backoff::new(Pauses::default());
        loop {
            if self.stop.is_requested() {
                return;
            }
            let introduced = self.lock().introduced;
            let error = match if introduced { self.poll() } else { self.introduce() } {
                Ok(()) => {
                    // A welcome alone says little: another machine may have our place at the next poll.
                    if introduced {
                        backoff.reset();
                    }
                    continue;
                }
                // Interrupted, because there is something new to say about us.
                Err(_) if introduced && !self.lock().introduced => continue,
                Err(error) => error,
            };
            if self.stop.is_requested() {
                return;
            }
            if error.is_temporary() {
                tracing::warn!("no work can be had: {error}");
            } else {
                tracing::error!("no work can be had: {error}");
            }
            // A coordinator that was away may have lost sight of us.
            self.lock().introduced = false;
            if backoff.wait(&self.stop, Stage::Drain, error.retry_after()) == Waited::Stopped {
                return;
            }
        }
    }

    fn poll(&self) -> Result<(), crate::coordinator::Error> {
        let (poll, open) = {
            let state = self.lock();
            let holding = state.held.keys().copied().collect();
            (Poll { accepting: self.accepting(&state), holding }, state.poll_open)
        };
        let orders = self.coordinator.poll(&poll, open)?;
        self.obey(orders);
        Ok(())
    }
}
