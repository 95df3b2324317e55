//! A file of some server: redirects are followed, and what broke off is read on from where it was.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use drover_os::Deadline;
use drover_os::poll::{Interest, wait_one};
use ureq::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use ureq::http::{HeaderMap, Request, Response, StatusCode, Uri};
use ureq::{Body, BodyReader, ResponseExt};

use super::Client;
use super::client::reason;
use super::pace::{FLOOR, Pace};
use crate::retry::{Backoff, Pauses};

/// Tries in a row that bring no byte.
const TRIES: u32 = 4;
/// Tries in all: somebody who gives a byte each time does not keep us for ever.
const TRIES_IN_ALL: u32 = 100;
/// Between two of them.
const PAUSES: Pauses = if cfg!(test) {
    Pauses { first: Duration::from_micros(100), longest: Duration::from_millis(1) }
} else {
    Pauses { first: Duration::from_millis(300), longest: Duration::from_secs(10) }
};

/// How long after the first try to open another one may begin.
const TRIED_FOR: Duration = Duration::from_secs(20);

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The address is none, or not one of HTTP.
    #[error("'{0}' is no address of a file on an HTTP server")]
    Address(String),
    /// The server answered, and not with the file.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// The connection.
    #[error("{0}")]
    Unreachable(String),
}

impl RemoteError {
    /// Whether the server says that it has no such file.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Status(StatusCode::NOT_FOUND | StatusCode::GONE))
    }

    /// Whether the server as a whole is away or busy, and not only this file.
    pub(crate) fn is_of_the_server(&self) -> bool {
        match self {
            Self::Address(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502..=504),
            Self::Unreachable(_) => true,
        }
    }

    /// Whether the same may work a moment later.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Address(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 408 | 425 | 429 | 500..=599),
            Self::Unreachable(_) => true,
        }
    }
}

/// A file of a server, read from its beginning. Its end is only an end if all of it came.
pub(crate) struct Remote<'a> {
    client: &'a Client,
    uri: Uri,
    /// Readable once nobody wants it any more.
    stop: BorrowedFd<'a>,
    at: u64,
    /// Where the file's end is, if the server said so.
    size: Option<u64>,
    /// What tells this version of the file from another.
    version: Option<HeaderValue>,
    body: Option<BodyReader<'static>>,
    /// What the open body repeats.
    again: u64,
    ended: bool,
    /// Tries since the last byte, and all of them.
    tries: (u32, u32),
    backoff: Backoff,
    pace: Pace,
}

/// An address for people and logs: without a user and a password, and without a query, in which those who sign addresses write
/// what lets anybody in.
fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let query = if uri.query().is_some() { "?…" } else { "" };
    [uri.scheme_str().unwrap_or_default(), "://", host, uri.path(), query].concat()
}

