//! A nar that passes by, checked.

use std::io::{self, Write};

use super::{Error, Limits, Parser};

/// Checks that the bytes written to it are exactly one canonical nar: for bytes that arrive from somewhere and
/// go somewhere else. Writing fails at the first byte that is wrong.
#[derive(Debug)]
pub struct Verifier {
    parser: Parser,
}

impl Verifier {
    /// Starts before the first byte.
    pub fn new(limits: Limits) -> Self {
        Self { parser: Parser::new(limits) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they cannot be part of the nar, or when they follow it.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let taken = self.parser.push(bytes, &mut ())?;
        if taken < bytes.len() {
            return Err(Error::Trailing { offset: self.parser.offset() });
        }
        Ok(())
    }

    /// The size of the nar, which was complete and alone.
    ///
    /// # Errors
    /// When it was not complete.
    pub fn finish(self) -> Result<u64, Error> {
        self.parser.finish()?;
        Ok(self.parser.offset())
    }
}

impl Write for Verifier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
