//! An agent.

use std::sync::Arc;

use axum::extract::State;
use maud::html;

use super::frame::Page;
use crate::farm::Farm;
use crate::serve::call::{Answer, Call};

pub(super) async fn show(State(_farm): State<Arc<Farm>>, call: Call) -> Answer {
    let main = html! { h1 { "An agent" } p { "This page is not written yet." } };
    Ok(Page::new("An agent", main).answer(&call))
}
