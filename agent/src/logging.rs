//! What the agent says about itself: lines on standard error.
//!
//! Logging never stops the agent. A closed standard error swallows the lines; one that nobody reads any more is
//! waited for once and then left alone until it moves again.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drover_os::Deadline;
use drover_os::poll::{self, Interest};
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogLevel, LogSettings};

/// How long a line waits for a reader that was quick enough before.
const WAIT: Duration = Duration::from_secs(1);
/// What a pipe that is writable takes without blocking: POSIX's least `PIPE_BUF` that systems really have.
const PIECE: usize = 512;

/// Sends the lines of this process to standard error from now on. A second call changes nothing.
pub fn start(settings: LogSettings) {
    let level = match settings.level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(StandardError);
    // A subscriber that is there already stays.
    let _ = if settings.timestamps {
        tracing::subscriber::set_global_default(lines.finish())
    } else {
        tracing::subscriber::set_global_default(lines.without_time().finish())
    };
}

struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Patient<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        static STALLED: AtomicBool = AtomicBool::new(false);
        Patient { to: io::stderr(), stalled: &STALLED }
    }
}

/// Writes what can be written and drops the rest.
struct Patient<W> {
    to: W,
    stalled: &'static AtomicBool,
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(PIECE) {
            let patience = if self.stalled.load(Ordering::Relaxed) { Duration::ZERO } else { WAIT };
            let ready = poll::wait_one(self.to.as_fd(), Interest::Writable, Deadline::after(patience));
            let stalled = !matches!(ready, Ok(true));
            self.stalled.store(stalled, Ordering::Relaxed);
            if stalled || self.to.write_all(piece).is_err() {
                break;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_arrive_whole() {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let (here, mut there) = UnixStream::pair().unwrap();
        let line = [b'x'; 2 * PIECE + 1];
        Patient { to: here, stalled: &STALLED }.write_all(&line).unwrap();
        let mut read = Vec::new();
        there.read_to_end(&mut read).unwrap();
        assert_eq!(read, line);
    }

    #[test]
    fn a_closed_reader_is_no_error() {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        Patient { to: here, stalled: &STALLED }.write_all(b"line\n").unwrap();
    }

    #[test]
    fn a_reader_that_stalls_does_not_stop_the_writer() {
        static STALLED: AtomicBool = AtomicBool::new(true);
        let (here, _there) = UnixStream::pair().unwrap();
        let mut writer = Patient { to: here, stalled: &STALLED };
        for _ in 0..10_000 {
            writer.write_all(&[b'x'; PIECE]).unwrap();
        }
        assert!(STALLED.load(Ordering::Relaxed));
    }
}
