//! What logs, history and the like will take.

use drover_wire::estimate::Estimate;
use drover_wire::route::clients;

use super::{ClientError, Coordinator};

/// What all that goes by its age takes, at the pace at which it comes.
///
/// # Errors
/// A refusal or an unreachable coordinator.
pub fn get(coordinator: &Coordinator) -> Result<Estimate, ClientError> {
    coordinator.ask("asking what logs and history will take", &clients::ESTIMATE, &[])
}
