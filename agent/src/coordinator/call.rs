//! A call: from route and message to request, from answer to value or error.

use std::fmt::{self, Display};
use std::io::{self, Read};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use drover_wire::route::{Method, Route};
use drover_wire::{AGENT_NAME_HEADER, Problem, REQUEST_HEADER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, LOCATION,
    RANGE, RETRY_AFTER,
};
use ureq::http::{Request, Response, StatusCode};
use ureq::{Body, BodyReader};

use super::error::Error;
use crate::config::{BaseUrl, Credentials};
use crate::http::{Client, SendError, reason};
use crate::json;
use crate::retry::random;

/// The most bytes that are read of an answer that refuses.
const PROBLEM_LIMIT: u64 = 64 * 1024;
/// The most characters that are shown of an answer that is not a coordinator's.
const EXCERPT: usize = 120;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Bytes that come from the coordinator. Their end is only an end if all of them came: a connection that breaks is
/// an error of [`Read::read`].
pub struct Download {
    body: BodyReader<'static>,
    size: Option<u64>,
    /// How many of these are still to come.
    left: Option<u64>,
}

impl Download {
    /// How many bytes will come, if the coordinator said so.
    pub fn size(&self) -> Option<u64> {
        self.size
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(read as u64);
            if *left == 0 && read > 0 {
                // Who knows the size does not look for the end, before which the connection is not used again. Nothing
                // is waited for, and what is said now is nobody's concern.
                let _ = self.body.read(&mut [0]);
            }
        }
        Ok(read)
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A client with an address and a proof of identity.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    base: BaseUrl,
    identity: HeaderMap,
    /// What the names of requests begin with, and how many there were.
    start: u32,
    count: AtomicU32,
}

