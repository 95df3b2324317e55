//! The look at a certificate, and the sentence about what is wrong with it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use crate::{Facts, Pin, utc};

/// 2026-11-01: no copy of this program is older, and no clock that is right shows an earlier time.
const YOUNGEST: u64 = 1_793_491_200;

/// What a certificate is held against.
#[derive(Debug)]
pub(crate) enum Check {
    Authorities {
        verifier: Arc<WebPkiServerVerifier>,
        source: String,
    },
    Keys(Vec<Pin>),
    /// See [`Trust::AnybodyForCheckedContents`](crate::Trust::AnybodyForCheckedContents).
    Nothing,
}

/// Looks at the certificates of servers.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) check: Check,
    /// The time that certificates are held against, in seconds since 1970, if not this machine's.
    pub(crate) at: Option<u64>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// By how much two clocks may differ that are right, in seconds.
const DIFFERENCE: u64 = 3600;

/// A whole sentence, which replaces rustls's own words.
#[derive(Debug)]
struct Sentence {
    words: String,
    /// Whether another clock might help to understand it.
    is_about_time: bool,
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<Sentence> for Error {
    fn from(sentence: Sentence) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(sentence))))
    }
}

impl std::error::Error for Sentence {}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut is_about_time = false;
        let words = match &self.check {
            Check::Authorities { verifier, source } => {
                let now = self.at.map_or(now, |at| UnixTime::since_unix_epoch(Duration::from_secs(at)));
                match verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
                    Err(Error::InvalidCertificate(error)) if self.at.is_some() && speaks_of_time(&error) => {
                        not_at(end_entity, now.as_secs())
                    }
                    Err(Error::InvalidCertificate(error)) => {
                        is_about_time = speaks_of_time(&error);
                        wrong(&error, &name.to_str(), end_entity, source, now.as_secs())
                    }
                    other => return other,
                }
            }
            Check::Nothing => return Ok(ServerCertVerified::assertion()),
            Check::Keys(pins) => match Pin::of_certificate(end_entity) {
                Some(pin) if pins.contains(&pin) => return Ok(ServerCertVerified::assertion()),
                Some(pin) => another_key(&pin, pins),
                None => "what it shows is not a certificate".to_owned(),
            },
        };
        Err(Sentence { words, is_about_time }.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Of an old form of certificates the key is not even found.
        if matches!(self.check, Check::Nothing) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if matches!(self.check, Check::Nothing) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn speaks_of_time(error: &CertificateError) -> bool {
    use CertificateError as E;
    matches!(error, E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. })
}

fn sentence(error: &io::Error) -> Option<&Sentence> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => other.downcast_ref(),
        _ => None,
    }
}

/// Whether a certificate was refused because of the time.
pub(crate) fn is_about_time(error: &io::Error) -> bool {
    sentence(error).is_some_and(|sentence| sentence.is_about_time)
}

/// The same error, with what the server's clock says.
pub(crate) fn with_server_time(error: io::Error, server: u64) -> io::Error {
    let Some(Sentence { words, .. }) = sentence(&error) else { return error };
    let here = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let words = format!("{words}. {}", compared(here, server));
    io::Error::new(error.kind(), Error::from(Sentence { words, is_about_time: true }))
}

/// Two clocks: which of them is right, nobody knows.
fn compared(here: u64, server: u64) -> String {
    if here.abs_diff(server) <= DIFFERENCE {
        return "The server's clock says the same as this machine's: it is the certificate".to_owned();
    }
    let other =
        if here < YOUNGEST { "this machine's is" } else { "one of the two is, likely this machine's," };
    format!(
        "The server's clock says that it is {} (by its own word, which nobody vouches for): {other} wrong",
        utc(server)
    )
}