impl<'a> Remote<'a> {
    /// Asks for the file at an address. It is given up when `stop` becomes readable.
    ///
    /// # Errors
    /// [`RemoteError`]. What breaks later is mended in reading, as far as it can be.
    pub(crate) fn open(client: &'a Client, address: &str, stop: BorrowedFd<'a>) -> Result<Self, RemoteError> {
        let uri: Uri = address.parse().map_err(|_| RemoteError::Address(address.to_owned()))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(RemoteError::Address(address.to_owned()));
        }
        let mut remote = Self {
            client,
            uri,
            stop,
            at: 0,
            size: None,
            version: None,
            body: None,
            again: 0,
            ended: false,
            tries: (0, 0),
            backoff: Backoff::new(PAUSES),
            pace: Pace::new(FLOOR),
        };
        let answer = remote.ask_for_the_first_time()?;
        if answer.status() != StatusCode::OK {
            return Err(RemoteError::Status(answer.status()));
        }
        // Where redirects led is where it goes on: they may end elsewhere another time.
        remote.uri = answer.get_uri().clone();
        remote.size = length(answer.headers());
        remote.version = version(answer.headers());
        remote.begin_with(answer, 0);
        Ok(remote)
    }

    /// As [`Remote::open`], several times with pauses while that fails for a reason that may pass.
    ///
    /// # Errors
    /// The last [`RemoteError`].
    pub(crate) fn open_with_patience(
        client: &'a Client,
        address: &str,
        stop: BorrowedFd<'a>,
    ) -> Result<Self, RemoteError> {
        let (begin, mut backoff, mut tries) = (Instant::now(), Backoff::new(PAUSES), 1);
        loop {
            let error = match Self::open(client, address, stop) {
                Err(error) if error.is_temporary() => error,
                done => return done,
            };
            if tries >= TRIES || begin.elapsed() >= TRIED_FOR {
                return Err(error);
            }
            tries += 1;
            let shown = address.parse().map(|uri| shown(&uri)).unwrap_or_default();
            tracing::info!("{shown} will be asked again: {error}");
            // A wait that fails is one less.
            if wait_one(stop, Interest::Readable, Deadline::after(backoff.next_pause())).unwrap_or(true) {
                return Err(error);
            }
        }
    }

    /// How many bytes it has, if the server says so.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Where it comes from after all redirects, for a person; none if that is the address.
    pub(crate) fn led_to(&self, address: &str) -> Option<String> {
        (self.uri != address).then(|| shown(&self.uri))
    }

    /// Asks, and once more if that was over a kept connection which the server was about to close.
    fn ask_for_the_first_time(&self) -> Result<Response<Body>, RemoteError> {
        let answer = match self.follow() {
            Err(error) if is_closed(&error) => self.follow(),
            answer => answer,
        };
        answer.map_err(|error| RemoteError::Unreachable(reason(&error)))
    }

    /// Asks for the file from where we are.
    fn ask(&self) -> Result<Response<Body>, RemoteError> {
        self.follow().map_err(|error| RemoteError::Unreachable(reason(&error)))
    }

    fn follow(&self) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::new(());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        // The bytes count as they are kept.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = self.range() {
            headers.insert(RANGE, range);
            if let Some(version) = &self.version {
                headers.insert(IF_RANGE, version.clone());
            }
        }
        self.client.follow(request)
    }

    fn range(&self) -> Option<HeaderValue> {
        (self.at > 0).then(|| HeaderValue::from_str(&format!("bytes={}-", self.at)).ok()).flatten()
    }

    fn begin_with(&mut self, answer: Response<Body>, again: u64) {
        self.again = again;
        self.body = Some(answer.into_body().into_with_config().limit(u64::MAX).reader());
    }

    /// Goes on after a break.
    fn resume(&mut self) -> io::Result<()> {
        let answer = match self.ask() {
            Ok(answer) => answer,
            Err(error) => return self.broke(&error.to_string()),
        };
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if begin(answer.headers()) == Some(self.at) => {
                self.begin_with(answer, 0)
            }
            // It does not know parts, or the file is another one by now, which the hash shows.
            StatusCode::OK if self.size.is_none() || length(answer.headers()) == self.size => {
                let again = self.at;
                self.begin_with(answer, again);
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                return Err(io::Error::other(format!("{} has changed while it was read", shown(&self.uri))));
            }
            status => {
                let error = RemoteError::Status(status);
                if !error.is_temporary() {
                    return Err(io::Error::other(format!("at byte {}: {error}", self.at)));
                }
                return self.broke(&error.to_string());
            }
        }
        Ok(())
    }

    /// Gives up who is too slow.
    fn keep_pace(&mut self, bytes: usize, begin: Instant) -> io::Result<()> {
        let noted = self.pace.note(bytes, begin.elapsed());
        noted.map_err(|slow| io::Error::other(format!("at byte {}: {slow}", self.at)))
    }

    /// Waits before the next try, or gives up.
    fn broke(&mut self, why: &str) -> io::Result<()> {
        self.body = None;
        self.tries = (self.tries.0 + 1, self.tries.1 + 1);
        if self.tries.0 > TRIES || self.tries.1 > TRIES_IN_ALL {
            return Err(io::Error::other(format!("it broke off at byte {}: {why}", self.at)));
        }
        tracing::info!("{} broke off at byte {}, will go on there: {why}", shown(&self.uri), self.at);
        wait_one(self.stop, Interest::Readable, Deadline::after(self.backoff.next_pause()))?;
        Ok(())
    }
}

