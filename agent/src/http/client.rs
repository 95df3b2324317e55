//! A client: connections that are kept and used again, and its patience.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{Request, Response};
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Body, Error, RequestExt, SendBody};

use super::Roots;
use super::transport::{NameResolver, OpenConnections, SocketConnector};

/// The bytes of each buffer of a connection; a connection has two, with TLS four. As long as a TLS record.
const BUFFER: usize = 16 * 1024;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Looking up the name.
    pub resolve: Duration,
    /// Connecting, TLS included.
    pub connect: Duration,
    /// From the end of the request to the beginning of the answer.
    pub answer: Duration,
    /// Without a byte moving, in either direction. A body as a whole may take any time: it may be gigabytes.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(20),
            connect: Duration::from_secs(30),
            answer: Duration::from_secs(120),
            silence: Duration::from_secs(120),
        }
    }
}

/// Sends requests and keeps idle connections. Clones share them.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    open: OpenConnections,
    patience: Patience,
}

impl Client {
    /// A client that trusts these roots.
    pub fn new(roots: &Roots, patience: Patience) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(roots.for_ureq())
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Config::builder()
            .user_agent(concat!("drover-agent/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            // Neither a proxy's nor another host's business: our credentials are in every request.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_response_header_size(BUFFER)
            .max_idle_connections(4)
            .max_idle_connections_per_host(4)
            .max_idle_age(Duration::from_secs(60))
            .timeout_resolve(Some(patience.resolve))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .timeout_recv_response(Some(patience.answer))
            .build();
        let open = OpenConnections::default();
        let connector = SocketConnector(open.clone()).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config, connector, NameResolver);
        Self { agent, open, patience }
    }

    /// Sends a request whose body is at hand.
    ///
    /// # Errors
    /// When no answer came; any status is an answer.
    pub fn send(&self, request: Request<&[u8]>) -> Result<Response<Body>, Error> {
        self.agent.run(request)
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn fetch(&self, request: Request<()>) -> Result<Response<Body>, Error> {
        self.agent.run(request)
    }

    /// Sends a request whose answer may take `extra` longer than usual, because the other side holds it open.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send_and_wait(&self, request: Request<&[u8]>, extra: Duration) -> Result<Response<Body>, Error> {
        let request = request
            .with_agent(&self.agent)
            .configure()
            .timeout_recv_response(Some(self.patience.answer.saturating_add(extra)))
            .timeout_per_read(Some(self.patience.silence.saturating_add(extra)))
            .build();
        request.run()
    }

    /// Sends a request whose body is streamed, in chunks unless the request says its length.
    ///
    /// # Errors
    /// [`SendError::Body`] when the body could not be read, else as [`Client::send`].
    pub fn stream(&self, request: Request<()>, body: &mut dyn io::Read) -> Result<Response<Body>, SendError> {
        let mut source = Source { inner: body, failure: None };
        let (parts, ()) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(parts, SendBody::from_reader(&mut source)));
        match source.failure {
            Some(failure) => Err(SendError::Body(failure)),
            None => answer.map_err(SendError::Http),
        }
    }

    /// Ends every request that is under way, in whatever thread; later ones are not affected.
    pub fn cancel(&self) {
        self.open.cancel();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// Why a streamed request got no answer.
#[derive(Debug)]
pub enum SendError {
    /// Our own side: what was to be sent could not be read.
    Body(io::Error),
    /// The connection.
    Http(Error),
}

/// A body that remembers its failure, which ureq does not tell from the connection's.
struct Source<'a> {
    inner: &'a mut dyn io::Read,
    failure: Option<io::Error>,
}

impl io::Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    self.failure = Some(error);
                    return Err(kind.into());
                }
                read => return read,
            }
        }
    }
}
