//! A client: connections that are kept and used again, and its patience.

use std::fmt;
use std::io;
use std::time::Duration;

use drover_tls::{TlsConnector, Trust};
use ureq::config::Config;
use ureq::http::{Request, Response};
use ureq::unversioned::transport::Connector;
use ureq::{Agent, Body, Error, RequestExt, SendBody, Timeout};

use super::eager::EagerConnector;
use super::transport::{NameResolver, OpenConnections, SocketConnector};

/// The bytes of each buffer of a connection; a connection has two, with TLS four. As long as a TLS record.
const BUFFER: usize = 16 * 1024;

/// How long a connection is kept that nobody uses.
pub(crate) const IDLE_AGE: Duration = Duration::from_secs(60);

/// How often an answer may point elsewhere, for those who follow.
const REDIRECTS: u32 = 10;

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
    /// A client that trusts these.
    pub fn new(trust: &Trust, patience: Patience) -> Self {
        let config = Config::builder()
            .user_agent(concat!("drover-agent/", env!("CARGO_PKG_VERSION")))
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
            .max_idle_age(IDLE_AGE)
            .timeout_resolve(Some(patience.resolve))
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.silence))
            .timeout_per_write(Some(patience.silence))
            .timeout_recv_response(Some(patience.answer))
            .build();
        let open = OpenConnections::default();
        let connector =
            SocketConnector(open.clone()).chain(TlsConnector::new(trust.clone())).chain(EagerConnector);
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

    /// Sends a request without a body, and goes where the answers point, a few times.
    ///
    /// # Errors
    /// As [`Client::send`], and when it is sent about for too long.
    pub fn follow(&self, request: Request<()>) -> Result<Response<Body>, Error> {
        let request = request.with_agent(&self.agent).configure();
        request.max_redirects(REDIRECTS).max_redirects_will_error(true).build().run()
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

/// A transport error in words for an operator.
pub(crate) fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(Timeout::Resolve) => "no answer from the name server in time".into(),
        ureq::Error::Timeout(Timeout::Connect) => "no connection in time".into(),
        ureq::Error::Timeout(Timeout::RecvResponse) => "no answer in time".into(),
        ureq::Error::Timeout(_) => "the connection stood still for too long".into(),
        ureq::Error::Io(error) => drover_tls::reason(error).unwrap_or_else(|| error.to_string()),
        ureq::Error::Protocol(error) => format!("the answer is not HTTP: {error}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{Authority, Server};
    use drover_os::Deadline;
    use drover_os::net::Listener;
    use std::io::{Read, Write};
    use std::sync::Mutex;
    use std::sync::mpsc;
    use std::thread;

    const SHORT: Duration = Duration::from_millis(50);

    fn client() -> Client {
        Client::new(&Trust::System, Patience::default())
    }

    fn get(client: &Client, url: &str) -> Result<String, Error> {
        let mut answer = client.fetch(Request::get(url).body(()).unwrap())?;
        answer.body_mut().read_to_string()
    }

    /// A sender that the server can be made to wait on, shared between its threads.
    fn gate() -> (mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>) {
        let (open, wait) = mpsc::channel();
        (open, Mutex::new(wait))
    }

    #[test]
    fn a_connection_is_used_again() {
        let (count, connections) = mpsc::channel();
        let server = Server::start(move |exchange| {
            count.send(thread::current().id()).unwrap();
            exchange.respond(200, "", b"hello");
        });
        let client = client();
        for _ in 0..3 {
            assert_eq!(get(&client, server.url()).unwrap(), "hello");
        }
        let threads: Vec<_> = connections.try_iter().collect();
        assert_eq!(threads.len(), 3);
        assert!(threads.iter().all(|thread| *thread == threads[0]));
    }

    #[test]
    fn a_connection_that_the_server_closed_is_replaced() {
        let listener = Listener::bind_tcp("127.0.0.1:0").unwrap();
        let url = format!("http://localhost:{}", listener.port().unwrap());
        let client = client();
        for _ in 0..3 {
            let (asking, url) = (client.clone(), url.clone());
            let asking = thread::spawn(move || get(&asking, &url));
            let mut stream = listener.accept(Deadline::after(Duration::from_secs(60))).unwrap();
            assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            drop(stream);
            assert_eq!(asking.join().unwrap().unwrap(), "ok");
        }
    }

    #[test]
    fn headers_that_do_not_come_end_in_a_timeout() {
        let (open, wait) = gate();
        let server = Server::start(move |_exchange| {
            let _ = wait.lock().unwrap().recv();
        });
        let client = Client::new(&Trust::System, Patience { answer: SHORT, ..Patience::default() });
        let error = get(&client, server.url()).unwrap_err();
        assert!(matches!(error, Error::Timeout(Timeout::RecvResponse)), "{error:?}");
        drop(open);
    }

    #[test]
    fn a_body_that_stands_still_ends_in_a_timeout() {
        let (open, wait) = gate();
        let server = Server::start(move |mut exchange| {
            exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome");
            let _ = wait.lock().unwrap().recv();
        });
        let client = Client::new(&Trust::System, Patience { silence: SHORT, ..Patience::default() });
        let error = get(&client, server.url()).unwrap_err();
        assert!(matches!(error, Error::Timeout(Timeout::PerRead)), "{error:?}");
        drop(open);
    }

    #[test]
    fn a_question_that_is_held_open_has_more_patience() {
        let server = Server::start(|mut exchange| {
            let body = exchange.body().unwrap();
            exchange.respond(200, "", &body);
        });
        let patience = Patience { answer: Duration::ZERO, silence: Duration::ZERO, ..Patience::default() };
        let client = Client::new(&Trust::System, patience);
        let request = || Request::post(server.url()).body(&b"late"[..]).unwrap();
        assert!(matches!(client.send(request()), Err(Error::Timeout(_))));
        let mut answer = client.send_and_wait(request(), Duration::from_secs(60)).unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "late");
    }

    #[test]
    fn a_connection_that_is_cut_in_mid_body_is_an_error_and_no_end() {
        for head in ["content-length: 100", "transfer-encoding: chunked"] {
            let server = Server::start(move |mut exchange| {
                exchange.raw(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\nsome\r\n").as_bytes());
            });
            let answer = client().fetch(Request::get(server.url()).body(()).unwrap()).unwrap();
            let mut reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
            assert!(reader.read_to_end(&mut Vec::new()).is_err(), "{head}");
        }
    }

    #[test]
    fn a_body_of_unknown_length_is_sent_in_chunks() {
        let server = Server::start(|mut exchange| {
            assert_eq!(exchange.header("transfer-encoding"), "chunked");
            let body = exchange.body().unwrap();
            let sum: u64 = body.iter().map(|&byte| u64::from(byte)).sum();
            exchange.respond(200, "", format!("{} {sum}", body.len()).as_bytes());
        });
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let request = Request::patch(server.url()).body(()).unwrap();
        let mut answer = client().stream(request, &mut &bytes[..]).unwrap();
        let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), format!("1000000 {sum}"));
    }

    #[test]
    fn a_body_that_cannot_be_read_is_told_from_a_broken_connection() {
        struct Broken(bool);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("disk gone"));
                }
                buffer[0] = b'x';
                Ok(1)
            }
        }
        let server = Server::start(|mut exchange| assert!(exchange.body().is_err()));
        let request = Request::patch(server.url()).body(()).unwrap();
        match client().stream(request, &mut Broken(false)).unwrap_err() {
            SendError::Body(error) => assert_eq!(error.to_string(), "disk gone"),
            SendError::Http(error) => panic!("{error}"),
        }
    }

    #[test]
    fn cancelling_ends_what_is_under_way_and_nothing_later() {
        let (came, coming) = mpsc::channel();
        let server = Server::start(move |mut exchange| {
            if exchange.target.contains("hold") {
                came.send(()).unwrap();
                // Until the client goes away.
                exchange.some_of_the_body(1);
            } else {
                exchange.respond(200, "", b"hello");
            }
        });
        let client = client();
        let (asking, url) = (client.clone(), format!("{}/hold", server.url()));
        let asking = thread::spawn(move || get(&asking, &url));
        coming.recv().unwrap();
        client.cancel();
        assert!(asking.join().unwrap().is_err());
        assert_eq!(get(&client, server.url()).unwrap(), "hello");
    }

    #[test]
    fn https_works_with_the_authority_that_is_configured_and_fails_without() {
        let authority = Authority::new();
        let server = Server::start_tls(&authority, |mut exchange| {
            let body = exchange.body().unwrap();
            exchange.respond(200, "", &body);
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        let client = Client::new(&Trust::of_file(&file).unwrap(), Patience::default());
        let bytes = vec![b'x'; 300_000];
        for _ in 0..2 {
            let request = Request::patch(server.url()).body(()).unwrap();
            let mut answer = client.stream(request, &mut &bytes[..]).unwrap();
            assert_eq!(answer.body_mut().read_to_vec().unwrap(), bytes);
        }
        let error = get(&self::client(), server.url()).unwrap_err();
        assert!(format!("{error:?}").contains("vouches"), "{error:?}");
    }

    #[test]
    fn a_tls_peer_that_stays_silent_ends_in_a_timeout() {
        // Connections wait in its queue for ever.
        let listener = Listener::bind_tcp("127.0.0.1:0").unwrap();
        let client =
            Client::new(&Trust::System, Patience { connect: SHORT, silence: SHORT, ..Patience::default() });
        let error = get(&client, &format!("https://localhost:{}", listener.port().unwrap())).unwrap_err();
        assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    }

    #[test]
    fn a_redirect_is_not_followed() {
        let server = Server::start(|exchange| exchange.respond(302, "location: /elsewhere\r\n", b""));
        let answer = client().fetch(Request::get(server.url()).body(()).unwrap()).unwrap();
        assert_eq!(answer.status().as_u16(), 302);
    }
}
