//! Derivations: the text that says how something is built.
//!
//! `Derive(outputs,inputs,sources,"system","builder",args,env)`, lists sorted, one text for each value: what
//! [`Derivation::parse`] accepts, [`Derivation::print`] writes back byte for byte.

mod modulo;
mod parse;
mod print;

pub(crate) use modulo::ReplacedInputs;
pub use modulo::{HashModulo, ModuloError};
pub use parse::ParseError;

use crate::StorePath;
use crate::path;

/// A derivation. Strings are bytes wherever Guix lets them be bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Derivation {
    /// What it makes, at least one, sorted by name, each name once.
    pub outputs: Vec<Output>,
    /// The derivations whose outputs it needs, sorted by path, each once.
    pub inputs: Vec<Input>,
    /// The files it needs that no derivation makes, sorted, each once.
    pub sources: Vec<StorePath>,
    /// Where it can be built: `x86_64-linux`, `i586-gnu`, … An open set.
    pub system: String,
    /// The program, a full path or `builtin:NAME`.
    pub builder: Vec<u8>,
    /// The program's arguments.
    pub args: Vec<Vec<u8>>,
    /// The program's environment, sorted by name, each once.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Output {
    /// `out`, `lib`, `debug`, …
    pub name: String,
    /// Where it goes.
    pub path: StorePath,
    /// What its content must be, when that is known beforehand (a download).
    pub fixed: Option<Fixed>,
}

/// The content of a fixed output.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fixed {
    /// Whether the hash is over the nar (`r:` in the text) or over the one file.
    pub recursive: bool,
    /// `sha256`, `sha1`, …, as in the text without `r:`.
    pub algorithm: String,
    /// The bytes of the hash.
    pub hash: Vec<u8>,
}

/// A derivation whose outputs another one needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    /// The `.drv`.
    pub derivation: StorePath,
    /// The names of the outputs that are needed: at least one, sorted, each once.
    pub outputs: Vec<String>,
}

impl Derivation {
    /// Reads the text of a derivation.
    ///
    /// # Errors
    /// When the text is not exactly what [`Derivation::print`] would write; the error says where.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    /// Whether its single output is fixed by a hash: then only the content counts, not how it was had.
    pub fn is_fixed_output(&self) -> bool {
        self.fixed().is_some()
    }

    /// The fixed output, if that is what this is.
    pub fn fixed(&self) -> Option<(&Output, &Fixed)> {
        match self.outputs.as_slice() {
            [output] if output.name == "out" => output.fixed.as_ref().map(|fixed| (output, fixed)),
            _ => None,
        }
    }

    /// What the daemon does by itself for this derivation: `download`, `git-download`, …
    pub fn builtin(&self) -> Option<&str> {
        std::str::from_utf8(self.builder.strip_prefix(b"builtin:")?).ok()
    }

    /// The value of a variable of the builder's environment.
    pub fn env(&self, name: &[u8]) -> Option<&[u8]> {
        let place = self.env.binary_search_by(|(key, _)| key.as_slice().cmp(name)).ok()?;
        Some(&self.env[place].1)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// The references of the `.drv` file: its inputs and its sources, sorted, each once.
    pub fn references(&self) -> Vec<StorePath> {
        let inputs = self.inputs.iter().map(|input| &input.derivation);
        let mut references: Vec<StorePath> = inputs.chain(&self.sources).cloned().collect();
        references.sort_unstable();
        references.dedup();
        references
    }

    /// The store path that `text`, the text of this derivation, has as a file of that name (`….drv`).
    ///
    /// # Errors
    /// When the name is not valid.
    pub fn path_of_text(&self, name: &str, text: &[u8]) -> Result<StorePath, path::Error> {
        path::text(name, text, &self.references())
    }
}

/// Why there is no store path for a text as a derivation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextPathError {
    /// It is no derivation.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The name is not valid.
    #[error(transparent)]
    Path(#[from] path::Error),
}

/// The store path of `text` as a derivation named `name` (with `.drv`), with its inputs and sources as references.
///
/// # Errors
/// When the text is no derivation or the name is not valid.
pub fn text_path(name: &str, text: &[u8]) -> Result<StorePath, TextPathError> {
    Ok(Derivation::parse(text)?.path_of_text(name, text)?)
}

#[cfg(test)]
mod tests;
