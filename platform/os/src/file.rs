//! Files that are whole or not there, and locks.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg, OFlag};

/// Who may read a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody (0644, less what the umask takes).
    Public,
    /// The owner alone (0600), from its first moment on.
    Private,
}

/// Replaces a file as a whole: written under another name in the same folder, synced, renamed, and the folder
/// synced. At any moment, a crash included, the path holds either the old contents or the new ones.
///
/// # Errors
/// What the system reports, with the path; nothing is left behind then.
pub fn replace(path: &Path, contents: &[u8], access: Access) -> io::Result<()> {
    replace_with(path, access, |file| file.write_all(contents))
}

/// As [`replace`], with contents that `write` produces.
///
/// # Errors
/// What the system or `write` reports, with the path; nothing is left behind then.
pub fn replace_with(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let other = other_name(path)?;
    let written = create(&other, access).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&other, path)).and_then(|()| sync_folder_of(path));
    done.map_err(|error| {
        // Best effort: there may be nothing to remove, and the first error is the one that counts.
        let _ = fs::remove_file(&other);
        io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
    })
}

/// Makes the names in the folder of `path` durable: a file that was made, renamed or removed there.
///
/// # Errors
/// What the system reports.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Reads what the system has of a file in memory, from `offset` on, without waiting for a disk. None where it would have
/// to be waited for, or the system cannot tell; Some(0) at the end.
///
/// # Errors
/// What the system reports.
pub fn read_from_memory(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    crate::sys::read_from_memory(file.as_fd(), buffer, offset)
}

/// Reads all of a file that somebody else may have put there: a regular one that is no link, of at most `most` bytes.
/// Nothing is waited for, whatever it is.
///
/// # Errors
/// What the system reports, and when it is something else or larger.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // A named pipe would be waited for; a device may do anything when it is opened, so the kind is looked at before, too.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// A file that is held by at most one process. The lock ends with the value, and with the process in any case.
#[derive(Debug)]
pub struct Lock {
    // Held for its lock; the file itself stays, for removing it would let two processes lock two files.
    _file: Flock<File>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{} is locked by another process{}: stop it, or give this one a folder of its own",
        path.display(),
        holder.map_or(String::new(), |pid| format!(" ({pid})"))
    )]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, as it wrote into the file.
        holder: Option<u32>,
    },
    /// The file cannot be made or locked.
    #[error("lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Lock {
    /// Locks a file, which is made if need be, without waiting; our process id is written into it.
    ///
    /// # Errors
    /// [`LockError::Held`] when another holds it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source: io::Error| LockError::Io { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let id = format!("{}\n", std::process::id());
                file.set_len(0).and_then(|()| file.write_all(id.as_bytes())).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let read = file.rewind().and_then(|()| Read::take(&file, 16).read_to_string(&mut text));
                let holder = read.ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::Held { path: path.to_owned(), holder })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

fn create(path: &Path, access: Access) -> io::Result<File> {
    let mode = match access {
        Access::Public => 0o644,
        Access::Private => 0o600,
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if access == Access::Private {
        // An unusual umask may have taken the owner's own rights.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(file)
}

/// A name beside `path` that no other writer uses, in this process or another.
fn other_name(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        let message = format!("{} names no file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut other = OsString::from(".");
    other.push(name);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    other.push(format!(".{}-{count}.new", std::process::id()));
    Ok(path.with_file_name(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_replaced_file_has_the_new_contents_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        replace(&path, b"old", Access::Public).unwrap();
        replace(&path, b"new", Access::Public).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn only_regular_files_of_their_size_are_read_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), b"12345").unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_regular(&path("file"), 5).unwrap(), b"12345");
        assert_eq!(read_regular(&path("file"), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for name in ["endless", "link", "pipe", "."] {
            assert_eq!(
                read_regular(&path(name), 5).unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{name}"
            );
        }
        assert_eq!(read_regular(Path::new("/dev/null"), 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        replace(&path, b"old", Access::Public).unwrap();
        let error = replace_with(&path, Access::Public, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no more"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("state") && error.to_string().contains("no more"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn what_is_in_memory_is_read_from_the_offset_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"0123456789", Access::Public).unwrap();
        let file = File::open(&path).unwrap();
        let mut buffer = [0; 8];
        // It was written just now: systems and folders that can tell have it in memory.
        if let Some(n) = read_from_memory(&file, &mut buffer, 3).unwrap() {
            assert_eq!(&buffer[..n], b"3456789");
            assert_eq!(read_from_memory(&file, &mut buffer, 10).unwrap(), Some(0));
        }
        assert!(read_from_memory(&file, &mut buffer, u64::MAX).is_err());
    }

    #[test]
    fn a_private_file_is_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        replace(&path, b"x", Access::Private).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_path_without_a_file_name_is_refused() {
        assert_eq!(
            replace(Path::new("/"), b"", Access::Public).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_lock_is_held_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path).unwrap();
        match Lock::take(&path).unwrap_err() {
            LockError::Held { holder, .. } => assert_eq!(holder, Some(std::process::id())),
            LockError::Io { source, .. } => panic!("{source}"),
        }
        drop(first);
        assert!(Lock::take(&path).is_ok());
    }
}
