//! Whether the coordinator lives, and whether it can do its work: for whoever starts it anew, or sends others to it. No
//! token is wanted, and nothing else is said.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use drover_wire::route::Route;
use drover_wire::route::health::{HEALTHY, READY};

use super::router::{Mounted, at};
use crate::farm::Farm;

/// The handler of a route; none if it is not of these.
pub(super) fn handler(route: &Route) -> Option<Mounted> {
    Some(match *route {
        HEALTHY => at(route, healthy),
        READY => at(route, ready),
        _ => return None,
    })
}

/// Whoever reads this knows it.
async fn healthy() -> Response {
    said(StatusCode::OK, "The coordinator runs.")
}

async fn ready(State(farm): State<Arc<Farm>>) -> Response {
    match farm.readiness().await {
        None => said(StatusCode::OK, "The coordinator is ready."),
        Some(why_not) => said(StatusCode::SERVICE_UNAVAILABLE, why_not.words()),
    }
}

fn said(status: StatusCode, words: &str) -> Response {
    let head = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, head, format!("{words}\n")).into_response()
}
