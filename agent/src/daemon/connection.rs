//! One conversation with a daemon.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use drover_os::Deadline;
use drover_os::net::{self, Canceller, Stream};

use super::channel::Channel;
use super::error::{Error, Fault};
use crate::config::DaemonSocket;

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;
/// The version that is spoken here: major 1, minor 0x64.
const VERSION: u64 = 0x164;
/// The first minor version that keeps the output of builders apart from the daemon's own words.
const MULTIPLEXED: u64 = 0x63;

/// How long the daemon may take to accept a connection and shake hands.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How long the daemon may take for one step of a usual operation. It waits for a running garbage collection before
/// it answers the simplest question, so this is long.
const PATIENCE: Duration = Duration::from_secs(3600);

/// An open conversation. Dropping it ends it: temporary roots go, and a running build is killed.
#[derive(Debug)]
pub struct Connection {
    pub(super) channel: Channel,
    local: bool,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// [`Error::Connect`] when there is no daemon, [`Error::Protocol`] when it is too old or something else.
    pub fn open(address: &DaemonSocket) -> Result<Self, Error> {
        let deadline = Deadline::after(HANDSHAKE);
        let failed = |source| Error::Connect { address: address.clone(), source };
        let stream = match address {
            DaemonSocket::Unix(path) => net::connect_unix(path, deadline).map_err(failed)?,
            DaemonSocket::Tcp { host, port } => {
                let stream = net::connect_tcp(host, *port, deadline).map_err(failed)?;
                stream.set_nodelay(true).and_then(|()| stream.set_keepalive(HANDSHAKE)).map_err(failed)?;
                stream
            }
        };
        Self::over(stream, matches!(address, DaemonSocket::Unix(_))).map_err(|fault| match fault {
            Fault::Io(source) => failed(source),
            other => other.during(format!("shake hands with guix-daemon at {address}")),
        })
    }

    fn over(stream: Stream, local: bool) -> Result<Self, Fault> {
        let mut channel = Channel::new(stream);
        channel.set_patience(Some(HANDSHAKE));
        channel.write_u64(CLIENT_MAGIC)?;
        channel.flush()?;
        let magic = channel.read_u64()?;
        if magic != DAEMON_MAGIC {
            return Err(Fault::Protocol(format!("the greeting {magic:#x}")));
        }
        let version = channel.read_u64()?;
        if version & !0xff != VERSION & !0xff || version & 0xff < MULTIPLEXED {
            return Err(Fault::Protocol(format!("protocol version {version:#x}; {VERSION:#x} is wanted")));
        }
        channel.write_u64(VERSION)?;
        let (affinity, reserve_space) = (0, 1);
        channel.write_u64(affinity)?;
        channel.write_u64(reserve_space)?;
        channel.finish()?;
        channel.set_patience(Some(PATIENCE));
        Ok(Self { channel, local })
    }

    /// A handle by which another thread ends this conversation.
    #[must_use]
    pub fn hang_up_handle(&self) -> HangUp {
        HangUp { stream: self.channel.stream().clone(), canceller: self.channel.stream().canceller() }
    }

    /// Whether the daemon runs on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// Whether the connection, idle for a while, can be used again.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.channel.has_unread() && self.channel.stream().is_quiet()
    }

    /// Lets each single wait for the daemon take this long; none: as long as it wants.
    pub(super) fn with_patience<T>(
        &mut self,
        patience: Option<Duration>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.channel.set_patience(patience);
        let done = work(self);
        self.channel.set_patience(Some(PATIENCE));
        done
    }
}

/// Ends a conversation from another thread. It keeps the connection open: drop it when there is nothing to end any more.
#[derive(Debug, Clone)]
pub struct HangUp {
    stream: Stream,
    canceller: Canceller,
}

impl HangUp {
    /// Says that we are done. The daemon kills what it runs for this connection, and closes its side when nothing of
    /// it is left: until then, the thread in the conversation goes on reading what is still printed. Where the daemon does
    /// not hear of it, this is a [`HangUp::cut`], and it kills what it runs as soon as that prints something.
    pub fn hang_up(&self) {
        if net::IS_HANG_UP_HEARD {
            // It may be closed already, which is as good.
            let _ = self.stream.shutdown(Shutdown::Write);
        } else {
            self.cut();
        }
    }

    /// Ends the conversation without waiting for the daemon.
    pub fn cut(&self) {
        self.canceller.cancel();
    }
}

/// An answer of another shape than the question has.
pub(super) fn unexpected(what: impl Into<String>) -> Fault {
    Fault::Protocol(what.into())
}

/// The end of a stream that was to go on.
pub(super) fn early_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended too early")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;

    use super::*;

    fn handshake_with(answer: &[u64]) -> Result<Connection, Fault> {
        let (here, mut there) = Stream::pair().unwrap();
        let bytes: Vec<u8> = answer.iter().flat_map(|n| n.to_le_bytes()).collect();
        let daemon = thread::spawn(move || {
            there.write_all(&bytes).unwrap();
            there.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = there.read_to_end(&mut Vec::new());
        });
        let connection = Connection::over(here, true);
        if connection.is_err() {
            daemon.join().unwrap();
        }
        connection
    }

    #[test]
    fn the_daemon_of_today_is_greeted() {
        assert!(handshake_with(&[DAEMON_MAGIC, 0x164, 0x616c_7473]).is_ok());
        assert!(handshake_with(&[DAEMON_MAGIC, 0x163, 0x616c_7473]).is_ok());
    }

    #[test]
    fn strangers_and_old_daemons_are_refused_in_words() {
        for (answer, words) in [
            (&[1, 2][..], "greeting 0x1"),
            (&[DAEMON_MAGIC, 0x162], "0x162"),
            (&[DAEMON_MAGIC, 0x264], "0x264"),
        ] {
            match handshake_with(answer) {
                Err(Fault::Protocol(what)) => assert!(what.contains(words), "{what}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_daemon_that_hangs_up_is_away() {
        for answer in [&[][..], &[DAEMON_MAGIC], &[DAEMON_MAGIC, 0x164]] {
            assert!(matches!(handshake_with(answer), Err(Fault::Io(_))));
        }
    }
}
