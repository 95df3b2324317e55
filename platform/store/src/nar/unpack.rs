//! From a nar to a tree on disk.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::place::Place;
use super::{Error, Limits, Visitor, parse};

/// The bytes of a nar that are taken, hashed perhaps, and written at a time. They are still in the processor's cache from the
/// one to the other; and larger ones an allocator has from the system and gives back each time, page by page.
const PIECE: usize = 64 * 1024;

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the nar.
    pub nar_size: u64,
    /// Files, links and directories that were made.
    pub nodes: u64,
}

/// Makes the tree of the nar that `from` holds, all of it and nothing else, at `dest`, which must not exist.
/// Modes are 0666 and 0777 less the umask. After an error nothing is left of the tree. For progress, count
/// what is read from `from`.
///
/// Nothing outside `dest` is touched: names are single components, each is made once by this call, files are
/// created and never opened, and a link that was made is never walked through. This supposes that nobody else
/// can write to the folder that `dest` is in.
///
/// # Errors
/// When `dest` exists, the nar is not canonical or beyond the limits or not alone, or the disk refuses.
pub fn unpack(from: impl Read, dest: &Path, limits: Limits) -> Result<Unpacked, Error> {
    unpack_with(from, Unpacker::new(dest), limits)
}

/// As [`unpack`], with the modes and the time of a store: 0444 and 0555, and the first second of 1970. Owners and attributes
/// are those that whatever is made at `dest` gets by itself.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_for_store(from: impl Read, dest: &Path, limits: Limits) -> Result<Unpacked, Error> {
    unpack_with(from, Unpacker { for_store: true, ..Unpacker::new(dest) }, limits)
}

fn unpack_with(from: impl Read, mut unpacker: Unpacker, limits: Limits) -> Result<Unpacked, Error> {
    let mut from = BufReader::with_capacity(PIECE, from);
    let result = parse(&mut from, limits, &mut unpacker).and_then(|nar_size| {
        let rest = from.fill_buf().map_err(|error| Error::Io { action: "read", error })?;
        if !rest.is_empty() {
            return Err(Error::Trailing { offset: nar_size });
        }
        Ok(Unpacked { nar_size, nodes: unpacker.nodes })
    });
    if result.is_err() {
        unpacker.remove();
    }
    result
}

/// Makes a tree on disk from what it is told as a [`Visitor`], at a place that must not exist. See [`unpack`].
#[derive(Debug)]
pub struct Unpacker {
    dest: PathBuf,
    /// As it is told.
    path: PathBuf,
    place: Place,
    depth: usize,
    file: Option<File>,
    nodes: u64,
    /// Whether all gets modes and time of a store.
    for_store: bool,
    /// Whether files have the modes that they were made with, once there is one: the umask is the same for all.
    as_made: Option<bool>,
}

impl Unpacker {
    /// Will make the tree at `dest`.
    pub fn new(dest: &Path) -> Self {
        Self {
            dest: dest.to_owned(),
            path: dest.to_owned(),
            place: Place::top(dest),
            depth: 0,
            file: None,
            nodes: 0,
            for_store: false,
            as_made: None,
        }
    }

    /// Files, links and directories made so far.
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Removes what was made so far, as well as that goes.
    pub fn remove(&mut self) {
        self.file = None;
        if self.nodes == 0 {
            // Whatever is there was there before.
            return;
        }
        let is_directory = fs::symlink_metadata(&self.dest).is_ok_and(|metadata| metadata.is_dir());
        // The error that led here says more than one of tidying up would.
        let _ = if is_directory { fs::remove_dir_all(&self.dest) } else { fs::remove_file(&self.dest) };
    }

    fn made(&mut self, action: &'static str, result: io::Result<()>) -> Result<(), Error> {
        result.map_err(|error| Error::Tree { action, path: self.path.clone(), error })?;
        self.nodes += 1;
        Ok(())
    }

    fn up(&mut self) {
        if self.depth > 0 {
            self.path.pop();
        }
    }

    /// Makes sure of the mode of a file.
    fn set_mode(&mut self, file: &File, mode: u32) -> io::Result<()> {
        let as_made = match self.as_made {
            Some(as_made) => as_made,
            None => file.metadata()?.permissions().mode() & 0o7777 == mode,
        };
        self.as_made = Some(as_made);
        if as_made { Ok(()) } else { file.set_permissions(Permissions::from_mode(mode)) }
    }
}

/// What all in a store was changed at, in seconds since 1970.
const MODIFIED: i64 = 1;
/// The mode of its folders.
const FOLDER: u32 = 0o555;

impl Visitor for Unpacker {
    fn regular(&mut self, executable: bool, _size: u64) -> Result<(), Error> {
        let mode = match (self.for_store, executable) {
            (false, false) => 0o666,
            (false, true) => 0o777,
            (true, false) => 0o444,
            (true, true) => 0o555,
        };
        let file = self.place.file(mode);
        let file = file.map_err(|error| Error::Tree { action: "create", path: self.path.clone(), error })?;
        let result = if self.for_store { self.set_mode(&file, mode) } else { Ok(()) };
        self.file = Some(file);
        self.nodes += 1;
        result.map_err(|error| Error::Tree { action: "set the mode of", path: self.path.clone(), error })
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(|error| Error::Tree {
            action: "write to",
            path: self.path.clone(),
            error,
        })
    }

    fn end_regular(&mut self) -> Result<(), Error> {
        if let Some(file) = self.file.take().filter(|_| self.for_store) {
            // By the open file, which need not be looked up again.
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED.unsigned_abs());
            file.set_modified(time).map_err(|error| Error::Tree {
                action: "set the time of",
                path: self.path.clone(),
                error,
            })?;
        }
        self.place.up();
        self.up();
        Ok(())
    }

    fn symlink(&mut self, target: &[u8]) -> Result<(), Error> {
        let result = self.place.link(target, self.for_store.then_some(MODIFIED));
        self.made("create the link", result)?;
        self.place.up();
        self.up();
        Ok(())
    }

    fn directory(&mut self) -> Result<(), Error> {
        let result = self.place.folder();
        self.made("create the folder", result)?;
        self.depth += 1;
        Ok(())
    }

    fn entry(&mut self, name: &[u8]) -> Result<(), Error> {
        // The parser lets single components through only; this type can be told things by others too.
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Error::Name {
                offset: 0,
                name: super::shown(name),
                problem: "would lead out of its directory",
            });
        }
        self.path.push(OsStr::from_bytes(name));
        self.place.down(name);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        let result = self.place.leave(self.for_store.then_some((FOLDER, MODIFIED)));
        result.map_err(|error| Error::Tree {
            action: "finish the folder",
            path: self.path.clone(),
            error,
        })?;
        self.depth = self.depth.saturating_sub(1);
        self.up();
        Ok(())
    }
}
