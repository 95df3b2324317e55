//! Places that nars lie in.

use drover_wire::route::clients;
use drover_wire::storage::{Move, PlaceSummary};

use super::{ClientError, Coordinator};

/// Every place, and how full it is.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn list(coordinator: &Coordinator) -> Result<Vec<PlaceSummary>, ClientError> {
    coordinator.ask("asking how full the places are", &clients::STORAGE, &[])
}

/// Has a place emptied.
///
/// # Errors
/// As [`list`]; there is no such place, or its nars could go nowhere.
pub fn start_move(
    coordinator: &Coordinator,
    from: &str,
    to: Option<&str>,
) -> Result<Vec<PlaceSummary>, ClientError> {
    let to = Move { to: to.map(str::to_owned) };
    coordinator.tell(&format!("having the place {from} emptied"), &clients::MOVE, &[&from], &to)
}

/// Has a place not emptied any more.
///
/// # Errors
/// As [`list`]; there is no such place, or it is not being emptied.
pub fn stop_move(coordinator: &Coordinator, from: &str) -> Result<Vec<PlaceSummary>, ClientError> {
    coordinator.ask(&format!("having the place {from} not emptied any more"), &clients::STOP_MOVE, &[&from])
}
