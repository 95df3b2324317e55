//! The framing of nars and of the daemon's protocol: integers of 8 bytes, little-endian; byte strings with
//! their length before and zeros after, up to a multiple of 8; lists with their count before.

use std::io::{self, Read, Write};

/// Why something framed cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream ended or failed.
    #[error("cannot read {what}: {error}")]
    Io {
        /// What was being read.
        what: &'static str,
        /// What the stream said.
        error: io::Error,
    },
    /// A length or count beyond what is accepted.
    #[error("{what} of {found} where at most {limit} is accepted")]
    TooLong {
        /// What was being read.
        what: &'static str,
        /// The length or count that the peer announced.
        found: u64,
        /// The most that is accepted.
        limit: u64,
    },
    /// Bytes after a string that are not zero.
    #[error("the padding after {0} is not zero")]
    Padding(&'static str),
}

/// The zeros that follow a byte string of that length.
pub const fn padding(len: u64) -> usize {
    ((8 - len % 8) % 8) as usize
}

/// Reads an integer. `what` names it in errors.
///
/// # Errors
/// When the stream ends or fails.
pub fn read_u64(mut from: impl Read, what: &'static str) -> Result<u64, Error> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes).map_err(|error| Error::Io { what, error })?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads a byte string of at most `limit` bytes. Memory grows with what arrives, not with what is announced.
///
/// # Errors
/// When the stream ends or fails, the string is longer, or its padding is not zero.
pub fn read_bytes(mut from: impl Read, limit: u64, what: &'static str) -> Result<Vec<u8>, Error> {
    let len = read_u64(&mut from, what)?;
    if len > limit {
        return Err(Error::TooLong { what, found: len, limit });
    }
    let mut bytes = Vec::with_capacity(len.min(64 * 1024) as usize);
    let got = from.by_ref().take(len).read_to_end(&mut bytes).map_err(|error| Error::Io { what, error })?;
    if got as u64 != len {
        return Err(Error::Io { what, error: io::ErrorKind::UnexpectedEof.into() });
    }
    read_padding(from, len, what)?;
    Ok(bytes)
}

/// Reads the zeros after a byte string of `len` bytes.
///
/// # Errors
/// When the stream ends or fails, or they are not zeros.
pub fn read_padding(mut from: impl Read, len: u64, what: &'static str) -> Result<(), Error> {
    let mut zeros = [0; 8];
    let zeros = &mut zeros[..padding(len)];
    from.read_exact(zeros).map_err(|error| Error::Io { what, error })?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(Error::Padding(what));
    }
    Ok(())
}

/// Reads a list of at most `count` byte strings of at most `limit` bytes each.
///
/// # Errors
/// When there are more, and as [`read_bytes`].
pub fn read_list(
    mut from: impl Read,
    count: u64,
    limit: u64,
    what: &'static str,
) -> Result<Vec<Vec<u8>>, Error> {
    let found = read_u64(&mut from, what)?;
    if found > count {
        return Err(Error::TooLong { what, found, limit: count });
    }
    let mut items = Vec::new();
    for _ in 0..found {
        items.push(read_bytes(&mut from, limit, what)?);
    }
    Ok(items)
}

/// Writes an integer.
///
/// # Errors
/// Those of `to`.
pub fn write_u64(mut to: impl Write, value: u64) -> io::Result<()> {
    to.write_all(&value.to_le_bytes())
}

/// Writes a byte string with its length and its padding.
///
/// # Errors
/// Those of `to`.
pub fn write_bytes(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)?;
    to.write_all(&[0; 8][..padding(bytes.len() as u64)])
}

/// Writes a list of byte strings.
///
/// # Errors
/// Those of `to`.
pub fn write_list<T: AsRef<[u8]>>(
    mut to: impl Write,
    items: impl ExactSizeIterator<Item = T>,
) -> io::Result<()> {
    write_u64(&mut to, items.len() as u64)?;
    for item in items {
        write_bytes(&mut to, item.as_ref())?;
    }
    Ok(())
}

/// Appends an integer to a buffer.
pub(crate) fn push_u64(to: &mut Vec<u8>, value: u64) {
    to.extend_from_slice(&value.to_le_bytes());
}

/// Appends a byte string to a buffer.
pub(crate) fn push_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    push_u64(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
    to.extend_from_slice(&[0; 8][..padding(bytes.len() as u64)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_announced_length_is_refused_before_a_byte_is_kept() {
        let announced = u64::MAX.to_le_bytes();
        let error = read_bytes(&announced[..], 1000, "a name").unwrap_err();
        assert!(matches!(error, Error::TooLong { found: u64::MAX, limit: 1000, .. }));
        assert!(matches!(read_list(&announced[..], 10, 10, "names"), Err(Error::TooLong { .. })));
    }

    #[test]
    fn padding_that_is_not_zero_is_refused() {
        let mut framed = Vec::new();
        push_bytes(&mut framed, b"abc");
        framed[15] = 1;
        assert!(matches!(read_bytes(&framed[..], 10, "a name"), Err(Error::Padding("a name"))));
    }

    proptest! {
        #[test]
        fn lists_read_back_as_written(items in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut framed = Vec::new();
            write_list(&mut framed, items.iter()).unwrap();
            prop_assert_eq!(framed.len() % 8, 0);
            prop_assert_eq!(read_list(&framed[..], 8, 40, "items").unwrap(), items);
            for cut in 0..framed.len() {
                prop_assert!(read_list(&framed[..cut], 8, 40, "items").is_err());
            }
        }
    }
}
