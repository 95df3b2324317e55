//! What clients ask about what is kept for how long.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::retention::RetentionQuestion;

use super::body::MESSAGE_LIMIT;
use super::call::{Answer, Call, json};
use crate::farm::Farm;

type Core = State<Arc<Farm>>;

pub(super) async fn status(State(farm): Core) -> Answer {
    json(farm.retention().await?)
}

pub(super) async fn plan(State(farm): Core, call: Call) -> Answer {
    let question: RetentionQuestion = call.body.json(MESSAGE_LIMIT).await?;
    json(farm.retention_plan(question).await?)
}

pub(super) async fn run(State(farm): Core) -> Answer {
    // As it stood before: whoever waits for the look counts from there.
    let before = farm.retention().await?;
    farm.sweep_soon();
    json(before)
}
