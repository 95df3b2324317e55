//! Pinned keys.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::{Facts, roots};

const PREFIX: &str = "sha256/";

/// The name of a public key: `sha256/` and, in base64, the SHA-256 of its `SubjectPublicKeyInfo`, as RFC 7469 and curl have
/// it. A certificate that is renewed with the same key has the same pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// That of the key of a certificate in DER; none if it is no certificate.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        Facts::of(der).map(|facts| Self(Sha256::digest(facts.key).into()))
    }

    /// That of the key of the first certificate in a file in PEM form.
    ///
    /// # Errors
    /// One sentence with the file's name.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let bytes = roots::read(path).map_err(wrong)?;
        let first = CertificateDer::pem_slice_iter(&bytes).next();
        let first = first
            .ok_or_else(|| wrong("there is no certificate in it (-----BEGIN CERTIFICATE-----)".into()))?;
        let first = first.map_err(|error| wrong(error.to_string()))?;
        Self::of_certificate(&first).ok_or_else(|| wrong("what is in it is no certificate".into()))
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "“{text}” is not a pinned key such as sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; `drover key tls` prints it"
            )
        };
        let digest = text.strip_prefix(PREFIX).ok_or_else(bad)?;
        // curl writes two slashes.
        let digest = digest.strip_prefix('/').filter(|rest| rest.len() == 44).unwrap_or(digest);
        let bytes = BASE64.decode(digest.as_bytes()).map_err(|_| bad())?;
        bytes.try_into().map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64.encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_it_is_written() {
        let pin = Pin([0xff; 32]);
        let text = pin.to_string();
        assert_eq!(text, "sha256///////////////////////////////////////////8=");
        assert_eq!(text.parse(), Ok(pin));
        assert_eq!(text.replacen('/', "//", 1).parse(), Ok(pin));
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        for text in
            ["", "sha256/", "sha1/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "sha256/AAAA", "sha256/ü"]
        {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
