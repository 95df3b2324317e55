//! The bytes of a file on their way out: those that the system has in memory are read on the spot, for others a thread
//! waits that may.

use std::fs::File;
use std::future::Future as _;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::Stream;
use tokio::task::JoinHandle;

use crate::traced::spawn_blocking;

/// Both copies of a chunk, from the system and back to it, still find it in the processor's cache. Smaller ones cost more
/// calls, and larger ones are not faster.
const CHUNK: usize = 512 * 1024;
/// What the chunks of all files that are on their way out may take, about: whoever reads slowly keeps one.
const ALL: usize = 32 << 20;
/// No chunk is smaller, however many files there are.
const LEAST: usize = 16 * 1024;

/// How many files are on their way out.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// How large a chunk is when there are so many files.
fn chunk(open: usize) -> usize {
    // Powers of two, so that memory can mostly be used again.
    let share = (ALL / open.max(1)).clamp(LEAST, CHUNK);
    1 << share.ilog2()
}

/// A part of a file as the body of an answer. If the file is shorter, the body breaks off.
pub(super) fn part(file: File, range: Range<u64>) -> Body {
    Body::from_stream(Chunks::new(file, range, || chunk(OPEN.load(Ordering::Relaxed))))
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
struct Chunks<S> {
    file: Arc<File>,
    offset: u64,
    end: u64,
    /// How large a chunk may be now.
    size: S,
    memory: Arc<Mutex<Memory>>,
    waiting: Option<JoinHandle<io::Result<Chunk>>>,
}

/// The memory of chunks.
#[derive(Default)]
struct Memory {
    /// The last chunk's, when that has been sent.
    spare: Option<Vec<u8>>,
    /// How many chunks are not sent yet.
    unsent: usize,
    /// Who waits until they are.
    waker: Option<Waker>,
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was read, in memory that is used again.
struct Chunk {
    bytes: Vec<u8>,
    length: usize,
    memory: Arc<Mutex<Memory>>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut memory = lock(&self.memory);
        memory.spare = Some(std::mem::take(&mut self.bytes));
        memory.unsent -= 1;
        if let Some(waker) = memory.waker.take() {
            drop(memory);
            waker.wake();
        }
    }
}

impl<S> Drop for Chunks<S> {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: Fn() -> usize> Chunks<S> {
    fn new(file: File, range: Range<u64>, size: S) -> Self {
        let (offset, end) = (range.start, range.end);
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self { file: Arc::new(file), offset, end, size, memory: Arc::default(), waiting: None }
    }

    /// How much is wanted next, and memory for it; none: not before the last chunk has been sent, since there are many
    /// files.
    fn room(&self, context: &Context<'_>) -> Option<Chunk> {
        let size = (self.size)();
        let length = usize::try_from(self.end - self.offset).unwrap_or(size).min(size);
        let mut memory = lock(&self.memory);
        if size < CHUNK && memory.unsent > 0 {
            memory.waker = Some(context.waker().clone());
            return None;
        }
        memory.unsent += 1;
        let spare = memory.spare.take().filter(|spare| (length..=size).contains(&spare.len()));
        let bytes = spare.unwrap_or_else(|| vec![0; length]);
        Some(Chunk { bytes, length, memory: Arc::clone(&self.memory) })
    }

    fn sent(&mut self, chunk: Chunk) -> Option<io::Result<Bytes>> {
        self.offset += chunk.length as u64;
        Some(Ok(Bytes::from_owner(chunk)))
    }
}

impl<S: Fn() -> usize + Unpin> Stream for Chunks<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            if this.offset >= this.end {
                return Poll::Ready(None);
            }
            let Some(mut chunk) = this.room(context) else { return Poll::Pending };
            let length = chunk.length;
            let at = this.offset;
            match drover_os::file::read_from_memory(&this.file, &mut chunk.bytes[..length], at) {
                Ok(Some(n)) if n > 0 => {
                    chunk.length = n;
                    return Poll::Ready(this.sent(chunk));
                }
                // The end comes too early, or it would have to be waited for: the thread finds out.
                _ => {}
            }
            let file = Arc::clone(&this.file);
            this.waiting = Some(spawn_blocking(move || {
                file.read_exact_at(&mut chunk.bytes[..length], at)?;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    #[test]
    fn all_files_together_take_little_however_many_there_are() {
        assert_eq!((chunk(0), chunk(1), chunk(64)), (CHUNK, CHUNK, CHUNK));
        assert_eq!((chunk(65), chunk(1024)), (CHUNK / 2, 32 * 1024));
        assert_eq!((chunk(2048), chunk(1 << 20)), (LEAST, LEAST));
        // Each came when there were as many as before it, and none has read anything.
        let all: usize = (1..=4096).map(chunk).sum();
        assert!(all < 6 * ALL, "{all}");
    }

    /// A file of these bytes, as it goes out in chunks of this size.
    fn chunks(bytes: &[u8], size: usize) -> Chunks<impl Fn() -> usize + Unpin + use<>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Chunks::new(file, 0..bytes.len() as u64, move || size)
    }

    #[tokio::test]
    async fn where_there_are_many_the_next_chunk_is_read_when_the_last_was_sent() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut many = chunks(&bytes, LEAST);
        let first = many.next().await.unwrap().unwrap();
        assert!(many.next().now_or_never().is_none(), "the first is not sent yet");
        assert_eq!(first[..], bytes[..LEAST]);
        let next = tokio::spawn(async move { (many.next().await.unwrap().unwrap(), many) });
        drop(first);
        let (second, mut many) = next.await.unwrap();
        assert_eq!(second[..], bytes[LEAST..2 * LEAST]);
        drop(second);
        let mut rest = Vec::new();
        while let Some(chunk) = many.next().await {
            rest.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(rest, bytes[2 * LEAST..]);
    }

    #[tokio::test]
    async fn where_there_are_few_none_waits_for_another() {
        let bytes = vec![7; 3 * CHUNK];
        let all: Vec<_> = chunks(&bytes, CHUNK).map(Result::unwrap).collect().await;
        assert_eq!(all.concat(), bytes);
    }
}
