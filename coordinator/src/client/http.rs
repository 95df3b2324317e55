//! One coordinator, spoken to over HTTP: requests out, values or refusals in.

use std::fmt::Display;
use std::io::{self, Read};
use std::time::Duration;

use drover_tls::Trust;
use drover_wire::client::Uploaded;
use drover_wire::route::{Method, Route, clients};
use drover_wire::set::{ROWS_TYPE, RevisionName, SetName, SetSubmission, SetSubmitted};
use drover_wire::{BUNDLE_TYPE, Problem, REQUEST_HEADER, is_request_id};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Request, Response, Uri, header};
use ureq::{Agent, AsSendBody, Body, BodyReader, SendBody};

use super::{ClientError, Token};
use crate::web;

const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long a peer may be silent: longer than any question is held open (60 s).
const SILENCE: Duration = Duration::from_secs(150);
/// How long the coordinator may think after an upload: it hashes and records all of it before it answers.
const UPLOAD_SILENCE: Duration = Duration::from_secs(900);
/// What is longer waits for the coordinator's word before it is sent: who is refused hears why, and has sent nothing. One
/// that says nothing is not waited for long.
const SMALL: usize = 256 * 1024;
const WAITS: (header::HeaderName, &str) = (header::EXPECT, "100-continue");
/// The most bytes of an answer that is held in memory.
const ANSWER_LIMIT: u64 = 64 << 20;
/// The most bytes of a refusal.
const PROBLEM_LIMIT: u64 = 1 << 20;

/// A coordinator's listener for clients.
#[derive(Debug, Clone)]
pub struct Coordinator {
    agent: Agent,
    url: String,
    authorization: String,
    private: bool,
    silence: Duration,
}

