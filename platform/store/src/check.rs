//! Checks a whole collection of derivations: each against its own bytes and name, and all against each other.
//!
//! Derivations come in any order. What is kept of each until all are there is its text without its inputs, which
//! are most of it, and the inputs as numbers: about 190 MB for the 72,337 derivations of a whole Guix.

mod graph;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Derivation;
use crate::derivation::ParseError;
use crate::path::{self, StorePath};

use graph::Graph;

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
    /// Its outputs cannot be computed, since those of an input cannot, or since it is one of a circle.
    #[error("its outputs cannot be computed, as those of its input {0} cannot")]
    UnresolvedInput(StorePath),
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

/// Checks all of `items`, on as many threads. `load` puts the bytes of an item into the buffer and answers the
/// path that they are given under; what it says when it cannot goes into the report.
pub fn check<T: Sync>(
    items: &[T],
    threads: NonZeroUsize,
    load: impl Fn(&T, &mut Vec<u8>) -> Result<StorePath, String> + Sync,
) -> Report {
    let checker = Mutex::new(Checker::new());
    let next = AtomicUsize::new(0);
    on_threads(threads.get(), || {
        let (mut bytes, mut printed) = (Vec::new(), Vec::new());
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            bytes.clear();
            let loaded = load(item, &mut bytes).map(|path| Alone::new(path, &bytes, &mut printed));
            let mut checker = checker.lock().unwrap_or_else(PoisonError::into_inner);
            match loaded {
                Ok(alone) => checker.put(alone),
                Err(message) => checker.unreadable(message),
            }
        }
    });
    checker.into_inner().unwrap_or_else(PoisonError::into_inner).finish(threads)
}

/// Takes derivations one by one, in any order. [`check`] is the same on several threads.
#[derive(Debug, Default)]
pub struct Checker {
    report: Report,
    graph: Graph,
}

impl Checker {
    /// Without any derivation yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a derivation: the path that it is given under, and its bytes.
    pub fn add(&mut self, path: StorePath, bytes: &[u8]) {
        self.put(Alone::new(path, bytes, &mut Vec::new()));
    }

    /// Counts a derivation that could not be read. The message should name it.
    pub fn unreadable(&mut self, message: String) {
        self.report.total += 1;
        self.report.problems.push((String::new(), Problem::Unreadable(message)));
    }

    /// All have been given: computes their outputs, on as many threads, and reports.
    pub fn finish(mut self, threads: NonZeroUsize) -> Report {
        let (right, problems) = self.graph.resolve(threads.get());
        self.report.outputs = right;
        let problems = problems.into_iter().map(|(path, problem)| (path.full(), problem));
        self.report.problems.extend(problems);
        self.report.problems.sort_by(|a, b| a.0.cmp(&b.0));
        self.report
    }

    fn put(&mut self, alone: Alone) {
        self.report.total += 1;
        self.report.exact += usize::from(alone.exact);
        self.report.named += usize::from(alone.named);
        let name = alone.path.full();
        self.report.problems.extend(alone.problems.into_iter().map(|problem| (name.clone(), problem)));
        if let Some(derivation) = alone.derivation {
            self.report.parsed += 1;
            if !self.graph.insert(alone.path, derivation) {
                self.report.problems.push((name, Problem::Duplicate));
            }
        }
    }
}

/// What can be said about a derivation alone.
struct Alone {
    path: StorePath,
    derivation: Option<Derivation>,
    exact: bool,
    named: bool,
    problems: Vec<Problem>,
}

impl Alone {
    fn new(path: StorePath, bytes: &[u8], printed: &mut Vec<u8>) -> Self {
        let mut problems = Vec::new();
        let derivation = match Derivation::parse(bytes) {
            Ok(derivation) => derivation,
            Err(error) => {
                let problems = vec![error.into()];
                return Self { path, derivation: None, exact: false, named: false, problems };
            }
        };
        printed.clear();
        derivation.print_into(printed);
        let exact = printed == bytes;
        if !exact {
            problems.push(Problem::NotExact);
        }
        let named = match derivation.path_of_text(path.name(), bytes) {
            Ok(own) if own == path => true,
            Ok(own) => {
                problems.push(Problem::WrongName(own));
                false
            }
            Err(error) => {
                problems.push(error.into());
                false
            }
        };
        Self { path, derivation: Some(derivation), exact, named, problems }
    }
}

/// Runs `work` on that many threads, this one among them.
fn on_threads(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(&work);
        }
        work();
    });
}

#[cfg(test)]
mod tests;
