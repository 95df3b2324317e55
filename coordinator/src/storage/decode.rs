//! Compressed nars, read as plain ones: what a stream may cost is bounded, and what follows its end is an error.
//!
//! How much comes out is not bounded here: whoever reads knows how much was said.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use drover_store::Compression;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use super::WINDOW_LOG_MAX;

const BUFFER: usize = 128 * 1024;
/// The memory that a lzip stream may want: its largest dictionary (512 MiB) is beyond that, and beyond what anybody
/// compresses nars with.
const LZIP_MEMORY: u64 = (1 << WINDOW_LOG_MAX) + (16 << 20);

/// The plain bytes of a compressed stream, to its very end.
pub struct Plain<R: Read> {
    form: Form<BufReader<R>>,
    /// How to say what it should be.
    compression: Compression,
    /// Whether only its first frame is read.
    is_one: bool,
    ended: bool,
}

enum Form<R: BufRead> {
    None(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Lzip(Box<XzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'static, R>>),
}

impl<R: Read> fmt::Debug for Plain<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl<R: Read> Plain<R> {
    /// Starts before the first byte of `from`.
    ///
    /// # Errors
    /// When there is no memory for a decoder.
    pub fn new(compression: Compression, from: R) -> io::Result<Self> {
        let from = BufReader::with_capacity(BUFFER, from);
        let form = match compression {
            Compression::None => Form::None(from),
            Compression::Gzip => Form::Gzip(Box::new(MultiGzDecoder::new(from))),
            Compression::Lzip => {
                let stream = Stream::new_lzip_decoder(LZIP_MEMORY, CONCATENATED)?;
                Form::Lzip(Box::new(XzDecoder::new_stream(from, stream)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(from)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Form::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { form, compression, is_one: false, ended: false })
    }

    /// As [`Plain::new`], for a stream whose end may not be told from a pause: `guix publish` leaves connections open
    /// after a zstd stream, and says no length. It ends with its first frame.
    ///
    /// # Errors
    /// As [`Plain::new`].
    pub fn one(compression: Compression, from: R) -> io::Result<Self> {
        let mut plain = Self::new(compression, from)?;
        if let Form::Zstd(decoder) = plain.form {
            plain.form = Form::Zstd(Box::new(decoder.single_frame()));
            plain.is_one = true;
        }
        Ok(plain)
    }

    /// What it reads from.
    pub fn get_ref(&self) -> &R {
        match &self.form {
            Form::None(from) => from.get_ref(),
            Form::Gzip(decoder) => decoder.get_ref().get_ref(),
            Form::Lzip(decoder) => decoder.get_ref().get_ref(),
            Form::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn rest(&mut self) -> &mut BufReader<R> {
        match &mut self.form {
            Form::None(from) => from,
            Form::Gzip(decoder) => decoder.get_mut(),
            Form::Lzip(decoder) => decoder.get_mut(),
            Form::Zstd(decoder) => decoder.get_mut(),
        }
    }

    fn wrong(&self, error: &dyn fmt::Display) -> io::Error {
        let compression = self.compression;
        io::Error::new(io::ErrorKind::InvalidData, format!("is no whole {compression} stream: {error}"))
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = match &mut self.form {
            Form::None(from) => return from.read(buffer),
            Form::Gzip(decoder) => decoder.read(buffer),
            Form::Lzip(decoder) => decoder.read(buffer),
            Form::Zstd(decoder) => decoder.read(buffer),
        };
        match read {
            Ok(0) => {
                // A lzip decoder stops before what is no member of a lzip file.
                let is_one = self.is_one;
                let rest = self.rest();
                let follows = if is_one { rest.buffer() } else { rest.fill_buf()? };
                if !follows.is_empty() {
                    return Err(self.wrong(&"something follows its end"));
                }
                self.ended = true;
                Ok(0)
            }
            Err(error) if is_of_decoder(&error) => Err(self.wrong(&error)),
            read => read,
        }
    }
}

/// Whether an error is the decoder's word about the bytes, and not that of whatever they are read from.
fn is_of_decoder(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, OutOfMemory, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | Other | OutOfMemory | UnexpectedEof)
}

/// A lzip member; liblzma reads lzip and does not write it. Its body is LZMA without a header of its own.
#[cfg(test)]
pub(crate) fn lzip(plain: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    let stream = Stream::new_lzma_encoder(&options).unwrap();
    let mut alone = Vec::new();
    liblzma::bufread::XzEncoder::new_stream(plain, stream).read_to_end(&mut alone).unwrap();
    // The header of .lzma: properties, dictionary (4 bytes), length (8 bytes).
    assert_eq!(alone[0], 93, "lzip knows lc=3, lp=0, pb=2 only");
    let body = &alone[13..];
    let mut member = b"LZIP\x01".to_vec();
    member.push(23); // a dictionary of 8 MiB
    member.extend_from_slice(body);
    let mut crc = flate2::Crc::new();
    crc.update(plain);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&(plain.len() as u64).to_le_bytes());
    let size = member.len() as u64 + 8;
    member.extend_from_slice(&size.to_le_bytes());
    member
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn pack(compression: Compression, plain: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => plain.to_vec(),
            Compression::Gzip => gzip(plain),
            Compression::Lzip => lzip(plain),
            Compression::Zstd => zstd::encode_all(plain, 3).unwrap(),
        }
    }

    fn read(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        let mut reader = Plain::new(compression, bytes).unwrap();
        reader.read_to_end(&mut plain).map(|_| plain).map_err(|error| error.to_string())
    }

    const PACKED: [Compression; 3] = [Compression::Gzip, Compression::Lzip, Compression::Zstd];

    fn text() -> Vec<u8> {
        (0..100_000_u32).flat_map(|n| (n % 777).to_le_bytes()).collect()
    }

    #[test]
    fn what_was_compressed_comes_out_again_also_from_several_members() {
        let text = text();
        for compression in Compression::ALL {
            let once = pack(compression, &text);
            assert_eq!(read(compression, &once), Ok(text.clone()), "{compression}");
            let twice = [&once[..], &pack(compression, b"and more")].concat();
            assert_eq!(read(compression, &twice), Ok([&text[..], b"and more"].concat()), "{compression}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_anywhere_is_no_whole_one() {
        for compression in PACKED {
            let bytes = pack(compression, &text());
            for cut in [1, 5, bytes.len() / 2, bytes.len() - 1] {
                let error = read(compression, &bytes[..cut]).unwrap_err();
                assert!(error.contains("no whole"), "{compression} cut at {cut}: {error}");
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        for compression in PACKED {
            let bytes = [&pack(compression, b"text")[..], b"and something that is no member"].concat();
            let error = read(compression, &bytes).unwrap_err();
            assert!(error.contains("no whole"), "{compression}: {error}");
        }
    }

    #[test]
    fn a_stream_that_wants_much_memory_is_refused() {
        let mut bytes = lzip(b"text");
        bytes[5] = 29; // 512 MiB
        assert!(read(Compression::Lzip, &bytes).is_err());
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&text()).unwrap();
        assert!(read(Compression::Zstd, &encoder.finish().unwrap()).is_err());
    }

    #[test]
    fn another_compression_than_was_said_is_refused() {
        for said in PACKED {
            for is in PACKED.into_iter().filter(|is| *is != said) {
                assert!(read(said, &pack(is, b"text")).is_err(), "{is} was read as {said}");
            }
        }
    }
}
