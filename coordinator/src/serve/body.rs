//! Bodies of requests: read with limits, handed on as they come, and emptied before a refusal.

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use drover_wire::Code;
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::problem::Refusal;

/// The most bytes of a message.
pub(super) const MESSAGE_LIMIT: usize = 16 << 20;
/// The most bytes of a message that comes often.
pub(super) const SMALL_MESSAGE_LIMIT: usize = 1 << 20;
/// How long a sender may be silent within a body.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a whole message may take to come.
const MESSAGE_TIME: Duration = Duration::from_secs(300);
/// What is read, and thrown away, of a body that is refused, so that the sender gets to read why: many look for an
/// answer only after they have sent everything.
const LEFTOVER_LIMIT: u64 = 1 << 30;
const LEFTOVER_TIME: Duration = Duration::from_secs(60);
const LEFTOVER_SILENCE: Duration = Duration::from_secs(5);

/// The body of a request. Nothing of it is read before it is asked for: a sender that waits for “100 Continue” can be
/// refused until then.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: BodyDataStream,
    /// Whether the sender waits before it sends.
    waits: bool,
    announced: Option<u64>,
}

impl Incoming {
    pub(super) fn new(parts: &Parts, body: Body) -> Self {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            stream: body.into_data_stream(),
            waits: header(EXPECT).is_some_and(|value| value.eq_ignore_ascii_case("100-continue")),
            announced: header(CONTENT_LENGTH).and_then(|value| value.parse().ok()),
        }
    }

    /// All of it, if it has no more than `limit` bytes.
    pub(super) async fn bytes(mut self, limit: usize) -> Result<Bytes, Refusal> {
        let too_large = || {
            Refusal::new(
                Code::TooLarge,
                format_args!(
                    "the body of the request has more than the {limit} bytes that are accepted here"
                ),
            )
        };
        if self.announced.is_some_and(|announced| announced > limit as u64) {
            self.discard().await;
            return Err(too_large());
        }
        self.waits = false;
        let collected = timeout(MESSAGE_TIME, async {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = self.next_chunk().await.transpose()? {
                if bytes.len() + chunk.len() > limit {
                    return Ok(None);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Some(bytes.freeze()))
        });
        match collected.await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => {
                self.discard().await;
                Err(too_large())
            }
            Ok(Err(error)) => Err(Refusal::of_body(&error)),
            Err(_) => Err(Refusal::of_body(&silent(MESSAGE_TIME))),
        }
    }

    /// The message that it is.
    pub(super) async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Refusal> {
        let bytes = self.bytes(limit).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Refusal::new(
                Code::BadRequest,
                format_args!("the body of the request is not the message that this address reads: {error}"),
            )
        })
    }

    /// Lends it: what is left of it can be thrown away when the borrower is done.
    pub(super) fn lend(self) -> (Lent, Leftover) {
        let (back, leftover) = oneshot::channel();
        let timer = Box::pin(sleep_until(Instant::now() + SILENCE));
        (Lent { body: Some(self), back: Some(back), timer, waiting: false }, Leftover(leftover))
    }

    /// Reads what is left and throws it away, unless the sender waits to be told to send it.
    pub(super) async fn discard(mut self) {
        if self.waits {
            return;
        }
        let _ = timeout(LEFTOVER_TIME, async {
            let mut rest = LEFTOVER_LIMIT;
            while let Ok(Some(Ok(chunk))) = timeout(LEFTOVER_SILENCE, self.stream.next()).await {
                rest = rest.saturating_sub(chunk.len() as u64);
                if rest == 0 {
                    break;
                }
            }
        })
        .await;
    }

    async fn next_chunk(&mut self) -> Option<io::Result<Bytes>> {
        match timeout(SILENCE, self.stream.next()).await {
            Ok(chunk) => chunk.map(|chunk| chunk.map_err(io::Error::other)),
            Err(_) => Some(Err(silent(SILENCE))),
        }
    }
}

fn silent(time: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it did not come within {} seconds", time.as_secs()))
}

/// A body that somebody else reads. An error is its last item, and its end is its end only without one.
#[derive(Debug)]
pub(super) struct Lent {
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
            return Poll::Ready(match item {
                Some(Ok(chunk)) => Some(Ok(chunk)),
                Some(Err(error)) => {
                    this.body = None;
                    Some(Err(io::Error::other(error)))
                }
                None => {
                    this.body = None;
                    None
                }
            });
        }
        if !this.waiting {
            this.waiting = true;
            this.timer.as_mut().reset(Instant::now() + SILENCE);
        }
        ready!(this.timer.as_mut().poll(context));
        this.body = None;
        Poll::Ready(Some(Err(silent(SILENCE))))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // The lender is gone: so is the body.
            let _ = back.send(body);
        }
    }
}

/// What the borrower of a body leaves of it.
#[derive(Debug)]
pub(super) struct Leftover(oneshot::Receiver<Incoming>);

impl Leftover {
    /// Throws it away.
    pub(super) async fn discard(self) {
        if let Ok(Ok(body)) = timeout(LEFTOVER_SILENCE, self.0).await {
            body.discard().await;
        }
    }
}

/// Reads a body from a thread that may block.
#[derive(Debug)]
pub(super) struct BlockingBody {
    body: Lent,
    chunk: Bytes,
    runtime: Handle,
}

impl BlockingBody {
    /// Called within the runtime.
    pub(super) fn new(body: Lent) -> Self {
        Self { body, chunk: Bytes::new(), runtime: Handle::current() }
    }
}

impl Read for BlockingBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.body.next()) {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
