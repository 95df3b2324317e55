//! A nar on its way out: hashed, compressed and hashed again while it streams by.
//!
//! Reading and hashing the nar go on in one thread, compressing in another, hashing and writing the result in a
//! third, with a few buffers between them: memory does not grow with the nar.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use drover_store::Sha256Hash;
use drover_store::hash::{HashingReader, HashingWriter};
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;

/// Bytes that the compressor is given at a time.
const CHUNK: usize = 256 * 1024;

/// Bytes of a job of the compressor. It holds several of them at a time; its own choice would be 8 MiB.
const JOB: u32 = 768 * 1024;

/// Buffers that are filled, waiting or being emptied.
const BUFFERS: usize = 4;

/// What went by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// SHA-256 of the nar.
    pub nar_hash: Sha256Hash,
    /// Bytes of the nar.
    pub nar_size: u64,
    /// SHA-256 of what was written.
    pub file_hash: Sha256Hash,
    /// Bytes that were written.
    pub file_size: u64,
}

/// Why a nar could not be sent on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source of the nar failed.
    #[error("cannot read the nar that is to be compressed: {0}")]
    Read(#[source] io::Error),
    /// The destination failed, or the compressor.
    #[error("cannot write the compressed nar: {0}")]
    Write(#[source] io::Error),
}

/// Compresses `nar` to `out` as one zstd frame of that level.
///
/// The same nar and level give the same bytes, in whatever pieces `nar` is read: a broken upload is resumed by
/// compressing again and leaving out what was sent. (Another version of zstd may give other bytes.)
///
/// # Errors
/// When `nar` or `out` fails. What was written until then is the beginning of the right bytes.
pub fn compress(nar: impl Read + Send, out: impl Write, level: i32) -> Result<Summary, Error> {
    let (filled, to_compress) = sync_channel::<io::Result<Vec<u8>>>(BUFFERS);
    let (emptied, to_fill) = sync_channel::<Vec<u8>>(BUFFERS);
    thread::scope(|scope| {
        let mut nar = HashingReader::new(nar);
        let reader = scope.spawn(move || {
            read(&mut nar, &filled, &to_fill);
            let (_, hash, size) = nar.finish();
            (hash, size)
        });
        let written = write(&to_compress, &emptied, out, level);
        // Hanging up is what ends a reader that is ahead of a writer that failed.
        drop((to_compress, emptied));
        let (nar_hash, nar_size) =
            reader.join().map_err(|_| Error::Read(io::Error::other("the reading thread has panicked")))?;
        let (file_hash, file_size) = written?;
        Ok(Summary { nar_hash, nar_size, file_hash, file_size })
    })
}

/// Fills buffers to the brim, all but the last: the compressor must not see in what pieces the nar came.
fn read(nar: &mut impl Read, filled: &SyncSender<io::Result<Vec<u8>>>, to_fill: &Receiver<Vec<u8>>) {
    let mut made = 0;
    loop {
        let mut buffer = if made < BUFFERS {
            made += 1;
            Vec::with_capacity(CHUNK)
        } else {
            match to_fill.recv() {
                Ok(buffer) => buffer,
                Err(_) => return,
            }
        };
        buffer.clear();
        let result = nar.by_ref().take(CHUNK as u64).read_to_end(&mut buffer);
        let is_last = !matches!(result, Ok(CHUNK));
        if filled.send(result.map(|_| buffer)).is_err() || is_last {
            return;
        }
    }
}

fn write(
    to_compress: &Receiver<io::Result<Vec<u8>>>,
    emptied: &SyncSender<Vec<u8>>,
    out: impl Write,
    level: i32,
) -> Result<(Sha256Hash, u64), Error> {
    let encoder = zstd::stream::write::Encoder::new(HashingWriter::new(out), level);
    let mut encoder = encoder.and_then(with_worker).map_err(Error::Write)?;
    // Ends when the reader has hung up, after the last buffer or a failure, which it sends along.
    for buffer in to_compress {
        let buffer = buffer.map_err(Error::Read)?;
        encoder.write_all(&buffer).map_err(Error::Write)?;
        // The reader may have ended; then nobody needs the buffer.
        let _ = emptied.send(buffer);
    }
    let mut out = encoder.finish().map_err(Error::Write)?;
    out.flush().map_err(Error::Write)?;
    let (_, hash, size) = out.finish();
    Ok((hash, size))
}

/// Lets zstd compress in a thread of its own, in jobs, as its command does. Without one it compresses from a ring,
/// which is slower once the ring has gone round, since matches may lie on both sides of its seam. The jobs are cut
/// by size only, so the bytes stay the same from run to run.
fn with_worker<W: Write>(mut encoder: Encoder<'_, W>) -> io::Result<Encoder<'_, W>> {
    encoder.multithread(1)?;
    encoder.set_parameter(CParameter::JobSize(JOB))?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in pieces of sizes that vary.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = (self.1 * 7 + 13) % 9973;
            let len = self.1.max(1).min(buffer.len());
            self.0.read(&mut buffer[..len])
        }
    }

    /// Fails when it has given or taken that many bytes.
    struct Failing(usize);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.min(buffer.len()) {
                0 => Err(io::Error::other("torn")),
                len => {
                    self.0 -= len;
                    Ok(len)
                }
            }
        }
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Failing::read(self, &mut vec![0; bytes.len()])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sample() -> Vec<u8> {
        (0..6_000_000u32)
            .flat_map(|n| [(n >> 3) as u8, (n.wrapping_mul(2_654_435_761) >> 28) as u8])
            .collect()
    }

    #[test]
    fn the_pieces_in_which_a_nar_is_read_do_not_show() {
        let nar = sample();
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let first = compress(&nar[..], &mut whole, 3).unwrap();
        let second = compress(Pieces(&nar, 1), &mut pieces, 3).unwrap();
        assert_eq!(first, second);
        assert!(whole == pieces);
        assert_eq!(first.nar_hash, Sha256Hash::of(&nar));
        assert_eq!(first.file_hash, Sha256Hash::of(&whole));
        assert_eq!((first.nar_size, first.file_size), (nar.len() as u64, whole.len() as u64));
        assert!(zstd::decode_all(&whole[..]).unwrap() == nar);
    }

    #[test]
    fn sizes_at_the_edge_of_a_buffer_come_through() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BUFFERS * CHUNK, (BUFFERS + 2) * CHUNK + 1] {
            let nar = &sample()[..size];
            let mut file = Vec::new();
            assert_eq!(compress(nar, &mut file, 3).unwrap().nar_size, size as u64);
            assert!(zstd::decode_all(&file[..]).unwrap() == nar, "{size}");
        }
    }

    #[test]
    fn either_end_that_fails_ends_it() {
        assert!(matches!(compress(Failing(5 * CHUNK), io::sink(), 3), Err(Error::Read(_))));
        let random = io::repeat(1).take(1 << 26).chain(Failing(0));
        assert!(matches!(compress(random, Failing(100), 3), Err(Error::Write(_))));
    }
}
