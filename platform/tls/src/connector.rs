//! TLS in ureq's chain of transports.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::config::Config;
use ureq::unversioned::resolver::Resolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    TcpConnector, Transport, TransportAdapter,
};
use ureq::{Agent, Error};

use crate::{Trust, clock, verify};

/// ureq as it comes, with this trust, and addresses from there.
#[must_use]
pub fn agent(config: Config, trust: Trust, resolver: impl Resolver) -> Agent {
    let connector = ConnectProxyConnector::default().chain(TcpConnector::default());
    Agent::with_parts(config, connector.chain(TlsConnector::new(trust)), resolver)
}

/// Wraps connections in TLS where an address is https, and checks who is there. Comes after those that connect.
pub struct TlsConnector {
    trust: Trust,
    /// Made at the first connection that needs it: authorities take time and memory.
    client: OnceLock<Arc<ClientConfig>>,
}

impl TlsConnector {
    /// A connector that trusts these.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, client: OnceLock::new() }
    }

    fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(client) = self.client.get() {
            return Ok(Arc::clone(client));
        }
        let client = self.trust.client().map_err(|reason| Error::Io(io::Error::other(reason)))?;
        Ok(Arc::clone(self.client.get_or_init(|| client)))
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| Error::BadUri(format!("no certificate can be for the host {host}")))?;
        let failed = |error: rustls::Error| Error::Io(io::Error::other(error));
        let mut connection = ClientConnection::new(self.client()?, name).map_err(failed)?;
        let mut socket = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        if let Err(error) = connection.complete_io(&mut socket) {
            drop(socket);
            let error = match verify::is_about_time(&error).then(|| clock::of_server(details)).flatten() {
                Some(server) => verify::with_server_time(error, server),
                None => error,
            };
            // A timeout below comes wrapped, and must be told from the rest.
            return Err(Error::from(error));
        }
        let sizes = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned { conn: connection, sock: socket };
        Ok(Some(Either::B(TlsTransport { buffers: LazyBuffers::new(sizes.0, sizes.1), sizes, stream })))
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").field("trust", &self.trust).finish_non_exhaustive()
    }
}

/// A connection in TLS.
pub struct TlsTransport {
    buffers: LazyBuffers,
    /// Of the buffers, for input and output.
    sizes: (usize, usize),
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Asked between two requests, for which the connection may wait long: without buffers.
    fn is_open(&mut self) -> bool {
        if self.buffers.input().is_empty() {
            self.buffers = LazyBuffers::new(self.sizes.0, self.sizes.1);
        }
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").field("below", &self.stream.sock.inner()).finish_non_exhaustive()
    }
}
