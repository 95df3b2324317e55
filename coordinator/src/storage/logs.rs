//! Logs: raw while they grow, compressed afterwards.
//!
//! A packed log is one zstd frame for each MiB of it, and an index of these in a skippable frame at its end, as zstd's
//! seekable format has it (contrib/seekable_format in zstd's source): any program that knows zstd reads the whole, and
//! who wants its end finds it at once. Logs that were packed before are one frame; they are read from their beginning.

mod index;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take, Write};
use std::path::Path;

use drover_os::file::{self, Access};
use zstd::stream::read::Decoder;

use super::WINDOW_LOG_MAX;
use index::{Index, Position};

const LEVEL: i32 = 9;
/// How much of a log a frame has.
const FRAME: usize = 1 << 20;

/// Compresses a log that has ended and removes the raw one. Gives the bytes of the raw one; none if there is no log.
/// Whenever it is cut off, one of the two is there, whole.
///
/// # Errors
/// What the system reports.
pub fn pack(raw: &Path, packed: &Path) -> io::Result<Option<u64>> {
    let mut from = match File::open(raw) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return length(raw, packed, Effort::Any),
        Err(error) => return Err(error),
    };
    let mut size = 0;
    file::replace_with(packed, Access::Public, |to| {
        size = compress(&mut from, to)?;
        Ok(())
    })?;
    std::fs::remove_file(raw)?;
    Ok(Some(size))
}

/// Frame by frame; gives the bytes that went in.
fn compress(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    // A frame that is read in part is not checked; but most are read to their end.
    compressor.include_checksum(true)?;
    let mut index = Index::default();
    let mut piece = Vec::with_capacity(FRAME);
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME));
    loop {
        piece.clear();
        from.by_ref().take(FRAME as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            break;
        }
        frame.clear();
        compressor.compress_to_buffer(&piece, &mut frame)?;
        to.write_all(&frame)?;
        index.add(frame.len(), piece.len())?;
    }
    index.write(to)?;
    Ok(index.length())
}

/// What the length of a log may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A look at files.
    Little,
    /// A log that was packed without an index is read to its end.
    Any,
}

/// The bytes of a log that has ended; none if there is no log, or if it would take more than that.
///
/// # Errors
/// What the system reports, and a packed log that is damaged.
pub fn length(raw: &Path, packed: &Path, effort: Effort) -> io::Result<Option<u64>> {
    let opened = open(raw, packed)?;
    match opened {
        None => Ok(None),
        Some(Form::Raw(file)) => Ok(Some(file.metadata()?.len())),
        Some(Form::Packed(file)) => match index::find(&file, u64::MAX)? {
            Some(position) => Ok(Some(position.length)),
            None if effort == Effort::Little => Ok(None),
            None => io::copy(&mut decoder(file)?, &mut io::sink()).map(Some),
        },
    }
}

/// A log's file.
enum Form {
    Raw(File),
    Packed(File),
}

fn open(raw: &Path, packed: &Path) -> io::Result<Option<Form>> {
    // Twice: the log may be packed between the two looks.
    for _ in 0..2 {
        for (path, form) in [(raw, Form::Raw as fn(File) -> Form), (packed, Form::Packed)] {
            match File::open(path) {
                Ok(file) => return Ok(Some(form(file))),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
    }
    Ok(None)
}

fn decoder<R: Read>(from: R) -> io::Result<Decoder<'static, BufReader<R>>> {
    let mut decoder = Decoder::new(from)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Reads a log from an offset on, in whatever form it is.
pub enum LogReader {
    /// While it grows: reading on after the end gives what was added.
    Raw(File),
    /// When it has ended.
    Packed(Box<Packed>),
    /// When it has ended and was packed without an index.
    Old(Box<Decoder<'static, BufReader<File>>>),
}

/// The frames of a packed log, from the first that is wanted on.
pub struct Packed {
    /// None where no frame is wanted.
    frames: Option<Decoder<'static, BufReader<Take<File>>>>,
    /// What is still to come of the log, by its index.
    left: u64,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw(_) => "LogReader::Raw",
            Self::Packed(_) => "LogReader::Packed",
            Self::Old(_) => "LogReader::Old",
        })
    }
}

impl LogReader {
    /// Opens a log; none if there is none (yet).
    ///
    /// # Errors
    /// What the system reports, and a packed log that is damaged.
    pub fn open(raw: &Path, packed: &Path, offset: u64) -> io::Result<Option<Self>> {
        Ok(Some(match open(raw, packed)? {
            None => return Ok(None),
            Some(Form::Raw(mut file)) => {
                file.seek(SeekFrom::Start(offset))?;
                Self::Raw(file)
            }
            Some(Form::Packed(file)) => match index::find(&file, offset)? {
                Some(position) => Self::Packed(Box::new(Packed::open(file, &position)?)),
                None => {
                    let mut old = Box::new(decoder(file)?);
                    io::copy(&mut (&mut old).take(offset), &mut io::sink())?;
                    Self::Old(old)
                }
            },
        }))
    }
}

impl Packed {
    fn open(mut file: File, position: &Position) -> io::Result<Self> {
        file.seek(SeekFrom::Start(position.frame))?;
        let frames = match position.end - position.frame {
            0 => None,
            bytes => Some(decoder(file.take(bytes))?),
        };
        let mut packed = Self { frames, left: position.left + position.skip };
        let skipped = io::copy(&mut (&mut packed).take(position.skip), &mut io::sink())?;
        if skipped < position.skip {
            Err(index::damaged("a frame is shorter than it says"))
        } else {
            Ok(packed)
        }
    }
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(frames) = &mut self.frames else { return Ok(0) };
        if self.left == 0 {
            let more = frames.read(&mut [0])?;
            return if more == 0 {
                Ok(0)
            } else {
                Err(index::damaged("its frames go on after the log's end"))
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = frames.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(index::damaged("its frames end before the log does"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

impl Read for LogReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(file) => file.read(buffer),
            Self::Packed(packed) => packed.read(buffer),
            Self::Old(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests;