/// What goes with a request.
enum Payload<'a> {
    None,
    Json(Vec<u8>),
    /// Bytes of this media type, which are read as they go.
    Stream(&'static str, &'a mut (dyn Read + 'a)),
}

impl Coordinator {
    /// The one at this address; nothing is sent yet.
    ///
    /// # Errors
    /// An address that is not `http://` or `https://` with a host.
    pub fn new(url: &str, token: &Token) -> Result<Self, ClientError> {
        Self::trusting(url, token, Trust::System)
    }

    /// As [`Coordinator::new`], with something else to trust than the system's authorities.
    ///
    /// # Errors
    /// As [`Coordinator::new`], and pinned keys for an address without TLS.
    pub fn trusting(url: &str, token: &Token, trust: Trust) -> Result<Self, ClientError> {
        let bad = |why: &str| ClientError::BadUrl { url: url.to_owned(), why: why.to_owned() };
        let uri: Uri = url.parse().map_err(|e: ureq::http::uri::InvalidUri| bad(&e.to_string()))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("it does not begin with http:// or https://"));
        }
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| bad("it names no host"))?;
        if web::has_user(url) {
            return Err(bad("a token is given with --token-file, and not within it"));
        }
        if uri.query().is_some() {
            return Err(bad("it has a query"));
        }
        if matches!(trust, Trust::Keys(_)) && uri.scheme_str() != Some("https") {
            return Err(bad("a pinned key is of use with https:// only"));
        }
        let mut config = web::settings()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIME))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE));
        // A proxy from the environment never leads back to this machine.
        if is_loopback(host) {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: web::client(config, trust),
            url: url.trim_end_matches('/').to_owned(),
            authorization: token.header(),
            private: is_loopback(host) || uri.scheme_str() == Some("https"),
            silence: SILENCE,
        })
    }

    /// The same, which may be silent for so long before it counts as gone; two and a half minutes by default, since
    /// questions are held open for one. An upload may be thought about for longer.
    #[must_use]
    pub fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// Whether nobody in between can read what is sent to it.
    pub(crate) fn is_private(&self) -> bool {
        self.private
    }

    /// Its address, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Asks and reads the answer. `doing` says what is attempted, on what, for errors.
    pub(crate) fn ask<A: DeserializeOwned>(
        &self,
        doing: &str,
        route: &Route,
        parts: &[&dyn Display],
    ) -> Result<A, ClientError> {
        self.answer(doing, self.send(doing, route, &route.path(parts), Payload::None, None)?)
    }

    /// Asks with a query, whose fields are those of a flat value.
    pub(crate) fn ask_query<A: DeserializeOwned>(
        &self,
        doing: &str,
        route: &Route,
        parts: &[&dyn Display],
        fields: &impl Serialize,
    ) -> Result<A, ClientError> {
        let path = format!("{}{}", route.path(parts), query(fields));
        self.answer(doing, self.send(doing, route, &path, Payload::None, None)?)
    }

    /// Sends a message and reads the answer.
    pub(crate) fn tell<A: DeserializeOwned>(
        &self,
        doing: &str,
        route: &Route,
        parts: &[&dyn Display],
        message: &impl Serialize,
    ) -> Result<A, ClientError> {
        let json = serde_json::to_vec(message).map_err(|e| ClientError::local(doing, e.into()))?;
        self.answer(doing, self.send(doing, route, &route.path(parts), Payload::Json(json), None)?)
    }

    /// Sends a compressed bundle, which is read as it goes.
    pub(crate) fn upload(&self, doing: &str, bundle: &mut dyn Read) -> Result<Uploaded, ClientError> {
        let route = &clients::UPLOAD;
        let payload = Payload::Stream(BUNDLE_TYPE, bundle);
        self.answer(doing, self.send(doing, route, &route.path(&[]), payload, None)?)
    }

    /// Sends the compressed rows of a revision.
    pub(crate) fn submit_rows(
        &self,
        doing: &str,
        (set, revision): (&SetName, &RevisionName),
        terms: &SetSubmission,
        rows: &mut dyn Read,
    ) -> Result<SetSubmitted, ClientError> {
        let route = &clients::SUBMIT_SET;
        let path = format!("{}{}", route.path(&[set, revision]), query(terms));
        self.answer(doing, self.send(doing, route, &path, Payload::Stream(ROWS_TYPE, rows), None)?)
    }

    /// The answer as text, such as a key.
    pub(crate) fn text(&self, doing: &str, route: &Route) -> Result<String, ClientError> {
        let answer = self.send(doing, route, &route.path(&[]), Payload::None, None)?;
        let bytes = self.body(doing, answer, ANSWER_LIMIT)?;
        String::from_utf8(bytes).map_err(|_| self.odd(doing, "it is not text"))
    }

    /// The answer as a stream of bytes. With `from`, those from there on; a coordinator that sends all of them
    /// nevertheless is an error.
    pub(crate) fn stream(
        &self,
        doing: &str,
        route: &Route,
        parts: &[&dyn Display],
        fields: &impl Serialize,
        from: Option<u64>,
    ) -> Result<BodyReader<'static>, ClientError> {
        let path = format!("{}{}", route.path(parts), query(fields));
        let answer = self.send(doing, route, &path, Payload::None, from)?;
        if from.is_some() && answer.status().as_u16() != 206 {
            return Err(self.odd(doing, "it does not go on where it was asked to"));
        }
        Ok(answer.into_body().into_reader())
    }

    fn send(
        &self,
        doing: &str,
        route: &Route,
        path: &str,
        payload: Payload<'_>,
        from: Option<u64>,
    ) -> Result<Response<Body>, ClientError> {
        let method = match route.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Patch => "PATCH",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, &self.authorization)
            .header(REQUEST_HEADER, uuid::Uuid::new_v4().simple().to_string());
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        match payload {
            Payload::None => self.run(doing, request.body(SendBody::none()), self.silence),
            Payload::Json(json) => {
                let mut request = request.header(header::CONTENT_TYPE, "application/json");
                if json.len() > SMALL {
                    request = request.header(WAITS.0, WAITS.1);
                }
                self.run(doing, request.body(json), self.silence)
            }
            Payload::Stream(media_type, bytes) => {
                let request = request.header(header::CONTENT_TYPE, media_type).header(WAITS.0, WAITS.1);
                self.run(doing, request.body(SendBody::from_reader(bytes)), UPLOAD_SILENCE)
            }
        }
    }

    fn run<S: AsSendBody>(
        &self,
        doing: &str,
        request: Result<Request<S>, ureq::http::Error>,
        silence: Duration,
    ) -> Result<Response<Body>, ClientError> {
        let request =
            request.map_err(|e| ClientError::BadUrl { url: self.url.clone(), why: e.to_string() })?;
        let request = self.agent.configure_request(request).timeout_per_read(Some(silence)).build();
        let answer = self.agent.run(request).map_err(|e| self.unreachable(doing, &e))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(doing, answer)) }
    }

    fn answer<A: DeserializeOwned>(&self, doing: &str, answer: Response<Body>) -> Result<A, ClientError> {
        let bytes = self.body(doing, answer, ANSWER_LIMIT)?;
        serde_json::from_slice(&bytes).map_err(|e| self.odd(doing, &e.to_string()))
    }

    fn refusal(&self, doing: &str, answer: Response<Body>) -> ClientError {
        let status = answer.status().as_u16();
        let id = answer.headers().get(REQUEST_HEADER).and_then(|id| id.to_str().ok());
        let request = id.filter(|id| is_request_id(id)).map(str::to_owned);
        match self.body(doing, answer, PROBLEM_LIMIT) {
            Ok(bytes) => match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) => {
                    ClientError::Refused { doing: doing.to_owned(), problem: Box::new(problem), request }
                }
                // A proxy in front of the coordinator says so while the coordinator is away.
                Err(_) if matches!(status, 502..=504) => ClientError::Unreachable {
                    doing: doing.to_owned(),
                    url: self.url.clone(),
                    why: format!("what stands in front of it answers HTTP {status}"),
                },
                Err(_) => self.odd(doing, &format!("HTTP {status} without a reason")),
            },
            Err(error) => error,
        }
    }

    fn body(&self, doing: &str, answer: Response<Body>, limit: u64) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        let mut reader = answer.into_body().into_reader().take(limit + 1);
        reader.read_to_end(&mut bytes).map_err(|e| self.broken(doing, &e))?;
        if bytes.len() as u64 > limit {
            return Err(self.odd(doing, &format!("it has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// What came is not what a coordinator says.
    pub(crate) fn odd(&self, doing: &str, why: &str) -> ClientError {
        ClientError::NotACoordinator { doing: doing.to_owned(), url: self.url.clone(), why: why.to_owned() }
    }

    /// The connection broke while an answer came in.
    pub(crate) fn broken(&self, doing: &str, error: &io::Error) -> ClientError {
        ClientError::Unreachable { doing: doing.to_owned(), url: self.url.clone(), why: error.to_string() }
    }

    fn unreachable(&self, doing: &str, error: &ureq::Error) -> ClientError {
        let why = match error {
            ureq::Error::Io(error) => drover_tls::reason(error).unwrap_or_else(|| error.to_string()),
            ureq::Error::HostNotFound => "there is no such host".to_owned(),
            ureq::Error::ConnectionFailed => "the connection failed".to_owned(),
            ureq::Error::Timeout(_) => "it took too long".to_owned(),
            ureq::Error::Protocol(error) => return self.odd(doing, &error.to_string()),
            other => other.to_string(),
        };
        ClientError::Unreachable { doing: doing.to_owned(), url: self.url.clone(), why }
    }
}

/// Whether reading ended because nothing came for a long time.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_))) || error.kind() == io::ErrorKind::TimedOut
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The query of an address, `?` included, out of the fields of a flat value; empty without any.
fn query(fields: &impl Serialize) -> String {
    let mut text = String::new();
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(fields) else {
        return text;
    };
    for (key, value) in fields {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(&key);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use drover_wire::client::{BuildFilter, LogQuery};

    use super::*;

    #[test]
    fn a_query_has_what_is_given_and_escapes_what_must_be() {
        let filter = BuildFilter {
            tag: Some("a=b c&ä".into()),
            limit: Some(7),
            state: Some(drover_wire::BuildState::TimedOut),
            ..Default::default()
        };
        assert_eq!(query(&filter), "?limit=7&state=timed-out&tag=a%3Db%20c%26%C3%A4");
        assert_eq!(query(&LogQuery { follow: true, ..Default::default() }), "?follow=true");
        assert_eq!(query(&BuildFilter::default()), "");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let token = Token::parse("t", "x").unwrap();
        for url in [
            "",
            "localhost:8746",
            "ftp://host",
            "http://",
            "http://host/?a",
            "http://ho st",
            "http://a:b@host",
        ] {
            assert!(
                matches!(Coordinator::new(url, &token), Err(ClientError::BadUrl { .. })),
                "{url:?} was taken"
            );
        }
        assert_eq!(Coordinator::new("http://host:1/farm/", &token).unwrap().url(), "http://host:1/farm");
    }

    #[test]
    fn loopback_is_known_by_name_and_by_address() {
        assert!(["localhost", "127.0.0.1", "127.9.9.9", "[::1]"].iter().all(|h| is_loopback(h)));
        assert!(["example.org", "10.0.0.1", "localhost.example.org"].iter().all(|h| !is_loopback(h)));
    }
}
