//! What is kept for how long.

use std::time::Duration;

use drover_wire::retention::{RetentionPlan, RetentionQuestion, RetentionStatus};
use drover_wire::route::clients;

use super::{ClientError, Coordinator, Unit, Watch};

/// How often it is asked whether it has been looked.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How removal stands.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn status(coordinator: &Coordinator) -> Result<RetentionStatus, ClientError> {
    coordinator.ask("asking about retention", &clients::RETENTION, &[])
}

/// What would stay and go, and why.
///
/// # Errors
/// As [`status`].
pub fn plan(
    coordinator: &Coordinator,
    question: &RetentionQuestion,
    watch: &dyn Watch,
) -> Result<RetentionPlan, ClientError> {
    watch.begin("looking through all items", None, Unit::Things);
    coordinator.tell("asking what would go", &clients::RETENTION_PLAN, &[], question)
}

/// Has it looked what may go, and waits until it has been: as long as the coordinator is there.
///
/// # Errors
/// As [`status`].
pub fn run(coordinator: &Coordinator, watch: &dyn Watch) -> Result<RetentionStatus, ClientError> {
    watch.begin("looking at what may go", None, Unit::Things);
    let started =
        coordinator.ask::<RetentionStatus>("having it looked what may go", &clients::RETENTION_RUN, &[])?;
    // One that was under way then may have missed what has just been.
    let enough = started.runs + 1 + u64::from(started.running);
    loop {
        let status = status(coordinator)?;
        // Fewer than at the beginning: it was started anew, and looks when it does.
        if status.runs >= enough || status.runs < started.runs {
            return Ok(status);
        }
        let (announced, withdrawn) = (status.announced.items, status.withdrawn.items);
        watch.note(&format!("{announced} announced, {withdrawn} withdrawn"));
        std::thread::sleep(LOOK_EVERY);
    }
}
