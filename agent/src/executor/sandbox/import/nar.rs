//! A nar from a stream, which may be given up, and whose fault it is when it does not come.

use std::io::{self, Read};

use drover_store::nar::{self, Limits};

use super::arrivals::Wanted;
use crate::executor::Error;
use crate::store::{Item, Received, Store, StoreError};

/// Why a nar was not received.
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

/// Takes an item from its nar, which must be what the item says. After an error nothing is there.
///
/// # Errors
/// [`Error::Stream`] when the nar cannot be read or unpacked, [`Error::Refused`] when it is another one.
pub(in crate::executor::sandbox) fn receive(
    store: &Store,
    item: &Item,
    from: impl Read,
    wanted: Wanted<'_>,
) -> Result<Received, Failure> {
    let mut from = Heeding { inner: from, wanted };
    let stream = |source| Error::Stream { attempted: format!("unpack the nar of {}", item.path), source };
    store.receive(item, &mut from, Limits::default()).map_err(|error| match error {
        StoreError::Nar { source: source @ nar::Error::Tree { .. }, .. } => {
            Failure::Disk(stream(source.into()))
        }
        StoreError::Nar { source, .. } => Failure::Nar(stream(source.into())),
        StoreError::Hash { .. } => Failure::Nar(error.into()),
        _ => Failure::Disk(error.into()),
    })
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
