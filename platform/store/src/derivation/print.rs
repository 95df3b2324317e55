//! The byte-exact writer of derivations.

use std::io::{self, Write};

use super::parse::needs_escape;
use super::{Derivation, Output};

/// An input as it is written: a path, or a hash in its place, with the names of its outputs.
pub(super) struct PrintedInput<'a> {
    pub(super) name: &'a [u8],
    pub(super) outputs: &'a [String],
}

impl Derivation {
    /// The text of this derivation.
    pub fn print(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.print_into(&mut text);
        text
    }

    /// Appends the text of this derivation, for those who print many with one buffer.
    pub fn print_into(&self, text: &mut Vec<u8>) {
        let inputs = self.inputs.iter().map(|input| PrintedInput {
            name: input.derivation.as_str().as_bytes(),
            outputs: &input.outputs,
        });
        self.print_with(text, inputs, false);
    }

    /// Writes the text of this derivation.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, mut out: impl Write) -> io::Result<()> {
        out.write_all(&self.print())
    }

    /// The text with `inputs` for its inputs and, when `mask` says so, without the paths of its outputs.
    pub(super) fn print_with<'a>(
        &self,
        text: &mut Vec<u8>,
        inputs: impl Iterator<Item = PrintedInput<'a>>,
        mask: bool,
    ) {
        text.extend_from_slice(b"Derive(");
        list(text, self.outputs.iter(), |text, output| print_output(text, output, mask));
        text.push(b',');
        list(text, inputs, |text, input| {
            text.push(b'(');
            plain(text, input.name);
            text.push(b',');
            list(text, input.outputs.iter(), |text, name| plain(text, name.as_bytes()));
            text.push(b')');
        });
        text.push(b',');
        list(text, self.sources.iter(), |text, path| plain(text, path.as_str().as_bytes()));
        text.push(b',');
        plain(text, self.system.as_bytes());
        text.push(b',');
        string(text, &self.builder);
        text.push(b',');
        list(text, self.args.iter(), |text, arg| string(text, arg));
        text.push(b',');
        list(text, self.env.iter(), |text, (name, value)| {
            text.push(b'(');
            string(text, name);
            text.push(b',');
            let masked = mask && self.outputs.iter().any(|output| output.name.as_bytes() == name.as_slice());
            string(text, if masked { b"" } else { value });
            text.push(b')');
        });
        text.push(b')');
    }
}

fn print_output(text: &mut Vec<u8>, output: &Output, mask: bool) {
    text.push(b'(');
    plain(text, output.name.as_bytes());
    text.push(b',');
    plain(text, if mask { b"" } else { output.path.as_str().as_bytes() });
    match &output.fixed {
        None => text.extend_from_slice(b",\"\",\"\")"),
        Some(fixed) => {
            text.extend_from_slice(if fixed.recursive { b",\"r:" } else { b",\"" });
            text.extend_from_slice(fixed.algorithm.as_bytes());
            text.extend_from_slice(b"\",");
            plain(text, data_encoding::HEXLOWER.encode(&fixed.hash).as_bytes());
            text.push(b')');
        }
    }
}

fn list<T>(text: &mut Vec<u8>, items: impl Iterator<Item = T>, mut print: impl FnMut(&mut Vec<u8>, T)) {
    text.push(b'[');
    for (n, item) in items.enumerate() {
        if n > 0 {
            text.push(b',');
        }
        print(text, item);
    }
    text.push(b']');
}

/// A string that is known to need no escapes.
fn plain(text: &mut Vec<u8>, bytes: &[u8]) {
    text.push(b'"');
    text.extend_from_slice(bytes);
    text.push(b'"');
}

fn string(text: &mut Vec<u8>, mut bytes: &[u8]) {
    text.push(b'"');
    while let Some(len) = bytes.iter().position(|&byte| needs_escape(byte)) {
        text.extend_from_slice(&bytes[..len]);
        text.extend_from_slice(match bytes[len] {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\t",
        });
        bytes = &bytes[len + 1..];
    }
    text.extend_from_slice(bytes);
    text.push(b'"');
}
