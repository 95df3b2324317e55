//! The one form that trees have in a store: whatever a nar does not tell is the same everywhere.

use std::ffi::OsString;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use drover_os::tree;
use drover_store::nar;

/// When everything in a store was changed last, in seconds since 1970.
pub(super) const MODIFIED: i64 = 1;

/// What a tree may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// Files, links and folders.
    pub files: u64,
    /// Bytes of all files, by their sizes: holes count in full.
    pub bytes: u64,
}

impl OutputLimits {
    /// As much as there is, for trees whose nar was limited.
    pub const NONE: Self = Self { files: u64::MAX, bytes: u64::MAX };
}

/// Why a tree cannot have the form. Paths are those in the tree; that of its top is `.`.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Something that no nar can hold.
    #[error("{} is {what}: only files, folders and symbolic links may be in a store", path.display())]
    Unfit {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Too many files.
    #[error("there are more than {limit} files, folders and links (the first too many is {}); max-output-files allows more", path.display())]
    Files {
        /// The first one beyond.
        path: PathBuf,
        /// How many are allowed.
        limit: u64,
    },
    /// Too large.
    #[error("its files are larger than {limit} bytes together (with {}, of {size}); max-output-size allows more", path.display())]
    Bytes {
        /// The file with which it is too much.
        path: PathBuf,
        /// The size of that one.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Folders in folders in folders.
    #[error("{} is nested too deeply: {limit} folders within one another are allowed", path.display())]
    Depth {
        /// The first folder beyond.
        path: PathBuf,
        /// How many are allowed.
        limit: usize,
    },
    /// Folders in folders with long names.
    #[error("{} has a longer path in the store than the system allows", path.display())]
    Length {
        /// What it is.
        path: PathBuf,
    },
    /// Too many names in folders, or too long ones, to be kept in memory.
    #[error("{} has too many names, or too long ones: {limit} bytes of memory are given to them", path.display())]
    Names {
        /// The folder whose names are too many, with those that it is in.
        path: PathBuf,
        /// How much is given to them.
        limit: usize,
    },
    /// Nobody wants it any more.
    #[error("it was stopped")]
    Unwanted,
    /// The system says no.
    #[error("{attempted} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Brings a tree into the form: changed in the first second of 1970 (links as well), files 0444 or, if their owner may run
/// them, 0555, folders 0555, no extended attributes where they can be removed, and owned by `owner` (user and group) if
/// that is given, which takes root.
///
/// Links are not followed; but names are looked up again and again, so nobody else may change the tree meanwhile: its
/// builder is dead, or never was.
///
/// # Errors
/// When something in it does not belong into a store, it is larger than it may be, or the system says no.
pub fn canonicalize(
    tree: &Path,
    owner: Option<(u32, u32)>,
    limits: &OutputLimits,
) -> Result<(), CanonicalError> {
    canonicalize_while(tree, owner, limits, &|| true)
}

/// The same, for as long as it is wanted.
///
/// # Errors
/// As [`canonicalize`], and [`CanonicalError::Unwanted`].
pub fn canonicalize_while(
    tree: &Path,
    owner: Option<(u32, u32)>,
    limits: &OutputLimits,
    wanted: &dyn Fn() -> bool,
) -> Result<(), CanonicalError> {
    canonicalize_within(tree, owner, limits, nar::Limits::default().names, wanted)
}

/// The same with another limit of memory for names.
pub(super) fn canonicalize_within(
    tree: &Path,
    owner: Option<(u32, u32)>,
    limits: &OutputLimits,
    most_names: usize,
    wanted: &dyn Fn() -> bool,
) -> Result<(), CanonicalError> {
    let path = tree.to_owned();
    let mut walk = Walk { top: tree, path, owner, limits, most_names, wanted, files: 0, bytes: 0, names: 0 };
    walk.count_file(tree)?;
    let mut folders: Vec<Folder> = Vec::new();
    folders.extend(walk.visit(0)?);
    while let Some(folder) = folders.last_mut() {
        match folder.entries.next() {
            Some(name) => {
                walk.path.push(name);
                match walk.visit(folders.len())? {
                    Some(folder) => folders.push(folder),
                    None => drop(walk.path.pop()),
                }
            }
            None => {
                let left = folders.pop().map_or(0, |folder| folder.names);
                walk.names = walk.names.saturating_sub(left);
                walk.leave_folder()?;
                if !folders.is_empty() {
                    walk.path.pop();
                }
            }
        }
    }
    Ok(())
}

/// A folder on the way down: the names that are still to come.
struct Folder {
    entries: std::vec::IntoIter<OsString>,
    /// What all of them cost.
    names: usize,
}

struct Walk<'a> {
    top: &'a Path,
    /// Where the walk is.
    path: PathBuf,
    owner: Option<(u32, u32)>,
    limits: &'a OutputLimits,
    most_names: usize,
    wanted: &'a dyn Fn() -> bool,
    files: u64,
    bytes: u64,
    /// What the names cost that are in memory.
    names: usize,
}

impl Walk<'_> {
    /// Does what is to be done where the walk is; for a folder, only so that it can be read: the names in it.
    fn visit(&mut self, depth: usize) -> Result<Option<Folder>, CanonicalError> {
        if !(self.wanted)() {
            return Err(CanonicalError::Unwanted);
        }
        let metadata = fs::symlink_metadata(&self.path).map_err(|e| self.failed("look at", e))?;
        let kind = metadata.file_type();
        if kind.is_file() {
            self.count_bytes(metadata.len())?;
            self.own(&metadata)?;
            let mode = if metadata.mode() & 0o100 == 0 { 0o444 } else { 0o555 };
            self.finish(&metadata, Some(mode))?;
            return Ok(None);
        }
        if kind.is_symlink() {
            self.own(&metadata)?;
            self.finish(&metadata, None)?;
            return Ok(None);
        }
        if !kind.is_dir() {
            let what = match () {
                () if kind.is_fifo() => "a named pipe",
                () if kind.is_socket() => "a socket",
                () if kind.is_block_device() || kind.is_char_device() => "a device",
                () => "of an unknown kind",
            };
            return Err(CanonicalError::Unfit { path: self.inside(&self.path), what });
        }
        let limit = nar::Limits::default().depth;
        if depth >= limit {
            return Err(CanonicalError::Depth { path: self.inside(&self.path), limit });
        }
        self.own(&metadata)?;
        if metadata.mode() & 0o700 != 0o700 {
            set_mode(&self.path, 0o700).map_err(|e| self.failed("set the mode of", e))?;
        }
        let (mut entries, mut names) = (Vec::new(), 0_usize);
        for entry in fs::read_dir(&self.path).map_err(|e| self.failed("list", e))? {
            let entry = entry.map_err(|e| self.failed("list", e))?;
            // Before it is kept: a folder may have more names than there is memory.
            self.count_file(&entry.path())?;
            let name = entry.file_name();
            names = names.saturating_add(nar::name_cost(name.len()));
            if self.names.saturating_add(names) > self.most_names {
                let path = self.inside(&self.path);
                return Err(CanonicalError::Names { path, limit: self.most_names });
            }
            entries.push(name);
        }
        self.names = self.names.saturating_add(names);
        Ok(Some(Folder { entries: entries.into_iter(), names }))
    }

    /// After all that is in it.
    fn leave_folder(&self) -> Result<(), CanonicalError> {
        let metadata = fs::symlink_metadata(&self.path).map_err(|e| self.failed("look at", e))?;
        self.finish(&metadata, Some(0o555))
    }

    fn own(&self, metadata: &Metadata) -> Result<(), CanonicalError> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        if (metadata.uid(), metadata.gid()) == (user, group) {
            return Ok(());
        }
        lchown(&self.path, Some(user), Some(group)).map_err(|e| self.failed("change the owner of", e))
    }

    /// Mode, attributes and time, in this order: an access control list has a say in the mode.
    fn finish(&self, metadata: &Metadata, mode: Option<u32>) -> Result<(), CanonicalError> {
        tree::clear_attributes(&self.path);
        if let Some(mode) = mode {
            if metadata.mode() & 0o7777 != mode {
                set_mode(&self.path, mode).map_err(|e| self.failed("set the mode of", e))?;
            }
        }
        if (metadata.mtime(), metadata.mtime_nsec()) != (MODIFIED, 0) {
            tree::set_modified(&self.path, MODIFIED).map_err(|e| self.failed("set the time of", e))?;
        }
        Ok(())
    }

    fn count_bytes(&mut self, size: u64) -> Result<(), CanonicalError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            let path = self.inside(&self.path);
            return Err(CanonicalError::Bytes { path, size, limit: self.limits.bytes });
        }
        Ok(())
    }

    fn count_file(&mut self, path: &Path) -> Result<(), CanonicalError> {
        self.files += 1;
        if self.files > self.limits.files {
            return Err(CanonicalError::Files { path: self.inside(path), limit: self.limits.files });
        }
        Ok(())
    }

    fn failed(&self, attempted: &'static str, source: io::Error) -> CanonicalError {
        if tree::is_too_long(&source) {
            return CanonicalError::Length { path: self.inside(&self.path) };
        }
        CanonicalError::Io { attempted, path: self.inside(&self.path), source }
    }

    /// A path as messages show it.
    fn inside(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(self.top) {
            Ok(inside) if inside.as_os_str().is_empty() => PathBuf::from("."),
            Ok(inside) => inside.to_owned(),
            Err(_) => path.to_owned(),
        }
    }
}

/// Sets the mode of a file or folder that is no link.
pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}
