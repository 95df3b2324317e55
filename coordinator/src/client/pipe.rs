//! A pipe between two threads with a bounded number of chunks on the way: what one writes, the other reads.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 8;

/// The two ends of a new pipe. The reader sees the end only after [`PipeWriter::finish`]; a writer that is dropped
/// before that is a read error, so that what broke off is never taken for whole.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = sync_channel(CHUNKS);
    let writer = PipeWriter { sender, chunk: Vec::with_capacity(CHUNK) };
    (writer, PipeReader { receiver, chunk: Vec::new(), at: 0, ended: false })
}

#[derive(Debug)]
enum Message {
    Chunk(Vec<u8>),
    End,
}

#[derive(Debug)]
pub(crate) struct PipeWriter {
    sender: SyncSender<Message>,
    chunk: Vec<u8>,
}

impl PipeWriter {
    /// Says that this was all.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Message::End)
    }

    fn send(&self, message: Message) -> io::Result<()> {
        self.sender.send(message).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..n]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.send(Message::Chunk(full))
    }
}

#[derive(Debug)]
pub(crate) struct PipeReader {
    receiver: Receiver<Message>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.recv() {
                Ok(Message::Chunk(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_end_is_seen() {
        let (mut writer, mut reader) = pipe();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let thread = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.finish().unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap();
        assert!(got == expected);
    }

    #[test]
    fn a_writer_that_breaks_off_is_an_error_and_no_end() {
        let (mut writer, mut reader) = pipe();
        writer.write_all(b"half").unwrap();
        writer.flush().unwrap();
        drop(writer);
        let mut got = Vec::new();
        assert_eq!(reader.read_to_end(&mut got).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_reader_that_has_gone_stops_the_writer() {
        let (mut writer, reader) = pipe();
        drop(reader);
        assert!(writer.write_all(&vec![0; 2 * CHUNK]).is_err());
    }
}
