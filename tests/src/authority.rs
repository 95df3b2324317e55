//! Certificates for tests: an authority that nobody else trusts, and what it vouches for.
#![expect(clippy::unwrap_used, reason = "a test's tools fail by failing the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate's file, in PEM form.
    pub file: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate to be made.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Whom it is for.
    pub name: &'a str,
    /// The first years in which it is valid, and in which it is not any more.
    pub years: (i32, i32),
    /// When it begins to be valid, if not with the first of these years.
    pub since: Option<SystemTime>,
}

impl Default for Wanted<'_> {
    fn default() -> Self {
        Self { name: "localhost", years: (2020, 2090), since: None }
    }
}

/// The files of a certificate and of its key, as a server wants them.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate's, in PEM form.
    pub certificate: PathBuf,
    /// The private key's, in PEM form.
    pub key: PathBuf,
}

impl Authority {
    /// An authority whose certificate is in this folder.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, parameters.self_signed(&key).unwrap().pem()).unwrap();
        Self { file, issuer: Issuer::new(parameters, key) }
    }

    /// Writes a new key and a certificate for it, in the place of those that are there. Each file is complete at any
    /// moment.
    ///
    /// # Panics
    /// When they cannot be made.
    #[must_use]
    pub fn certify(&self, folder: &Path, wanted: Wanted<'_>) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![wanted.name.to_owned()]).unwrap();
        parameters.not_before =
            wanted.since.map_or_else(|| date_time_ymd(wanted.years.0, 1, 1), SystemTime::into);
        parameters.not_after = date_time_ymd(wanted.years.1, 1, 1);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { certificate: folder.join("server.pem"), key: folder.join("server.key") };
        replace(&pair.key, &key.serialize_pem());
        replace(&pair.certificate, &certificate.pem());
        pair
    }
}

impl Pair {
    /// The flags of `drover serve` that name them, and the listeners that are to speak TLS.
    ///
    /// # Panics
    /// When a file's name is not text.
    #[must_use]
    pub fn flags(&self, listeners: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (certificate, key) = (text(&self.certificate), text(&self.key));
        let words = ["--tls-certificate", &certificate, "--tls-key", &key, "--tls-listeners", listeners];
        words.map(str::to_owned).to_vec()
    }
}

/// Another file under the same name.
///
/// # Panics
/// When it cannot be written.
pub fn replace(path: &Path, contents: &str) {
    let new = path.with_extension("new");
    fs::write(&new, contents).unwrap();
    fs::rename(new, path).unwrap();
}
