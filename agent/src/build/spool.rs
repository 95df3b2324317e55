//! A build's log: kept on disk as it grows, and sent from there.
//!
//! The builder never waits for the coordinator: the log goes to a file first, and a thread of its own sends what the
//! file has and the coordinator has not. Its first bytes go at once, later ones in pieces.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drover_wire::{LOG_CHUNK_LIMIT, LeaseId};

use super::control::{Control, Heed, Order};
use super::host::{Host, Refusal, patiently};

/// How long bytes may wait for more of them.
const GATHER: Duration = Duration::from_millis(100);
/// So many bytes do not wait.
const ENOUGH: u64 = 64 * 1024;

/// A log that one thread writes and another sends.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy)]
struct State {
    written: u64,
    closed: bool,
}

impl Spool {
    /// A new log in this file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = options.map_err(|e| io::Error::new(e.kind(), format!("make {}: {e}", path.display())))?;
        Ok(Self::of(file, State { written: 0, closed: false }))
    }

    /// The log of a build that has ended.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self::of(file, State { written, closed: true }))
    }

    fn of(file: File, state: State) -> Self {
        Self { file, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Appends.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        // Only this thread changes it. What an error leaves of the bytes is overwritten by the next ones.
        let written = self.lock().written;
        self.file.write_all_at(bytes, written)?;
        self.lock().written = written + bytes.len() as u64;
        self.changed.notify_all();
        Ok(())
    }

    /// Nothing comes any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Waits until there is something to send after `sent`: how much, or none at the end. `next` is when bytes need not
    /// wait any more for others to come.
    fn to_send(&self, sent: u64, next: Instant) -> Option<usize> {
        let mut state = self.lock();
        loop {
            let more = state.written.saturating_sub(sent);
            let wait = next.saturating_duration_since(Instant::now());
            if more > 0 && (more >= ENOUGH || state.closed || wait.is_zero()) {
                return Some(usize::try_from(more).unwrap_or(usize::MAX).min(LOG_CHUNK_LIMIT));
            }
            if state.closed {
                return None;
            }
            state = if more == 0 {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the disk that it takes, after all of it was sent.
    pub(super) fn discard(&self) {
        // Its folder goes soon, and with it the file.
        let _ = self.file.set_len(0);
    }

    /// Sends the log until it is closed and all of it is sent, or an order ends that; whether all is sent. Where the
    /// coordinator's copy ends, it says itself.
    pub(super) fn send(&self, host: &dyn Host, lease: LeaseId, control: &Control) -> bool {
        let mut sent = 0;
        let mut next = Instant::now();
        let mut buffer = Vec::new();
        while let Some(size) = self.to_send(sent, next) {
            buffer.resize(size, 0);
            if let Err(error) = self.file.read_exact_at(&mut buffer, sent) {
                tracing::error!("lease {lease}: read the log: {error}; the rest of it is not sent");
                return false;
            }
            next = Instant::now() + GATHER;
            let answer = patiently(control, Heed::Gravest, "send a log", || {
                match host.coordinator().append_log(lease, sent, &buffer) {
                    Ok(received) => Ok(Ok(received.received)),
                    Err(error) => error.received().map(Err).ok_or(error),
                }
            });
            match answer {
                Ok(Ok(received)) => sent = received.max(sent),
                // An answer was lost, or the log was sent in part before a restart.
                Ok(Err(received)) if received <= self.lock().written => sent = received,
                Ok(Err(received)) => {
                    tracing::error!(
                        "lease {lease}: the coordinator has {received} bytes of a log that is shorter"
                    );
                    return false;
                }
                Err(Refusal::Ordered(_)) => return false,
                Err(Refusal::Lost) => {
                    control.order(Order::Lost);
                    return false;
                }
                Err(Refusal::Final(error)) => {
                    tracing::error!("lease {lease}: {error}; the rest of the log is not sent");
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_do_not_wait_and_later_ones_do_until_enough_or_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(&folder.path().join("log")).unwrap();
        spool.write(b"a").unwrap();
        assert_eq!(spool.to_send(0, Instant::now()), Some(1));
        let never = Instant::now() + Duration::from_secs(3600);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| spool.to_send(1, never));
            spool.write(&vec![b'x'; 64 * 1024]).unwrap();
            assert_eq!(waiting.join().unwrap(), Some(64 * 1024));
        });
        spool.write(b"b").unwrap();
        spool.close();
        assert_eq!(spool.to_send(1 + 64 * 1024, never), Some(1));
        assert_eq!(spool.to_send(2 + 64 * 1024, never), None);
    }

    #[test]
    fn a_log_is_read_again_as_it_was_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        Spool::create(&path).unwrap().write(b"\xff\x00log").unwrap();
        let spool = Spool::open(&path).unwrap();
        assert_eq!(spool.to_send(2, Instant::now()), Some(3));
        assert_eq!(spool.to_send(5, Instant::now()), None);
    }
}
