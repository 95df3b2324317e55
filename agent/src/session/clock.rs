//! A machine's clock that is set by the coordinator's word, where its operator wants that: certificates are held against it.
//!
//! What a pinned key vouches for needs no clock. With authorities, anybody is asked what time it is, and then whether their
//! certificate is good at that time: a clock that begins in 1970 can be set so, and whoever has the key of a certificate that
//! has ended can do no more than have it show a time at which that had not.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_os::machine;
use drover_os::signal::{Stage, Stop};
use drover_tls::{Trust, of_http, utc};
use ureq::http::Request;
use ureq::http::header::DATE;

use crate::config::Config;
use crate::http::{Client, Patience, reason};
use crate::retry::{self, Pauses, Temporary};

/// Clocks that differ by fewer seconds are both right.
const RIGHT: u64 = 60;
/// A clock that is ahead by fewer seconds is not set back: what has happened since stays before what comes.
const FAR_AHEAD: u64 = 24 * 3600;

/// A clock that can be set, in seconds since 1970.
pub(super) trait Clock {
    fn now(&self) -> u64;
    fn set(&self, seconds: u64) -> io::Result<()>;
}

/// This machine's.
pub(super) struct OfMachine;

impl Clock for OfMachine {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }

    fn set(&self, seconds: u64) -> io::Result<()> {
        machine::set_date(seconds)
    }
}

/// Why nobody knows what time it is.
#[derive(Debug, thiserror::Error)]
enum ClockError {
    #[error("{url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url}: the answer does not say what time it is")]
    NoDate { url: String },
    #[error("{url}: it says first that it is {}, and then that it is {}", utc(*.first), utc(*.then))]
    Wavers { url: String, first: u64, then: u64 },
}

impl Temporary for ClockError {
    fn is_temporary(&self) -> bool {
        !matches!(self, Self::NoDate { .. })
    }
}

/// What the coordinator's word is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vouched {
    Key,
    Authority,
    Nobody,
}

impl Vouched {
    fn words(self) -> &'static str {
        match self {
            Self::Key => "its pinned key vouches for that",
            Self::Authority => "its certificate is good at that time",
            Self::Nobody => "nobody vouches for that, for it has no TLS",
        }
    }
}

/// Sets the clock to what the coordinator says, if it is behind that; asks until there is an answer. False if the agent is
/// to stop.
pub(super) fn set(config: &Config, clock: &dyn Clock, stop: &Stop) -> bool {
    let what = "ask the coordinator what time it is";
    match retry::until_it_works(what, stop, Stage::Drain, Pauses::default(), || ask(config)) {
        Ok((there, vouched)) => tell(clock, there, vouched),
        Err(_) if stop.is_requested() => return false,
        Err(error) => tracing::warn!("this machine's clock stays as it is: {what}: {error}"),
    }
    true
}

/// What time it is there, and who says so.
fn ask(config: &Config) -> Result<(u64, Vouched), ClockError> {
    let url = config.coordinator.join("/");
    match &config.trust {
        _ if !config.coordinator.is_https() => Ok((date(&config.trust, url)?, Vouched::Nobody)),
        Trust::Keys(_) => Ok((date(&config.trust, url)?, Vouched::Key)),
        trust => {
            // Whose word this is shows in the second answer, in which it is said again.
            let first = date(&Trust::AnybodyForCheckedContents, url.clone())?;
            let then = date(&Trust::At(Box::new(trust.clone()), first), url.clone())?;
            if first.abs_diff(then) < RIGHT {
                Ok((then, Vouched::Authority))
            } else {
                Err(ClockError::Wavers { url, first, then })
            }
        }
    }
}

/// The date of an answer, whatever else it says. Nothing of ours is in the question.
fn date(trust: &Trust, url: String) -> Result<u64, ClockError> {
    let client = Client::new(trust, Patience::default());
    let request = Request::head(&*url).body(());
    let answer = request.map_err(ureq::Error::from).and_then(|request| client.fetch(request));
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Err(ClockError::Unreachable { url, reason: reason(&error) }),
    };
    let date = answer.headers().get(DATE).and_then(|date| of_http(date.to_str().ok()?.trim()));
    date.ok_or(ClockError::NoDate { url })
}

