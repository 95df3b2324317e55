//! Other servers: the one place where clients of theirs are made, and what their errors are in words.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use drover_tls::Trust;
use ureq::config::{Config, ConfigBuilder};
use ureq::typestate::AgentScope;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Error};

/// What all clients have in common; how patient they are is for each to say.
pub(crate) fn settings() -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("drover/", env!("CARGO_PKG_VERSION")))
}

/// A client for servers that somebody named who may: in a configuration or a command.
pub(crate) fn client(settings: ConfigBuilder<AgentScope>, trust: Trust) -> Agent {
    drover_tls::agent(settings.build(), trust, DefaultResolver::default())
}

/// A client for addresses that anybody may have made up: it asks nobody in this machine's own networks, also when a
/// server leads it there. Where a proxy is configured, that decides whom it asks.
pub(crate) fn client_for_strangers(settings: ConfigBuilder<AgentScope>) -> Agent {
    drover_tls::agent(settings.build(), Trust::System, PublicOnly(DefaultResolver::default()))
}

/// An address as it may be shown: a user and a password that somebody wrote into it are nobody else's.
pub(crate) fn shown(address: &str) -> Cow<'_, str> {
    match user_of(address) {
        Some(user) => Cow::Owned(format!("{}…{}", &address[..user.start], &address[user.end..])),
        None => Cow::Borrowed(address),
    }
}

/// Whether there is a user, or more, in an address.
pub(crate) fn has_user(address: &str) -> bool {
    user_of(address).is_some()
}

/// Where it stands. What is no address may have one, too: whoever made a mistake did not do so to have it shown.
fn user_of(address: &str) -> Option<Range<usize>> {
    let start = address.find("://")? + 3;
    let rest = &address[start..];
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    Some(start..start + authority.rfind('@')?)
}

/// Why a server was not had, in words.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::Io(error) => io_words(error),
        Error::Timeout(ureq::Timeout::Resolve) => "no answer from the name server in time".to_owned(),
        Error::Timeout(ureq::Timeout::Connect) => "no connection in time".to_owned(),
        Error::Timeout(ureq::Timeout::Global) => "it took too long".to_owned(),
        Error::Timeout(_) => "it was silent for too long".to_owned(),
        Error::HostNotFound => "there is no such host".to_owned(),
        error => error.to_string(),
    }
}

/// The same of an error while an answer was read.
pub(crate) fn io_words(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(inner) => words(inner),
        None => drover_tls::reason(error).unwrap_or_else(|| error.to_string()),
    }
}

/// Finds only addresses that are everybody's.
#[derive(Debug)]
struct PublicOnly(DefaultResolver);

impl Resolver for PublicOnly {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        if config.proxy().is_some_and(|proxy| proxy.uri() == uri) {
            return Ok(found);
        }
        let mut public = self.0.empty();
        for address in found.iter().filter(|address| !is_private(address.ip())) {
            public.push(*address);
        }
        match found.iter().next() {
            Some(private) if public.is_empty() => Err(Error::Io(io::Error::other(Private(private.ip())))),
            _ => Ok(public),
        }
    }
}

/// An address that is not everybody's.
#[derive(Debug, thiserror::Error)]
#[error("{0} is an address of a private network, and nobody there is asked (sources-check-private)")]
struct Private(IpAddr);

/// Whether an address is this machine's, one of a network that it may be in, or nobody's: whatever the registries of
/// special addresses (RFC 6890) do not leave to everybody.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_private_v4(address),
        IpAddr::V6(address) => is_private_v6(address),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224.., _, _)
    )
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let inside = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // ::, ::1, and both ways to write one of the other family.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => inside(high, low),
        // By way of translators and tunnels.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => inside(high, low),
        // The rest of what is for translators, discarded, Teredo's and its neighbours, or in examples.
        [0x64 | 0x100, ..] | [0x2001, 0..=0x1ff | 0xdb8, ..] => true,
        // Only an eighth is everybody's so far.
        [first, ..] => !(0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_somebody_wrote_before_a_host_is_not_shown() {
        for (given, seen) in [
            ("https://user:hidden@host/a@b", "https://…@host/a@b"),
            ("https://a@b@host?x@y", "https://…@host?x@y"),
            ("no address://hid den@host", "no address://…@host"),
            ("https://host/a@b", "https://host/a@b"),
            ("a@b", "a@b"),
        ] {
            assert_eq!(shown(given), seen);
            assert_eq!(has_user(given), given != seen);
        }
    }

    #[test]
    fn addresses_of_private_networks_are_told_from_those_of_everybody_however_they_are_written() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:a00:1::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001:0:1::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private} was taken for everybody's");
        }
        for public in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "193.0.0.1",
            "64:ff9b::1.1.1.1",
            "2a00:1450::1",
            "2606::1",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public} was refused");
        }
    }

    #[test]
    fn a_server_on_this_machine_is_not_asked_on_a_stranger_s_word_by_whatever_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = client_for_strangers(settings().proxy(None));
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"] {
            let error = client.get(format!("http://{host}:{port}/")).call().unwrap_err();
            assert!(words(&error).contains("private network"), "{host}: {}", words(&error));
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "somebody came");
    }
}
