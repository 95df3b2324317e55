//! Every request is counted, and told of in the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use drover_wire::route::{self, Listener};

use crate::farm::Farm;
use crate::farm::numbers;

/// Who watches the requests of a listener.
#[derive(Debug, Clone)]
pub(super) struct Observer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    farm: Arc<Farm>,
    listener: Listener,
    /// The patterns of the table of routes: nothing else becomes a label.
    patterns: HashSet<&'static str>,
}

impl Observer {
    pub(super) fn new(farm: &Arc<Farm>, listener: Listener) -> Self {
        let patterns = route::TABLES.iter().copied().flatten().map(|route| route.pattern).collect();
        Self(Arc::new(Inner { farm: Arc::clone(farm), listener, patterns }))
    }

    fn pattern(&self, matched: Option<&MatchedPath>) -> &'static str {
        let found = matched.and_then(|matched| self.0.patterns.get(matched.as_str()));
        found.copied().unwrap_or("none")
    }
}

/// A method, of those that are in use.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// Goes around everything else.
pub(super) async fn observe(State(observer): State<Observer>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = word(request.method());
    let route = observer.pattern(request.extensions().get::<MatchedPath>());
    let path = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());
    let response = next.run(request).await;
    let (status, time) = (response.status().as_u16(), start.elapsed());
    let listener = observer.0.listener;
    observer.0.farm.numbers().request(&numbers::Request { listener, method, route, status, time });
    if let Some(path) = path {
        let milliseconds = time.as_millis();
        tracing::debug!(method, path, status, milliseconds, "a request was answered");
    }
    response
}
