//! The keys that the coordinator signs with, and key pairs made on this machine.

use std::path::{Path, PathBuf};

use drover_os::file::{self, Access};
use drover_store::key::{PublicKey, SecretKey};
use drover_wire::key::{KeyInfo, KeyRetirement, KeyRotated, KeyRotation};
use drover_wire::route::clients;

use super::{ClientError, Coordinator};

/// The most bytes of a file that is to have a key in it.
const KEY_LIMIT: u64 = 64 * 1024;

/// The public key that signs, an s-expression.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn signing(coordinator: &Coordinator) -> Result<String, ClientError> {
    coordinator.text("asking for the coordinator's key", &clients::KEY)
}

/// All keys, the newest first.
///
/// # Errors
/// As [`signing`].
pub fn list(coordinator: &Coordinator) -> Result<Vec<KeyInfo>, ClientError> {
    coordinator.ask("listing keys", &clients::KEYS, &[])
}

/// Has another key sign, in so many seconds: that in a file, or a new one.
///
/// # Errors
/// As [`signing`]; the file has no secret key, or it would travel where others can read it.
pub fn rotate(coordinator: &Coordinator, after: u64, from: Option<&Path>) -> Result<KeyRotated, ClientError> {
    let secret = from.map(read).transpose()?;
    if let (Some(from), false) = (from, coordinator.is_private()) {
        return Err(ClientError::Usage(format!(
            "the secret key {} is not sent to {}: others could read it on the way; do this on the coordinator's machine, or \
             reach it by https",
            from.display(),
            coordinator.url()
        )));
    }
    let rotation = KeyRotation { after, secret };
    coordinator.tell("having another key sign", &clients::ROTATE_KEY, &[], &rotation)
}

/// A key goes.
///
/// # Errors
/// As [`signing`]; it signs, or something that it signed may still be about.
pub fn retire(coordinator: &Coordinator, key: u64, now: bool) -> Result<KeyInfo, ClientError> {
    let doing = format!("retiring the key {key}");
    coordinator.tell(&doing, &clients::RETIRE_KEY, &[&key], &KeyRetirement { now })
}

/// The text of the secret key in a file.
fn read(path: &Path) -> Result<String, ClientError> {
    use std::io::Read;
    let failed = |error| ClientError::Usage(format!("cannot read the key {}: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(KEY_LIMIT).read_to_string(&mut text).map_err(failed)?;
    match SecretKey::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(ClientError::Usage(match PublicKey::parse(&text) {
            Ok(_) => format!(
                "{} is the public half of a key, and it cannot sign; give the secret half, such as /etc/guix/signing-key.sec",
                path.display()
            ),
            Err(_) => format!(
                "{} is no secret key as Guix has them, such as /etc/guix/signing-key.sec: {error}",
                path.display()
            ),
        })),
    }
}

/// A new key pair, in files as `guix archive --generate-key` makes them: the secret half in this file, which must not be
/// there and should end with `.sec`, and the public one beside it, which ends with `.pub`. Gives the latter.
///
/// # Errors
/// A file that is there, or cannot be written.
pub fn generate(secret: &Path) -> Result<(PathBuf, PublicKey), ClientError> {
    let public = secret.with_extension("pub");
    if public == secret {
        return Err(ClientError::Usage(format!(
            "{} would be the name of the public half; give the secret half's, which ends with .sec",
            secret.display()
        )));
    }
    for path in [secret, &public] {
        // What a broken link points to may be there tomorrow.
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(ClientError::Usage(format!(
                "{} is there already and stays as it is: name another file, or remove it",
                path.display()
            )));
        }
    }
    let doing = |path: &Path| format!("writing the key {}", path.display());
    let key = SecretKey::generate()
        .map_err(|error| ClientError::local("making a key", std::io::Error::other(error)))?;
    file::replace(secret, format!("{}\n", key.to_text()).as_bytes(), Access::Private)
        .map_err(|error| ClientError::local(doing(secret), error))?;
    file::replace(&public, format!("{}\n", key.public().to_text()).as_bytes(), Access::Public)
        .map_err(|error| ClientError::local(doing(&public), error))?;
    Ok((public, *key.public()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_once_and_its_halves_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("signing-key.sec");
        let (public, key) = generate(&secret).unwrap();
        assert_eq!(public, folder.path().join("signing-key.pub"));
        assert_eq!(PublicKey::parse(&std::fs::read_to_string(&public).unwrap()).unwrap(), key);
        assert_eq!(SecretKey::parse(&read(&secret).unwrap()).unwrap().public(), &key);
        let before = std::fs::read(&secret).unwrap();
        assert!(matches!(generate(&secret), Err(ClientError::Usage(_))));
        assert_eq!(std::fs::read(&secret).unwrap(), before);
    }

    #[test]
    fn a_file_without_a_secret_key_is_named_with_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("k.sec");
        let (public, _) = generate(&secret).unwrap();
        assert!(generate(&public).unwrap_err().to_string().contains(".sec"));
        assert!(read(&public).unwrap_err().to_string().contains("public half"));
        std::fs::write(&secret, "nothing").unwrap();
        assert!(read(&secret).unwrap_err().to_string().contains("no secret key"));
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot read"));
    }
}
