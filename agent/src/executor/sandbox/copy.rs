//! What a builder made, as a copy that nobody else can change.
//!
//! A builder with the machine's network may have handed descriptors of its files to anybody, who writes to them and
//! renames them for as long as he likes. So nothing that is checked may be one of those files, and nothing is changed
//! in their folders, whose names may lead elsewhere at any moment. What is read there by mistake is copied, and then
//! does not have the hash that it must have.
//!
//! For the same reason modes are not changed before the reading. So without root's rights a file or folder that not even
//! its owner may read fails a build whose output is fixed, where other outputs are given the modes of the store.

use std::io;
use std::path::Path;

use drover_os::tree;
use drover_store::nar::{self, Limits, Packer};

use super::stopping::{Heeding, Stopping};
use crate::store::OutputLimits;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// It is none that can be in a store, or too large.
    #[error("{0}")]
    Unfit(String),
    /// The machine's fault.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Copies a tree to `to`, which does not exist, as a stream that is never in memory as a whole. A stop ends it with an error.
pub(super) fn copy(from: &Path, to: &Path, limits: &OutputLimits, stop: &Stopping) -> Result<(), CopyError> {
    // The top is one of the files that are counted.
    let limits =
        Limits { contents: limits.bytes, entries: limits.files.saturating_sub(1), ..Limits::default() };
    match nar::unpack(Heeding::new(Packer::within(from, limits), stop), to, limits) {
        Ok(_) => Ok(()),
        Err(nar::Error::Io { error, .. }) => Err(of_packing(error, from)),
        Err(error) => Err(of(error, from)),
    }
}

/// What stopped the reading, which comes through the stream.
fn of_packing(error: io::Error, top: &Path) -> CopyError {
    match error.downcast::<nar::Error>() {
        // Files that not even their owner may read.
        Ok(nar::Error::Tree { path, error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
            CopyError::Unfit(format!("{} cannot be read: {error}", inside(&path, top)))
        }
        Ok(error) => of(error, top),
        Err(error) => error.into(),
    }
}

fn of(error: nar::Error, top: &Path) -> CopyError {
    match error {
        error @ nar::Error::Limit { .. } => CopyError::Unfit(format!(
            "it is more than max-output-files and max-output-size allow, or nested too deeply: {error}"
        )),
        nar::Error::Unfit { path, problem } => {
            CopyError::Unfit(format!("{} does not belong into a store: {problem}", inside(&path, top)))
        }
        nar::Error::Tree { path, error, .. } if tree::is_too_long(&error) => {
            let path = inside(&path, top);
            CopyError::Unfit(format!("{path} has a longer path than the system allows"))
        }
        error => CopyError::Io(error.into()),
    }
}

/// A path as messages show it.
fn inside(path: &Path, top: &Path) -> String {
    match path.strip_prefix(top) {
        Ok(inside) if !inside.as_os_str().is_empty() => inside.display().to_string(),
        _ => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, File};
    use std::io::{Seek, Write};

    const LIMITS: OutputLimits = OutputLimits { files: 4, bytes: 10 };

    fn copy(from: &Path, to: &Path, limits: &OutputLimits) -> Result<(), CopyError> {
        super::copy(from, to, limits, &Stopping::new().unwrap())
    }

    fn unfit(result: Result<(), CopyError>) -> String {
        match result {
            Err(CopyError::Unfit(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_writes_to_the_original_does_not_reach_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir(&from).unwrap();
        let mut file = File::create(from.join("file")).unwrap();
        file.write_all(b"good").unwrap();
        fs::hard_link(from.join("file"), from.join("same")).unwrap();
        copy(&from, &to, &LIMITS).unwrap();
        file.rewind().unwrap();
        file.write_all(b"evil").unwrap();
        assert_eq!(fs::read(from.join("same")).unwrap(), b"evil");
        for name in ["file", "same"] {
            assert_eq!(fs::read(to.join(name)).unwrap(), b"good");
        }
    }

    #[test]
    fn what_is_too_large_or_no_file_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir(&from).unwrap();
        for name in ["1", "2", "3"] {
            fs::write(from.join(name), "abc").unwrap();
        }
        copy(&from, &folder.path().join("just"), &LIMITS).unwrap();
        fs::write(from.join("4"), "").unwrap();
        assert!(unfit(copy(&from, &to, &LIMITS)).contains("max-output-files"));
        fs::remove_file(from.join("4")).unwrap();
        File::options().write(true).open(from.join("3")).unwrap().set_len(1 << 40).unwrap();
        assert!(unfit(copy(&from, &to, &LIMITS)).contains("max-output-size"));
        fs::remove_file(from.join("3")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("3")).unwrap();
        assert!(unfit(copy(&from, &to, &LIMITS)).contains("neither file"));
        assert!(!to.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_the_builders_fault() {
        let folder = tempfile::tempdir().unwrap();
        let long = ["d"; 15].map(|name| name.repeat(200)).join("/");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for side in [&a, &b] {
            fs::create_dir_all(side.join(&long)).unwrap();
        }
        fs::rename(b, a.join(&long).join("b")).unwrap();
        let limits = OutputLimits { files: 100, ..LIMITS };
        assert!(unfit(copy(&a, &folder.path().join("to"), &limits)).contains("longer path"));
    }
}
