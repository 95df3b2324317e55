//! Checks a whole collection of derivations: each against its own bytes and name, and all against each other.

use crate::derivation::ParseError;
use crate::path::{self, StorePath};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Derivations that were given.
    pub total: usize,
    /// Those that could be parsed.
    pub parsed: usize,
    /// Those whose printed bytes are the bytes that were read.
    pub exact: usize,
    /// Those whose bytes have the path that they were given under.
    pub named: usize,
    /// Those whose computed outputs are the outputs written in them.
    pub outputs: usize,
    /// What is not as it should be, sorted by name.
    pub problems: Vec<(String, Problem)>,
}

/// What is wrong with one derivation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// It is no derivation.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// Printing gives other bytes.
    #[error("the bytes that printing gives are not the bytes that were read")]
    NotExact,
    /// Its bytes belong to another path.
    #[error("its bytes belong to {0}")]
    WrongName(StorePath),
    /// No path can be made for it or its outputs.
    #[error(transparent)]
    Path(#[from] path::Error),
    /// An output is written that is not what the derivation makes.
    #[error("its output '{output}' is written as {written} but computes to {computed}")]
    WrongOutput {
        /// The output's name.
        output: String,
        /// The path in the text.
        written: StorePath,
        /// The path that follows from the rest of the text and from its inputs.
        computed: StorePath,
    },
    /// Its outputs cannot be computed, since an input was not given or could not be read.
    #[error("its outputs cannot be computed: its input {0} is not here or could not be read")]
    MissingInput(StorePath),
    /// Its outputs cannot be computed, since it is one of a circle.
    #[error("its outputs cannot be computed: it is an input of itself")]
    Cycle,
    /// It was given before.
    #[error("it was given more than once")]
    Duplicate,
}

impl Report {
    /// Whether all is as it should be.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}
