//! SHA-256: values, and hashing of what streams by.

use std::fmt;
use std::io::{self, Read, Write};

use data_encoding::HEXLOWER;
use sha2::Digest;

use crate::base32;

/// What is wrong with the text of a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not 64 hexadecimal digits.
    #[error("cannot read '{0}' as a SHA-256: 64 hexadecimal digits are expected")]
    Hex(String),
    /// Not 52 digits of base32.
    #[error("cannot read '{0}' as a SHA-256: {1}")]
    Base32(String, base32::Error),
}

/// A SHA-256 value. Displayed as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Hash([u8; 32]);

impl Sha256Hash {
    /// The value with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits of either case.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, Error> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| Error::Hex(shortened(text)))
    }

    /// Reads 52 digits of Guix's base32.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_base32(text: &str) -> Result<Self, Error> {
        let bytes = base32::decode(text, 32).map_err(|e| Error::Base32(shortened(text), e))?;
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes);
        Ok(Self(hash))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text in Guix's base32, as narinfos have it.
    pub fn base32(&self) -> String {
        base32::encode(&self.0)
    }

    /// The text in lower-case hexadecimal, as derivations have it.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The 64 hexadecimal digits, without an allocation.
    pub(crate) fn hex_digits(&self) -> [u8; 64] {
        let mut digits = [0; 64];
        HEXLOWER.encode_mut(&self.0, &mut digits);
        digits
    }
}

impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.hex())
    }
}

impl fmt::Debug for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Hash({self})")
    }
}

/// A SHA-256 in the making.
#[derive(Clone, Debug, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// The hash of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes that were added.
    pub fn finish(self) -> Sha256Hash {
        Sha256Hash(self.0.finalize().into())
    }
}

impl Write for Sha256 {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes and counts what is read through it.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    count: u64,
}

impl<R> HashingReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    /// Bytes so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The state of the hash so far, for those who go on hashing after this stream.
    pub fn state(&self) -> &Sha256 {
        &self.hash
    }

    /// The reader, the hash of all that was read, and how many bytes that was.
    pub fn finish(self) -> (R, Sha256Hash, u64) {
        (self.inner, self.hash.finish(), self.count)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

/// Hashes and counts what is written through it.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W> HashingWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    /// Bytes so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The state of the hash so far, for those who go on hashing after this stream.
    pub fn state(&self) -> &Sha256 {
        &self.hash
    }

    /// The writer below.
    pub fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// The writer, the hash of all that was written, and how many bytes that was.
    pub fn finish(self) -> (W, Sha256Hash, u64) {
        (self.inner, self.hash.finish(), self.count)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// As much of a stranger's text as an error message should repeat.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hex_of_either_case_is_the_same_value() {
        let hash = Sha256Hash::of(b"drover");
        assert_eq!(Sha256Hash::from_hex(&hash.hex().to_uppercase()), Ok(hash));
        assert_eq!(Sha256Hash::from_hex(&hash.to_string()), Ok(hash));
        assert!(Sha256Hash::from_hex(&hash.hex()[1..]).is_err());
    }

    proptest! {
        #[test]
        fn readers_and_writers_hash_what_passes(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut reader = HashingReader::new(&bytes[..]);
            let mut writer = HashingWriter::new(Vec::new());
            io::copy(&mut reader, &mut writer).unwrap();
            let (_, read, count) = reader.finish();
            let (copy, written, _) = writer.finish();
            prop_assert_eq!(read, Sha256Hash::of(&bytes));
            prop_assert_eq!(written, read);
            prop_assert_eq!(count, bytes.len() as u64);
            prop_assert_eq!(copy, bytes);
        }

        #[test]
        fn base32_text_reads_back(bytes in any::<[u8; 32]>()) {
            let hash = Sha256Hash::from_bytes(bytes);
            prop_assert_eq!(Sha256Hash::from_base32(&hash.base32()), Ok(hash));
        }
    }
}
