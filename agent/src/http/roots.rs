//! Whom https connections trust.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts};

/// A file of certificates is read whole; more than this is none.
const FILE_LIMIT: u64 = 4 << 20;

/// The authorities whose certificates a coordinator may have.
#[derive(Clone, Default)]
pub enum Roots {
    /// Those that browsers trust, as they were when this program was built.
    #[default]
    Bundled,
    /// Those of `--ca-file`, and no others.
    Own(Arc<Vec<Certificate<'static>>>),
}

impl Roots {
    /// Reads certificates in PEM form; every one must be usable.
    ///
    /// # Errors
    /// One sentence with the file's name.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
        if size > FILE_LIMIT {
            return Err(wrong(format!("{size} bytes are no certificates")));
        }
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        Self::from_pem(&bytes).map_err(wrong)
    }

    fn from_pem(bytes: &[u8]) -> Result<Self, String> {
        let mut checked = RootCertStore::empty();
        let mut certificates = Vec::new();
        for found in CertificateDer::pem_slice_iter(bytes) {
            let number = certificates.len() + 1;
            let certificate = found.map_err(|error| format!("certificate {number}: {error:?}"))?;
            checked.add(certificate.clone()).map_err(|error| format!("certificate {number}: {error}"))?;
            certificates.push(Certificate::from_der(certificate.as_ref()).to_owned());
        }
        if certificates.is_empty() {
            return Err("there is no certificate in it (-----BEGIN CERTIFICATE-----)".into());
        }
        Ok(Self::Own(Arc::new(certificates)))
    }

    pub(super) fn for_ureq(&self) -> RootCerts {
        match self {
            Self::Bundled => RootCerts::WebPki,
            Self::Own(certificates) => RootCerts::Specific(certificates.clone()),
        }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundled => f.write_str("Bundled"),
            Self::Own(certificates) => write!(f, "Own({} certificates)", certificates.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        assert!(Roots::from_pem(b"hello").unwrap_err().contains("no certificate"));
    }

    #[test]
    fn a_broken_certificate_is_refused_by_its_number() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Roots::from_pem(pem.as_bytes()).unwrap_err().contains("certificate 1"));
    }

    #[test]
    fn a_missing_file_is_named() {
        assert!(Roots::from_file(Path::new("/no/such.pem")).unwrap_err().contains("/no/such.pem"));
    }
}