type Parts<'a> = &'a [&'a dyn Display];

impl Caller {
    pub(super) fn new(client: Client, base: &BaseUrl, credentials: &Credentials) -> Self {
        let identity = identity(credentials);
        Self { client, base: base.clone(), identity, start: random(), count: AtomicU32::new(0) }
    }

    pub(super) fn cancel(&self) {
        self.client.cancel();
    }

    /// Sends a message and reads the answer, of at most `limit` bytes.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        route: &Route,
        parts: Parts<'_>,
        message: &impl Serialize,
        what: &str,
        limit: u64,
    ) -> Result<T, Error> {
        let call = self.call(route, parts, what);
        let body = call.encode(message)?;
        call.value(self.client.send(call.request(&body[..], JSON)), limit)
    }

    /// As [`Caller::ask`], for a question that the coordinator holds open.
    pub(super) fn ask_and_wait<T: DeserializeOwned>(
        &self,
        route: &Route,
        message: &impl Serialize,
        what: &str,
        open: Duration,
    ) -> Result<T, Error> {
        let call = self.call(route, &[], what);
        let body = call.encode(message)?;
        call.value(self.client.send_and_wait(call.request(&body[..], JSON), open), super::SMALL)
    }

    /// Sends a message; the answer is a stream.
    pub(super) fn ask_for_stream(
        &self,
        route: &Route,
        message: &impl Serialize,
        what: &str,
    ) -> Result<Download, Error> {
        let call = self.call(route, &[], what);
        let body = call.encode(message)?;
        call.stream(self.client.send(call.request(&body[..], JSON)), 0)
    }

    /// Reads an answer of at most `limit` bytes.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        route: &Route,
        parts: Parts<'_>,
        what: &str,
        limit: u64,
    ) -> Result<T, Error> {
        let call = self.call(route, parts, what);
        call.value(self.client.fetch(call.request((), BYTES)), limit)
    }

    /// Reads a text of at most `limit` bytes.
    pub(super) fn get_text(&self, route: &Route, what: &str, limit: u64) -> Result<String, Error> {
        let call = self.call(route, &[], what);
        let mut answer = call.check(self.client.fetch(call.request((), BYTES)))?;
        let mut text = String::new();
        answer.body_mut().as_reader().take(limit).read_to_string(&mut text).map_err(|e| call.broken(&e))?;
        Ok(text)
    }

    /// Reads a stream from an offset on.
    pub(super) fn get_stream(
        &self,
        route: &Route,
        parts: Parts<'_>,
        what: &str,
        from: u64,
    ) -> Result<Download, Error> {
        let call = self.call(route, parts, what);
        let mut request = call.request((), BYTES);
        if from > 0 {
            if let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-")) {
                request.headers_mut().insert(RANGE, range);
            }
        }
        call.stream(self.client.fetch(request), from)
    }

    /// Sends bytes that are at hand to an offset.
    pub(super) fn append<T: DeserializeOwned>(
        &self,
        route: &Route,
        parts: Parts<'_>,
        offset: u64,
        bytes: &[u8],
        what: &str,
    ) -> Result<T, Error> {
        let call = self.call_at(route, parts, offset, what);
        call.value(self.client.send(call.request(bytes, BYTES)), super::SMALL)
    }

    /// Sends bytes as they come to an offset.
    pub(super) fn stream<T: DeserializeOwned>(
        &self,
        route: &Route,
        parts: Parts<'_>,
        offset: u64,
        body: &mut dyn Read,
        what: &str,
    ) -> Result<T, Error> {
        let call = self.call_at(route, parts, offset, what);
        let mut request = call.request((), BYTES);
        // A refusal then comes before the first byte is sent, and as a sentence instead of a broken connection.
        request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
        match self.client.stream(request, body) {
            Ok(answer) => call.value(Ok(answer), super::SMALL),
            Err(SendError::Http(error)) => call.value(Err(error), super::SMALL),
            Err(SendError::Body(source)) => Err(Error::Source { attempt: call.attempt, source }),
        }
    }

    fn call(&self, route: &Route, parts: Parts<'_>, what: &str) -> Call<'_> {
        self.call_to(route.method, self.base.join(&route.path(parts)), what)
    }

    fn call_at(&self, route: &Route, parts: Parts<'_>, offset: u64, what: &str) -> Call<'_> {
        let url = self.base.join(&format!("{}?offset={offset}", route.path(parts)));
        self.call_to(route.method, url, what)
    }

    fn call_to(&self, method: Method, url: String, what: &str) -> Call<'_> {
        let id = self.next_id();
        tracing::debug!(request = %id, "{what} ({url})");
        Call { method, attempt: format!("{what} ({url}, request {id})"), url, identity: &self.identity, id }
    }

    /// A name for a request that no other has, by which the coordinator's log tells of it, too.
    fn next_id(&self) -> String {
        format!("{:08x}-{}", self.start, self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// One call under way.
struct Call<'a> {
    method: Method,
    url: String,
    attempt: String,
    identity: &'a HeaderMap,
    id: String,
}

impl Call<'_> {
    fn request<B>(&self, body: B, content_type: HeaderValue) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = match self.method {
            Method::Get => ureq::http::Method::GET,
            Method::Post => ureq::http::Method::POST,
            Method::Patch => ureq::http::Method::PATCH,
        };
        // The base was checked to be an address, and routes and their parts need no escaping: this is one, too. If it
        // were not, ureq would say so.
        *request.uri_mut() = self.url.parse().unwrap_or_default();
        *request.headers_mut() = self.identity.clone();
        if self.method != Method::Get {
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            request.headers_mut().insert(ureq::http::HeaderName::from_static(REQUEST_HEADER), id);
        }
        // Lengths and offsets count the bytes as they are kept.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        request
    }

    fn encode(&self, message: &impl Serialize) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(message)
            .map_err(|error| Error::Source { attempt: self.attempt.clone(), source: io::Error::other(error) })
    }

    /// A success, or the error that it is not.
    fn check(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Error> {
        let mut answer = answer.map_err(|error| self.unreachable(reason(&error)))?;
        let status = answer.status();
        if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
            return Ok(answer);
        }
        let attempt = self.attempt.clone();
        let header = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let retry_after = header(RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let location = header(LOCATION).map(|to| format!("go to {to}"));
        let mut text = Vec::new();
        // Only for a message: what came before an error is enough.
        let _ = answer.body_mut().as_reader().take(PROBLEM_LIMIT).read_to_end(&mut text);
        let status = status.as_u16();
        Err(match json::read::<Problem>(&mut &text[..]) {
            Ok(problem) => Error::Refused { attempt, status, problem, retry_after },
            Err(_) => {
                let excerpt = location.unwrap_or_else(|| excerpt(&text));
                Error::NotACoordinator { attempt, status, excerpt, retry_after }
            }
        })
    }

    /// The value of a successful answer of at most `limit` bytes.
    fn value<T: DeserializeOwned>(
        &self,
        answer: Result<Response<Body>, ureq::Error>,
        limit: u64,
    ) -> Result<T, Error> {
        let mut answer = self.check(answer)?;
        let status = answer.status().as_u16();
        json::read(&mut answer.body_mut().as_reader().take(limit)).map_err(|error| {
            if error.is_io() {
                return self.unreachable(format!("the answer broke off: {error}"));
            }
            Error::NotACoordinator {
                attempt: self.attempt.clone(),
                status,
                excerpt: error.to_string(),
                retry_after: None,
            }
        })
    }

    /// The stream of a successful answer.
    fn stream(&self, answer: Result<Response<Body>, ureq::Error>, from: u64) -> Result<Download, Error> {
        let answer = self.check(answer)?;
        if from > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Error::NotACoordinator {
                attempt: self.attempt.clone(),
                status: answer.status().as_u16(),
                excerpt: format!("it sends everything although only what follows byte {from} was asked for"),
                retry_after: None,
            });
        }
        let length = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let size = length.and_then(|text| text.parse().ok());
        let body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Download { body, size, left: size })
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { attempt: self.attempt.clone(), reason }
    }

    fn broken(&self, error: &io::Error) -> Error {
        self.unreachable(format!("the answer broke off: {error}"))
    }
}

/// The headers that say who we are.
fn identity(credentials: &Credentials) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut insert = |name, text: &str, secret| {
        // Names and secrets were checked to have no control characters; anything else may be in a header.
        if let Ok(mut value) = HeaderValue::from_bytes(text.as_bytes()) {
            value.set_sensitive(secret);
            headers.insert(name, value);
        }
    };
    match credentials {
        Credentials::Password { uuid, password } => {
            let pair = BASE64.encode(format!("{uuid}:{}", password.expose()).as_bytes());
            insert(AUTHORIZATION, &format!("Basic {pair}"), true);
        }
        Credentials::Token { name, token, .. } => {
            insert(AUTHORIZATION, &format!("Bearer {}", token.expose()), true);
            insert(ureq::http::HeaderName::from_static(AGENT_NAME_HEADER), name, false);
        }
    }
    headers
}

/// The beginning of an answer, for a person.
fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut excerpt: String = words.chars().filter(|c| !c.is_control()).take(EXCERPT).collect();
    if excerpt.is_empty() {
        excerpt.push_str("nothing");
    }
    excerpt
}
