//! What nobody reads of a body is read before the answer is sent, within limits.
//!
//! Many senders look for an answer only after they have sent everything. If the connection were closed on them before,
//! they would see it break, and never the reason. A sender that waits for “100 Continue” needs none of this.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::EXPECT;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How long a sender may be silent within a body that is awaited.
const SILENCE: Duration = Duration::from_secs(120);
/// What is thrown away at most, of those who are known and of others, and how long it may take.
const LIMIT: u64 = 1 << 30;
const STRANGERS_LIMIT: u64 = 16 << 20;
const TIME: Duration = Duration::from_secs(60);
const SHORT_SILENCE: Duration = Duration::from_secs(5);

/// Lends a request's body to what comes after, and throws away what that leaves of it.
pub(super) async fn discard(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let expect = parts.headers.get(EXPECT);
    let waits = expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (back, leftover) = oneshot::channel();
    let lent = Lent {
        body: Some(Incoming { stream: body.into_data_stream(), waits }),
        back: Some(back),
        timer: Box::pin(sleep_until(Instant::now() + SILENCE)),
        waiting: false,
    };
    let response = next.run(Request::from_parts(parts, Body::from_stream(lent))).await;
    let limit = if response.status() == StatusCode::UNAUTHORIZED { STRANGERS_LIMIT } else { LIMIT };
    if let Ok(Ok(rest)) = timeout(SHORT_SILENCE, leftover).await {
        rest.discard(limit).await;
    }
    response
}

#[derive(Debug)]
struct Incoming {
    stream: BodyDataStream,
    /// Whether the sender waits to be told to send it.
    waits: bool,
}

impl Incoming {
    async fn discard(mut self, limit: u64) {
        if self.waits {
            return;
        }
        let _ = timeout(TIME, async {
            let mut rest = limit;
            while let Ok(Some(Ok(chunk))) = timeout(SHORT_SILENCE, self.stream.next()).await {
                rest = rest.saturating_sub(chunk.len() as u64);
                if rest == 0 {
                    break;
                }
            }
        })
        .await;
    }
}

/// A body that somebody reads, who gets an error as its last item when it does not come to its end.
#[derive(Debug)]
struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
    timer: Pin<Box<Sleep>>,
    /// Whether somebody waits for the next chunk: only then does the sender's silence count.
    waiting: bool,
}

impl Stream for Lent {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        body.waits = false;
        if let Poll::Ready(item) = body.stream.poll_next_unpin(context) {
            this.waiting = false;
            let item = item.map(|chunk| chunk.map_err(io::Error::other));
            if !matches!(item, Some(Ok(_))) {
                this.body = None;
            }
            return Poll::Ready(item);
        }
        if !this.waiting {
            this.waiting = true;
            this.timer.as_mut().reset(Instant::now() + SILENCE);
        }
        ready!(this.timer.as_mut().poll(context));
        this.body = None;
        let silent = format!("nothing of it came for {} seconds", SILENCE.as_secs());
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, silent))))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // The request was given up: so is its body.
            let _ = back.send(body);
        }
    }
}
