//! The bytes of a file on their way out: those that the system has in memory are read on the spot, for others a thread
//! waits that may.

use std::fs::File;
use std::future::Future as _;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use tokio::task::{JoinHandle, spawn_blocking};

/// Both copies of a chunk, from the system and back to it, still find it in the processor's cache. Smaller ones cost more
/// calls, and larger ones are not faster.
const CHUNK: usize = 512 * 1024;

/// A part of a file as the body of an answer. If the file is shorter, the body breaks off.
pub(super) fn part(file: File, range: Range<u64>) -> Body {
    let (offset, end) = (range.start, range.end);
    Body::from_stream(Chunks { file: Arc::new(file), offset, end, spare: Arc::default(), waiting: None })
}

/// All of a file, and its bytes, as the body of an answer.
pub(super) async fn whole(path: PathBuf) -> io::Result<(u64, Body)> {
    let opened = spawn_blocking(move || {
        let file = File::open(path)?;
        Ok::<_, io::Error>((file.metadata()?.len(), file))
    });
    let (size, file) = opened.await.map_err(io::Error::other)??;
    Ok((size, part(file, 0..size)))
}

/// The chunks of a file.
struct Chunks {
    file: Arc<File>,
    offset: u64,
    end: u64,
    /// The last chunk's memory, when it has been sent.
    spare: Arc<Mutex<Option<Vec<u8>>>>,
    waiting: Option<JoinHandle<io::Result<Chunk>>>,
}

/// What was read, in memory that is used again.
struct Chunk {
    memory: Vec<u8>,
    length: usize,
    spare: Arc<Mutex<Option<Vec<u8>>>>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    }
}

impl Chunks {
    /// How much is wanted next, and memory for it.
    fn room(&self) -> Chunk {
        let length = usize::try_from(self.end - self.offset).unwrap_or(CHUNK).min(CHUNK);
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let memory = spare.unwrap_or_else(|| vec![0; length]);
        Chunk { length: length.min(memory.len()), memory, spare: Arc::clone(&self.spare) }
    }

    fn sent(&mut self, chunk: Chunk) -> Option<io::Result<Bytes>> {
        self.offset += chunk.length as u64;
        Some(Ok(Bytes::from_owner(chunk)))
    }
}

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            if this.offset >= this.end {
                return Poll::Ready(None);
            }
            let mut chunk = this.room();
            let length = chunk.length;
            let at = this.offset;
            match drover_os::file::read_from_memory(&this.file, &mut chunk.memory[..length], at) {
                Ok(Some(n)) if n > 0 => {
                    chunk.length = n;
                    return Poll::Ready(this.sent(chunk));
                }
                // The end comes too early, or it would have to be waited for: the thread finds out.
                _ => {}
            }
            let file = Arc::clone(&this.file);
            this.waiting = Some(spawn_blocking(move || {
                file.read_exact_at(&mut chunk.memory[..length], at)?;
                Ok(chunk)
            }));
        }
        let Some(waiting) = &mut this.waiting else { return Poll::Ready(None) };
        let read = ready!(Pin::new(waiting).poll(context));
        this.waiting = None;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        Poll::Ready(match read {
            Ok(chunk) => this.sent(chunk),
            Err(error) => {
                tracing::error!(%error, offset = this.offset, end = this.end, "a file could not be sent to its end");
                this.end = this.offset;
                Some(Err(error))
            }
        })
    }
}
