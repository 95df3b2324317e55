//! What a build needs from the agent around it.

use std::fmt;

use drover_wire::{LeaseId, Phase};

use super::control::{Control, Heed, Order};
use super::journal::Journal;
use crate::config::Config;
use crate::coordinator::{self, Coordinator};
use crate::executor::Executor;
use crate::retry::{Backoff, Pauses, Temporary};

/// The agent, as a build sees it.
pub trait Host: Send + Sync {
    /// Whom it works for.
    fn coordinator(&self) -> &Coordinator;
    /// Who builds.
    fn executor(&self) -> &dyn Executor;
    /// Where results wait.
    fn journal(&self) -> &Journal;
    /// What the operator decided.
    fn config(&self) -> &Config;
    /// Takes note of what is done for a lease now.
    fn phase(&self, lease: LeaseId, phase: Phase);
    /// Waits until one more upload may run; it ends with [`Host::end_upload`]. An order ends the wait.
    ///
    /// # Errors
    /// The order.
    fn begin_upload(&self, lease: LeaseId, control: &Control) -> Result<(), Order>;
    /// Lets the next upload run.
    fn end_upload(&self);
    /// The order to a build that may have been spoilt by whoever asked this agent to stop; none while nobody did.
    fn stopping(&self) -> Option<Order>;
    /// The executor did not answer: nothing new is taken until it does.
    fn executor_is_away(&self);
}

/// Why something was not had from the coordinator, after all tries.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An order came first.
    Ordered(Order),
    /// The lease is not ours any more.
    Lost,
    /// It said no, or cannot be asked at all.
    Final(coordinator::Error),
}

/// Asks until there is an answer: however long the coordinator is away, or an order comes.
pub(super) fn patiently<T>(
    control: &Control,
    heed: Heed,
    what: &str,
    mut attempt: impl FnMut() -> Result<T, coordinator::Error>,
) -> Result<T, Refusal> {
    let mut patience = Patience::new();
    loop {
        match attempt() {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_lease_lost() => return Err(Refusal::Lost),
            Err(error) if error.is_temporary() => {
                patience.wait(control, heed, what, &error).map_err(Refusal::Ordered)?;
            }
            Err(error) => return Err(Refusal::Final(error)),
        }
    }
}

/// Growing pauses that an order ends.
#[derive(Debug)]
pub(super) struct Patience(Backoff);

impl Patience {
    pub(super) fn new() -> Self {
        Self(Backoff::new(Pauses::default()))
    }

    pub(super) fn reset(&mut self) {
        self.0.reset();
    }

    /// Waits before the next try to do `what`.
    pub(super) fn wait(
        &mut self,
        control: &Control,
        heed: Heed,
        what: &str,
        error: &dyn fmt::Display,
    ) -> Result<(), Order> {
        let pause = self.0.next_pause();
        tracing::warn!("will try again to {what} in {:.1} s: {error}", pause.as_secs_f64());
        control.pause(pause, heed).map_or(Ok(()), Err)
    }
}
