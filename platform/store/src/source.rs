//! By which operation a derivation's source gets into a store: all are content-addressed, so recomputing the
//! path tells.

use std::io::{BufReader, Read};

use crate::hash::HashingReader;
use crate::nar::{self, BUFFER, Limits, Visitor};
use crate::path::{self, StorePath};
use crate::references::Scanner;
use crate::{Sha256, Sha256Hash};

/// The daemon's operation for a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// add-text-to-store with these references: builder scripts.
    Text {
        /// In ascending order.
        references: Vec<StorePath>,
    },
    /// add-to-store, recursive, sha256: trees and files.
    Recursive,
    /// add-to-store, not recursive, sha256.
    Flat,
}

/// Finds out how the source at `path` with this nar was added. For a text, its references are those of
/// `candidates` whose hash part stands in it; `candidates` are the other sources of the derivations that the
/// text belongs to (more do no harm as long as they are sources: the outputs of derivations that a text names
/// are not among its references). None: the content does not belong to the path.
///
/// # Errors
/// When the nar cannot be read or is not canonical.
pub fn method_of(
    path: &StorePath,
    nar: impl Read,
    candidates: &[StorePath],
) -> Result<Option<Method>, nar::Error> {
    let mut reader = BufReader::with_capacity(BUFFER, HashingReader::new(nar));
    let mut file = RootFile { scanner: Scanner::new(candidates), ..RootFile::default() };
    let size = nar::parse(&mut reader, Limits::default(), &mut file)?;
    let (_, nar_hash, count) = reader.into_inner().finish();
    if count != size {
        return Err(nar::Error::Trailing { offset: size });
    }
    Ok(method_of_hashes(path, &nar_hash, file.finish()))
}

/// [`method_of`] when the hashes are at hand: of the nar and, if the source is a file that is not executable,
/// of its contents, with the candidates that were found in it, in ascending order.
pub fn method_of_hashes(
    path: &StorePath,
    nar_hash: &Sha256Hash,
    file: Option<(Sha256Hash, Vec<StorePath>)>,
) -> Option<Method> {
    let name = path.name();
    let is = |made: Result<StorePath, path::Error>| made.as_ref() == Ok(path);
    if is(path::source(name, nar_hash)) {
        return Some(Method::Recursive);
    }
    let (contents, references) = file?;
    if is(path::text_of_hash(name, &contents, &references)) {
        return Some(Method::Text { references });
    }
    if is(path::text_of_hash(name, &contents, &[])) {
        return Some(Method::Text { references: Vec::new() });
    }
    is(path::fixed_output(name, false, "sha256", contents.as_bytes())).then_some(Method::Flat)
}

/// Hashes and scans the contents of a nar that is one plain file.
struct RootFile {
    hash: Option<Sha256>,
    scanner: Scanner,
}

impl Default for RootFile {
    fn default() -> Self {
        Self { hash: Some(Sha256::new()), scanner: Scanner::new(&[]) }
    }
}

impl RootFile {
    fn finish(self) -> Option<(Sha256Hash, Vec<StorePath>)> {
        let references = self.scanner.found();
        self.hash.map(|hash| (hash.finish(), references))
    }
}

impl Visitor for RootFile {
    fn regular(&mut self, executable: bool, _: u64) -> Result<(), nar::Error> {
        if executable {
            self.hash = None;
        }
        Ok(())
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), nar::Error> {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
            self.scanner.update(bytes);
        }
        Ok(())
    }

    fn end_regular(&mut self) -> Result<(), nar::Error> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8]) -> Result<(), nar::Error> {
        self.hash = None;
        Ok(())
    }

    fn directory(&mut self) -> Result<(), nar::Error> {
        self.hash = None;
        Ok(())
    }

    fn entry(&mut self, _: &[u8]) -> Result<(), nar::Error> {
        Ok(())
    }

    fn leave(&mut self) -> Result<(), nar::Error> {
        Ok(())
    }
}
