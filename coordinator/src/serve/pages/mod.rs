//! Pages for people: rendered here, useful without script, live with it.
//!
//! Every page is a function from the farm to a [`frame::Page`], which knows how it is sent. What is looked up for a page is
//! one job of the database, so that all of it is of one moment.

mod activity;
mod agent;
mod assets;
mod build;
mod derivation;
mod frame;
mod graph;
mod hooks;
mod log;
mod login;
mod queue;
mod search;
mod set;
mod sets;
mod storage;
mod words;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::middleware::Next;
use axum::response::Response;
use drover_wire::Problem;
use drover_wire::route::Route;
use drover_wire::route::pages::{
    ACTIVITY, AGENT, ASSET, BUILD, BUILD_LOG, BUILD_LOG_LIVE, DERIVATION, HOOKS, LOG_IN, LOG_OUT, LOGIN,
    QUEUE, SEARCH, SET, SETS, STORAGE,
};

use super::router::{Mounted, at};
use frame::Look;
pub(super) use login::to_login;

/// Who looks at a page: in the extensions of every request that got as far as a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Viewer {
    /// Somebody who has not logged in.
    #[default]
    Nobody,
    /// Everybody, on the public's listener: they only read.
    Public,
    /// A client, by its token.
    Client,
    /// A client in a browser, by the cookie of a session.
    Session,
}

/// The handler of a page that wants a login; none if the route is none of them.
pub(super) fn handler(route: &Route) -> Option<Mounted> {
    Some(match *route {
        STORAGE => at(route, storage::show),
        HOOKS => at(route, hooks::show),
        _ => return public(route),
    })
}

/// The handler of a page that everybody may look at, if the operator says so; none if the route is none of them.
pub(super) fn public(route: &Route) -> Option<Mounted> {
    Some(match *route {
        ACTIVITY => at(route, activity::show),
        QUEUE => at(route, queue::show),
        SEARCH => at(route, search::show),
        BUILD => at(route, build::show),
        BUILD_LOG => at(route, log::show),
        BUILD_LOG_LIVE => at(route, log::follow),
        DERIVATION => at(route, derivation::show),
        AGENT => at(route, agent::show),
        SETS => at(route, sets::list),
        SET => at(route, set::show),
        _ => return None,
    })
}

/// The handler of what is needed to log in; none if the route is none of it.
pub(super) fn door(route: &Route) -> Option<Mounted> {
    Some(match *route {
        LOGIN => at(route, login::form),
        LOG_IN => at(route, login::log_in),
        LOG_OUT => at(route, login::log_out),
        _ => return asset(route),
    })
}

/// The handler of what pages are made of; none if the route is none of it.
pub(super) fn asset(route: &Route) -> Option<Mounted> {
    (*route == ASSET).then(|| at(route, assets::file))
}

/// Tells browsers in words, as a page, what others are told as a [`Problem`].
pub(super) async fn in_words(request: Request, next: Next) -> Response {
    if !wants_page(request.headers()) {
        return next.run(request).await;
    }
    let look = Look::of(request.headers(), request.extensions());
    let response = next.run(request).await;
    match response.extensions().get::<Problem>().cloned() {
        Some(problem) => frame::refusal(&look, response, &problem),
        None => response,
    }
}

/// Whether who asks is a browser that wants something to show.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/html")
    })
}
