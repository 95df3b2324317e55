//! The way from the top of a tree that is being made to where it grows.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::symlinkat;

/// Folders that are open at a time.
const OPEN: usize = 32;
const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const NEW_FILE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A place in a tree that grows. The folders above it are open, so that names are looked up from the nearest and not from
/// the machine's root each time; what lies deeper than so many is named from the last of them.
#[derive(Debug)]
pub(super) struct Place {
    open: Vec<OwnedFd>,
    /// From the last open folder, or else from where the process is.
    rest: PathBuf,
    depth: usize,
}

impl Place {
    /// The top, which nothing is at yet.
    pub(super) fn top(dest: &Path) -> Self {
        Self { open: Vec::new(), rest: dest.to_owned(), depth: 0 }
    }

    fn at(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(AT_FDCWD, AsFd::as_fd)
    }

    /// Makes a file here, with this mode less the umask.
    pub(super) fn file(&self, mode: u32) -> io::Result<File> {
        #[allow(clippy::useless_conversion)] // narrower on some machines
        let mode = Mode::from_bits_truncate(mode.try_into().unwrap_or_default());
        Ok(openat(self.at(), &self.rest, NEW_FILE, mode)?.into())
    }

    /// Makes a link here; with a time, that is its own.
    pub(super) fn link(&self, target: &[u8], modified: Option<i64>) -> io::Result<()> {
        symlinkat(OsStr::from_bytes(target), self.at(), &self.rest)?;
        match modified {
            Some(seconds) => self.set_modified(seconds),
            None => Ok(()),
        }
    }

    /// Makes a folder here.
    pub(super) fn folder(&mut self) -> io::Result<()> {
        mkdirat(self.at(), &self.rest, Mode::from_bits_truncate(0o777))?;
        if self.open.len() == self.depth && self.depth < OPEN {
            let open = openat(self.at(), &self.rest, FOLDER, Mode::empty())?;
            self.open.push(open);
            self.rest.clear();
        }
        self.depth += 1;
        Ok(())
    }

    /// Goes to a name in the folder here.
    pub(super) fn down(&mut self, name: &[u8]) {
        self.rest.push(OsStr::from_bytes(name));
    }

    /// Goes from a file or link back to its folder, if it is in one.
    pub(super) fn up(&mut self) {
        if self.depth > 0 {
            self.rest.pop();
        }
    }

    /// Leaves the folder here for the one that it is in, after giving it a mode and a time, if these are given.
    pub(super) fn leave(&mut self, form: Option<(u32, i64)>) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        let last = if self.open.len() > self.depth { self.open.pop() } else { None };
        if let Some((mode, seconds)) = form {
            #[allow(clippy::useless_conversion)] // narrower on some machines
            let mode = Mode::from_bits_truncate(mode.try_into().unwrap_or_default());
            match &last {
                Some(folder) => {
                    fchmod(folder, mode)?;
                    futimens(folder, &TimeSpec::UTIME_OMIT, &time(seconds)?)?;
                }
                None => {
                    fchmodat(self.at(), &self.rest, mode, FchmodatFlags::FollowSymlink)?;
                    self.set_modified(seconds)?;
                }
            }
        }
        if last.is_none() {
            self.rest.pop();
        }
        Ok(())
    }

    fn set_modified(&self, seconds: i64) -> io::Result<()> {
        let (omit, seconds) = (TimeSpec::UTIME_OMIT, time(seconds)?);
        Ok(utimensat(self.at(), &self.rest, &omit, &seconds, UtimensatFlags::NoFollowSymlink)?)
    }
}

fn time(seconds: i64) -> io::Result<TimeSpec> {
    #[allow(clippy::useless_conversion)] // narrower on some machines
    let seconds = seconds.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(TimeSpec::new(seconds, 0))
}
