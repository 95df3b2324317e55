//! A connected socket.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::piece::write_some;
use crate::poll::{self, Interest};
use crate::{Deadline, sys};

/// How long one read or write of a fresh [`Stream`] may take, so that no wait is endless by oversight.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const READ: &str = "read from";
const WRITE: &str = "write to";

/// A connected TCP or Unix socket whose reads and writes end by a deadline.
///
/// Two limits hold at once, and the sooner one ends the operation with [`io::ErrorKind::TimedOut`]: a timeout
/// for each single operation (at first [`DEFAULT_TIMEOUT`]), and a deadline for all of them (at first none).
/// Clones share the connection, but each has its own limits; the connection closes with the last clone.
#[derive(Debug, Clone)]
pub struct Stream {
    shared: Arc<Shared>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    deadline: Deadline,
}

#[derive(Debug)]
struct Shared {
    socket: Socket,
    /// Whom we talk to, for messages.
    peer: String,
    cancelled: AtomicBool,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Ends whatever a [`Stream`] waits for, from any thread. Does not keep the connection open.
#[derive(Debug, Clone)]
pub struct Canceller(Weak<Shared>);

impl Canceller {
    /// Whether the connection still has an owner.
    pub fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Shuts the connection down: blocked and later reads and writes of all clones fail with
    /// [`io::ErrorKind::ConnectionAborted`]. Does nothing when the connection is closed already.
    pub fn cancel(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.cancelled.store(true, Ordering::SeqCst);
            // It may be closed by the peer already, which is as good.
            let _ = shared.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Stream {
    /// Takes over a connected socket and makes it non-blocking.
    pub(super) fn new(socket: Socket, peer: String) -> io::Result<Self> {
        match &socket {
            Socket::Tcp(tcp) => tcp.set_nonblocking(true)?,
            Socket::Unix(unix) => unix.set_nonblocking(true)?,
        }
        Ok(Self {
            shared: Arc::new(Shared { socket, peer, cancelled: AtomicBool::new(false) }),
            read_timeout: Some(DEFAULT_TIMEOUT),
            write_timeout: Some(DEFAULT_TIMEOUT),
            deadline: Deadline::never(),
        })
    }

    /// Two ends of one connection within this process.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((
            Self::new(Socket::Unix(one), "our pair".into())?,
            Self::new(Socket::Unix(other), "our pair".into())?,
        ))
    }

