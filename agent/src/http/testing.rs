//! A tiny HTTP server for tests: real sockets, and full control over what goes wrong when.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::thread;

use drover_os::Deadline;
use drover_os::net::{Listener, Stream};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A server that answers until the test ends. Its threads end with the process.
pub(crate) struct Server {
    address: String,
}

/// One request, to be answered by the handler. Dropping it without [`Exchange::respond`] cuts the connection.
pub(crate) struct Exchange<'a> {
    /// Method and address, as in the request's first line.
    pub(crate) target: String,
    /// The header lines, names in lower case.
    headers: Vec<(String, String)>,
    connection: &'a mut BufReader<Box<dyn Connection>>,
    keep: bool,
}

trait Connection: Read + Write + Send {}
impl<T: Read + Write + Send> Connection for T {}

/// A certificate authority that nobody else trusts.
pub(crate) struct Authority {
    /// The certificate in PEM form: what --ca-file names.
    pub(crate) pem: String,
    /// The name of the server's key: what --coordinator-key says.
    pub(crate) pin: String,
    server: Arc<rustls::ServerConfig>,
}

impl Authority {
    /// An authority with a certificate for `localhost`, signed by it.
    pub(crate) fn new() -> Self {
        Self::of(rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap())
    }

    /// An authority whose certificate for a server has ended, and was for another name.
    #[cfg_attr(any(not(target_os = "linux"), drover_portable), allow(dead_code))]
    pub(crate) fn ended() -> Self {
        let mut server = rcgen::CertificateParams::new(vec!["elsewhere.example".into()]).unwrap();
        (server.not_before, server.not_after) =
            (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
        Self::of(server)
    }

    /// An authority with a certificate for `localhost`, valid from the beginning of one year to that of another.
    pub(crate) fn valid(years: (i32, i32)) -> Self {
        let mut server = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        (server.not_before, server.not_after) =
            (rcgen::date_time_ymd(years.0, 1, 1), rcgen::date_time_ymd(years.1, 1, 1));
        Self::of(server)
    }

    fn of(server: rcgen::CertificateParams) -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let pem = certificate.pem();
        let issuer = rcgen::Issuer::new(parameters, key);

        let server_key = rcgen::KeyPair::generate().unwrap();
        let server = server.signed_by(&server_key, &issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], private)
            .unwrap();
        let pin = drover_tls::Pin::of_certificate(server.der()).unwrap().to_string();
        Self { pem, pin, server: Arc::new(config) }
    }
}

impl Server {
    /// Answers every request by the handler, each connection in a thread of its own.
    pub(crate) fn start(handler: impl Fn(Exchange<'_>) + Send + Sync + 'static) -> Self {
        Self::serve("http", |stream| Box::new(stream), handler)
    }

    /// As [`Server::start`], with TLS.
    pub(crate) fn start_tls(
        authority: &Authority,
        handler: impl Fn(Exchange<'_>) + Send + Sync + 'static,
    ) -> Self {
        let config = authority.server.clone();
        let wrap = move |stream| -> Box<dyn Connection> {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            Box::new(rustls::StreamOwned::new(tls, stream))
        };
        Self::serve("https", wrap, handler)
    }

    fn serve(
        scheme: &str,
        wrap: impl Fn(Stream) -> Box<dyn Connection> + Send + 'static,
        handler: impl Fn(Exchange<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = Listener::bind_tcp("127.0.0.1:0").unwrap();
        let address = format!("{scheme}://localhost:{}", listener.port().unwrap());
        let handler = Arc::new(handler);
        thread::spawn(move || {
            while let Ok(stream) = listener.accept(Deadline::never()) {
                let (connection, handler) = (wrap(stream), handler.clone());
                thread::spawn(move || {
                    let mut connection = BufReader::new(connection);
                    while let Some(true) = one(&mut connection, &*handler) {}
                });
            }
        });
        Self { address }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.address
    }
}

/// Serves one request; whether the connection goes on, or none when the client is gone.
fn one(connection: &mut BufReader<Box<dyn Connection>>, handler: &dyn Fn(Exchange<'_>)) -> Option<bool> {
    let target = line(connection)?.trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let header = line(connection)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    handler(Exchange { target, headers, connection, keep: false });
    Some(KEEP.get())
}

thread_local! {
    /// Whether the last exchange of this connection's thread was answered as a whole.
    static KEEP: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn line(connection: &mut BufReader<Box<dyn Connection>>) -> Option<String> {
    let mut line = String::new();
    connection.read_line(&mut line).ok().filter(|&read| read > 0)?;
    Some(line.trim_end().to_owned())
}

impl Exchange<'_> {
    /// The value of a header, or an empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }

    /// Reads the request's body, asking for it first if the client waits for that.
    pub(crate) fn body(&mut self) -> io::Result<Vec<u8>> {
        if self.header("expect") == "100-continue" {
            self.raw(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let mut body = Vec::new();
        if self.header("transfer-encoding") == "chunked" {
            loop {
                let size = line(self.connection).ok_or(io::ErrorKind::UnexpectedEof)?;
                let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                let mut chunk = vec![0; size + 2];
                self.connection.read_exact(&mut chunk)?;
                chunk.truncate(size);
                if chunk.is_empty() {
                    return Ok(body);
                }
                body.extend(chunk);
            }
        }
        let length: u64 = self.header("content-length").parse().unwrap_or(0);
        self.connection.by_ref().take(length).read_to_end(&mut body)?;
        Ok(body)
    }

    /// Reads the beginning of the body only.
    pub(crate) fn some_of_the_body(&mut self, size: usize) {
        self.raw(b"HTTP/1.1 100 Continue\r\n\r\n");
        let mut bytes = vec![0; size];
        let _ = self.connection.read_exact(&mut bytes);
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        let connection = self.connection.get_mut();
        // The client may be gone, which is its affair.
        let _ = connection.write_all(bytes).and_then(|()| connection.flush());
    }

    /// Answers.
    pub(crate) fn respond(mut self, status: u16, headers: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        self.raw(head.as_bytes());
        self.raw(body);
        self.keep = true;
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        KEEP.set(self.keep);
    }
}
