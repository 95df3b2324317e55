//! Requests and answers, as plain as they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use drover_wire::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Request};
use ureq::{Agent, BodyReader, SendBody};

/// After which a test fails rather than hang.
const TOO_LONG: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn value<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn refused(&self, code: Code) -> Problem {
        assert_eq!(self.status, code.status(), "{}", self.text());
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.code, code, "{problem}");
        assert!(problem.message.split_whitespace().count() > 3, "no sentence: {problem}");
        problem
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Somebody who speaks to one listener.
#[derive(Clone)]
pub(crate) struct Peer {
    agent: Agent,
    pub(crate) address: SocketAddr,
    pub(crate) authorization: String,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, authorization: &str) -> Self {
        let config =
            Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(TOO_LONG));
        Self { agent: config.build().new_agent(), address, authorization: authorization.to_owned() }
    }

    /// The same one, after the coordinator has moved.
    pub(crate) fn moved_to(&self, address: SocketAddr) -> Self {
        Self::new(address, &self.authorization)
    }

    #[track_caller]
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: SendBody<'_>,
    ) -> Answer {
        let response = self.run(method, path, headers, body);
        let (parts, body) = response.into_parts();
        let mut bytes = Vec::new();
        body.into_with_config().limit(u64::MAX).reader().read_to_end(&mut bytes).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes }
    }

    fn run(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: SendBody<'_>,
    ) -> ureq::http::Response<ureq::Body> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if !self.authorization.is_empty() {
            request = request.header("authorization", &self.authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.agent.run(request.body(body).unwrap()).unwrap()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], SendBody::none())
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, message: &impl Serialize) -> Answer {
        self.post_bytes(path, &serde_json::to_vec(message).unwrap())
    }

    #[track_caller]
    pub(crate) fn post_bytes(&self, path: &str, bytes: &[u8]) -> Answer {
        self.send("POST", path, &[], SendBody::from_reader(&mut &bytes[..]))
    }

    #[track_caller]
    pub(crate) fn patch(&self, path: &str, offset: u64, bytes: &[u8]) -> Answer {
        let path = format!("{path}?offset={offset}");
        self.send("PATCH", &path, &[], SendBody::from_reader(&mut &bytes[..]))
    }

    /// A successful answer, read as it comes.
    pub(crate) fn stream(&self, path: &str) -> BodyReader<'static> {
        let response = self.run("GET", path, &[], SendBody::none());
        assert_eq!(response.status().as_u16(), 200);
        response.into_body().into_reader()
    }

    /// A connection on which the head of a request was sent and nothing else.
    pub(crate) fn open(&self, method: &str, path: &str, headers: &str) -> Connection {
        let mut connection = self.raw();
        let (host, authorization) = (self.address, &self.authorization);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n{headers}\r\n"
        );
        connection.send(head.as_bytes());
        connection
    }

    /// A connection on which nothing was sent.
    pub(crate) fn raw(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TOO_LONG)).unwrap();
        Connection(BufReader::new(stream))
    }
}

/// A connection byte by byte.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// The next line that the coordinator sends; empty after the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Everything up to the end of a head.
    pub(crate) fn head(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty())).collect()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Sends one chunk of a chunked body.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) {
        self.send(format!("{:x}\r\n", bytes.len()).as_bytes());
        self.send(bytes);
        self.send(b"\r\n");
    }
}