    /// Limits each single read; `None` lifts the limit.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Limits each single write; `None` lifts the limit.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    /// Limits each single read and each single write; `None` lifts the limit.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
        self.write_timeout = timeout;
    }

    /// Limits all reads and writes of this clone from now on together.
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Reads what there is, waiting for something until the given deadline; this stream's own limits do not
    /// apply. 0 means that the peer has ended its side (or that `buffer` is empty).
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] at the deadline, [`io::ErrorKind::ConnectionAborted`] after a cancellation,
    /// else what the system reports.
    pub fn read_before(&self, buffer: &mut [u8], deadline: Deadline) -> io::Result<usize> {
        loop {
            self.shared.check_cancelled()?;
            match self.shared.socket.read(buffer) {
                Ok(0) if !buffer.is_empty() => {
                    self.shared.check_cancelled()?;
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.shared.wait(Interest::Readable, deadline, READ)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes as much as fits now, waiting for room until the given deadline; this stream's own limits do not
    /// apply.
    ///
    /// # Errors
    /// As [`Stream::read_before`]. A peer that is gone is [`io::ErrorKind::BrokenPipe`], never a signal.
    pub fn write_before(&self, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
        let write = |piece: &[u8]| {
            self.shared.check_cancelled()?;
            self.shared.socket.write(piece)
        };
        let wait = |pause: Duration| {
            if !pause.is_zero() {
                // In spite of that there is room, so that nothing else looks at the deadline.
                if deadline.is_over() {
                    return Err(self.shared.timed_out(WRITE));
                }
                std::thread::sleep(deadline.remaining().map_or(pause, |left| left.min(pause)));
            }
            self.shared.wait(Interest::Writable, deadline, WRITE)
        };
        write_some(bytes, write, wait).or_else(|error| {
            self.shared.check_cancelled()?;
            Err(error)
        })
    }

    /// Ends our side, the peer's or both; the other clones see it too.
    ///
    /// # Errors
    /// When the connection is closed already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shared.socket.shutdown(how)
    }

    /// A handle by which another thread can end our waits.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::downgrade(&self.shared))
    }

    /// Whether an idle connection can be used again: open, and nothing arrived that nobody asked for.
    pub fn is_quiet(&self) -> bool {
        if self.shared.cancelled.load(Ordering::SeqCst) {
            return false;
        }
        match &self.shared.socket {
            // Surer than a poll that does not wait, which with some of the Hurd's C libraries is over before its servers answer.
            Socket::Tcp(tcp) => {
                matches!(tcp.peek(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Socket::Unix(unix) => {
                let now = Deadline::after(Duration::ZERO);
                matches!(poll::wait_one(unix.as_fd(), Interest::Readable, now), Ok(false))
            }
        }
    }

    /// Sends small writes at once (TCP; nothing to do on a Unix socket).
    ///
    /// # Errors
    /// When the connection is closed already.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        match &self.shared.socket {
            Socket::Tcp(tcp) => tcp.set_nodelay(on),
            Socket::Unix(_) => Ok(()),
        }
    }

    /// Lets the system probe a silent TCP peer after `idle`, so that one that vanished is noticed even where
    /// nothing is sent. Nothing to do on a Unix socket.
    ///
    /// # Errors
    /// When the system does not accept the option.
    pub fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        match &self.shared.socket {
            Socket::Tcp(tcp) => sys::set_keepalive(tcp.as_fd(), idle),
            Socket::Unix(_) => Ok(()),
        }
    }

    /// Whom we talk to: address and port, or the path of a Unix socket.
    pub fn peer(&self) -> &str {
        &self.shared.peer
    }

    /// When the operation that begins now must end. The deadline ends even one that need not wait: a peer that
    /// never stops sending must not carry us beyond it.
    fn limit(&self, timeout: Option<Duration>, what: &str) -> io::Result<Deadline> {
        if self.deadline.is_over() {
            return Err(self.shared.timed_out(what));
        }
        Ok(timeout.map_or(Deadline::never(), Deadline::after).min(self.deadline))
    }
}

impl Shared {
    fn check_cancelled(&self) -> io::Result<()> {
        if self.cancelled.load(Ordering::SeqCst) {
            let message = format!("the connection to {} was given up", self.peer);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, message));
        }
        Ok(())
    }

    /// Waits until it is worth another try.
    fn wait(&self, interest: Interest, deadline: Deadline, what: &str) -> io::Result<()> {
        let look = match &self.socket {
            Socket::Tcp(_) => None,
            Socket::Unix(_) => sys::LOOK_WHETHER_CANCELLED,
        };
        loop {
            let next = look.map_or(Deadline::never(), Deadline::after).min(deadline);
            if poll::wait_one(self.socket.as_fd(), interest, next)? {
                return Ok(());
            }
            if deadline.is_over() {
                return Err(self.timed_out(what));
            }
            self.check_cancelled()?;
        }
    }

    fn timed_out(&self, what: &str) -> io::Error {
        let message = format!("{what} {}: nothing moved within the time limit", self.peer);
        io::Error::new(io::ErrorKind::TimedOut, message)
    }
}

