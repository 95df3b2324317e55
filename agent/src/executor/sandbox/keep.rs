//! The build folders of failed builds, kept for people to look at.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::copy;
use super::stopping::Stopping;
use crate::store::OutputLimits;

/// How many folders of one name are kept.
const MOST: u32 = 1000;

/// Moves a build folder, which is no link, into `to`, under its name with the first number that is free; gives where it is.
/// To another file system it is copied, within these limits. Without any it is not: somebody may still have its files in
/// hand, and make them anything while they are read.
///
/// # Errors
/// What the system says, with the folder; `folder` may still be there.
pub(super) fn keep(
    folder: &Path,
    to: &Path,
    copy_within: Option<&OutputLimits>,
    stop: &Stopping,
) -> io::Result<PathBuf> {
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("move it into {}: {error}", to.display()));
    fs::create_dir_all(to).map_err(failed)?;
    // So that people can look.
    fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(failed)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix("-0").unwrap_or(&name);
    for number in 0..MOST {
        let place = to.join(format!("{stem}-{number}"));
        // Taken first, as an empty folder, which a folder may replace.
        match fs::create_dir(&place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(failed(error)),
        }
        return match (fs::rename(folder, &place), copy_within) {
            (Ok(()), _) => Ok(place),
            (Err(error), Some(limits)) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy(folder, place, limits, stop).map_err(failed)
            }
            (Err(error), _) => {
                // Whether it goes or stays, the error above says why it is empty.
                let _ = fs::remove_dir(&place);
                Err(failed(error))
            }
        };
    }
    Err(failed(io::Error::other(format!("there are {MOST} of it already"))))
}

/// To another file system, by way of a nar: without owners and dates, and not at all if there are sockets or the like in it.
fn copy(folder: &Path, place: PathBuf, limits: &OutputLimits, stop: &Stopping) -> io::Result<PathBuf> {
    fs::remove_dir(&place)?;
    copy::copy(folder, &place, limits, stop).map_err(io::Error::other)?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    #[test]
    fn folders_of_one_name_are_kept_side_by_side() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let to = to.path().join("kept");
        for number in 0..2 {
            let folder = from.path().join("guix-build-x.drv-0");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), number.to_string()).unwrap();
            let kept = keep(&folder, &to, Some(&LIMITS)).unwrap();
            assert_eq!(kept, to.join(format!("guix-build-x.drv-{number}")));
            assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), number.to_string());
            assert!(!folder.exists());
        }
    }

    fn keep(folder: &Path, to: &Path, copy_within: Option<&OutputLimits>) -> io::Result<PathBuf> {
        super::keep(folder, to, copy_within, &Stopping::new().unwrap())
    }

    const LIMITS: OutputLimits = OutputLimits { files: 100, bytes: 1000 };

    /// A folder on another file system than that of temporary files.
    fn elsewhere() -> Option<tempfile::TempDir> {
        let here = tempfile::tempdir().unwrap();
        let there = tempfile::tempdir_in("/dev/shm").ok()?;
        let device = |folder: &tempfile::TempDir| folder.path().metadata().unwrap().dev();
        (device(&here) != device(&there)).then_some(there)
    }

    #[test]
    fn a_folder_is_copied_to_another_file_system_whole_or_not_at_all() {
        let Some(elsewhere) = elsewhere() else {
            eprintln!(
                "SKIPPED: /dev/shm is not there, or not another file system than that of temporary files"
            );
            return;
        };
        let (from, to) = (tempfile::tempdir().unwrap(), elsewhere.path().join("kept"));
        let folder = from.path().join("guix-build-x.drv-0");
        fs::create_dir_all(folder.join("closed")).unwrap();
        fs::write(folder.join("closed/program"), "run").unwrap();
        fs::set_permissions(folder.join("closed/program"), Permissions::from_mode(0o700)).unwrap();
        symlink("/no/such/file", folder.join("link")).unwrap();
        fs::set_permissions(folder.join("closed"), Permissions::from_mode(0o700)).unwrap();
        for number in 0..2 {
            let kept = keep(&folder, &to, Some(&LIMITS)).unwrap();
            assert_eq!(kept, to.join(format!("guix-build-x.drv-{number}")));
            assert_eq!(fs::read(kept.join("closed/program")).unwrap(), b"run");
            assert_eq!(kept.join("closed/program").metadata().unwrap().mode() & 0o100, 0o100);
            assert_eq!(fs::read_link(kept.join("link")).unwrap(), Path::new("/no/such/file"));
        }
        fs::File::create(folder.join("sparse")).unwrap().set_len(1001).unwrap();
        let error = keep(&folder, &to, Some(&LIMITS)).unwrap_err().to_string();
        assert!(error.contains("max-output-size"), "{error}");
        fs::remove_file(folder.join("sparse")).unwrap();
        let error = keep(&folder, &to, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices);
        let _socket = UnixListener::bind(folder.join("socket")).unwrap();
        let error = keep(&folder, &to, Some(&LIMITS)).unwrap_err().to_string();
        assert!(error.contains(to.to_str().unwrap()) && error.contains("socket"), "{error}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }
}
