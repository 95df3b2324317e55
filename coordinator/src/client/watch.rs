//! How long work tells of itself, so that the work prints nothing.

/// In what a progress is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things: files, builds.
    Things,
    /// Bytes.
    Bytes,
}

/// Whoever wants to know how far a long piece of work is.
pub trait Watch: Sync {
    /// A new piece of work begins, and ends the one before. The total is none where it is not known.
    fn begin(&self, what: &str, total: Option<u64>, unit: Unit);
    /// So much more of it is done.
    fn advance(&self, by: u64);
    /// What is going on at the moment, in a few words.
    fn note(&self, text: &str);
    /// Something that people should know, though the work goes on.
    fn warn(&self, sentence: &str);
    /// All is done.
    fn end(&self);
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Watch for Nobody {
    fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn end(&self) {}
}
