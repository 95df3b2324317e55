//! Decompression of many streams, one after another or several at a time.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer, WriteBuf};
use zstd::stream::zio::Reader;
use zstd::zstd_safe::DCtx;

/// Decompressors of zstd, which are used again: each has a window of megabytes, and having the system give that memory
/// page by page for each stream takes about as long as the decompression.
pub(crate) struct Decompressors {
    window_log_max: u32,
    idle: Mutex<Vec<Decoder<'static>>>,
    /// What streams are read into, for the same reason.
    buffers: Mutex<Vec<Box<[u8]>>>,
}

impl Decompressors {
    /// Of streams whose window is of at most this power of two.
    pub(crate) fn new(window_log_max: u32) -> Self {
        Self { window_log_max, idle: Mutex::default(), buffers: Mutex::default() }
    }

    /// What is in a compressed stream, all of it.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn read<R: Read>(&self, from: R) -> io::Result<Reader<Filled<'_, R>, Lent<'_>>> {
        let idle = self.idle().pop();
        let decoder = match idle {
            Some(mut decoder) => {
                decoder.reinit()?;
                decoder
            }
            None => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(self.window_log_max))?;
                decoder
            }
        };
        let buffer = self.buffers().pop().unwrap_or_else(|| vec![0; DCtx::in_size()].into_boxed_slice());
        let wanted = Arc::new(AtomicUsize::new(0));
        let from = Filled { from, buffer, start: 0, end: 0, wanted: Arc::clone(&wanted), home: self };
        Ok(Reader::new(from, Lent { decoder: Some(decoder), wanted, home: self }))
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Decoder<'static>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a compressed stream until there is as much of it as the decompressor can use: of a block that is not whole, it
/// would keep a copy of its own. No more is waited for than the frame has.
pub(crate) struct Filled<'a, R> {
    from: R,
    /// Goes back in the end.
    buffer: Box<[u8]>,
    /// What is there and was not used.
    start: usize,
    end: usize,
    /// The bytes that the decompressor can use.
    wanted: Arc<AtomicUsize>,
    home: &'a Decompressors,
}

impl<R: Read> BufRead for Filled<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let wanted = self.wanted.load(Ordering::Relaxed).clamp(1, self.buffer.len());
        if self.end - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < wanted {
                match self.from.read(self.buffer.get_mut(self.end..).unwrap_or_default())? {
                    0 => break,
                    n => self.end += n,
                }
            }
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, used: usize) {
        self.start = self.end.min(self.start + used);
    }
}

impl<R: Read> Read for Filled<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R> Drop for Filled<'_, R> {
    fn drop(&mut self) {
        self.home.buffers().push(std::mem::take(&mut self.buffer));
    }
}

/// A decompressor that goes back in the end, wherever its stream has ended.
pub(crate) struct Lent<'a> {
    /// There until then.
    decoder: Option<Decoder<'static>>,
    /// How many bytes it can use next, as it says itself.
    wanted: Arc<AtomicUsize>,
    home: &'a Decompressors,
}

impl Lent<'_> {
    fn decoder(&mut self) -> io::Result<&mut Decoder<'static>> {
        self.decoder.as_mut().ok_or_else(|| io::Error::other("the decompressor has been given back"))
    }
}

impl Operation for Lent<'_> {
    fn run<C: WriteBuf + ?Sized>(
        &mut self,
        input: &mut InBuffer<'_>,
        output: &mut OutBuffer<'_, C>,
    ) -> io::Result<usize> {
        let wanted = self.decoder()?.run(input, output)?;
        self.wanted.store(wanted, Ordering::Relaxed);
        Ok(wanted)
    }

    fn flush<C: WriteBuf + ?Sized>(&mut self, output: &mut OutBuffer<'_, C>) -> io::Result<usize> {
        self.decoder()?.flush(output)
    }

    fn reinit(&mut self) -> io::Result<()> {
        self.decoder()?.reinit()
    }

    fn finish<C: WriteBuf + ?Sized>(
        &mut self,
        output: &mut OutBuffer<'_, C>,
        finished_frame: bool,
    ) -> io::Result<usize> {
        self.decoder()?.finish(output, finished_frame)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.home.idle().extend(self.decoder.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn text(length: u32) -> Vec<u8> {
        (0..length).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
    }

    #[test]
    fn one_decompressor_does_for_many_streams_also_after_those_that_break_or_are_left() {
        let (text, other) = (text(300_000), text(1000));
        let packed = compressed(&text);
        let decompressors = Decompressors::new(27);
        for _ in 0..2 {
            let mut broken = decompressors.read(&packed[..packed.len() / 2]).unwrap();
            let error = broken.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            drop(broken);
            let mut left = decompressors.read(&packed[..]).unwrap();
            left.read_exact(&mut [0; 5000]).unwrap();
            drop(left);
            assert!(decompressors.read(&b"no such thing"[..]).unwrap().read(&mut [0; 9]).is_err());
            for text in [&text, &other] {
                let packed = compressed(text);
                let mut read = Vec::new();
                decompressors.read(&packed[..]).unwrap().read_to_end(&mut read).unwrap();
                assert!(read == *text);
            }
        }
        assert_eq!(decompressors.idle().len(), 1);
    }

    /// Gives some bytes in small pieces, and after them only an error.
    struct Pieces<'a>(&'a [u8]);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("more was waited for than there is"));
            }
            let most = buffer.len().min(777);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn what_has_come_in_small_pieces_is_there_without_a_wait_for_what_comes_after_it() {
        let (one, other) = (text(300_000), text(1000));
        let decompressors = Decompressors::new(27);
        for _ in 0..2 {
            let packed = [compressed(&one), compressed(&other)].concat();
            let mut reader = decompressors.read(Pieces(&packed)).unwrap();
            let mut read = vec![0; one.len() + other.len()];
            reader.read_exact(&mut read).unwrap();
            assert!(read == [one.as_slice(), &other].concat());
            assert!(reader.read(&mut [0]).unwrap_err().to_string().contains("waited"));
        }
        assert_eq!(decompressors.buffers().len(), 1);
    }

    #[test]
    fn several_streams_at_a_time_have_decompressors_of_their_own() {
        let (one, other) = (text(100_000), text(90_000));
        let (one_packed, other_packed) = (compressed(&one), compressed(&other));
        let decompressors = Decompressors::new(27);
        let mut one_reader = decompressors.read(&one_packed[..]).unwrap();
        let mut other_reader = decompressors.read(&other_packed[..]).unwrap();
        let (mut one_read, mut other_read) = (vec![0; 5000], vec![0; 6000]);
        one_reader.read_exact(&mut one_read).unwrap();
        other_reader.read_exact(&mut other_read).unwrap();
        one_reader.read_to_end(&mut one_read).unwrap();
        other_reader.read_to_end(&mut other_read).unwrap();
        assert!(one_read == one && other_read == other);
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused_also_by_a_decompressor_that_is_used_again() {
        let text = text(1_000_000);
        // By its size, of which a writer knows nothing, the window is the level's: of 2 MiB.
        let (packed, small) = (compressed(&text), zstd::encode_all(&b"small"[..], 1).unwrap());
        let decompressors = Decompressors::new(20);
        for _ in 0..2 {
            let error = decompressors.read(&packed[..]).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("memory"), "{error}");
            assert_eq!(decompressors.read(&small[..]).unwrap().read_to_end(&mut Vec::new()).unwrap(), 5);
        }
        let allowed = Decompressors::new(21);
        assert_eq!(allowed.read(&packed[..]).unwrap().read_to_end(&mut Vec::new()).unwrap(), text.len());
    }
}
