//! By which operation a derivation's source gets into a store: all are content-addressed, so recomputing the
//! path tells.

use std::io::{BufReader, Read};

use crate::hash::HashingReader;
use crate::nar::{self, BUFFER, Contents, Limits, OneFile};
use crate::path::{self, StorePath};
use crate::references::Scanner;
use crate::{Sha256, Sha256Hash};

/// The daemon's operation for a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// add-text-to-store with these references: builder scripts.
    Text {
        /// In ascending order. Empty for all texts that Guix itself adds as sources.
        references: Vec<StorePath>,
    },
    /// add-to-store, recursive, sha256: trees and files.
    Recursive,
    /// add-to-store, not recursive, sha256.
    Flat,
}

/// Finds out how the source at `path` with this nar was added. None: the content does not belong to the path.
///
/// Guix adds a builder script as a text without references, even where it names other sources; so does a text of
/// any other kind that a whole Guix has. A text with references is recognized when these are those of `candidates`
/// whose hash part stands in it: `candidates` are the other sources of the derivation.
///
/// # Errors
/// When the nar cannot be read or is not canonical.
pub fn method_of(
    path: &StorePath,
    nar: impl Read,
    candidates: &[StorePath],
) -> Result<Option<Method>, nar::Error> {
    let mut reader = BufReader::with_capacity(BUFFER, HashingReader::new(nar));
    let mut file = Text::new(candidates);
    let size = nar::parse(&mut reader, Limits::default(), &mut file)?;
    let (_, nar_hash, count) = reader.into_inner().finish();
    if count != size {
        return Err(nar::Error::Trailing { offset: size });
    }
    Ok(method_of_hashes(path, &nar_hash, Text::finish(file)))
}

/// [`method_of`] for a nar in memory whose hash is at hand.
///
/// # Errors
/// As [`method_of`].
pub fn method_of_nar(
    path: &StorePath,
    nar: &[u8],
    nar_hash: &Sha256Hash,
    candidates: &[StorePath],
) -> Result<Option<Method>, nar::Error> {
    let mut file = Text::new(candidates);
    let size = nar::parse(&mut &nar[..], Limits::default(), &mut file)?;
    if nar.len() as u64 != size {
        return Err(nar::Error::Trailing { offset: size });
    }
    Ok(method_of_hashes(path, nar_hash, Text::finish(file)))
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
    if is(path::text_of_hash(name, &contents, &[])) {
        return Some(Method::Text { references: Vec::new() });
    }
    if !references.is_empty() && is(path::text_of_hash(name, &contents, &references)) {
        return Some(Method::Text { references });
    }
    is(path::fixed_output(name, false, "sha256", contents.as_bytes())).then_some(Method::Flat)
}

/// Hashes and scans the contents of a file.
struct Text {
    hash: Sha256,
    scanner: Scanner,
}

impl Text {
    fn new(candidates: &[StorePath]) -> OneFile<Self> {
        OneFile::new(Self { hash: Sha256::new(), scanner: Scanner::new(candidates) })
    }

    /// None for a nar that is anything but one.
    fn finish(file: OneFile<Self>) -> Option<(Sha256Hash, Vec<StorePath>)> {
        let is_one = file.is_one();
        is_one.then(|| (file.contents.hash.finish(), file.contents.scanner.found()))
    }
}

impl Contents for Text {
    fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.scanner.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nar::Node;

    /// Both ways to find out, which must agree.
    fn method(path: &StorePath, node: &Node, candidates: &[StorePath]) -> Option<Method> {
        let nar = node.to_nar();
        let method = method_of(path, &nar[..], candidates).unwrap();
        assert_eq!(method_of_nar(path, &nar, &Sha256Hash::of(&nar), candidates).unwrap(), method);
        method
    }

    #[test]
    fn each_method_is_told_by_the_path_that_it_makes() {
        let node = Node::file("contents");
        let hash = Sha256Hash::of(b"contents");
        let recursive = path::source("name", &Sha256Hash::of(&node.to_nar())).unwrap();
        let flat = path::fixed_output("name", false, "sha256", hash.as_bytes()).unwrap();
        let text = path::text("name", b"contents", &[]).unwrap();
        let other = path::text("name", b"other", &[]).unwrap();
        assert_eq!(method(&recursive, &node, &[]), Some(Method::Recursive));
        assert_eq!(method(&flat, &node, &[]), Some(Method::Flat));
        assert_eq!(method(&text, &node, &[]), Some(Method::Text { references: vec![] }));
        assert_eq!(method(&other, &node, &[]), None);
        // A text cannot be executable.
        assert_eq!(method(&text, &Node::program("contents"), &[]), None);
    }

    #[test]
    fn a_text_may_name_a_source_with_or_without_referring_to_it() {
        let named = path::text("named", b"", &[]).unwrap();
        let unnamed = path::text("unnamed", b"", &[]).unwrap();
        let contents = format!("(load \"{named}\")");
        let with = path::text("script", contents.as_bytes(), std::slice::from_ref(&named)).unwrap();
        let without = path::text("script", contents.as_bytes(), &[]).unwrap();
        let node = Node::file(contents);
        let candidates = [unnamed, named.clone()];
        assert_eq!(method(&with, &node, &candidates), Some(Method::Text { references: vec![named] }));
        assert_eq!(method(&without, &node, &candidates), Some(Method::Text { references: vec![] }));
        assert_eq!(method(&with, &node, &[]), None);
    }

    #[test]
    fn what_follows_the_nar_is_refused() {
        let path = path::text("name", b"contents", &[]).unwrap();
        let nar = [Node::file("contents").to_nar().as_slice(), b"more"].concat();
        assert!(matches!(method_of(&path, &nar[..], &[]), Err(nar::Error::Trailing { .. })));
        let hash = Sha256Hash::of(&nar);
        assert!(matches!(method_of_nar(&path, &nar, &hash, &[]), Err(nar::Error::Trailing { .. })));
    }
}
