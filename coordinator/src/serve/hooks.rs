//! How hooks do.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::hook::HookName;

use super::call::{Answer, Call, json, to_its_end};
use crate::farm::Farm;

pub(super) async fn list(State(farm): State<Arc<Farm>>) -> Answer {
    json(farm.list_hooks().await?)
}

pub(super) async fn failed(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let hook: HookName = call.part("hook")?;
    json(farm.failed_runs(hook).await?)
}

pub(super) async fn retry(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let hook: HookName = call.part("hook")?;
    json(to_its_end(async move { farm.retry_runs(hook).await }).await?)
}
