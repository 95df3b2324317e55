//! Why a run failed: one value, of bounded size.

use crate::farm::error::Error;
use crate::storage::StoreError;

/// The most bytes of an error that are kept.
const MOST: usize = 2048;

/// Why a run did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It failed: it is tried again, as long as it may be.
    #[error("{0}")]
    Failed(String),
    /// The coordinator stops: the run starts anew with it.
    #[error("the coordinator is stopping")]
    Stopped,
}

impl Failure {
    /// With these words, as many of them as are kept.
    pub(super) fn new(words: &str) -> Self {
        let words = words.trim_end();
        let end = (0..=MOST.min(words.len())).rev().find(|end| words.is_char_boundary(*end)).unwrap_or(0);
        Self::Failed(words[..end].to_owned())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Stopping => Self::Stopped,
            other => Self::new(&other.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(&error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let Failure::Failed(words) = Failure::new(&"ä".repeat(MOST)) else { panic!() };
        assert!(words.len() <= MOST && words.chars().all(|letter| letter == 'ä'));
    }
}
