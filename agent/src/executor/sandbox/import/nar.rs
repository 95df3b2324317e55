//! A nar from a stream into a tree in the form of the store, hashed on its way.

use std::io::{self, Read};
use std::path::Path;

use drover_os::{tree, user};
use drover_store::hash::HashingReader;
use drover_store::nar::{self, Limits};
use drover_store::{Sha256, Sha256Hash};

use super::arrivals::Wanted;
use crate::executor::Error;
use crate::store::{Item, OutputLimits, canonicalize};

/// Why a nar did not become a tree.
#[derive(Debug)]
pub(in crate::executor::sandbox) enum Failure {
    /// It cannot be read, is another one or none: from elsewhere it may be right.
    Nar(Error),
    /// The machine's own disk: no other source helps.
    Disk(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Nar(error) | Failure::Disk(error) => error,
        }
    }
}

/// Makes the tree of an item at `dest` from its nar, which must be what the item says; the state of the hash after it.
/// After an error nothing is there.
///
/// # Errors
/// [`Error::Stream`] when the nar cannot be read or unpacked, [`Error::Refused`] when it is another one.
pub(in crate::executor::sandbox) fn unpack(
    item: &Item,
    from: impl Read,
    dest: &Path,
    wanted: Wanted<'_>,
) -> Result<Sha256, Failure> {
    // One byte more than announced is enough to see that it is another nar.
    let from = Heeding { inner: from.take(item.nar_size.saturating_add(1)), wanted };
    let mut from = HashingReader::new(from);
    let limits = Limits { contents: item.nar_size, ..Limits::default() };
    let stream = |source| Error::Stream { attempted: format!("unpack the nar of {}", item.path), source };
    nar::unpack_for_store(&mut from, dest, limits).map_err(|error| match error {
        nar::Error::Tree { .. } => Failure::Disk(stream(error.into())),
        _ => Failure::Nar(stream(error.into())),
    })?;
    let (size, state) = (from.count(), from.state().clone());
    let checked = check(item, size, state.clone().finish()).map_err(Failure::Nar);
    checked.and_then(|()| canonical(item, dest).map_err(Failure::Disk)).inspect_err(|_| {
        // The folder around it goes, too, in the end; and the error that led here says more.
        let _ = tree::remove(dest);
    })?;
    Ok(state)
}

fn check(item: &Item, size: u64, hash: Sha256Hash) -> Result<(), Error> {
    if (size, hash) == (item.nar_size, item.nar_hash) {
        return Ok(());
    }
    let Item { path, nar_size, nar_hash, .. } = item;
    Err(Error::Refused(format!(
        "the nar of {path} has {size} bytes of the SHA-256 {hash}, where {nar_size} bytes of {nar_hash} were announced"
    )))
}

fn canonical(item: &Item, dest: &Path) -> Result<(), Error> {
    let owner = user::is_root().then_some((0, 0));
    canonicalize(dest, owner, &OutputLimits::NONE)
        .map_err(|error| Error::Refused(format!("put {} into the store: {error}", item.path)))
}

/// Reads as long as it is wanted.
struct Heeding<'a, R> {
    inner: R,
    wanted: Wanted<'a>,
}

impl<R: Read> Read for Heeding<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wanted.holds() {
            return Err(io::Error::other("it is not wanted any more"));
        }
        self.inner.read(buffer)
    }
}