fn wrong(error: &CertificateError, name: &str, der: &[u8], source: &str, now: u64) -> String {
    use CertificateError as E;
    let facts = Facts::of(der);
    match error {
        E::Expired | E::ExpiredContext { .. } => {
            let own = facts.map_or(0, |facts| facts.not_after);
            let until =
                if let E::ExpiredContext { not_after, .. } = error { not_after.as_secs() } else { own };
            expired(Whose::of(until == own), until, now)
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            let own = facts.map_or(0, |facts| facts.not_before);
            let from =
                if let E::NotValidYetContext { not_before, .. } = error { not_before.as_secs() } else { own };
            not_yet_valid(Whose::of(from == own), from, now)
        }
        E::NotValidForNameContext { presented, .. } => other_name(name, presented),
        E::NotValidForName => other_name(name, &[]),
        E::UnknownIssuer => format!(
            "nobody that this machine trusts ({source}) vouches for the certificate; if it is the right one, name its \
             authority (--ca-file, or SSL_CERT_FILE), or pin its key{}",
            Pin::of_certificate(der).map(|pin| format!(", {pin}")).unwrap_or_default()
        ),
        // How mbed and old OpenSSL make a certificate that signs itself.
        E::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => format!(
            "the certificate is an authority's own and not a server's; if it is the right one, pin its key{}",
            Pin::of_certificate(der).map(|pin| format!(", {pin}")).unwrap_or_default()
        ),
        other => format!("the certificate cannot be trusted: {other}"),
    }
}

/// Of a server that was asked what time it is.
fn not_at(der: &[u8], at: u64) -> String {
    let valid = Facts::of(der).map_or_else(String::new, |facts| {
        format!(" from {} until {}", utc(facts.not_before), utc(facts.not_after))
    });
    format!(
        "the certificate is valid{valid}, or those that vouch for it are not then, and the server says itself that it is \
         {}: one of the two is wrong there",
        utc(at)
    )
}

/// Which certificate of a chain is wrong.
#[derive(Debug, Clone, Copy)]
enum Whose {
    /// The server's.
    Own,
    /// One between that and the authority's.
    Intermediate,
}

impl Whose {
    fn of(is_own: bool) -> Self {
        if is_own { Self::Own } else { Self::Intermediate }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Own => "the certificate",
            Self::Intermediate => "an intermediate certificate, which the server sends after its own,",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Own => "renew the certificate",
            Self::Intermediate => "have the server send the chain that its authority gives out now",
        }
    }
}

fn expired(whose: Whose, not_after: u64, now: u64) -> String {
    let (until, clock) = (utc(not_after), utc(now));
    let (name, remedy) = (whose.name(), whose.remedy());
    if now < YOUNGEST {
        // Even so it is too late for this certificate.
        return format!(
            "{name} was valid until {until}; {remedy}. This machine's clock, which says that it is {clock}, is wrong as \
             well, for this program is younger than that ({})",
            utc(YOUNGEST)
        );
    }
    format!(
        "{name} was valid until {until}, and this machine's clock says that it is {clock}; {remedy}, or set the clock if \
         that is not the time"
    )
}

fn not_yet_valid(whose: Whose, not_before: u64, now: u64) -> String {
    let (from, clock, name) = (utc(not_before), utc(now), whose.name());
    let so = format!("{name} is valid from {from} on, and this machine's clock says that it is {clock}");
    if now < YOUNGEST {
        let youngest = utc(YOUNGEST);
        return format!(
            "{so}: the clock is wrong, for this program is younger than that ({youngest}); set it, have \
             drover-agent set it (--set-clock), or pin the certificate's key, which needs no clock. A board without a battery \
             for its clock begins in the past at each start, until its system has asked for the time (NTP)"
        );
    }
    format!(
        "{so}; set the clock if that is not the time, on the machine that made the certificate or on this one (drover-agent \
         does so with --set-clock)"
    )
}

fn other_name(name: &str, presented: &[String]) -> String {
    let names: Vec<String> = presented.iter().take(20).map(|name| bare(name)).collect();
    let whose = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
    format!(
        "the certificate is for {whose}, and not for {name}; use a name that it has, or one whose certificate has {name}"
    )
}

/// A name out of rustls's words: `DnsName("example.org")`, `IpAddress(10.0.0.1)`.
fn bare(name: &str) -> String {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inside.trim_matches('"').chars().filter(|c| !c.is_control()).take(253).collect()
}

fn another_key(pin: &Pin, pins: &[Pin]) -> String {
    let pins: Vec<String> = pins.iter().map(Pin::to_string).collect();
    format!(
        "its key is {pin} and not the pinned one, {}: it has a new key, which `drover key tls` shows there, or somebody is \
         in between",
        pins.join(" or ")
    )
}

