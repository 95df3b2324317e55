//! The word that a build is to stop, from any thread to whoever waits.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::executor::Error;

/// Whether to stop, and a descriptor that becomes readable with it, so that whoever waits for something else besides is
/// woken. It never goes back.
#[derive(Debug)]
pub(crate) struct Stopping {
    stopped: AtomicBool,
    heard: UnixStream,
    said: UnixStream,
}

impl Stopping {
    /// Nobody said so yet.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub(crate) fn new() -> Result<Self, Error> {
        let (heard, said) = UnixStream::pair()
            .map_err(|source| Error::Stream { attempted: "make a way to stop a build".to_owned(), source })?;
        Ok(Self { stopped: AtomicBool::new(false), heard, said })
    }

    /// Says so, any number of times.
    pub(crate) fn stop(&self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            // Both ends are open for as long as this lives, so there is nothing to fail.
            let _: io::Result<()> = self.said.shutdown(Shutdown::Both);
        }
    }

    /// Whether somebody said so.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Goes on only if nobody said so.
    ///
    /// # Errors
    /// [`Error::Away`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_stopped() { Err(Self::error()) } else { Ok(()) }
    }

    /// What a step ends with that was stopped.
    pub(crate) fn error() -> Error {
        Error::Away("the build was stopped".to_owned())
    }
}

/// What is read, or written to, until somebody says to stop.
#[derive(Debug)]
pub(super) struct Heeding<'a, T> {
    inner: T,
    stop: &'a Stopping,
}

impl<'a, T> Heeding<'a, T> {
    pub(super) fn new(inner: T, stop: &'a Stopping) -> Self {
        Self { inner, stop }
    }

    fn heed(&mut self) -> io::Result<&mut T> {
        if self.stop.is_stopped() {
            return Err(io::Error::other("the build was stopped"));
        }
        Ok(&mut self.inner)
    }
}

impl<T: Read> Read for Heeding<'_, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.heed()?.read(buffer)
    }
}

impl<T: Write> Write for Heeding<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heed()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.heed()?.flush()
    }
}

impl AsFd for Stopping {
    /// Readable once somebody said so; never to be read from.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use drover_os::Deadline;
    use drover_os::poll::{Interest, wait_one};

    use super::*;

    #[test]
    fn who_waits_is_woken_once_and_for_all_and_nobody_before() {
        let stopping = Stopping::new().unwrap();
        let at_once = || Deadline::after(std::time::Duration::ZERO);
        assert!(!wait_one(stopping.as_fd(), Interest::Readable, at_once()).unwrap());
        stopping.check().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait_one(stopping.as_fd(), Interest::Readable, Deadline::never()));
            stopping.stop();
            assert!(waits.join().unwrap().unwrap());
        });
        stopping.stop();
        assert!(wait_one(stopping.as_fd(), Interest::Readable, at_once()).unwrap());
        assert!(matches!(stopping.check(), Err(Error::Away(_))));
    }
}