impl Socket {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => (&*tcp).read(buffer),
            Self::Unix(unix) => (&*unix).read(buffer),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => (&*tcp).write(bytes),
            Self::Unix(unix) => (&*unix).write(bytes),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.shutdown(how),
            Self::Unix(unix) => unix.shutdown(how),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.socket.as_fd()
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_before(buffer, self.limit(self.read_timeout, READ)?)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_before(bytes, self.limit(self.write_timeout, WRITE)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn a_read_from_a_silent_peer_times_out_with_a_sentence() {
        let (mut here, _there) = Stream::pair().unwrap();
        here.set_read_timeout(Some(SHORT));
        let error = here.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("our pair"), "{error}");
    }

    #[test]
    fn a_write_to_a_peer_that_does_not_read_times_out() {
        let (mut here, _there) = Stream::pair().unwrap();
        here.set_write_timeout(Some(SHORT));
        let error = here.write_all(&vec![0; 16 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_deadline_ends_a_read_that_its_timeout_would_allow() {
        let (mut here, _there) = Stream::pair().unwrap();
        here.set_timeout(None);
        here.set_deadline(Deadline::after(SHORT));
        assert_eq!(here.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_peer_that_never_stops_sending_does_not_outlive_the_deadline() {
        let (mut here, mut there) = Stream::pair().unwrap();
        let sending = thread::spawn(move || while there.write_all(b".").is_ok() {});
        here.set_deadline(Deadline::after(SHORT));
        let error = loop {
            if let Err(error) = here.read(&mut [0; 8]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(here);
        sending.join().unwrap();
    }

    #[test]
    fn a_blocked_read_is_woken_by_the_canceller() {
        let (mut here, _there) = Stream::pair().unwrap();
        here.set_timeout(None);
        let canceller = here.canceller();
        let reading = thread::spawn(move || here.read(&mut [0; 8]).unwrap_err());
        canceller.cancel();
        assert_eq!(reading.join().unwrap().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    #[cfg(any(target_os = "hurd", drover_portable))]
    fn a_cancellation_that_wakes_nobody_is_seen_nevertheless() {
        let (mut here, _there) = Stream::pair().unwrap();
        here.set_timeout(None);
        let shared = here.shared.clone();
        let reading = thread::spawn(move || here.read(&mut [0; 8]).unwrap_err());
        // As the Hurd's server of local sockets has it: whoever waits at a socket is not woken by its shutdown.
        shared.cancelled.store(true, Ordering::SeqCst);
        assert_eq!(reading.join().unwrap().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn a_canceller_does_not_keep_the_connection_open() {
        let (here, mut there) = Stream::pair().unwrap();
        let canceller = here.canceller();
        assert!(canceller.is_open());
        drop(here);
        assert!(!canceller.is_open());
        assert_eq!(there.read(&mut [0; 8]).unwrap(), 0);
        canceller.cancel();
    }

    #[test]
    fn bytes_arrive_unchanged_through_clones() {
        let (here, there) = Stream::pair().unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let copy = sent.clone();
        let writing = thread::spawn(move || {
            let mut writer = here.clone();
            writer.write_all(&copy).unwrap();
            here.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        { there }.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == sent);
    }

    #[test]
    fn a_connection_is_quiet_until_something_or_the_end_arrives() {
        let soon = || Deadline::after(Duration::from_secs(60));
        let listener = crate::net::Listener::bind_tcp("127.0.0.1:0").unwrap();
        let tcp = || {
            let here = crate::net::connect_tcp("127.0.0.1", listener.port().unwrap(), soon()).unwrap();
            (here, listener.accept(soon()).unwrap())
        };
        for pair in [&|| Stream::pair().unwrap() as (Stream, Stream), &tcp as &dyn Fn() -> (Stream, Stream)] {
            let arrived = |here: &Stream| soon().ask(|| (!here.is_quiet()).then_some(())).is_some();
            let (here, mut there) = pair();
            assert!(here.is_quiet());
            there.write_all(b"?").unwrap();
            assert!(arrived(&here));
            let (here, there) = pair();
            drop(there);
            assert!(arrived(&here));
            let (here, _there) = pair();
            here.canceller().cancel();
            assert!(!here.is_quiet());
        }
    }
}
