//! The index at the end of a packed log: how long each frame is, compressed and not.
//!
//! It is a skippable frame (RFC 8878, 3.1.2) with two numbers of 32 bits for each frame, a third where there are
//! checksums, and nine bytes at its end by which it is known. All numbers begin with their lowest byte.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

/// A skippable frame, of the kind that zstd's seekable format uses.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// The last bytes of a file with an index.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// A skippable frame's first two numbers.
const HEADER: u64 = 8;
/// How many frames there are, a byte that says what is in the index, and the number above.
const FOOTER: u64 = 9;
/// That there are checksums, in that byte; bits that mean nothing yet are to be 0.
const CHECKSUMS: u8 = 0x80;
const RESERVED: u8 = 0x7c;
/// How many frames are read of an index at a time.
const AT_ONCE: u64 = 4096;

/// An index that grows.
#[derive(Debug, Default)]
pub(super) struct Index {
    frames: Vec<(u32, u32)>,
    length: u64,
}

/// What an index says of a place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Where in the file the frame begins that has it.
    pub(super) frame: u64,
    /// Bytes of the log that come before it in this frame.
    pub(super) skip: u64,
    /// Bytes of the log from there on.
    pub(super) left: u64,
    /// Where the last frame ends.
    pub(super) end: u64,
    /// The bytes of the whole log.
    pub(super) length: u64,
}

/// The file is not what it should be.
pub(super) fn damaged(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the packed log is damaged: {how}"))
}

impl Index {
    /// The next frame has so many bytes, and so many of the log.
    pub(super) fn add(&mut self, packed: usize, plain: usize) -> io::Result<()> {
        let number = |size| u32::try_from(size).map_err(io::Error::other);
        self.frames.push((number(packed)?, number(plain)?));
        self.length += plain as u64;
        Ok(())
    }

    /// The bytes of the log so far.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The whole of it.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let count = u32::try_from(self.frames.len()).map_err(io::Error::other)?;
        let size = u32::try_from(u64::from(count) * 8 + FOOTER).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(self.frames.len() * 8 + 17);
        for number in [SKIPPABLE, size].into_iter().chain(self.frames.iter().flat_map(|(a, b)| [*a, *b])) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(count.to_le_bytes());
        bytes.push(0);
        bytes.extend(SEEKABLE.to_le_bytes());
        to.write_all(&bytes)
    }
}

/// Looks a place up; beyond the end of the log is its end. None where the file has no index. Little of it is held in memory,
/// whatever it says.
pub(super) fn find(file: &File, offset: u64) -> io::Result<Option<Position>> {
    let size = file.metadata()?.len();
    let Some(footer) = size.checked_sub(FOOTER) else { return without(file) };
    let mut last = [0; FOOTER as usize];
    file.read_exact_at(&mut last, footer)?;
    let [a, b, c, d, kind, magic @ ..] = last;
    if u32::from_le_bytes(magic) != SEEKABLE {
        return without(file);
    }
    let count = u64::from(u32::from_le_bytes([a, b, c, d]));
    if kind & RESERVED != 0 {
        return Err(damaged("its index is of a kind that is not known"));
    }
    let entry: u64 = if kind & CHECKSUMS == 0 { 8 } else { 12 };
    let begin =
        footer.checked_sub(count * entry + HEADER).ok_or_else(|| damaged("its index is longer than it"))?;
    let mut header = [0; HEADER as usize];
    file.read_exact_at(&mut header, begin)?;
    if header != header_of(count * entry + FOOTER) {
        return Err(damaged("its index does not begin where it says"));
    }
    let mut sum = Sum { offset, frame: 0, plain: 0, found: None, has_empty: false };
    let mut entries = vec![0; usize::try_from(AT_ONCE.min(count) * entry).map_err(io::Error::other)?];
    let (mut at, end) = (begin + HEADER, footer);
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(entries.len());
        let Some(some) = entries.get_mut(..most) else { break };
        file.read_exact_at(some, at)?;
        at += most as u64;
        some.chunks_exact(entry as usize).for_each(|entry| sum.add(entry));
    }
    if sum.frame != begin || sum.has_empty {
        return Err(damaged("its frames are not as long as its index says"));
    }
    let Found { frame, plain, skip } = sum.found.unwrap_or(Found { frame: begin, plain: 0, skip: 0 });
    if frame < begin && content_size(file, frame)? != Some(plain) {
        return Err(damaged("a frame is not as long as the index says"));
    }
    let left = sum.plain.saturating_sub(offset);
    Ok(Some(Position { frame, skip, left, end: begin, length: sum.plain }))
}

/// A file without an index is one frame whose length is not said in it. One that begins as ours do has lost its end.
fn without(file: &File) -> io::Result<Option<Position>> {
    match content_size(file, 0)? {
        Some(size) if size == super::FRAME as u64 => Err(damaged("its end is missing")),
        _ => Ok(None),
    }
}

/// What the frame that begins there says that it has.
fn content_size(file: &File, at: u64) -> io::Result<Option<u64>> {
    let mut head = [0; 18];
    let read = file.read_at(&mut head, at)?;
    Ok(zstd::zstd_safe::get_frame_content_size(head.get(..read).unwrap_or_default()).ok().flatten())
}

fn header_of(size: u64) -> [u8; HEADER as usize] {
    // A number of more than 32 bits was never written.
    let [a, b, c, d] = SKIPPABLE.to_le_bytes();
    let [e, f, g, h] = u32::try_from(size).unwrap_or(0).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// What comes before a frame.
struct Sum {
    offset: u64,
    frame: u64,
    plain: u64,
    /// The frame that has the offset.
    found: Option<Found>,
    has_empty: bool,
}

struct Found {
    /// Where it begins.
    frame: u64,
    /// What it has of the log, and how much of that comes before the offset.
    plain: u64,
    skip: u64,
}

impl Sum {
    fn add(&mut self, entry: &[u8]) {
        let number = |at: usize| {
            let bytes = entry.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u64::from(bytes.map_or(0, u32::from_le_bytes))
        };
        let (packed, plain) = (number(0), number(4));
        // Of such a frame nobody would notice that it was passed over.
        self.has_empty |= plain == 0;
        let skip = self.offset.saturating_sub(self.plain);
        if self.found.is_none() && skip < plain {
            self.found = Some(Found { frame: self.frame, plain, skip });
        }
        self.frame = self.frame.saturating_add(packed);
        self.plain = self.plain.saturating_add(plain);
    }
}
