//! Bodies of requests, read by those that need them.

use std::error::Error;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use drover_wire::Code;
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::problem::Refusal;

/// The most bytes of a message.
pub(super) const MESSAGE_LIMIT: usize = 16 << 20;
/// The most bytes of a message that comes often.
pub(super) const SMALL_MESSAGE_LIMIT: usize = 1 << 20;
/// How long a whole message may take to come.
const MESSAGE_TIME: Duration = Duration::from_secs(300);

/// The body of a request. Nothing of it is read before it is asked for: a sender that waits for “100 Continue” can be
/// refused until then.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: BodyDataStream,
    announced: Option<u64>,
}

impl Incoming {
    pub(super) fn new(headers: &HeaderMap, body: Body) -> Self {
        let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { stream: body.into_data_stream(), announced }
    }

    /// It as it comes. Only the end of all of it is its end; else an error comes last.
    pub(super) fn stream(self) -> Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>> {
        Box::pin(self.stream.map(|chunk| chunk.map_err(broken)))
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
            return Err(too_large());
        }
        let all = timeout(MESSAGE_TIME, async {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = self.stream.next().await {
                let chunk = chunk.map_err(|error| unread(&broken(error)))?;
                if bytes.len() + chunk.len() > limit {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        });
        all.await.unwrap_or_else(|_| Err(unread(&io::ErrorKind::TimedOut.into())))
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
}

/// The kind of an error lies below what axum makes of it.
fn broken(error: axum::Error) -> io::Error {
    let errors = std::iter::successors(Some(&error as &(dyn Error + 'static)), |error| (*error).source());
    let kind = errors.filter_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind).last();
    io::Error::new(kind.unwrap_or(io::ErrorKind::Other), error.to_string())
}

fn unread(error: &io::Error) -> Refusal {
    let code = match error.kind() {
        io::ErrorKind::TimedOut => Code::RequestTimeout,
        _ => Code::BadRequest,
    };
    Refusal::new(code, format_args!("the body of the request could not be read: {error}"))
}

/// Reads a body from a thread that may block.
pub(super) struct BlockingBody {
    body: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    chunk: Bytes,
    runtime: Handle,
}

impl BlockingBody {
    /// Called within the runtime.
    pub(super) fn new(body: Incoming) -> Self {
        Self { body: body.stream(), chunk: Bytes::new(), runtime: Handle::current() }
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