impl Read for Remote<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            if wait_one(self.stop, Interest::Readable, Deadline::after(Duration::ZERO))? {
                return Err(io::Error::other("it is not wanted any more"));
            }
            let begin = Instant::now();
            let Some(body) = &mut self.body else {
                self.resume()?;
                self.keep_pace(0, begin)?;
                continue;
            };
            let read = body.read(buffer);
            self.keep_pace(*read.as_ref().unwrap_or(&0), begin)?;
            match read {
                Ok(0) if self.again == 0 && self.size.is_none_or(|size| self.at >= size) => self.ended = true,
                Ok(0) => self.broke("the connection ended")?,
                Ok(n) => {
                    let left_out = usize::try_from(self.again).unwrap_or(usize::MAX).min(n);
                    self.again -= left_out as u64;
                    if left_out < n {
                        buffer.copy_within(left_out..n, 0);
                        self.at += (n - left_out) as u64;
                        self.tries.0 = 0;
                        self.backoff.reset();
                        return Ok(n - left_out);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broke(&words(error))?,
            }
        }
        Ok(0)
    }
}

/// Whether a connection was closed by the other side.
fn is_closed(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error, ureq::Error::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

/// An error of reading a body in words for an operator.
fn words(error: io::Error) -> String {
    let text = error.to_string();
    match error.into_inner().and_then(|inner| inner.downcast::<ureq::Error>().ok()) {
        Some(error) => reason(&error),
        None => text,
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The first byte of a part.
fn begin(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// What tells a version of a file from another. Weak tags do not, byte by byte.
fn version(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    tag.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Patience;
    use crate::http::pace::Floor;
    use crate::http::testing::{Exchange, Server};
    use drover_tls::Trust;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn client() -> Client {
        Client::new(&Trust::System, Patience::default())
    }

    /// What says that to stop which is to go on, and who could say it.
    fn never() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn read(url: &str) -> io::Result<Vec<u8>> {
        let (client, never) = (client(), never());
        let mut bytes = Vec::new();
        let mut remote = Remote::open(&client, url, never.0.as_fd()).map_err(io::Error::other)?;
        remote.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn sample() -> Vec<u8> {
        (0..200_000_u32).map(|n| (n % 251) as u8).collect()
    }

    /// Where a request wants the file to begin.
    fn from(exchange: &Exchange<'_>) -> usize {
        let range = exchange.header("range").trim_start_matches("bytes=").trim_end_matches('-');
        range.parse().unwrap_or(0)
    }

    #[test]
    fn what_breaks_off_is_read_on_from_there_in_the_same_version() {
        let server = Server::start(|mut exchange| {
            let (from, file) = (from(&exchange), sample());
            let end = (from + 70_000).min(file.len());
            if from == 0 {
                let head =
                    format!("HTTP/1.1 200 X\r\nETag: \"one\"\r\ncontent-length: {}\r\n\r\n", file.len());
                exchange.raw(head.as_bytes());
            } else {
                assert_eq!(exchange.header("if-range"), "\"one\"");
                let (left, last) = (file.len() - from, file.len() - 1);
                let head = format!(
                    "HTTP/1.1 206 X\r\ncontent-range: bytes {from}-{last}/{}\r\ncontent-length: {left}\r\n\r\n",
                    file.len()
                );
                exchange.raw(head.as_bytes());
            }
            exchange.raw(&file[from..end]);
        });
        assert!(read(server.url()).unwrap() == sample());
    }

    #[test]
    fn a_connection_that_was_closed_just_then_is_replaced() {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |exchange| {
            // Not to answer closes the connection.
            if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                exchange.respond(200, "", b"file");
            }
        });
        assert_eq!(read(server.url()).unwrap(), b"file");
    }

    #[test]
    fn a_server_that_knows_no_parts_is_read_again_from_the_beginning() {
        let server = Server::start(|mut exchange| {
            let file = sample();
            if from(&exchange) == 0 {
                exchange.raw(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n186a0\r\n");
                exchange.raw(&file[..100_000]);
            } else {
                exchange.respond(200, "", &file);
            }
        });
        assert!(read(server.url()).unwrap() == sample());
    }

    #[test]
    fn a_file_that_became_another_is_an_error() {
        let server = Server::start(|mut exchange| {
            if from(&exchange) == 0 {
                exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nsome");
            } else {
                exchange.respond(200, "", b"another one");
            }
        });
        assert!(read(server.url()).unwrap_err().to_string().contains("has changed"));
    }

    #[test]
    fn who_is_busy_for_a_moment_is_asked_again_and_who_has_nothing_is_not() {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |exchange| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => exchange.respond(503, "", b"busy"),
            1 => exchange.respond(429, "", b"too many"),
            2 => exchange.respond(200, "", b"file"),
            3 => exchange.respond(404, "", b"no"),
            _ => exchange.respond(503, "", b"busy"),
        });
        let (client, never) = (client(), never());
        let open = || Remote::open_with_patience(&client, server.url(), never.0.as_fd());
        let mut text = String::new();
        open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "file");
        assert!(open().err().unwrap().is_absent());
        assert!(open().err().unwrap().is_of_the_server());
    }

    #[test]
    fn redirects_lead_to_the_file_and_circles_to_an_error() {
        let server = Server::start(|exchange| match exchange.target.as_str() {
            "GET /a/old" => exchange.respond(301, "location: ../b/new?x=1\r\n", b""),
            "GET /b/new?x=1" => exchange.respond(200, "", b"file"),
            _ => exchange.respond(302, "location: /circle\r\n", b""),
        });
        let (client, never) = (client(), never());
        let mut remote = Remote::open(&client, &format!("{}/a/old", server.url()), never.0.as_fd()).unwrap();
        let mut text = String::new();
        remote.read_to_string(&mut text).unwrap();
        assert_eq!(text, "file");
        assert_eq!(remote.led_to(&format!("{}/b/new?x=1", server.url())), None);
        // What is to be secret mostly stands where this does.
        assert_eq!(remote.led_to("http://a/old"), Some(format!("{}/b/new?…", server.url())));
        assert_eq!(shown(&"https://user:hidden@host:1/a@b".parse().unwrap()), "https://host:1/a@b");
        let Err(RemoteError::Unreachable(_)) = Remote::open(&client, server.url(), never.0.as_fd()) else {
            panic!("a circle has an end")
        };
    }

    #[test]
    fn a_server_that_always_breaks_off_is_given_up() {
        let server = Server::start(|mut exchange| {
            if from(&exchange) == 0 {
                exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\nsome");
            }
        });
        assert!(read(server.url()).unwrap_err().to_string().contains("broke off at byte 4"));
    }

    #[test]
    fn a_server_that_brings_next_to_nothing_is_given_up() {
        let server = Server::start(|exchange| exchange.respond(200, "", b"file"));
        let (client, never) = (client(), never());
        let mut remote = Remote::open(&client, server.url(), never.0.as_fd()).unwrap();
        remote.pace = Pace::new(Floor { bytes: 5, time: Duration::ZERO });
        assert!(remote.read(&mut [0; 10]).unwrap_err().to_string().contains("too slow"));
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_read_to_its_end() {
        let server = Server::start(|exchange| exchange.respond(200, "", &sample()));
        let (client, (stop, other)) = (client(), never());
        let mut remote = Remote::open(&client, server.url(), stop.as_fd()).unwrap();
        assert_eq!(remote.size(), Some(200_000));
        assert!(remote.read(&mut [0; 10]).unwrap() > 0);
        drop(other);
        assert!(remote.read(&mut [0; 10]).unwrap_err().to_string().contains("not wanted"));
    }

    #[test]
    fn refusals_and_other_addresses_are_no_files() {
        let server = Server::start(|exchange| exchange.respond(404, "", b"no"));
        let (client, never) = (client(), never());
        assert!(Remote::open(&client, server.url(), never.0.as_fd()).err().unwrap().is_absent());
        for address in ["ftp://host/file", "file:///etc/passwd", "/etc/passwd", "", "http://", "https://a b/"]
        {
            let error = Remote::open(&client, address, never.0.as_fd()).err().unwrap();
            assert!(matches!(error, RemoteError::Address(_)), "{address}: {error}");
        }
    }
}
