//! How nars are compressed.

use std::fmt;
use std::str::FromStr;

/// A compression that clients of substitute servers understand. Its number is how databases keep it, and rises with how
/// gladly clients take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// None at all.
    None = 0,
    /// gzip (RFC 1952).
    Gzip = 1,
    /// lzip (LZMA in its own frame).
    Lzip = 2,
    /// Zstandard (RFC 8878).
    Zstd = 3,
}

/// A word or a number that stands for no compression that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compression '{0}' is not known; there are none, gzip, lzip and zstd")]
pub struct UnknownCompression(String);

impl Compression {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Lzip, Self::Zstd];

    /// The word in a narinfo and in addresses.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lzip => "lzip",
            Self::Zstd => "zstd",
        }
    }

    /// What the name of a file ends with, after `.nar`.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Lzip => ".lz",
            Self::Zstd => ".zst",
        }
    }

    /// That with this number.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_number(number: i64) -> Result<Self, UnknownCompression> {
        let found = Self::ALL.into_iter().find(|one| *one as i64 == number);
        found.ok_or_else(|| UnknownCompression(number.to_string()))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(word: &str) -> Result<Self, UnknownCompression> {
        let found = Self::ALL.into_iter().find(|one| one.word() == word);
        found.ok_or_else(|| UnknownCompression(word.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_lead_back_to_their_compression() {
        for one in Compression::ALL {
            assert_eq!(one.word().parse(), Ok(one));
            assert_eq!(Compression::from_number(one as i64), Ok(one));
        }
        assert!("bzip2".parse::<Compression>().is_err());
        assert!(Compression::from_number(4).is_err());
    }
}
