//! Logs: raw while they grow, compressed afterwards.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use drover_os::file::{self, Access};

const LEVEL: i32 = 9;

/// Compresses a log that has ended and removes the raw one. Gives the bytes of the raw one; none if there is no log.
/// Whenever it is cut off, one of the two is there, whole.
///
/// # Errors
/// What the system reports.
pub fn pack(raw: &Path, packed: &Path) -> io::Result<Option<u64>> {
    let mut from = match File::open(raw) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return size_of_packed(packed),
        Err(error) => return Err(error),
    };
    let mut size = 0;
    file::replace_with(packed, Access::Public, |to| {
        let mut encoder = zstd::stream::write::Encoder::new(to, LEVEL)?;
        size = io::copy(&mut from, &mut encoder)?;
        encoder.finish()?;
        Ok(())
    })?;
    std::fs::remove_file(raw)?;
    Ok(Some(size))
}

fn size_of_packed(packed: &Path) -> io::Result<Option<u64>> {
    let file = match File::open(packed) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    io::copy(&mut zstd::stream::read::Decoder::new(file)?, &mut io::sink()).map(Some)
}

/// Reads a log from an offset on, in whatever form it is.
pub enum LogReader {
    /// While it grows: reading on after the end gives what was added.
    Raw(File),
    /// When it has ended.
    Packed(Box<zstd::stream::read::Decoder<'static, io::BufReader<File>>>),
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw(_) => "LogReader::Raw",
            Self::Packed(_) => "LogReader::Packed",
        })
    }
}

impl LogReader {
    /// Opens a log; none if there is none (yet).
    ///
    /// # Errors
    /// What the system reports.
    pub fn open(raw: &Path, packed: &Path, offset: u64) -> io::Result<Option<Self>> {
        // Twice: the log may be packed between the two looks.
        for _ in 0..2 {
            match File::open(raw) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(offset))?;
                    return Ok(Some(Self::Raw(file)));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
            match File::open(packed) {
                Ok(file) => {
                    let mut decoder = Box::new(zstd::stream::read::Decoder::new(file)?);
                    io::copy(&mut (&mut decoder).take(offset), &mut io::sink())?;
                    return Ok(Some(Self::Packed(decoder)));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

impl Read for LogReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(file) => file.read(buffer),
            Self::Packed(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_reads_the_same_raw_and_packed_from_any_offset() {
        let folder = tempfile::tempdir().unwrap();
        let (raw, packed) = (folder.path().join("x.log"), folder.path().join("x.log.zst"));
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&raw, &bytes).unwrap();
        let read = |offset: usize| {
            let mut text = Vec::new();
            let mut reader = LogReader::open(&raw, &packed, offset as u64).unwrap().unwrap();
            reader.read_to_end(&mut text).unwrap();
            text
        };
        assert_eq!(read(12_345), &bytes[12_345..]);
        assert_eq!(pack(&raw, &packed).unwrap(), Some(bytes.len() as u64));
        assert!(!raw.exists());
        assert_eq!(read(12_345), &bytes[12_345..]);
        assert!(read(bytes.len() + 1).is_empty());
        assert_eq!(pack(&raw, &packed).unwrap(), Some(bytes.len() as u64), "packing again changes nothing");
    }

    #[test]
    fn a_try_without_a_log_has_nothing_to_pack() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pack(&folder.path().join("x.log"), &folder.path().join("x.log.zst")).unwrap(), None);
    }
}
