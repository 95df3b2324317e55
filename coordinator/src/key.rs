//! The coordinator's Guix key, with which it signs what agents import.

use std::io;
use std::path::{Path, PathBuf};

use drover_os::file::{self, Access};
use drover_store::key::SecretKey;

/// The secret key's file in the state folder.
pub const SECRET_FILE: &str = "signing-key.sec";
/// The public key's file in the state folder.
pub const PUBLIC_FILE: &str = "signing-key.pub";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("cannot use the signing key {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file has no key in it.
    #[error("the signing key {} cannot be used: {source}; restore it, or remove it to get a new key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: drover_store::key::Error,
    },
}

/// The key in the state folder, made if there is none: the secret half readable by its owner only.
///
/// # Errors
/// When it can be neither read nor made.
pub fn load_or_make(state: &Path) -> Result<SecretKey, KeyError> {
    let secret = state.join(SECRET_FILE);
    let public = state.join(PUBLIC_FILE);
    let failed = |source, path: &Path| KeyError::Io { path: path.to_owned(), source };
    let wrong = |source| KeyError::Key { path: secret.clone(), source };
    let key = match std::fs::read_to_string(&secret) {
        Ok(text) => SecretKey::parse(&text).map_err(wrong)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SecretKey::generate().map_err(wrong)?;
            file::replace(&secret, key.to_text().as_bytes(), Access::Private)
                .map_err(|error| failed(error, &secret))?;
            key
        }
        Err(error) => return Err(failed(error, &secret)),
    };
    let text = key.public().to_text();
    if std::fs::read_to_string(&public).ok().as_ref() != Some(&text) {
        file::replace(&public, text.as_bytes(), Access::Public).map_err(|error| failed(error, &public))?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_its_secret_half_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_make(folder.path()).unwrap();
        let second = load_or_make(folder.path()).unwrap();
        assert_eq!(first.public(), second.public());
        let mode = std::fs::metadata(folder.path().join(SECRET_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_without_a_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SECRET_FILE), "(nothing)").unwrap();
        assert!(matches!(load_or_make(folder.path()), Err(KeyError::Key { .. })));
    }
}
