//! Making connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, SockaddrStorage, UnixAddr};

use super::resolve;
use super::stream::{Socket, Stream};
use crate::poll::{self, Interest};
use crate::{Deadline, posix};

/// The longest that connecting to one address takes when no deadline says less: what systems allow themselves.
const LONGEST: Duration = Duration::from_secs(130);
/// Between two tries at a Unix socket whose queue is full; there is nothing to poll for.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// Connects to a host by name or address, trying its addresses in turn, all before one deadline.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the deadline; [`io::ErrorKind::NotFound`] when the name is unknown; else what
/// the last address said. The message names the host.
pub fn connect_tcp(host: &str, port: u16, deadline: Deadline) -> io::Result<Stream> {
    let addresses = resolve(host, port, deadline)?;
    connect_any(&addresses, deadline)
        .map_err(|error| io::Error::new(error.kind(), format!("connect to {host}: {error}")))
}

/// Connects to the first of the addresses that answers. Each gets its share of the time that is left, so that
/// one that swallows everything does not use up the others'.
///
/// # Errors
/// As [`connect_tcp`]; [`io::ErrorKind::InvalidInput`] without addresses.
pub fn connect_any(addresses: &[SocketAddr], deadline: Deadline) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.remaining().unwrap_or(LONGEST).min(LONGEST);
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = left / others;
        if share.is_zero() {
            last = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no time left"));
            break;
        }
        match connect_one(address, Deadline::after(share)) {
            Ok(tcp) => return Stream::new(Socket::Tcp(tcp), address.to_string()),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

/// Connects to one address. Not by the standard library, which takes a connection that is refused for one that is made
/// where `poll` does not tell of errors.
fn connect_one(address: &SocketAddr, deadline: Deadline) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let tcp = TcpStream::from(posix::stream_socket(family)?);
    match socket::connect(tcp.as_raw_fd(), &SockaddrStorage::from(*address)) {
        Ok(()) => return Ok(tcp),
        // One that was interrupted goes on by itself.
        Err(Errno::EINPROGRESS | Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    if !poll::wait_one(tcp.as_fd(), Interest::Writable, deadline)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match tcp.take_error()? {
        None => Ok(tcp),
        Some(error) => Err(error),
    }
}

/// Connects to a Unix socket by its path.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when the listener's queue stays full until the deadline, else what the system
/// reports ([`io::ErrorKind::NotFound`]: nothing has that path; [`io::ErrorKind::ConnectionRefused`]: nobody
/// listens there any more). The message names the path.
pub fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<Stream> {
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("connect to {}: {error}", path.display()));
    let address = UnixAddr::new(path).map_err(|errno| failed(errno.into()))?;
    let socket = posix::stream_socket(libc::AF_UNIX).map_err(failed)?;
    loop {
        match socket::connect(socket.as_raw_fd(), &address) {
            Ok(()) | Err(Errno::EISCONN) => break,
            // The listener's queue is full, which no poll reports the end of.
            Err(Errno::EAGAIN) if !deadline.is_over() => thread::sleep(QUEUE_PAUSE),
            Err(Errno::EAGAIN) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Err(Errno::EINTR) => {}
            Err(Errno::EINPROGRESS | Errno::EALREADY) => {
                if !poll::wait_one(socket.as_fd(), Interest::Writable, deadline).map_err(failed)? {
                    return Err(failed(io::ErrorKind::TimedOut.into()));
                }
            }
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    Stream::new(Socket::Unix(socket.into()), path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{DeafPort, Listener};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    #[test]
    fn a_tcp_connection_carries_bytes_both_ways() {
        let listener = Listener::bind_tcp("127.0.0.1:0").unwrap();
        let port = listener.port().unwrap();
        let mut client = connect_tcp("localhost", port, soon()).unwrap();
        let mut server = listener.accept(soon()).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_keepalive(Duration::from_secs(30)).unwrap();
        client.write_all(b"ping").unwrap();
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer).unwrap();
        server.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"ping");
    }

    #[test]
    fn the_next_address_is_tried_when_one_refuses() {
        let closed = DeafPort::take().unwrap();
        let listener = Listener::bind_tcp("127.0.0.1:0").unwrap();
        let addresses =
            [closed.number(), listener.port().unwrap()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(connect_any(&addresses, soon()).unwrap().peer().ends_with(&addresses[1].port().to_string()));
    }

    #[test]
    fn a_refused_connection_names_host_and_address() {
        let closed = DeafPort::take().unwrap();
        let error = connect_tcp("127.0.0.1", closed.number(), soon()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&format!("127.0.0.1:{}", closed.number())), "{error}");
    }

    #[test]
    fn a_missing_unix_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nobody");
        let error = connect_unix(&path, soon()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("nobody"), "{error}");
    }

    #[test]
    fn a_unix_socket_whose_queue_stays_full_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busy");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        // The queue's length is the system's affair: fill it until it is full.
        let error = loop {
            match connect_unix(&path, Deadline::after(Duration::from_millis(20))) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
