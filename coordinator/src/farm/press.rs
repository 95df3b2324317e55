//! Compression of many small things.

use std::io;

/// The level at which small things are compressed. Higher ones gain little on them.
const LEVEL: i32 = 3;

/// A compressor that is used again and again: making one costs more than a text does.
pub(super) struct Press {
    compressor: zstd::bulk::Compressor<'static>,
    pressed: Vec<u8>,
}

impl Press {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(LEVEL)?, pressed: Vec::new() })
    }

    /// These bytes as a zstd frame.
    pub(super) fn press(&mut self, bytes: &[u8]) -> io::Result<&[u8]> {
        self.pressed.clear();
        self.pressed.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        self.compressor.compress_to_buffer(bytes, &mut self.pressed)?;
        Ok(&self.pressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_comes_back_as_it_was() {
        let mut press = Press::new().unwrap();
        for length in [100_000, 0, 1, 3000] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 37) as u8).collect();
            let pressed = press.press(&bytes).unwrap();
            assert_eq!(zstd::decode_all(pressed).unwrap(), bytes);
        }
    }
}
