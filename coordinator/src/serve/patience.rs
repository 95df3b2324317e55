//! A connection whose other end takes nothing for too long is given up: else it would hold a file and memory for ever.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::farm::numbers::Traffic;

/// How long the other end may take for some bytes.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A stream on which no write is waited for longer than that, and whose bytes are counted.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    traffic: Arc<Traffic>,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether a write waits, since the timer was set.
    waiting: bool,
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration, traffic: Arc<Traffic>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + patience));
        Self { stream, traffic, patience, timer, waiting: false }
    }

    fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.traffic.sent.inc_by(*bytes as u64);
        }
        written
    }

    fn write<T>(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.get_mut();
        if let Poll::Ready(written) = write(Pin::new(&mut this.stream), context) {
            this.waiting = false;
            return Poll::Ready(written);
        }
        if !this.waiting {
            this.waiting = true;
            this.timer.as_mut().reset(Instant::now() + this.patience);
        }
        let seconds = this.patience.as_secs();
        this.timer.as_mut().poll(context).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the other end has taken nothing for {seconds} seconds"),
            ))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.traffic.received.inc_by(buffer.filled().len().saturating_sub(before) as u64);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().write(context, |stream, context| stream.poll_write(context, bytes));
        self.sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written =
            self.as_mut().write(context, |stream, context| stream.poll_write_vectored(context, parts));
        self.sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_takes_ends_and_one_that_is_taken_slowly_does_not() {
        let (mut other, stream) = duplex(4);
        let mut patient = Patient::new(stream, Duration::from_millis(50), Arc::default());
        let taken = tokio::spawn(async move {
            let mut four = [0; 4];
            for _ in 0..3 {
                other.read_exact(&mut four).await.unwrap();
            }
            other
        });
        patient.write_all(b"abcdabcdabcd").await.unwrap();
        let _other = taken.await.unwrap();
        patient.write_all(b"abcd").await.unwrap();
        let error = patient.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    }
}