fn tell(clock: &dyn Clock, there: u64, vouched: Vouched) {
    let here = clock.now();
    let (here_words, there_words, worth) = (utc(here), utc(there), vouched.words());
    if here.abs_diff(there) < RIGHT {
        tracing::debug!("this machine's clock and the coordinator's agree");
        return;
    }
    // Whoever can turn clocks back can have certificates taken that have ended.
    if here > there && (vouched != Vouched::Key || here - there < FAR_AHEAD) {
        tracing::warn!(
            "this machine's clock says that it is {here_words}, and the coordinator's {there_words}: it is not set back; set it \
             by hand if it is wrong"
        );
        return;
    }
    match clock.set(there) {
        Ok(()) => tracing::info!(
            "this machine's clock said that it is {here_words}; it is set by the coordinator's word, {there_words}: {worth}"
        ),
        Err(error) => tracing::warn!(
            "this machine's clock says that it is {here_words}, and the coordinator's {there_words}; setting it: {error}; \
             run the agent as root, or leave out --set-clock"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::config::{self, Request as Wanted, Surroundings};
    use crate::http::testing::{Authority, Exchange, Server};

    /// 1994-11-06 08:49:37, which certificates of tests are valid at, and what HTTP makes of it.
    const THERE: u64 = 784_111_777;
    const DATE: &str = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

    /// A clock of nobody's machine.
    struct Hand {
        shows: RefCell<u64>,
        may_be_set: bool,
    }

    impl Clock for Hand {
        fn now(&self) -> u64 {
            *self.shows.borrow()
        }

        fn set(&self, seconds: u64) -> io::Result<()> {
            if !self.may_be_set {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            *self.shows.borrow_mut() = seconds;
            Ok(())
        }
    }

    fn config(url: &str, more: &[&str]) -> Config {
        let words = ["--coordinator", url, "--dynamic-auth-token=t", "--name=board", "--set-clock"];
        let words = words.iter().chain(more).map(Into::into);
        match config::read(words, &Surroundings::here()).unwrap() {
            Wanted::Run(config) => *config,
            Wanted::Print(text) => panic!("{text}"),
        }
    }

    fn answer(exchange: Exchange<'_>, fields: &str) {
        assert_eq!((&*exchange.target, exchange.header("authorization")), ("HEAD /", ""));
        exchange.respond(404, fields, b"");
    }

    /// What a clock shows that showed this.
    fn set_from(config: &Config, shows: u64) -> u64 {
        let clock = Hand { shows: RefCell::new(shows), may_be_set: true };
        assert!(set(config, &clock, &Stop::new().unwrap()));
        clock.now()
    }

    fn with_authority(authority: &Authority, folder: &Path, date: &'static str) -> (Server, Config) {
        let file = folder.join("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        let server = Server::start_tls(authority, move |exchange| answer(exchange, date));
        let config = config(server.url(), &["--ca-file", file.to_str().unwrap()]);
        (server, config)
    }

    #[test]
    fn a_clock_that_is_behind_is_set_and_one_that_is_right_or_ahead_is_not() {
        let server = Server::start(|exchange| answer(exchange, DATE));
        let config = config(server.url(), &[]);
        for (shows, then) in [
            (0, THERE),
            (THERE - 61, THERE),
            (THERE - 59, THERE - 59),
            (THERE + 59, THERE + 59),
            (THERE + 3600, THERE + 3600),
            // Nobody vouches for it.
            (THERE + 30 * 24 * 3600, THERE + 30 * 24 * 3600),
        ] {
            assert_eq!(set_from(&config, shows), then, "{shows}");
        }
    }

    #[test]
    fn a_pinned_key_needs_no_clock_and_may_set_one_back_that_is_far_ahead() {
        let authority = Authority::new();
        let server = Server::start_tls(&authority, |exchange| answer(exchange, DATE));
        let config = config(server.url(), &["--coordinator-key", &authority.pin]);
        for (shows, then) in
            [(0, THERE), (THERE + FAR_AHEAD - 1, THERE + FAR_AHEAD - 1), (THERE + FAR_AHEAD, THERE)]
        {
            assert_eq!(set_from(&config, shows), then, "{shows}");
        }
    }

    #[test]
    fn an_authority_s_certificate_is_held_against_the_time_that_its_server_tells() {
        let folder = tempfile::tempdir().unwrap();
        // It ends long before today.
        let authority = Authority::valid((1990, 2000));
        let (_server, config) = with_authority(&authority, folder.path(), DATE);
        assert_eq!(set_from(&config, 0), THERE);
        assert_eq!(set_from(&config, THERE + 30 * FAR_AHEAD), THERE + 30 * FAR_AHEAD);
    }

    #[test]
    fn who_has_no_certificate_for_the_time_that_it_tells_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (_server, config) = with_authority(&Authority::valid((1990, 1991)), folder.path(), DATE);
        let error = ask(&config).unwrap_err();
        let words = error.to_string();
        assert!(
            error.is_temporary() && words.contains("1991-01-01") && words.contains("1994-11-06"),
            "{words}"
        );
        assert!(!words.contains("this machine's clock"), "{words}");
        let (_server, mut config) = with_authority(&Authority::valid((1990, 2000)), folder.path(), DATE);
        config.trust = with_authority(&Authority::new(), folder.path(), DATE).1.trust;
        let words = ask(&config).unwrap_err().to_string();
        assert!(words.contains("TLS: ") && !words.contains("1994"), "{words}");
    }

    #[test]
    fn who_says_two_times_or_none_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (_server, config) = with_authority(&Authority::new(), folder.path(), "date: today\r\n");
        assert_eq!(set_from(&config, 5), 5);
        let is_first = AtomicBool::new(true);
        let authority = Authority::new();
        let trust = with_authority(&authority, folder.path(), "").1.trust;
        let server = Server::start_tls(&authority, move |exchange| {
            let first = is_first.swap(false, Ordering::SeqCst);
            answer(exchange, if first { "date: Sun, 06 Nov 2033 08:49:37 GMT\r\n" } else { DATE });
        });
        let config = Config { trust, ..self::config(server.url(), &[]) };
        let error = ask(&config).unwrap_err();
        assert!(matches!(error, ClockError::Wavers { .. }), "{error}");
    }

    #[test]
    fn a_clock_that_may_not_be_set_and_a_stop_keep_nobody() {
        let server = Server::start(|exchange| answer(exchange, DATE));
        let clock = Hand { shows: RefCell::new(0), may_be_set: false };
        assert!(set(&config(server.url(), &[]), &clock, &Stop::new().unwrap()));
        assert_eq!(clock.now(), 0);
        let stop = Stop::new().unwrap();
        stop.escalate();
        assert!(!set(&config("http://localhost:1", &[]), &clock, &stop));
    }
}
