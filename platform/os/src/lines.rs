//! Lines for somebody who may stop reading. Whoever writes them never waits for long, and never fails.
//!
//! A reader that is gone swallows them; one that reads no more is waited for once and then left alone until it moves again.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Deadline;
use crate::poll::{self, Interest};

/// How long a line waits for a reader that was quick enough before.
const WAIT: Duration = Duration::from_secs(1);
/// What a pipe that is writable takes without blocking: POSIX's least `PIPE_BUF` that systems really have.
const PIECE: usize = 512;

/// What is known of a reader from one line to the next.
#[derive(Debug, Default)]
pub struct Reader {
    /// It did not take the last line in time.
    stalled: AtomicBool,
    /// It has the beginning of a line, and not the end.
    cut: AtomicBool,
}

impl Reader {
    /// One that has read everything so far.
    pub const fn new() -> Self {
        Self { stalled: AtomicBool::new(false), cut: AtomicBool::new(false) }
    }

    /// Writes a line, which ends as lines do, as far as that is possible, and drops the rest. Whoever calls holds what keeps
    /// other threads from writing meanwhile.
    pub fn tell(&self, to: &mut (impl Write + AsFd), line: &[u8]) {
        let mut begun = self.cut.load(Ordering::Relaxed);
        if begun {
            // What is left of a line does not run into the next one.
            begun = !self.write(to, b"\n");
        }
        let whole = !begun
            && line.chunks(PIECE).all(|piece| {
                let written = self.write(to, piece);
                begun |= written;
                written
            });
        self.cut.store(begun && !whole, Ordering::Relaxed);
    }

    /// Whether all of it was written.
    fn write(&self, to: &mut (impl Write + AsFd), piece: &[u8]) -> bool {
        let patience = if self.stalled.load(Ordering::Relaxed) { Duration::ZERO } else { WAIT };
        let ready = poll::wait_one(to.as_fd(), Interest::Writable, Deadline::after(patience));
        let ready = matches!(ready, Ok(true));
        self.stalled.store(!ready, Ordering::Relaxed);
        ready && to.write_all(piece).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn lines_arrive_whole() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let line = [b'x'; 2 * PIECE + 1];
        Reader::new().tell(&mut here, &line);
        drop(here);
        let mut read = Vec::new();
        there.read_to_end(&mut read).unwrap();
        assert_eq!(read, line);
    }

    #[test]
    fn a_closed_reader_is_no_error() {
        let (mut here, there) = UnixStream::pair().unwrap();
        drop(there);
        Reader::new().tell(&mut here, b"line\n");
    }

    #[test]
    fn a_reader_that_stalls_does_not_stop_the_writer_and_finds_lines_when_it_goes_on() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let reader = Reader { stalled: AtomicBool::new(true), cut: AtomicBool::default() };
        let mut line = [b'x'; 3 * PIECE];
        line[3 * PIECE - 1] = b'\n';
        for _ in 0..10_000 {
            reader.tell(&mut here, &line);
        }
        assert!(reader.stalled.load(Ordering::Relaxed));
        there.set_nonblocking(true).unwrap();
        let mut read = Vec::new();
        let _ = there.read_to_end(&mut read);
        reader.tell(&mut here, b"the next line\n");
        drop(here);
        there.set_nonblocking(false).unwrap();
        there.read_to_end(&mut read).unwrap();
        let all: Vec<&[u8]> = read.split_inclusive(|byte| *byte == b'\n').collect();
        let (last, before) = all.split_last().unwrap();
        assert_eq!(last, b"the next line\n");
        let (cut, whole) = before.split_last().unwrap();
        assert!(
            cut.len() <= line.len() && whole.iter().all(|read| *read == line),
            "{} {}",
            cut.len(),
            all.len()
        );
    }
}
