//! Trees of files as a builder leaves them: removed however deep they are, and names brought into shape one by one.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::{attributes, user};

/// Folders that are open at a time while a tree is removed. What lies deeper is moved up first.
const OPEN: usize = 32;

/// Removes a file, a link, or a folder with all that is in it; there may be nothing. Links are not followed, modes do not
/// hinder it, and any depth takes the same few descriptors and the same stack.
///
/// # Errors
/// What the system reports, with the path and the name in it. Much of it may be gone then.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.is_dir() => {}
        _ => return fs::remove_file(path).map_err(|error| failed(path, c"", &error)),
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let first = Open::folder(AT_FDCWD, name).map_err(|errno| failed(path, c"", &errno.into()))?;
    let mut open = vec![first];
    let mut moved = 0;
    while let Some((folder, above)) = open.split_last_mut() {
        let wrong = |name: &CStr, errno: Errno| failed(path, name, &errno.into());
        match folder.next_folder().map_err(|errno| wrong(&folder.name, errno))? {
            Some(name) => match above.first() {
                Some(first) if above.len() + 1 >= OPEN => {
                    move_up(folder, &name, first, &mut moved).map_err(|errno| wrong(&name, errno))?;
                }
                _ => {
                    let inner = Open::folder(folder.descriptor.as_fd(), name.clone());
                    open.push(inner.map_err(|errno| wrong(&name, errno))?);
                }
            },
            None => {
                let parent = above.last().map_or(AT_FDCWD, |parent| parent.descriptor.as_fd());
                match unlinkat(parent, folder.name.as_c_str(), UnlinkatFlags::RemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {
                        open.pop();
                    }
                    // Of what was moved here, or left out because it was read while names went. Each round removes some
                    // of it, or nothing can be done.
                    Err(Errno::ENOTEMPTY | Errno::EEXIST) if folder.found > 0 => {
                        folder.read_again().map_err(|errno| wrong(&folder.name, errno))?;
                    }
                    Err(errno) => return Err(wrong(&folder.name, errno)),
                }
            }
        }
    }
    Ok(())
}

/// A folder that is being emptied.
struct Open {
    name: CString,
    descriptor: OwnedFd,
    entries: OwningIter,
    /// Names that were found since they were read from the beginning.
    found: u64,
}

impl Open {
    fn folder(parent: BorrowedFd<'_>, name: CString) -> nix::Result<Self> {
        make_writable(parent, &name)?;
        let descriptor = openat(parent, name.as_c_str(), FOLDER, Mode::empty())?;
        let entries = entries_of(descriptor.as_fd())?;
        Ok(Self { name, descriptor, entries, found: 0 })
    }

    fn read_again(&mut self) -> nix::Result<()> {
        self.entries = entries_of(self.descriptor.as_fd())?;
        self.found = 0;
        Ok(())
    }

    /// Removes what is no folder until one comes, which is the answer.
    fn next_folder(&mut self) -> nix::Result<Option<CString>> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.found += 1;
            let is_folder = match entry.file_type() {
                Some(kind) => kind == Type::Directory,
                None => is_folder(self.descriptor.as_fd(), name)?,
            };
            if is_folder {
                return Ok(Some(name.to_owned()));
            }
            match unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }
}

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn entries_of(folder: BorrowedFd<'_>) -> nix::Result<OwningIter> {
    Ok(Dir::openat(folder, c".", FOLDER, Mode::empty())?.into_iter())
}

/// Of a file system that does not say so with the name.
fn is_folder(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<bool> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(status.st_mode & libc::S_IFMT == libc::S_IFDIR),
        // A file whose size has more bits than the call's answer, which is of 32 on some systems.
        Err(Errno::EOVERFLOW) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Who is not root needs the rights that the owner has.
fn make_writable(parent: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    if user::is_root() {
        Ok(())
    } else {
        fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::NoFollowSymlink)
    }
}

/// Moves a folder from far below into the first one that is open, where it will be found later.
fn move_up(folder: &Open, name: &CStr, first: &Open, moved: &mut u64) -> nix::Result<()> {
    make_writable(folder.descriptor.as_fd(), name)?;
    loop {
        let new = CString::new(format!("moved-{moved}")).map_err(|_| Errno::EINVAL)?;
        *moved += 1;
        match renameat(&folder.descriptor, name, &first.descriptor, new.as_c_str()) {
            // Somebody's folder is called that, or file.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            other => return other,
        }
    }
}

