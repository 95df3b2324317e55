//! How hooks do, and another chance for what they gave up.

use drover_wire::hook::{FailedRuns, HookName, HookRetried, HookSummary};
use drover_wire::route::clients;

use super::{ClientError, Coordinator};

/// Every hook.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn list(coordinator: &Coordinator) -> Result<Vec<HookSummary>, ClientError> {
    coordinator.ask("listing hooks", &clients::HOOKS, &[])
}

/// The newest runs that a hook gave up.
///
/// # Errors
/// As [`list`]; there is no such hook.
pub fn failed(coordinator: &Coordinator, hook: &HookName) -> Result<FailedRuns, ClientError> {
    coordinator.ask(&format!("asking what the hook {hook} gave up"), &clients::HOOK_FAILED, &[hook])
}

/// Has all runs that a hook gave up tried again.
///
/// # Errors
/// As [`list`]; there is no such hook.
pub fn retry(coordinator: &Coordinator, hook: &HookName) -> Result<HookRetried, ClientError> {
    coordinator.ask(&format!("having the hook {hook} try again"), &clients::HOOK_RETRY, &[hook])
}
