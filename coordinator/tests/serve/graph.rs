//! Derivations without sources, and outputs that they could have.

use drover_store::derivation::{Derivation, Input, Output as DerivedOutput};
use drover_store::{Sha256Hash, StorePath};
use drover_wire::agent::Output;

pub(crate) const SYSTEM: &str = "x86_64-linux";

/// A derivation with the output `out`.
pub(crate) struct Made {
    pub(crate) path: StorePath,
    pub(crate) text: Vec<u8>,
    pub(crate) out: StorePath,
    hash: Sha256Hash,
}

/// A derivation with these inputs.
pub(crate) fn derivation(name: &str, inputs: &[&Made]) -> Made {
    derivation_with(name, inputs, &[])
}

/// One with these variables, too.
pub(crate) fn derivation_with(name: &str, inputs: &[&Made], variables: &[(&str, &str)]) -> Made {
    make(SYSTEM, name, inputs, variables)
}

/// One for another system.
pub(crate) fn derivation_for(system: &str, name: &str) -> Made {
    make(system, name, &[], &[])
}

fn make(system: &str, name: &str, inputs: &[&Made], variables: &[(&str, &str)]) -> Made {
    let mut inputs = inputs.to_vec();
    inputs.sort_by(|a, b| a.path.cmp(&b.path));
    let anything = StorePath::parse_base(&format!("{}-x", "0".repeat(32))).unwrap();
    let mut derivation = Derivation {
        outputs: vec![DerivedOutput { name: "out".to_owned(), path: anything, fixed: None }],
        inputs: inputs
            .iter()
            .map(|input| Input { derivation: input.path.clone(), outputs: vec!["out".to_owned()] })
            .collect(),
        sources: Vec::new(),
        system: system.to_owned(),
        builder: b"/bin/sh".to_vec(),
        args: Vec::new(),
        env: vec![(b"name".to_vec(), name.as_bytes().to_vec()), (b"out".to_vec(), Vec::new())],
    };
    let variables =
        variables.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    derivation.env.extend(variables);
    derivation.env.sort();
    let hashes: Vec<Sha256Hash> = inputs.iter().map(|input| input.hash).collect();
    let out = derivation.outputs_with(name, &hashes).unwrap().remove(0).1;
    derivation.outputs[0].path = out.clone();
    for (name, value) in &mut derivation.env {
        if name == b"out" {
            *value = out.full().into_bytes();
        }
    }
    let text = derivation.print();
    let path = derivation.path_of_text(&format!("{name}.drv"), &text).unwrap();
    Made { path, text, out, hash: derivation.hash_with(&hashes) }
}

/// An output that is a file: what is to be declared of it, and its nar, compressed.
pub(crate) fn output(path: &StorePath, contents: &[u8], references: &[&StorePath]) -> (Output, Vec<u8>) {
    let mut nar = Vec::new();
    let mut string = |text: &[u8]| {
        nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
        nar.extend_from_slice(text);
        nar.resize(nar.len().next_multiple_of(8), 0);
    };
    for text in [b"nix-archive-1".as_slice(), b"(", b"type", b"regular", b"contents", contents, b")"] {
        string(text);
    }
    let mut references: Vec<StorePath> = references.iter().map(|path| (*path).clone()).collect();
    references.sort_unstable();
    let output =
        Output { path: path.clone(), nar_hash: Sha256Hash::of(&nar), nar_size: nar.len() as u64, references };
    (output, zstd::encode_all(&nar[..], 3).unwrap())
}

/// Bytes that do not compress, always the same.
pub(crate) fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(size).collect()
}
