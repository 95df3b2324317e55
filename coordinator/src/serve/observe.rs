//! Every request has a name, is counted, and told of in the log.
//!
//! The name is the one that whoever asks gives it, or a new one. It is in every line that the log has of the request, in
//! the answer's header, and in the words of a refusal: agents, commands and coordinator speak of the same request by it.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use drover_wire::route::{self, Listener};
use drover_wire::{REQUEST_HEADER, is_request_id};
use hyper::body::{Frame, SizeHint};
use tracing::{Instrument as _, Span};

use crate::farm::Farm;
use crate::farm::numbers;

const HEADER: HeaderName = HeaderName::from_static(REQUEST_HEADER);
/// Bodies of answers that are larger come in pieces, and something may happen between these.
const AT_ONCE: u64 = 64 * 1024;

tokio::task_local! {
    static REQUEST: Arc<str>;
}

/// The name of the request that is answered here.
pub(super) fn request_id() -> Option<String> {
    REQUEST.try_with(|id| id.to_string()).ok()
}

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
    // The public asks much, and its answers are kept by others: there a request is nobody's but who names it.
    let id = given(request.headers()).or_else(|| (observer.0.listener != Listener::Public).then(new_id));
    let method = word(request.method());
    let route = observer.pattern(request.extensions().get::<MatchedPath>());
    let path = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());
    // Of the highest level: whatever the log has, it has it with this.
    let span = id.as_ref().map_or_else(Span::none, |id| tracing::error_span!("request", id = &**id));
    let mut told = Told { observer, method, route, path, start, span: span.clone(), status: None };
    let answer = next.run(request).instrument(span.clone());
    let mut response = match &id {
        Some(id) => REQUEST.scope(Arc::clone(id), answer).await,
        None => answer.await,
    };
    told.status = Some(response.status().as_u16());
    drop(told);
    let Some(id) = id.and_then(|id| HeaderValue::from_str(&id).ok()) else { return response };
    response.headers_mut().insert(HEADER, id);
    if response.body().size_hint().exact().is_some_and(|size| size <= AT_ONCE) {
        return response;
    }
    response.map(|body| Body::new(Within { body, span }))
}

/// A request, which is counted and told of when this is dropped: also when nobody waits for the answer any more.
struct Told {
    observer: Observer,
    method: &'static str,
    route: &'static str,
    path: Option<String>,
    start: Instant,
    span: Span,
    status: Option<u16>,
}

impl Drop for Told {
    fn drop(&mut self) {
        let Inner { farm, listener, .. } = &*self.observer.0;
        // A mistake of ours ends a request, too, and is nothing that whoever asked did.
        let status = self.status.or_else(|| std::thread::panicking().then_some(500));
        let (method, route, time) = (self.method, self.route, self.start.elapsed());
        farm.numbers().request(&numbers::Request { listener: *listener, method, route, status, time });
        let Some(path) = &self.path else { return };
        let (_within, milliseconds) = (self.span.enter(), time.as_millis());
        match status {
            Some(status) => tracing::debug!(method, path, status, milliseconds, "a request was answered"),
            None => tracing::debug!(method, path, milliseconds, "whoever asked has left before the answer"),
        }
    }
}

/// The name that whoever asks gave the request, if it is one.
fn given(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    is_request_id(text).then(|| text.into())
}

/// A name that no other request has.
fn new_id() -> Arc<str> {
    static START: LazyLock<String> = LazyLock::new(|| {
        let mut start = uuid::Uuid::new_v4().simple().to_string();
        start.truncate(8);
        start
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", *START, COUNT.fetch_add(1, Ordering::Relaxed)).into()
}

/// The body of an answer, within the span of its request.
struct Within {
    body: Body,
    span: Span,
}

impl HttpBody for Within {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let _within = this.span.enter();
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_be_anything_else_is_replaced() {
        let given = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            super::given(&headers)
        };
        assert_eq!(given("7f-3._X").as_deref(), Some("7f-3._X"));
        for text in [
            "",
            "a b",
            "a\"b",
            "a/b",
            "é",
            "0123456789012345678901234567890123456789012345678901234567890123x",
        ] {
            assert_eq!(given(text), None, "{text}");
        }
        assert_ne!(new_id(), new_id());
        assert!(is_request_id(&new_id()));
    }
}
