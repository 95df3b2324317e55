//! A log.

use std::sync::Arc;

use axum::extract::State;
use maud::html;

use crate::farm::Farm;
use crate::serve::call::{Answer, Call};
use crate::serve::pages::frame::Page;

pub(in crate::serve::pages) async fn show(State(_farm): State<Arc<Farm>>, call: Call) -> Answer {
    let main = html! { h1 { "A log" } p { "This page is not written yet." } };
    Ok(Page::new("A log", main).answer(&call))
}
