//! Nars that are one file, as those of texts and downloads are.

use super::{Error, Visitor};

/// What takes the contents of a file, piece by piece.
pub trait Contents {
    /// The next bytes.
    fn update(&mut self, bytes: &[u8]);
}

/// Passes on the contents of a nar that is one file, and not executable, and knows whether it is.
#[derive(Debug, Default)]
pub struct OneFile<C> {
    /// What took them; of a nar that is anything else, it took none, or some.
    pub contents: C,
    is_other: bool,
}

impl<C> OneFile<C> {
    /// Passes contents on to this.
    pub fn new(contents: C) -> Self {
        Self { contents, is_other: false }
    }

    /// Whether it was nothing else so far.
    pub fn is_one(&self) -> bool {
        !self.is_other
    }
}

impl<C: Contents> Visitor for OneFile<C> {
    fn regular(&mut self, executable: bool, _: u64) -> Result<(), Error> {
        self.is_other |= executable;
        Ok(())
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if !self.is_other {
            self.contents.update(bytes);
        }
        Ok(())
    }

    fn end_regular(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8]) -> Result<(), Error> {
        self.is_other = true;
        Ok(())
    }

    fn directory(&mut self) -> Result<(), Error> {
        self.is_other = true;
        Ok(())
    }

    fn entry(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
