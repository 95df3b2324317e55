//! Where files are put: a folder or a bucket, behind one interface. Everything here blocks.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use drover_os::Deadline;

use super::bucket::Bucket;
use super::folder::Folder;
use super::opened::Opened;
use crate::config::Location;

/// A folder or a bucket that files are put into.
#[derive(Debug)]
pub enum Target {
    /// A folder.
    Folder(Folder),
    /// A bucket.
    Bucket(Bucket),
}

/// Why a file could not be put, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such file.
    #[error("there is no file {name} in {place}")]
    Gone {
        /// Its name.
        name: String,
        /// Where.
        place: String,
    },
    /// It has not the bytes that it should have.
    #[error("the file {name} in {place} has {found} bytes, and should have {expected}")]
    Length {
        /// Its name.
        name: String,
        /// Where.
        place: String,
        /// Its bytes.
        found: u64,
        /// The bytes that it should have.
        expected: u64,
    },
    /// The file system.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the place that it should be.
    #[error("cannot use {place}: {reason}")]
    Foreign {
        /// Where.
        place: String,
        /// What it is instead.
        reason: String,
    },
    /// The server of a bucket.
    #[error("cannot {what}: {reason}")]
    Bucket {
        /// What was attempted.
        what: String,
        /// What the server said, or that it said nothing in time.
        reason: String,
    },
}

impl StoreError {
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// Whether it is about the place as a whole, and would be the same for other files for a while.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Bucket { .. })
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Gone { .. } => io::ErrorKind::NotFound,
            StoreError::Length { .. } => io::ErrorKind::InvalidData,
            StoreError::Io { source, .. } => source.kind(),
            StoreError::Foreign { .. } | StoreError::Bucket { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl Target {
    /// That of a location. A folder is made if need be; a bucket is not asked yet.
    ///
    /// # Errors
    /// When the folder cannot be made, or the keys of the bucket cannot be read.
    pub fn new(location: &Location) -> Result<Self, StoreError> {
        match location {
            Location::Folder(path) => Ok(Self::Folder(Folder::make(path)?)),
            Location::Bucket(bucket) => Ok(Self::Bucket(Bucket::new(bucket)?)),
        }
    }

    /// Where it is, for people.
    pub fn address(&self) -> String {
        match self {
            Self::Folder(folder) => folder.path().display().to_string(),
            Self::Bucket(bucket) => bucket.address().to_owned(),
        }
    }

    /// The same one, of which nothing is waited for beyond a deadline. What a disk does not answer is waited for all the
    /// same.
    #[must_use]
    pub fn within(&self, until: Deadline) -> Self {
        match self {
            Self::Folder(folder) => Self::Folder(Folder::at(folder.path())),
            Self::Bucket(bucket) => bucket.within(until),
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder.path()),
            Self::Bucket(_) => None,
        }
    }

    /// Puts a file, which is synced already, under this name, durably and at once: it is there as a whole or not at all.
    /// It is taken away from where it was, or may be left there.
    ///
    /// # Errors
    /// When it cannot be read, or not be written.
    pub fn take(&self, from: &Path, name: &str) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => folder.take(from, name),
            Self::Bucket(bucket) => {
                let failed = |error| StoreError::io(format!("read {}", from.display()), error);
                let mut file = File::open(from).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len();
                bucket.put(&mut file, size, name)
            }
        }
    }

    /// As [`Target::take`], from a stream of `size` bytes. One that ends before, or does not end there, is an error.
    ///
    /// # Errors
    /// When it cannot be read, or not be written, or has not so many bytes.
    pub fn put(&self, from: &mut (dyn Read + Send), size: u64, name: &str) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => folder.put(from, size, name),
            Self::Bucket(bucket) => bucket.put(from, size, name),
        }
    }

    /// Opens a part of a file of `size` bytes.
    ///
    /// # Errors
    /// When there is none, it has not these bytes, or cannot be read.
    pub fn open(&self, name: &str, size: u64, range: Range<u64>) -> Result<Opened, StoreError> {
        match self {
            Self::Folder(folder) => folder.open(name, size, range),
            Self::Bucket(bucket) => bucket.open(name, size, range),
        }
    }

    /// The bytes of a file; none if there is none.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self {
            Self::Folder(folder) => folder.size(name),
            Self::Bucket(bucket) => bucket.size(name),
        }
    }

    /// The first bytes of a small file, `most` of them if it has more; none if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Folder(folder) => folder.read(name, most),
            Self::Bucket(bucket) => bucket.read(name, most),
        }
    }

    /// Removes a file that may not be there, and what is left of one that was being put.
    ///
    /// # Errors
    /// When it may still be there.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => folder.remove(name),
            Self::Bucket(bucket) => bucket.remove(name),
        }
    }
}

/// A name in a folder: relative, and nowhere but below.
pub(super) fn below(folder: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let strange = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.split('/').any(strange) || name.contains('\0') {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no name within a folder");
        return Err(StoreError::io(format!("use the name {name:?}"), source));
    }
    Ok(folder.join(name))
}
