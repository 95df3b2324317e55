//! Sets.

use std::sync::Arc;

use axum::extract::State;
use maud::html;

use super::frame::{Here, Page};
use crate::farm::Farm;
use crate::serve::call::{Answer, Call};

pub(super) async fn list(State(_farm): State<Arc<Farm>>, call: Call) -> Answer {
    let main = html! { h1 { "Sets" } p { "This page is not written yet." } };
    Ok(Page::new("Sets", main).here(Here::Sets).answer(&call))
}

pub(super) async fn show(State(_farm): State<Arc<Farm>>, call: Call) -> Answer {
    let main = html! { h1 { "A set" } p { "This page is not written yet." } };
    Ok(Page::new("A set", main).here(Here::Sets).answer(&call))
}
