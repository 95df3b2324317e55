//! The way in and out.

use std::sync::Arc;

use axum::extract::State;
use maud::html;

use super::frame::Page;
use crate::farm::Farm;
use crate::serve::call::{Answer, Call};

pub(super) async fn form(State(_farm): State<Arc<Farm>>, call: Call) -> Answer {
    let main = html! { h1 { "Log in" } p { "This page is not written yet." } };
    Ok(Page::new("Log in", main).answer(&call))
}

pub(super) async fn log_in(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    form(State(farm), call).await
}

pub(super) async fn log_out(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    form(State(farm), call).await
}