/// What is wrong with TLS, if that is why something failed: one sentence without a subject before it.
#[must_use]
pub fn reason(error: &io::Error) -> Option<String> {
    let error: &Error = error.get_ref()?.downcast_ref()?;
    Some(match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => format!("TLS: {other}"),
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "TLS: what answers there does not speak TLS; is it http:// and not https://?".to_owned()
        }
        other => format!("TLS: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_begins_in_the_past_is_said_to_be_wrong_and_another_is_not() {
        let valid_from = YOUNGEST + 86_400;
        let past = not_yet_valid(Whose::Own, valid_from, 0);
        assert!(past.contains("1970-01-01") && past.contains("battery"), "{past}");
        let now = not_yet_valid(Whose::Own, valid_from, YOUNGEST + 10);
        assert!(!now.contains("battery") && now.contains("2026-11-02"), "{now}");
    }

    #[test]
    fn a_certificate_that_ended_before_a_clock_that_is_wrong_is_to_be_renewed_all_the_same() {
        let past = expired(Whose::Own, YOUNGEST - 172_800, YOUNGEST - 86_400);
        assert!(past.contains("renew") && past.contains("wrong as well"), "{past}");
        let now = expired(Whose::Own, YOUNGEST - 172_800, YOUNGEST + 86_400);
        assert!(now.contains("renew") && !now.contains("wrong"), "{now}");
    }

    /// What is said of a server whose certificate is valid from 2020 on, by an intermediate one of these years.
    fn said_of_intermediate(from: i32, until: i32) -> String {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
        let authority = |years: (i32, i32)| {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.distinguished_name.push(rcgen::DnType::CommonName, format!("{years:?}"));
            (parameters.not_before, parameters.not_after) =
                (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
            (parameters, KeyPair::generate().unwrap())
        };
        let (root, root_key) = authority((2020, 2090));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.self_signed(&root_key).unwrap().der().clone()).unwrap();
        let (between, between_key) = authority((from, until));
        let intermediate = between.signed_by(&between_key, &Issuer::new(root, root_key)).unwrap();
        let mut own = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (own.not_before, own.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2080, 1, 1));
        let own = own.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(between, between_key)).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let algorithms = provider.signature_verification_algorithms;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider));
        let check = Check::Authorities { verifier: verifier.build().unwrap(), source: "a file".to_owned() };
        let name = ServerName::try_from("a.example").unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(YOUNGEST + 86_400));
        let verifier = Verifier { check, at: None, algorithms };
        let checked = verifier.verify_server_cert(own.der(), &[intermediate.der().clone()], &name, &[], now);
        let error = io::Error::other(checked.unwrap_err());
        assert!(is_about_time(&error));
        reason(&error).unwrap()
    }

    #[test]
    fn an_intermediate_certificate_that_has_ended_is_not_taken_for_the_server_s() {
        let ended = said_of_intermediate(2021, 2022);
        assert!(
            ended.contains("an intermediate certificate") && ended.contains("until 2022-01-01"),
            "{ended}"
        );
        assert!(ended.contains("send the chain") && !ended.contains("2080"), "{ended}");
        let early = said_of_intermediate(2070, 2075);
        assert!(
            early.contains("an intermediate certificate") && early.contains("from 2070-01-01"),
            "{early}"
        );
    }

    #[test]
    fn two_clocks_are_compared_and_none_is_believed() {
        let now = YOUNGEST + 86_400;
        assert!(compared(now, now + 60).contains("it is the certificate"));
        let years = compared(now, now + 3 * 365 * 86_400);
        assert!(years.contains("2029-11-01") && years.contains("likely"), "{years}");
        assert!(compared(5, now).contains("this machine's is wrong"));
    }

    #[test]
    fn what_the_server_s_clock_says_is_added_to_the_sentence() {
        let about = |is_about_time| {
            let sentence = Sentence { words: "it was valid".to_owned(), is_about_time };
            io::Error::new(io::ErrorKind::InvalidData, Error::from(sentence))
        };
        assert!(is_about_time(&about(true)) && !is_about_time(&about(false)));
        assert!(!is_about_time(&io::Error::other("else")));
        let told = reason(&with_server_time(about(true), 0)).unwrap();
        assert!(
            told.starts_with("TLS: it was valid. The server's clock says that it is 1970-01-01"),
            "{told}"
        );
    }

    #[test]
    fn names_are_shown_as_people_write_them() {
        let shown = other_name(
            "sparky.example",
            &["DnsName(\"a.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()],
        );
        assert!(shown.contains("is for a.example, 10.0.0.1, and not for sparky.example"), "{shown}");
        assert!(other_name("x", &[]).contains("no name at all"));
    }
}
