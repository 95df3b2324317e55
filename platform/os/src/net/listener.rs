//! Accepting connections, with a deadline.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::socket::{self, SockaddrIn};

use super::stream::{Socket, Stream};
use crate::poll::{self, Interest};
use crate::{Deadline, posix};

/// A listening TCP or Unix socket.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens on a TCP address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn bind_tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self(Kind::Tcp(listener)))
    }

    /// Listens on a Unix socket, which is made at `path` and stays there afterwards.
    ///
    /// # Errors
    /// When the path exists already or cannot be made.
    pub fn bind_unix(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self(Kind::Unix(listener)))
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when none came before the deadline, else what the system reports.
    pub fn accept(&self, deadline: Deadline) -> io::Result<Stream> {
        loop {
            let accepted = match &self.0 {
                Kind::Tcp(tcp) => tcp.accept().map(|(stream, peer)| (Socket::Tcp(stream), peer.to_string())),
                Kind::Unix(unix) => {
                    unix.accept().map(|(stream, _)| (Socket::Unix(stream), "a local program".into()))
                }
            };
            match accepted {
                Ok((socket, peer)) => return Stream::new(socket, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !poll::wait_one(self.as_fd(), Interest::Readable, deadline)? {
                        let message = "nobody connected within the time limit";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                    }
                }
                // One that gave up while it waited in the queue is no reason to stop listening.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The TCP address listened on.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for a Unix socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Tcp(tcp) => tcp.local_addr(),
            Kind::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The TCP port listened on.
    ///
    /// # Errors
    /// As [`Listener::address`].
    pub fn port(&self) -> io::Result<u16> {
        self.address().map(|address| address.port())
    }
}

/// A TCP port of 127.0.0.1 that nobody listens on, and that is nobody else's as long as this is there.
#[derive(Debug)]
pub struct DeafPort {
    // Bound, and neither listening nor connected.
    _socket: TcpStream,
    port: u16,
}

impl DeafPort {
    /// Takes a free one.
    ///
    /// # Errors
    /// When the system has no sockets or no ports left.
    pub fn take() -> io::Result<Self> {
        let socket = TcpStream::from(posix::stream_socket(libc::AF_INET)?);
        socket::bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        let port = socket.local_addr()?.port();
        Ok(Self { _socket: socket, port })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.port
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Tcp(tcp) => tcp.as_fd(),
            Kind::Unix(unix) => unix.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::connect_unix;
    use std::time::Duration;

    #[test]
    fn accepting_nobody_times_out() {
        let listener = Listener::bind_tcp("127.0.0.1:0").unwrap();
        let error = listener.accept(Deadline::after(Duration::from_millis(10))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_unix_listener_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind_unix(&path).unwrap();
        let _client = connect_unix(&path, Deadline::never()).unwrap();
        assert!(listener.accept(Deadline::never()).is_ok());
        assert!(listener.port().is_err());
    }
}
