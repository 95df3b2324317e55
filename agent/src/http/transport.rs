//! The lower end of ureq: name resolution, connecting, reading and writing by drover-os.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_os::net::{self, Canceller, Deadline, Stream};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration as Wait;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

/// How long a peer may be silent before the system asks whether it is there: a coordinator whose machine vanished is
/// noticed although a poll only waits.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Addresses that are tried of one name.
const ADDRESSES: usize = 8;

/// The connections that a client has open, for those who want them ended.
#[derive(Clone, Default)]
pub(super) struct OpenConnections(Arc<Mutex<Vec<Canceller>>>);

impl OpenConnections {
    /// Ends what is waited for on all of them.
    pub(super) fn cancel(&self) {
        for canceller in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            canceller.cancel();
        }
    }

    fn add(&self, canceller: Canceller) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(Canceller::is_open);
        open.push(canceller);
    }
}

/// Makes TCP connections.
pub(super) struct SocketConnector(pub(super) OpenConnections);

impl Connector for SocketConnector {
    type Out = SocketTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<SocketTransport>, Error> {
        let stream = net::connect_any(&details.addrs, deadline(&details.timeout))
            .map_err(|error| error_for(error, Timeout::Connect))?;
        stream.set_nodelay(true)?;
        stream.set_keepalive(KEEPALIVE)?;
        self.0.add(stream.canceller());
        let sizes = (details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(SocketTransport { stream, buffers: LazyBuffers::new(sizes.0, sizes.1), sizes }))
    }
}

impl fmt::Debug for SocketConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketConnector")
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct SocketTransport {
    stream: Stream,
    buffers: LazyBuffers,
    /// Of the buffers, for input and output.
    sizes: (usize, usize),
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let deadline = deadline(&timeout);
        let mut rest = self.buffers.output().get(..amount).unwrap_or_default();
        while !rest.is_empty() {
            let written =
                self.stream.write_before(rest, deadline).map_err(|error| error_for(error, timeout.reason))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let buffer = self.buffers.input_append_buf();
        let read = self
            .stream
            .read_before(buffer, deadline(&timeout))
            .map_err(|error| error_for(error, timeout.reason))?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Asked between two requests, for which the connection may wait long: without buffers.
    fn is_open(&mut self) -> bool {
        if self.buffers.input().is_empty() {
            self.buffers = LazyBuffers::new(self.sizes.0, self.sizes.1);
        }
        self.stream.is_quiet()
    }
}

/// Looks names up.
#[derive(Debug)]
pub(super) struct NameResolver;

impl Resolver for NameResolver {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or_else(|| Error::BadUri(format!("{uri} names no host")))?;
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let found = net::resolve(host, uri.port_u16().unwrap_or(usual), deadline(&timeout))
            .map_err(|error| error_for(error, Timeout::Resolve))?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(ADDRESSES) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

fn deadline(timeout: &NextTimeout) -> Deadline {
    match timeout.after {
        Wait::Exact(left) => Deadline::after(left),
        Wait::NotHappening => Deadline::never(),
    }
}

fn error_for(error: io::Error, reason: Timeout) -> Error {
    if error.kind() == io::ErrorKind::TimedOut { Error::Timeout(reason) } else { Error::Io(error) }
}
