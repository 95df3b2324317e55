//! The poll that is always open, and what happens when the coordinator was away.

use drover_os::signal::Stage;
use drover_wire::Code;
use drover_wire::agent::Poll;

use super::{Session, enrol};
use crate::coordinator::Error;
use crate::retry::{Backoff, Pauses, Temporary, Waited};

/// After so many refusals one after another, which take two minutes or three, a machine that has enrolled itself does so anew.
const REFUSALS: u32 = 10;

impl Session {
    /// Asks for work until the agent stops taking any.
    pub(super) fn polls(&self) {
        let mut backoff = Backoff::new(Pauses::default());
        let mut refusals = 0;
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
                        refusals = 0;
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
            refusals = more_refusals(refusals, &error);
            if refusals >= REFUSALS && enrol::forget(&self.config.state_dir) {
                self.lock().refused = Some(error);
                self.stop.advance(Stage::Now);
                return;
            }
            // A coordinator that was away may have lost sight of us.
            self.lock().introduced = false;
            if backoff.wait(&self.stop, Stage::Drain, error.retry_after()) == Waited::Stopped {
                return;
            }
        }
    }

    fn poll(&self) -> Result<(), Error> {
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

/// How many refusals there were without anything else between them.
fn more_refusals(so_far: u32, error: &Error) -> u32 {
    if error.code() == Some(Code::Unauthorized) { so_far.saturating_add(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use drover_wire::Problem;

    use super::*;

    #[test]
    fn refusals_count_until_something_else_is_answered() {
        let refused = |code: Code| Error::Refused {
            attempt: "poll".into(),
            status: code.status(),
            problem: Problem::new(code, "no"),
            retry_after: None,
        };
        let (no, other) = (refused(Code::Unauthorized), refused(Code::Internal));
        assert_eq!([0, 1, REFUSALS].map(|so_far| more_refusals(so_far, &no)), [1, 2, REFUSALS + 1]);
        assert_eq!(more_refusals(7, &other), 0);
    }
}
