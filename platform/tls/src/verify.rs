//! The look at a certificate, and the sentence about what is wrong with it.

use std::fmt;
use std::io;
use std::sync::Arc;

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
    Authorities { verifier: Arc<WebPkiServerVerifier>, source: String },
    Keys(Vec<Pin>),
}

/// Looks at the certificates of servers.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) check: Check,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// A whole sentence, which replaces rustls's own words.
#[derive(Debug)]
struct Sentence(String);

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        let sentence = match &self.check {
            Check::Authorities { verifier, source } => {
                match verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
                    Err(Error::InvalidCertificate(error)) => {
                        wrong(&error, &name.to_str(), end_entity, source, now.as_secs())
                    }
                    other => return other,
                }
            }
            Check::Keys(pins) => match Pin::of_certificate(end_entity) {
                Some(pin) if pins.contains(&pin) => return Ok(ServerCertVerified::assertion()),
                Some(pin) => another_key(&pin, pins),
                None => "what it shows is not a certificate".to_owned(),
            },
        };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Sentence(sentence))))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn wrong(error: &CertificateError, name: &str, der: &[u8], source: &str, now: u64) -> String {
    use CertificateError as E;
    let facts = Facts::of(der);
    match error {
        E::Expired | E::ExpiredContext { .. } => expired(facts.map_or(0, |facts| facts.not_after), now),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            not_yet_valid(facts.map_or(0, |facts| facts.not_before), now)
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

fn expired(not_after: u64, now: u64) -> String {
    let (until, clock) = (utc(not_after), utc(now));
    format!(
        "the certificate was valid until {until}, and this machine's clock says that it is {clock}; renew the certificate, \
         or set the clock if that is not the time"
    )
}

fn not_yet_valid(not_before: u64, now: u64) -> String {
    let (from, clock) = (utc(not_before), utc(now));
    let so =
        format!("the certificate is valid from {from} on, and this machine's clock says that it is {clock}");
    if now < YOUNGEST {
        let youngest = utc(YOUNGEST);
        return format!(
            "{so}: the clock is wrong, for this program is younger than that ({youngest}); set it. A board without a \
             battery for its clock begins in the past at each start, until its system has asked for the time (NTP)"
        );
    }
    format!(
        "{so}; set the clock if that is not the time, on the machine that made the certificate or on this one"
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
        let past = not_yet_valid(valid_from, 0);
        assert!(past.contains("1970-01-01") && past.contains("battery"), "{past}");
        let now = not_yet_valid(valid_from, YOUNGEST + 10);
        assert!(!now.contains("battery") && now.contains("2026-11-02"), "{now}");
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
