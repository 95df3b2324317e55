//! Decompression of many streams, one after another or several at a time.

use std::io::{self, BufReader, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer, WriteBuf};
use zstd::stream::zio::Reader;
use zstd::zstd_safe::DCtx;

/// Decompressors of zstd, which are used again: each has a window of megabytes, and having the system give that memory
/// page by page for each stream takes about as long as the decompression.
pub(crate) struct Decompressors {
    window_log_max: u32,
    idle: Mutex<Vec<Decoder<'static>>>,
}

impl Decompressors {
    /// Of streams whose window is of at most this power of two.
    pub(crate) fn new(window_log_max: u32) -> Self {
        Self { window_log_max, idle: Mutex::default() }
    }

    /// What is in a compressed stream, all of it.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn read<R: Read>(&self, from: R) -> io::Result<Reader<BufReader<R>, Lent<'_>>> {
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
        let from = BufReader::with_capacity(DCtx::in_size(), from);
        Ok(Reader::new(from, Lent { decoder: Some(decoder), home: self }))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Decoder<'static>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A decompressor that goes back in the end, wherever its stream has ended.
pub(crate) struct Lent<'a> {
    /// There until then.
    decoder: Option<Decoder<'static>>,
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
        self.decoder()?.run(input, output)
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
