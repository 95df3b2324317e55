//! Files that are being read.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use tokio::sync::mpsc;

/// A file, or a part of one, that is being read.
#[derive(Debug)]
pub enum Opened {
    /// A file of a folder, which stands where the part begins; the part's length is the reader's to heed.
    File(File),
    /// A stream from a bucket, of the part alone.
    Stream(Chunks),
}

/// Bytes that come from a bucket; all of them, or an error. A stream for those that do not block, and a reader for those
/// that do.
#[derive(Debug)]
pub struct Chunks {
    coming: mpsc::Receiver<io::Result<Bytes>>,
    here: Bytes,
}

impl Opened {
    /// A reader of the `length` bytes of the part, for a thread that may block.
    pub fn reader(self, length: u64) -> Box<dyn Read + Send> {
        match self {
            Self::File(file) => Box::new(Exactly { from: file, left: length }),
            Self::Stream(chunks) => Box::new(chunks),
        }
    }
}

impl Chunks {
    /// Those that come here.
    #[cfg(feature = "s3")]
    pub(super) fn new(coming: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { coming, here: Bytes::new() }
    }
}

impl Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.coming.poll_recv(context)
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.here.is_empty() {
            match self.coming.blocking_recv() {
                Some(chunk) => self.here = chunk?,
                None => return Ok(0),
            }
        }
        let n = self.here.len().min(buffer.len());
        self.here.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// So many bytes; an end before is an error.
struct Exactly {
    from: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.from.read(&mut buffer[..most])?;
        if n == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}
