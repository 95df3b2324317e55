//! Places that nars lie in.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::storage::Move;

use super::body::MESSAGE_LIMIT;
use super::call::{Answer, Call, json, to_its_end};
use crate::farm::Farm;

/// How full each is.
pub(super) async fn list(State(farm): State<Arc<Farm>>) -> Answer {
    json(farm.fullness().await?)
}

/// One is to be emptied.
pub(super) async fn start_move(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let from: String = call.part("place")?;
    let Move { to } = call.body.json(MESSAGE_LIMIT).await?;
    let own = Arc::clone(&farm);
    to_its_end(async move { own.start_move(&from, to.as_deref()).await }).await?;
    json(farm.fullness().await?)
}

/// One is not to be emptied any more.
pub(super) async fn stop_move(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let from: String = call.part("place")?;
    let own = Arc::clone(&farm);
    to_its_end(async move { own.stop_move(&from).await }).await?;
    json(farm.fullness().await?)
}
