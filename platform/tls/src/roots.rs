//! Authorities: the system's, those of a file, and those that came with this program.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A file of certificates is read whole; more than this is none.
const FILE_LIMIT: u64 = 4 << 20;
/// The most files that are read of a folder of certificates.
const FOLDER_LIMIT: usize = 2000;

/// The variables by which OpenSSL, and Guix with it, finds certificates.
const FILE_VARIABLE: &str = "SSL_CERT_FILE";
const FOLDER_VARIABLE: &str = "SSL_CERT_DIR";

/// Where systems have all their authorities in one file; the first that is there counts.
const USUAL_FILES: &[&str] = &[
    // Debian, Guix System, Arch, Alpine, and Debian on the Hurd.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and its like.
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE.
    "/etc/ssl/ca-bundle.pem",
    // Alpine, the BSDs.
    "/etc/ssl/cert.pem",
    // A Guix System whose /etc is not there yet.
    "/run/current-system/profile/etc/ssl/certs/ca-certificates.crt",
];

/// Authorities, and where they are from.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) store: RootCertStore,
    pub(crate) source: String,
}

impl Roots {
    /// Those of a file in PEM form; every one must be usable.
    pub(crate) fn of_file(path: &Path) -> Result<Self, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let mut store = RootCertStore::empty();
        for (index, found) in CertificateDer::pem_slice_iter(&read(path).map_err(wrong)?).enumerate() {
            let number = index + 1;
            let certificate = found.map_err(|error| wrong(format!("certificate {number}: {error:?}")))?;
            store.add(certificate).map_err(|error| wrong(format!("certificate {number}: {error}")))?;
        }
        if store.is_empty() {
            return Err(wrong("there is no certificate in it (-----BEGIN CERTIFICATE-----)".into()));
        }
        Ok(Self { store, source: path.display().to_string() })
    }

    /// The system's: those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, or those of the usual places; where there are
    /// none, as on a board, those that browsers trusted when this program was built.
    pub(crate) fn of_system() -> Result<Self, String> {
        let variable = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self::of_places(variable(FILE_VARIABLE), variable(FOLDER_VARIABLE), USUAL_FILES)
    }

    fn of_places(file: Option<OsString>, folders: Option<OsString>, usual: &[&str]) -> Result<Self, String> {
        let mut found = Self { store: RootCertStore::empty(), source: String::new() };
        // What somebody named and cannot be read is not replaced by something else.
        if let Some(file) = &file {
            let path = Path::new(file);
            found.add(path).map_err(|reason| format!("{FILE_VARIABLE}, {}: {reason}", path.display()))?;
        }
        for folder in folders.iter().flat_map(env::split_paths).filter(|path| !path.as_os_str().is_empty()) {
            found
                .add_folder(&folder)
                .map_err(|reason| format!("{FOLDER_VARIABLE}, {}: {reason}", folder.display()))?;
        }
        if file.is_some() || folders.is_some() {
            return if found.store.is_empty() {
                Err(format!(
                    "{FILE_VARIABLE} and {FOLDER_VARIABLE} name no certificates (-----BEGIN CERTIFICATE-----)"
                ))
            } else {
                Ok(found)
            };
        }
        for path in usual {
            // One that is not there, or is of no use: another may be.
            let _ = found.add(Path::new(path));
            if !found.store.is_empty() {
                return Ok(found);
            }
        }
        found.store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        found.source = "those that came with this program, since the system has none".into();
        Ok(found)
    }

    /// Adds what is usable of a file: one odd certificate among a system's does no harm.
    fn add(&mut self, path: &Path) -> Result<(), String> {
        let bytes = read(path)?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
        let (added, _) = self.store.add_parsable_certificates(certificates);
        if added > 0 {
            self.note(path);
        }
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<(), String> {
        let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
        let before = self.store.len();
        let files: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).take(FOLDER_LIMIT).collect();
        for file in files.iter().filter(|file| file.is_file()) {
            // A folder may hold other things, and links whose file is gone.
            if let Ok(bytes) = read(file) {
                let certificates = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok);
                self.store.add_parsable_certificates(certificates);
            }
        }
        // The same authority under several names.
        self.store.roots.sort_unstable_by(|a, b| {
            let key = |anchor: &rustls::pki_types::TrustAnchor<'_>| {
                (anchor.subject.as_ref().to_vec(), anchor.subject_public_key_info.as_ref().to_vec())
            };
            key(a).cmp(&key(b))
        });
        self.store.roots.dedup();
        if self.store.len() > before {
            self.note(folder);
        }
        Ok(())
    }

    fn note(&mut self, path: &Path) {
        if !self.source.is_empty() {
            self.source.push_str(", ");
        }
        self.source.push_str(&path.display().to_string());
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_LIMIT {
        return Err(format!("{size} bytes are no certificates"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn file(contents: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), contents).unwrap();
        file
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_its_name() {
        let file = file("hello");
        let error = Roots::of_file(file.path()).unwrap_err();
        assert!(error.contains("no certificate") && error.contains(file.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_broken_certificate_is_refused_by_its_number() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let file = file(&format!("{}{broken}", authority()));
        assert!(Roots::of_file(file.path()).unwrap_err().contains("certificate 2"));
    }

    #[test]
    fn a_missing_file_is_named() {
        assert!(Roots::of_file(Path::new("/no/such.pem")).unwrap_err().contains("/no/such.pem"));
    }

    #[test]
    fn what_a_variable_names_counts_alone_and_the_usual_places_without_it() {
        let (named, usual) = (file(&authority()), file(&authority()));
        let usual = [usual.path().to_str().unwrap()];
        let roots = Roots::of_places(Some(named.path().into()), None, &usual).unwrap();
        assert_eq!((roots.store.len(), roots.source.as_str()), (1, named.path().to_str().unwrap()));
        assert_eq!(Roots::of_places(None, None, &usual).unwrap().source, usual[0]);
    }

    #[test]
    fn a_variable_that_names_nothing_usable_is_an_error_though_the_system_has_authorities() {
        let usual = file(&authority());
        let usual = [usual.path().to_str().unwrap()];
        let error = Roots::of_places(Some("/no/such.pem".into()), None, &usual).unwrap_err();
        assert!(error.contains("SSL_CERT_FILE") && error.contains("/no/such.pem"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(Roots::of_places(None, Some(empty.path().into()), &usual).is_err());
        assert!(Roots::of_places(Some(file("hello").path().into()), None, &usual).is_err());
    }

    #[test]
    fn a_folder_may_hold_an_authority_twice_and_other_things() {
        let folder = tempfile::tempdir().unwrap();
        let pem = authority();
        for (name, contents) in [("a.pem", pem.as_str()), ("b.pem", pem.as_str()), ("README", "hello")] {
            fs::write(folder.path().join(name), contents).unwrap();
        }
        assert_eq!(Roots::of_places(None, Some(folder.path().into()), &[]).unwrap().store.len(), 1);
    }

    #[test]
    fn a_machine_without_authorities_has_those_of_this_program() {
        let roots = Roots::of_places(None, None, &["/no/such.pem"]).unwrap();
        assert!(roots.store.len() > 50 && roots.source.contains("this program"), "{}", roots.source);
    }
}
