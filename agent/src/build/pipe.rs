//! A pipe within the process: one thread writes, another reads, and little is in between.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Pieces in the pipe that nobody has read yet.
const PIECES: usize = 4;
/// The most bytes of a piece.
const PIECE: usize = 64 * 1024;

/// Makes a pipe. Its writer fails when the reader is gone.
pub(super) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = sync_channel(PIECES);
    (PipeWriter(sender), PipeReader { pieces: receiver, piece: Vec::new(), at: 0, failed: false })
}

/// The end that takes bytes.
pub(super) struct PipeWriter(SyncSender<io::Result<Vec<u8>>>);

impl PipeWriter {
    /// Ends the pipe with an error, which the reader sees after what was written. Dropping the writer ends it well.
    pub(super) fn fail(self, error: io::Error) {
        // A reader that is gone has its own error.
        let _ = self.0.send(Err(error));
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        if !piece.is_empty() {
            self.0.send(Ok(piece.to_vec())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end that gives them.
pub(super) struct PipeReader {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    failed: bool,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            if self.failed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match self.pieces.recv() {
                Ok(Ok(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Leaves out the beginning of what is written.
pub(super) struct Skipping<W> {
    pub(super) inner: W,
    pub(super) left: u64,
}

impl<W: Write> Write for Skipping<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.inner.write(bytes);
        }
        let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= skipped as u64;
        Ok(skipped)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_goes_in_comes_out_but_for_the_part_that_is_left_out() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (writer, mut reader) = pipe();
        let sent = bytes.clone();
        let writing = thread::spawn(move || Skipping { inner: writer, left: 300_001 }.write_all(&sent));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read == bytes[300_001..]);
    }

    #[test]
    fn a_failed_writer_is_no_end() {
        let (mut writer, mut reader) = pipe();
        writer.write_all(b"abc").unwrap();
        writer.fail(io::Error::other("torn"));
        let mut read = Vec::new();
        assert!(reader.read_to_end(&mut read).is_err());
        assert_eq!(read, b"abc");
        assert!(reader.read(&mut [0; 1]).is_err());
    }

    #[test]
    fn a_writer_whose_reader_is_gone_fails() {
        let (mut writer, reader) = pipe();
        drop(reader);
        assert!(writer.write_all(b"abc").is_err());
    }
}
