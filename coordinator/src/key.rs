//! The coordinator's Guix key, with which it signs what agents import.

use std::io;
use std::path::{Path, PathBuf};

use drover_os::file::{self, Access};
use drover_store::key::{PublicKey, SecretKey};

use crate::storage::make_folder_of;

/// The file in the state folder that the first secret key is taken from, if the configuration names no other.
pub const SECRET_FILE: &str = "signing-key.sec";
/// The folder of the secret keys in the state folder.
pub const FOLDER: &str = "keys";
/// The file in the state folder with the public half of the key that signs.
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

/// The key that a coordinator begins with: that in the file `named`, if it names one; else that in the state folder; and
/// if there is none, a new one.
///
/// # Errors
/// When a file is there and has no key in it, or the system gives no random bytes.
pub fn first(state: &Path, named: &Path) -> Result<SecretKey, KeyError> {
    if !named.as_os_str().is_empty() {
        return load(named, None);
    }
    let own = state.join(SECRET_FILE);
    match load(&own, None) {
        Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            SecretKey::generate().map_err(|source| KeyError::Key { path: own, source })
        }
        loaded => loaded,
    }
}

/// Reads a secret key from its file; it must be that of `public`, if that is given.
///
/// # Errors
/// When the file cannot be read, or has another key in it, or none.
pub fn load(path: &Path, public: Option<&PublicKey>) -> Result<SecretKey, KeyError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    let key = parse(&text).map_err(|source| KeyError::Key { path: path.to_owned(), source })?;
    match public.filter(|public| *public != key.public()) {
        Some(_) => Err(KeyError::Key { path: path.to_owned(), source: drover_store::key::Error::Mismatch }),
        None => Ok(key),
    }
}

/// Writes a secret key into its file, which only its owner can read.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    let failed = |source| KeyError::Io { path: path.to_owned(), source };
    make_folder_of(path).map_err(failed)?;
    file::replace(path, key.to_text().as_bytes(), Access::Private).map_err(failed)
}

/// Puts the public half of the key that signs into the state folder, for those who want to authorize it.
///
/// # Errors
/// When it cannot be written.
pub fn save_public(state: &Path, key: &PublicKey) -> Result<(), KeyError> {
    let public = state.join(PUBLIC_FILE);
    let text = key.to_text();
    if std::fs::read_to_string(&public).ok().as_ref() != Some(&text) {
        file::replace(&public, text.as_bytes(), Access::Public)
            .map_err(|source| KeyError::Io { path: public, source })?;
    }
    Ok(())
}

/// Reads the text of a secret key.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<SecretKey, drover_store::key::Error> {
    SecretKey::parse(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_key_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FOLDER).join("1.sec");
        let made = first(folder.path(), Path::new("")).unwrap();
        save(&path, &made).unwrap();
        assert_eq!(load(&path, Some(made.public())).unwrap().public(), made.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = SecretKey::generate().unwrap();
        assert!(matches!(load(&path, Some(other.public())), Err(KeyError::Key { .. })));
    }

    #[test]
    fn a_file_without_a_key_is_refused_and_one_with_a_key_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(SECRET_FILE);
        std::fs::write(&own, "(nothing)").unwrap();
        assert!(matches!(first(folder.path(), Path::new("")), Err(KeyError::Key { .. })));
        let (here, named) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        std::fs::write(&own, here.to_text()).unwrap();
        assert_eq!(first(folder.path(), Path::new("")).unwrap().public(), here.public());
        let other = folder.path().join("named.sec");
        std::fs::write(&other, named.to_text()).unwrap();
        assert_eq!(first(folder.path(), &other).unwrap().public(), named.public());
        assert!(matches!(first(folder.path(), Path::new("/nowhere/at/all")), Err(KeyError::Io { .. })));
    }
}
