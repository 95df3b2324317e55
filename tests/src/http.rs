//! Speaking to a coordinator as a test does: any request, well-formed or not, and the answer as it is.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's tools fail by failing the test")]

use std::io::Read as _;
use std::time::Duration;

use drover_wire::{Code, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Request;
use ureq::{Agent, SendBody};

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its HTTP status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value that a successful answer carries.
    ///
    /// # Panics
    /// When it is a refusal, or something else.
    #[track_caller]
    #[must_use]
    pub fn value<T: DeserializeOwned>(&self) -> T {
        assert!((200..300).contains(&self.status), "{self:?} is no success: {}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The refusal, which must have this status, this code and a sentence.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn refused(&self, status: u16, code: Code) -> Problem {
        assert_eq!(self.status, status, "{}", self.text());
        let problem: Problem =
            serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()));
        assert_eq!(problem.code, code, "{problem}");
        assert!(problem.message.split_whitespace().count() >= 4, "no sentence: {problem}");
        problem
    }

    /// Its body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Somebody who may speak to one listener.
#[derive(Debug, Clone)]
pub struct Peer {
    agent: Agent,
    url: String,
    authorization: Option<String>,
    headers: Vec<(String, String)>,
}

impl Peer {
    /// Without any authorisation.
    #[must_use]
    pub fn stranger(url: &str) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            // A refusal may come before the body is read, and closes the connection: none is used twice.
            .max_idle_connections(0)
            .timeout_global(Some(Duration::from_secs(180)))
            .build()
            .new_agent();
        Self { agent, url: url.to_owned(), authorization: None, headers: Vec::new() }
    }

    /// With a token.
    #[must_use]
    pub fn token(&self, token: &str) -> Self {
        Self { authorization: Some(format!("Bearer {token}")), ..self.clone() }
    }

    /// With an agent's UUID and password.
    #[must_use]
    pub fn password(&self, uuid: &str, password: &str) -> Self {
        let pair = base64(format!("{uuid}:{password}").as_bytes());
        Self { authorization: Some(format!("Basic {pair}")), ..self.clone() }
    }

    /// With a header on every request.
    #[must_use]
    pub fn header(&self, name: &str, value: &str) -> Self {
        let mut peer = self.clone();
        peer.headers.push((name.to_owned(), value.to_owned()));
        peer
    }

    /// Sends a request with these bytes and reads the whole answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn try_send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = if method == "GET" {
            SendBody::none()
        } else {
            request = request.header("content-type", "application/json");
            SendBody::from_owned_reader(std::io::Cursor::new(body.to_vec()))
        };
        let response = self.agent.run(request.body(body).unwrap())?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        response.into_body().into_reader().read_to_end(&mut body)?;
        Ok(Answer { status, body })
    }

    /// [`Peer::try_send`] where there must be an answer.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_send(method, path, body)
            .unwrap_or_else(|e| panic!("no answer to {method} {path} of {}: {e}", self.url))
    }

    /// Asks.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[])
    }

    /// Sends a message as JSON.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn post(&self, path: &str, message: &impl Serialize) -> Answer {
        self.send("POST", path, &serde_json::to_vec(message).unwrap())
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn patch(&self, path: &str, offset: u64, bytes: &[u8]) -> Answer {
        self.send("PATCH", &format!("{path}?offset={offset}"), bytes)
    }

    /// Opens a stream: the answer's body, to be read as it comes; none when it is refused.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    #[must_use]
    pub fn try_stream(&self, path: &str) -> Option<ureq::BodyReader<'static>> {
        let mut request = Request::builder().method("GET").uri(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let response = self.agent.run(request.body(SendBody::none()).unwrap()).unwrap();
        response.status().is_success().then(|| response.into_body().into_reader())
    }
}

/// Bytes as base64.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - three.len()));
        for digit in 0..4 {
            let last = digit > three.len();
            text.push(if last { '=' } else { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_padded_to_fours() {
        assert_eq!(
            ["", "a", "ab", "abc", "abcd"].map(|text| base64(text.as_bytes())),
            ["", "YQ==", "YWI=", "YWJj", "YWJjZA=="]
        );
    }
}
