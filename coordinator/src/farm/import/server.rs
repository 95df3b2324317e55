//! A substitute server as what is taken from.

use std::io::Read;
use std::time::Duration;

use drover_store::StorePath;
use drover_tls::Trust;
use drover_wire::import::{PublishedPage, PublishedQuestion};
use drover_wire::route::public;

use super::halt::Halt;
use super::said::NARINFO_LIMIT;
use super::source::SourceError;
use crate::web;

/// How long a connection may take to come about.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long the whole of a small answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// How often something is asked for before it is given up, and the first wait in between; the next are twice as long
/// each: 15 s in all.
pub(super) const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The most bytes of a list of what was published.
const LIST_LIMIT: u64 = 4 << 20;

/// A substitute server.
#[derive(Debug)]
pub(super) struct Server {
    base: String,
    agent: ureq::Agent,
    halt: Halt,
}

/// What came of one question.
enum Asked {
    Answer(ureq::http::Response<ureq::Body>),
    /// There is no such thing.
    Absent,
}

impl Server {
    /// The one at this address, which was checked. `silence`: how long it may say nothing.
    pub(super) fn new(base: &str, trust: Trust, silence: Duration, halt: Halt) -> Self {
        let settings = web::settings()
            .timeout_connect(Some(CONNECT_TIME.min(silence)))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence));
        let agent = web::client(settings, trust);
        Self { base: base.trim_end_matches('/').to_owned(), agent, halt }
    }

    /// The narinfo of an item; none: it does not have it.
    ///
    /// # Errors
    /// When it does not answer, also when it is asked again.
    pub(super) fn narinfo(&self, path: &StorePath) -> Result<Option<Vec<u8>>, SourceError> {
        let url = format!("{}/{}.narinfo", self.base, path.hash_part());
        self.small(&url, NARINFO_LIMIT as u64)
    }

    /// What it published after this number; none: it is no drover.
    ///
    /// # Errors
    /// As [`Server::narinfo`].
    pub(super) fn published(
        &self,
        question: PublishedQuestion,
    ) -> Result<Option<PublishedPage>, SourceError> {
        let limit = question.limit.unwrap_or(drover_wire::import::PUBLISHED_LIMIT);
        let path = public::PUBLISHED.path(&[]);
        let url = format!("{}{path}?after={}&limit={limit}", self.base, question.after);
        let Some(bytes) = self.small(&url, LIST_LIMIT)? else { return Ok(None) };
        // Some servers answer everything with a page for people.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// The bytes of a nar at an address of a narinfo. Asked once: who reads knows what to do when it breaks off.
    ///
    /// # Errors
    /// When it does not have it, or does not answer.
    pub(super) fn nar(&self, url: &str) -> Result<Box<dyn Read + Send>, SourceError> {
        let url = self.address(url)?;
        match self.ask(&url, None)? {
            Asked::Answer(answer) => Ok(Box::new(answer.into_body().into_reader())),
            Asked::Absent => Err(SourceError::Refused(format!("there is no nar at {url}"))),
        }
    }

    /// The whole address of a nar: below that of the server, whatever a narinfo says.
    ///
    /// # Errors
    /// When it leads elsewhere.
    pub(super) fn address(&self, url: &str) -> Result<String, SourceError> {
        let below = url.strip_prefix(&self.base).and_then(|rest| rest.strip_prefix('/')).unwrap_or(url);
        check_relative(below)?;
        Ok(format!("{}/{below}", self.base))
    }

    /// The wait before another try at something.
    ///
    /// # Errors
    /// The error of the last try, when there were enough; or that it is to stop.
    pub(super) fn again(&self, tried: u32, error: SourceError) -> Result<(), SourceError> {
        match error {
            SourceError::Failed(why) if tried < TRIES => {
                tracing::debug!(server = self.base, why, tried, "a server is asked again");
                self.halt.rest(FIRST_WAIT * 2_u32.saturating_pow(tried.saturating_sub(1)))
            }
            error => Err(error),
        }
    }

    /// An answer that fits memory; none: there is no such thing.
    fn small(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let mut tried = 0;
        loop {
            self.halt.check()?;
            tried += 1;
            let error = match self.ask(url, Some(ANSWER_TIME)) {
                Ok(Asked::Absent) => return Ok(None),
                Ok(Asked::Answer(mut answer)) => {
                    match answer.body_mut().with_config().limit(limit).read_to_vec() {
                        Ok(bytes) => return Ok(Some(bytes)),
                        Err(ureq::Error::BodyExceedsLimit(_)) => {
                            let why = format!("{url} has more than {limit} bytes");
                            return Err(SourceError::Refused(why));
                        }
                        Err(error) => SourceError::Failed(format!("{url} broke off: {}", web::words(&error))),
                    }
                }
                Err(error) => error,
            };
            self.again(tried, error)?;
        }
    }

    fn ask(&self, url: &str, within: Option<Duration>) -> Result<Asked, SourceError> {
        let request = self.agent.get(url).config().timeout_global(within).build();
        let failed = |error| SourceError::Failed(format!("{url} was not had: {}", web::words(&error)));
        let answer = request.call().map_err(failed)?;
        match answer.status().as_u16() {
            200 => Ok(Asked::Answer(answer)),
            404 | 410 => Ok(Asked::Absent),
            status @ (408 | 425 | 429 | 500..) => {
                Err(SourceError::Failed(format!("{url} answered {status}")))
            }
            status => Err(SourceError::Refused(format!("{url} answered {status}"))),
        }
    }
}