fn failed(path: &Path, name: &CStr, error: &io::Error) -> io::Error {
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    let inside = if name.as_os_str().is_empty() || name == path {
        String::new()
    } else {
        format!(" ({} in it)", name.display())
    };
    io::Error::new(error.kind(), format!("remove {}{inside}: {error}", path.display()))
}

/// Whether a path was longer than the system takes. Who made what is there may have gone to it step by step.
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

/// Sets when a file, a folder or a link itself was changed, in seconds since 1970. When it was read stays as it is.
///
/// # Errors
/// What the system reports.
pub fn set_modified(path: &Path, seconds: i64) -> io::Result<()> {
    #[allow(clippy::useless_conversion)] // narrower on some machines
    let seconds = seconds.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let modified = TimeSpec::new(seconds, 0);
    Ok(utimensat(AT_FDCWD, path, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink)?)
}

/// Removes the extended attributes of a file, a folder or a link itself, access control lists among them. Those that the
/// system does not give up stay.
pub fn clear_attributes(path: &Path) {
    attributes::clear(path);
}

/// Whether a file, a folder or a link itself has extended attributes.
#[must_use]
pub fn has_attributes(path: &Path) -> bool {
    attributes::are_there(path)
}

/// Writes everything to the disk that is yet to be written of the file system that `path` is on.
///
/// # Errors
/// What the system reports.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir(&top).unwrap();
        // As one does who cannot name the deepest: each folder through the one above it.
        let mut at = openat(AT_FDCWD, &top, FOLDER, Mode::empty()).unwrap();
        for depth in 0..1500 {
            let name = format!("moved-{}", depth % 3);
            nix::sys::stat::mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
            openat(&at, "moved-7", flags, Mode::empty()).unwrap();
            at = openat(&at, name.as_str(), FOLDER, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&top).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_wide_tree_of_closed_folders_is_removed_and_what_links_lead_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (top, kept) = (folder.path().join("top"), folder.path().join("kept"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        for n in 0..300 {
            let inner = top.join(format!("{n}/inner"));
            fs::create_dir_all(&inner).unwrap();
            symlink(&kept, inner.join("link")).unwrap();
            fs::set_permissions(&inner, fs::Permissions::from_mode(0o0)).unwrap();
        }
        symlink(&kept, folder.path().join("link")).unwrap();
        remove(&top).unwrap();
        remove(&folder.path().join("link")).unwrap();
        remove(&folder.path().join("nothing")).unwrap();
        assert!(kept.join("file").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn extended_attributes_of_files_and_links_go() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "x").unwrap();
        symlink(&file, &link).unwrap();
        // Links have none that a plain user may set.
        let kinds = if user::is_root() {
            &[(&file, c"user.a"), (&file, c"user.b"), (&link, c"trusted.a")][..]
        } else {
            &[(&file, c"user.a")]
        };
        let is_there = |path: &Path, name: &CStr| {
            let path = CString::new(path.as_os_str().as_bytes()).unwrap();
            // SAFETY: both end with a zero; with no room, nothing is written.
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
        };
        for (path, name) in kinds {
            let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
            // SAFETY: path and name end with a zero, and one byte is read.
            let set = unsafe { libc::lsetxattr(c_path.as_ptr(), name.as_ptr(), b"x".as_ptr().cast(), 1, 0) };
            if set != 0 {
                eprintln!("SKIPPED: no {name:?} here: {}", io::Error::last_os_error());
                return;
            }
            assert!(is_there(path, name));
        }
        clear_attributes(&file);
        clear_attributes(&link);
        clear_attributes(&folder.path().join("nothing"));
        assert!(kinds.iter().all(|(path, name)| !is_there(path, name)));
    }

    #[test]
    fn a_link_has_a_time_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "x").unwrap();
        symlink(&file, &link).unwrap();
        set_modified(&link, 1).unwrap();
        assert_eq!(fs::symlink_metadata(&link).unwrap().mtime(), 1);
        assert!(fs::metadata(&file).unwrap().mtime() > 1);
    }
}
