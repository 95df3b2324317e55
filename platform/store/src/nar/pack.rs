//! From a tree on disk to its nar.

use std::ffi::OsString;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::encode::Encoder;
use super::{BUFFER, Error, Limits, name_cost};

/// What was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the nar.
    pub nar_size: u64,
    /// Entries of all directories.
    pub entries: u64,
}

/// Writes the nar of the tree at `path`. For progress, count what passes through `to`.
///
/// # Errors
/// When the tree cannot be read, holds something that a nar cannot (a device, a socket), or shrinks while it
/// is read; and those of `to`.
pub fn pack(path: &Path, mut to: impl Write) -> Result<Packed, Error> {
    let mut packer = Packer::new(path);
    let mut buffer = vec![0; BUFFER];
    let mut nar_size = 0;
    loop {
        let len = packer.next_bytes(&mut buffer)?;
        if len == 0 {
            return Ok(Packed { nar_size, entries: packer.entries });
        }
        to.write_all(&buffer[..len]).map_err(|error| Error::Io { action: "write", error })?;
        nar_size += len as u64;
    }
}

/// Reads as the nar of a tree on disk. Holds one open file and, for each directory on the way down, the names
/// that are still to come.
#[derive(Debug)]
pub struct Packer {
    encoder: Encoder,
    /// Encoded bytes that are still to be read, from `given` on.
    encoded: Vec<u8>,
    given: usize,
    /// Where the walk is.
    path: PathBuf,
    directories: Vec<Directory>,
    file: Option<(File, u64)>,
    started: bool,
    entries: u64,
    /// Names that were found so far.
    found: u64,
    /// What the names of `directories` cost.
    names: usize,
    limits: Limits,
}

/// The names in a directory that are still to come.
#[derive(Debug)]
struct Directory {
    entries: std::vec::IntoIter<(Vec<u8>, Option<FileType>)>,
    /// What all of them cost.
    names: usize,
}

impl Packer {
    /// Will read the tree at `path`, which is opened with the first read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::within(path, Limits::default())
    }

    /// The same, of a tree that may have more names than there is memory, or that somebody goes on to nest: it ends at
    /// these limits of entries, depth and names. The others are for who reads the nar.
    pub fn within(path: impl Into<PathBuf>, limits: Limits) -> Self {
        let (mut encoder, mut encoded) = (Encoder::default(), Vec::new());
        encoder.start(&mut encoded);
        Self {
            encoder,
            encoded,
            given: 0,
            path: path.into(),
            directories: Vec::new(),
            file: None,
            started: false,
            entries: 0,
            found: 0,
            names: 0,
            limits,
        }
    }

    /// Fills `buffer` with the next bytes of the nar, as far as they go. 0 at the end.
    ///
    /// # Errors
    /// As [`pack`].
    pub fn next_bytes(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let room = &mut buffer[filled..];
            if self.given < self.encoded.len() {
                let len = room.len().min(self.encoded.len() - self.given);
                room[..len].copy_from_slice(&self.encoded[self.given..self.given + len]);
                self.given += len;
                filled += len;
                continue;
            }
            self.encoded.clear();
            self.given = 0;
            if self.file.is_some() {
                filled += self.read_file(room)?;
            } else if !self.step()? {
                break;
            }
        }
        Ok(filled)
    }

    fn read_file(&mut self, room: &mut [u8]) -> Result<usize, Error> {
        let Some((file, left)) = &mut self.file else { return Ok(0) };
        let most = usize::try_from(*left).map_or(room.len(), |left| left.min(room.len()));
        let mut len = 0;
        if most > 0 {
            len = match file.read(&mut room[..most]) {
                Ok(0) => {
                    return Err(Error::Unfit {
                        path: self.path.clone(),
                        problem: "it became shorter meanwhile",
                    });
                }
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(0),
                Err(error) => return Err(self.failed("read", error)),
            };
        }
        *left -= len as u64;
        if *left == 0 {
            self.file = None;
            self.encoder.end_regular(&mut self.encoded);
            self.up();
        }
        Ok(len)
    }

    /// Goes one node on. False when there is none.
    fn step(&mut self) -> Result<bool, Error> {
        if !self.started {
            self.started = true;
            self.node(None)?;
            return Ok(true);
        }
        let Some(directory) = self.directories.last_mut() else { return Ok(false) };
        match directory.entries.next() {
            Some((name, kind)) => {
                self.encoder.entry(&mut self.encoded, &name);
                self.entries += 1;
                self.path.push(OsString::from_vec(name));
                self.node(kind)?;
            }
            None => {
                let left = self.directories.pop().map_or(0, |directory| directory.names);
                self.names = self.names.saturating_sub(left);
                self.encoder.leave(&mut self.encoded);
                self.up();
            }
        }
        Ok(true)
    }

    /// Starts the node at `self.path`.
    fn node(&mut self, kind: Option<FileType>) -> Result<(), Error> {
        let kind = match kind {
            Some(kind) => kind,
            None => fs::symlink_metadata(&self.path).map_err(|e| self.failed("look at", e))?.file_type(),
        };
        if kind.is_file() {
            // Not followed if it became a link since it was looked at, and not waited for if a pipe.
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
            let file = OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
            let file = file.map_err(|e| self.failed("open", e))?;
            let metadata = file.metadata().map_err(|e| self.failed("look at", e))?;
            if !metadata.is_file() {
                return Err(self.unfit());
            }
            let executable = metadata.permissions().mode() & 0o100 != 0;
            self.encoder.regular(&mut self.encoded, executable, metadata.len());
            self.file = Some((file, metadata.len()));
        } else if kind.is_symlink() {
            let target = fs::read_link(&self.path).map_err(|e| self.failed("read the link", e))?;
            self.encoder.symlink(&mut self.encoded, target.as_os_str().as_bytes());
            self.up();
        } else if kind.is_dir() {
            let most = self.limits.depth;
            if self.directories.len() >= most {
                let problem = "it is nested too deeply";
                return Err(Error::Unfit { path: self.path.clone(), problem });
            }
            let (mut entries, mut names) = (Vec::new(), 0_usize);
            for entry in fs::read_dir(&self.path).map_err(|e| self.failed("list", e))? {
                let entry = entry.map_err(|e| self.failed("list", e))?;
                self.found += 1;
                if self.found > self.limits.entries {
                    let (what, found, limit) = ("a number of entries", self.found, self.limits.entries);
                    return Err(Error::Limit { offset: 0, what, found, limit });
                }
                let name = entry.file_name().into_vec();
                names = names.saturating_add(name_cost(name.len()));
                if self.names.saturating_add(names) > self.limits.names {
                    let problem = "it has too many names, or too long ones";
                    return Err(Error::Unfit { path: self.path.clone(), problem });
                }
                entries.push((name, entry.file_type().ok()));
            }
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            self.encoder.directory(&mut self.encoded);
            self.names = self.names.saturating_add(names);
            self.directories.push(Directory { entries: entries.into_iter(), names });
        } else {
            return Err(self.unfit());
        }
        Ok(())
    }

    /// Leaves the node that is complete, unless it is the root.
    fn up(&mut self) {
        if !self.directories.is_empty() {
            self.path.pop();
        }
    }

    fn unfit(&self) -> Error {
        Error::Unfit { path: self.path.clone(), problem: "it is neither file, link nor directory" }
    }

    fn failed(&self, action: &'static str, error: io::Error) -> Error {
        Error::Tree { action, path: self.path.clone(), error }
    }
}

impl Read for Packer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.next_bytes(buffer)?)
    }
}