/// Checks that an address stays below what it is relative to.
///
/// # Errors
/// When it is absolute, or has parts such as `..`.
pub(super) fn check_relative(url: &str) -> Result<(), SourceError> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let odd = url.bytes().any(|byte| !byte.is_ascii_graphic()) || url.contains('\\');
    let climbs = decoded(path).is_none_or(|path| {
        path.split(|byte| *byte == b'/').any(|part| part.is_empty() || part == b"." || part == b"..")
    });
    if odd || climbs || path.contains("://") {
        let short: String = url.chars().filter(|c| !c.is_control()).take(200).collect();
        let why = format!("its nar's address “{short}” does not lead to something below its narinfo");
        return Err(SourceError::Refused(why));
    }
    Ok(())
}

/// The bytes that an address stands for; none where an escape is no escape, or hides the end of a text.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let escaped = data_encoding::HEXUPPER_PERMISSIVE.decode(&digits).ok()?;
        if escaped == [0] {
            return None;
        }
        bytes.extend(escaped);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_out_is_refused() {
        let out = [
            "",
            "/etc/passwd",
            "//other/nar",
            "../x",
            "nar/../../x",
            "nar/%2e%2e/x",
            "nar/%2E./x",
            "nar//x",
            "nar/./x",
            "http://169.254.0.1/x",
            "file:///etc/passwd",
            "nar/x%00",
            "nar/x\\..\\y",
            "nar/x y",
            "nar/%zz",
            "nar/",
        ];
        for url in out {
            assert!(check_relative(url).is_err(), "{url} was taken");
        }
        for url in ["nar/zstd/abc-x", "x.nar.zst", "nar/gzip/abc-a%3Fb", "nar/zstd/a...b", "nar/x?y=../z"] {
            assert_eq!(check_relative(url), Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn a_whole_address_is_below_the_server_s_own() {
        let halt = Halt::new(tokio::sync::watch::channel(false).1);
        let server = Server::new("http://farm:8080/guix/", Trust::System, CONNECT_TIME, halt);
        assert_eq!(server.address("nar/x"), Ok("http://farm:8080/guix/nar/x".to_owned()));
        assert_eq!(server.address("http://farm:8080/guix/nar/x"), server.address("nar/x"));
        assert!(server.address("http://farm:8080/other/nar/x").is_err());
        assert!(server.address("http://farm:8080/guixnar/x").is_err());
    }
}
