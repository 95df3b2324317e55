//! Bundles on their way in and out, on threads that may block.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use drover_wire::agent::BundleRequest;
use drover_wire::{BUNDLE_TYPE, bundle::BundleError};
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::body::{BlockingBody, MESSAGE_LIMIT};
use super::call::{Answer, Call, blocking, json, to_its_end};
use super::problem::Refusal;
use crate::farm::{Error, Farm};
use crate::storage::WINDOW_LOG_MAX;

/// Quick, since networks within a farm are.
const LEVEL: i32 = 3;
const CHUNK: usize = 128 * 1024;
/// Chunks that wait to be sent.
const CHUNKS: usize = 4;
/// How long a receiver may take for one chunk.
const SILENCE: Duration = Duration::from_secs(120);

/// Takes a bundle from a client.
pub(super) async fn upload(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let body = BlockingBody::new(call.body);
    let taken = to_its_end(async move {
        let bundle = decompressed(body).map_err(|source| BundleError::Io { entries: 0, source })?;
        farm.upload_bundle(bundle).await
    });
    json(taken.await?)
}

pub(super) type Decompressed = zstd::stream::read::Decoder<'static, BufReader<Packed>>;

pub(super) fn decompressed(body: BlockingBody) -> io::Result<Decompressed> {
    let mut bundle = zstd::stream::read::Decoder::new(Packed { body, first: [0; 4], seen: 0 })?;
    bundle.window_log_max(WINDOW_LOG_MAX)?;
    Ok(bundle)
}

/// A body that has to begin as what zstd makes does: else its sender hears what it should be.
pub(super) struct Packed {
    body: BlockingBody,
    first: [u8; 4],
    seen: usize,
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer)?;
        if self.seen < self.first.len() {
            let some = n.min(self.first.len() - self.seen);
            self.first[self.seen..self.seen + some].copy_from_slice(&buffer[..some]);
            self.seen += some;
            // A frame, or one that is skipped.
            let known = matches!(self.first, [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
            if self.seen == self.first.len() && !known {
                let said = "the body of the request should be compressed with zstd, and is not";
                return Err(io::Error::new(io::ErrorKind::InvalidData, said));
            }
        }
        Ok(n)
    }
}

/// Gives an agent the bundle that it asks for.
pub(super) async fn download(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let request: BundleRequest = call.body.json(MESSAGE_LIMIT).await?;
    farm.check_bundle(&request).await?;
    let (out, chunks) = ToChannel::new();
    let writing = crate::traced::spawn(blocking(move || write(&farm, &request, out)));
    let bundle = poured(chunks, writing, "a bundle was cut off on its way to an agent");
    Ok(([(CONTENT_TYPE, BUNDLE_TYPE)], bundle).into_response())
}

/// What a thread writes, as the body of an answer; `broken` is what the log says if the thread fails.
pub(super) fn poured(chunks: mpsc::Receiver<Bytes>, writing: Writing, broken: &'static str) -> Body {
    Body::from_stream(stream::unfold(Some((chunks, writing)), move |state| async move {
        let (mut chunks, writing) = state?;
        if let Some(chunk) = chunks.recv().await {
            return Some((Ok(chunk), Some((chunks, writing))));
        }
        // Cut off, so that it is not taken for a whole one.
        let error: Box<dyn std::error::Error + Send + Sync> = match writing.await {
            Ok(Ok(Ok(()))) => return None,
            Ok(Ok(Err(error))) => error.into(),
            Ok(Err(Refusal(problem))) => problem.into(),
            Err(error) => error.into(),
        };
        tracing::error!(%error, "{broken}");
        Some((Err(io::Error::other(error)), None))
    }))
}

/// A thread that writes, and what comes of it.
pub(super) type Writing = JoinHandle<Result<Result<(), Error>, Refusal>>;

fn write(farm: &Farm, request: &BundleRequest, out: ToChannel) -> Result<(), Error> {
    let failed = |source| Error::io("compressing a bundle", source);
    let mut encoder = zstd::stream::write::Encoder::new(out, LEVEL).map_err(failed)?;
    farm.bundle(request, &mut encoder)?;
    let mut out = encoder.finish().map_err(failed)?;
    out.flush().map_err(failed)
}

/// Writes to a channel from a thread that may block.
pub(super) struct ToChannel {
    sender: mpsc::Sender<Bytes>,
    chunk: BytesMut,
    runtime: Handle,
}

impl ToChannel {
    /// Called within the runtime. The channel holds few chunks.
    pub(super) fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        (Self { sender, chunk: BytesMut::new(), runtime: Handle::current() }, chunks)
    }
}

impl Write for ToChannel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let sent = self.sender.send(self.chunk.split().freeze());
        match self.runtime.block_on(async { timeout(SILENCE, sent).await }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the receiver has gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing")),
        }
    }
}
