//! Nar: Guix's archive of one file, link or tree. One tree has one nar.
//!
//! [`Parser`] is the one reader: bytes are pushed into it in any pieces and it tells a [`Visitor`] what they
//! mean. [`Verifier`], [`parse`] and [`unpack`] stand on it. [`Writer`] is the one writer and itself a
//! visitor; [`Packer`] reads a tree from disk as the bytes of its nar.

mod encode;
mod node;
mod one_file;
mod pack;
mod parser;
mod place;
mod unpack;
mod verify;

pub use encode::Writer;
pub use node::Node;
pub use one_file::{Contents, OneFile};
pub use pack::{Packed, Packer, pack};
pub use parser::{Parser, parse};
pub use unpack::{Unpacked, Unpacker, unpack, unpack_for_store};
pub use verify::Verifier;

use std::io;
use std::path::PathBuf;

/// The bytes that buffers here have. Larger ones are not faster.
pub const BUFFER: usize = 256 * 1024;

/// What a nar may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an entry's name. Linux has 255.
    pub name: usize,
    /// Bytes of a link's target.
    pub target: usize,
    /// Directories within directories.
    pub depth: usize,
    /// Bytes of contents, of all files together.
    pub contents: u64,
    /// Entries, of all directories together.
    pub entries: u64,
    /// Bytes of memory that may go to names while a tree is read, as [`name_cost`] counts them. A nar has no need of it.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name: 255,
            target: 64 * 1024,
            depth: 512,
            contents: u64::MAX,
            entries: u64::MAX,
            names: 64 << 20,
        }
    }
}

/// About how much memory it takes to keep a name of so many bytes, in a list of them.
#[must_use]
pub fn name_cost(len: usize) -> usize {
    len.saturating_add(48)
}

/// What is told about a nar, in the order of its bytes.
///
/// A node is a file ([`regular`](Visitor::regular), [`contents`](Visitor::contents) in any pieces,
/// [`end_regular`](Visitor::end_regular)), a link ([`symlink`](Visitor::symlink)) or a directory
/// ([`directory`](Visitor::directory), for each entry [`entry`](Visitor::entry) and its node, then
/// [`leave`](Visitor::leave)).
pub trait Visitor {
    /// A file starts.
    ///
    /// # Errors
    /// The visitor's own, which end the parsing. The same holds for every method here.
    fn regular(&mut self, executable: bool, size: u64) -> Result<(), Error>;
    /// The next bytes of a file.
    ///
    /// # Errors
    /// The visitor's own.
    fn contents(&mut self, bytes: &[u8]) -> Result<(), Error>;
    /// The file has had all its bytes.
    ///
    /// # Errors
    /// The visitor's own.
    fn end_regular(&mut self) -> Result<(), Error>;
    /// A symbolic link.
    ///
    /// # Errors
    /// The visitor's own.
    fn symlink(&mut self, target: &[u8]) -> Result<(), Error>;
    /// A directory starts.
    ///
    /// # Errors
    /// The visitor's own.
    fn directory(&mut self) -> Result<(), Error>;
    /// The next node is the entry of that name in the directory that was entered last.
    ///
    /// # Errors
    /// The visitor's own.
    fn entry(&mut self, name: &[u8]) -> Result<(), Error>;
    /// The directory has had all its entries.
    ///
    /// # Errors
    /// The visitor's own.
    fn leave(&mut self) -> Result<(), Error>;
}

/// The visitor that does nothing: parsing alone is the check.
impl Visitor for () {
    fn regular(&mut self, _: bool, _: u64) -> Result<(), Error> {
        Ok(())
    }
    fn contents(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn end_regular(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn symlink(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn directory(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn entry(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn leave(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Why a nar cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no nar.
    #[error("not a canonical nar: at byte {offset}, expected {expected}")]
    Syntax {
        /// Bytes from the start of the nar.
        offset: u64,
        /// What should have been there.
        expected: &'static str,
    },
    /// Something is larger than is accepted.
    #[error("nar refused: at byte {offset}, {what} of {found} where at most {limit} is accepted")]
    Limit {
        /// Bytes from the start of the nar.
        offset: u64,
        /// What is too large.
        what: &'static str,
        /// How large it would be.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The name of an entry is not allowed or out of order.
    #[error("not a canonical nar: at byte {offset}, the entry '{name}' {problem}")]
    Name {
        /// Bytes from the start of the nar.
        offset: u64,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The stream ended within the nar.
    #[error("the nar is truncated: it ends at byte {offset}, where {expected} was expected")]
    Truncated {
        /// Bytes that were there.
        offset: u64,
        /// What should have followed.
        expected: &'static str,
    },
    /// The stream goes on after the nar.
    #[error("something follows the nar, which ends at byte {offset}")]
    Trailing {
        /// The size of the nar.
        offset: u64,
    },
    /// The stream failed.
    #[error("cannot {action} the nar: {error}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// What the stream said.
        error: io::Error,
    },
    /// Something about the tree on disk.
    #[error("cannot {action} {}: {error}", path.display())]
    Tree {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Something that a nar cannot hold.
    #[error("cannot pack {}: {problem}", path.display())]
    Unfit {
        /// What it is.
        path: PathBuf,
        /// Why it does not fit.
        problem: &'static str,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { error, .. } | Error::Tree { error, .. } => error.kind(),
            Error::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// A name from outside as an error message can show it.
fn shown(name: &[u8]) -> String {
    crate::hash::shortened(&name.escape_ascii().to_string())
}

#[cfg(test)]
mod tests;
