//! What clients ask about imports, and mirrors about what was published.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use drover_wire::import::ImportId;

use super::body::MESSAGE_LIMIT;
use super::call::{Answer, Call, json, to_its_end};
use crate::farm::Farm;

type Core = State<Arc<Farm>>;

pub(super) async fn list(State(farm): Core) -> Answer {
    json(farm.all_imports().await?)
}

pub(super) async fn start(State(farm): Core, call: Call) -> Answer {
    let new = call.body.json(MESSAGE_LIMIT).await?;
    json(to_its_end(async move { farm.start_import(new).await }).await?)
}

pub(super) async fn show(State(farm): Core, call: Call) -> Answer {
    let import: ImportId = call.part("import")?;
    json(farm.import(import).await?)
}

pub(super) async fn stop(State(farm): Core, call: Call) -> Answer {
    let import: ImportId = call.part("import")?;
    json(to_its_end(async move { farm.stop_import(import).await }).await?)
}

pub(super) async fn published(State(farm): Core, call: Call) -> Answer {
    let page = farm.published_since(call.query()?).await?;
    // There may be more at any moment.
    Ok(([(CACHE_CONTROL, "no-cache")], Json(page)).into_response())
}
