//! Many derivations and sources in one stream.
//!
//! Entries follow each other: the kind (one byte: `D` derivation, `S` source), the length of the base name (2 bytes), the
//! length of the contents (8 bytes), both big-endian, then the name and the contents: the text of a derivation, the nar
//! of a source. A byte `E` ends the bundle, so that one that was cut off is told from a whole one. The stream is
//! zstd-compressed as a whole, by whoever reads and writes it.

use std::io::{self, Read, Write};

use drover_store::path::StorePath;

/// The most bytes that a derivation in a bundle may have. The largest known one has 1.1 MB.
pub const DERIVATION_LIMIT: u64 = 64 << 20;
/// The most bytes that a source's nar in a bundle may have.
pub const SOURCE_LIMIT: u64 = 4 << 30;
const NAME_LIMIT: u16 = 255;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The text of a .drv file.
    Derivation,
    /// The nar of a source.
    Source,
}

/// The head of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its path in the store.
    pub path: StorePath,
    /// The bytes of its contents.
    pub size: u64,
}

/// A stream that is not a bundle, or is cut off.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The stream itself failed, or ended too early.
    #[error("reading the bundle, after {entries} entries: {source}; send it again")]
    Io {
        /// Whole entries before it.
        entries: u64,
        /// What happened.
        source: io::Error,
    },
    /// Something that is not an entry.
    #[error("entry {number} of the bundle is not one: {what}")]
    Malformed {
        /// Which entry; the first is 1.
        number: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads a bundle entry by entry.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    entries: u64,
    rest: u64,
}

impl<R: Read> Reader<R> {
    /// Reads from a stream that is already decompressed.
    pub fn new(inner: R) -> Self {
        Self { inner, entries: 0, rest: 0 }
    }

    /// The next entry, or none at the end. What was not read of the contents before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, BundleError> {
        let skipped = io::copy(&mut (&mut self.inner).take(self.rest), &mut io::sink());
        match skipped {
            Ok(n) if n == self.rest => self.rest = 0,
            Ok(_) => return Err(self.io(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(self.io(error)),
        }
        let mut kind = [0];
        self.fill(&mut kind)?;
        let kind = match kind[0] {
            b'D' => Kind::Derivation,
            b'S' => Kind::Source,
            b'E' => return Ok(None),
            other => return Err(self.malformed(format!("its kind is the byte {other}"))),
        };
        let (mut name, mut size) = ([0; 2], [0; 8]);
        self.fill(&mut name)?;
        self.fill(&mut size)?;
        let (name_size, size) = (u16::from_be_bytes(name), u64::from_be_bytes(size));
        if name_size > NAME_LIMIT {
            return Err(self.malformed(format!("its name has {name_size} bytes, more than {NAME_LIMIT}")));
        }
        let limit = if kind == Kind::Derivation { DERIVATION_LIMIT } else { SOURCE_LIMIT };
        if size > limit {
            return Err(self.malformed(format!("it has {size} bytes, more than {limit}")));
        }
        let mut name = vec![0; usize::from(name_size)];
        self.fill(&mut name)?;
        let path = std::str::from_utf8(&name)
            .map_err(|_| self.malformed("its name is not text".to_owned()))
            .and_then(|name| StorePath::parse_base(name).map_err(|e| self.malformed(e.to_string())))?;
        self.rest = size;
        self.entries += 1;
        Ok(Some(Entry { kind, path, size }))
    }

    /// The contents of the entry that [`Reader::next_entry`] gave last.
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents { reader: self }
    }

    /// What it read from.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BundleError> {
        self.inner.read_exact(bytes).map_err(|e| self.io(e))
    }

    fn io(&self, source: io::Error) -> BundleError {
        BundleError::Io { entries: self.entries, source }
    }

    fn malformed(&self, what: String) -> BundleError {
        BundleError::Malformed { number: self.entries + 1, what }
    }
}

/// The contents of one entry; a stream that ends before them is an error.
#[derive(Debug)]
pub struct Contents<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.reader.rest).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.reader.inner.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.rest -= n as u64;
        Ok(n)
    }
}

/// Writes a bundle entry by entry.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
}

impl<W: Write> Writer<W> {
    /// Writes to a stream that compresses.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes one entry; `contents` must have `size` bytes, and fewer are an error.
    pub fn entry(
        &mut self,
        kind: Kind,
        path: &StorePath,
        size: u64,
        mut contents: impl Read,
    ) -> io::Result<()> {
        let name = path.base_name().as_bytes();
        let name_size =
            u16::try_from(name.len()).map_err(|_| io::Error::other("a name too long for a bundle"))?;
        self.inner.write_all(&[if kind == Kind::Derivation { b'D' } else { b'S' }])?;
        self.inner.write_all(&name_size.to_be_bytes())?;
        self.inner.write_all(&size.to_be_bytes())?;
        self.inner.write_all(name)?;
        let written = io::copy(&mut (&mut contents).take(size), &mut self.inner)?;
        if written == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Ends the bundle and gives back the stream, which the caller finishes.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(b"E")?;
        Ok(self.inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::parse_base(&format!("00a3xasf5iyzfv23danwy7pilf2yyxjz-{name}")).unwrap()
    }

    fn bundle(entries: &[(Kind, &str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (kind, name, contents) in entries {
            writer.entry(*kind, &path(name), contents.len() as u64, *contents).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn entries_come_back_in_their_order_whether_read_or_skipped() {
        let bytes = bundle(&[(Kind::Derivation, "a.drv", b"first"), (Kind::Source, "b", b"second")]);
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(reader.next_entry().unwrap().unwrap().path, path("a.drv"));
        let entry = reader.next_entry().unwrap().unwrap();
        assert_eq!((entry.kind, entry.size), (Kind::Source, 6));
        let mut text = Vec::new();
        reader.contents().read_to_end(&mut text).unwrap();
        assert_eq!(text, b"second");
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_bundle_that_is_cut_off_anywhere_is_an_error() {
        let bytes = bundle(&[(Kind::Derivation, "a.drv", b"first"), (Kind::Source, "b", b"second")]);
        for length in 0..bytes.len() {
            let mut reader = Reader::new(&bytes[..length]);
            let end = loop {
                match reader.next_entry() {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert!(end.is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}
