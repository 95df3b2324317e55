//! A small graph of real derivations: their paths are those that Guix would compute.

use std::io::Write;

use drover_store::derivation::{Derivation, Fixed, Input, Output};
use drover_store::nar::Node;
use drover_store::{Sha256Hash, StorePath, path};
use drover_wire::bundle::{Kind, Writer};

/// What one derivation of a graph is like, in numbers that are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
pub(in crate::farm::tests) struct Shape {
    pub(in crate::farm::tests) inputs: u32,
    pub(in crate::farm::tests) sources: u8,
    pub(in crate::farm::tests) two_outputs: bool,
    /// Fixed by a hash; those with the same number here have the same output.
    pub(in crate::farm::tests) fixed: Option<u8>,
    pub(in crate::farm::tests) other_system: bool,
}

/// A source.
#[derive(Debug)]
pub(in crate::farm::tests) struct Source {
    pub(in crate::farm::tests) path: StorePath,
    pub(in crate::farm::tests) nar: Vec<u8>,
}

/// A derivation.
#[derive(Debug)]
pub(in crate::farm::tests) struct Made {
    pub(in crate::farm::tests) path: StorePath,
    pub(in crate::farm::tests) outputs: Vec<(String, StorePath)>,
    pub(in crate::farm::tests) fixed: Option<u8>,
    text: Vec<u8>,
    pub(in crate::farm::tests) inputs: Vec<usize>,
    hash: Sha256Hash,
}

#[derive(Debug)]
pub(in crate::farm::tests) struct Graph {
    pub(in crate::farm::tests) sources: Vec<Source>,
    pub(in crate::farm::tests) made: Vec<Made>,
}

impl Graph {
    pub(in crate::farm::tests) fn new(shapes: &[Shape]) -> Self {
        let mut graph = Self { sources: sources(), made: Vec::new() };
        for (number, shape) in shapes.iter().enumerate() {
            graph.add(number, *shape);
        }
        graph
    }

    fn add(&mut self, number: usize, shape: Shape) {
        let wanted = if shape.fixed.is_some() { 0 } else { shape.inputs };
        let mut inputs: Vec<usize> = (0..number).filter(|input| wanted >> input & 1 == 1).collect();
        inputs.sort_by(|a, b| self.made[*a].path.cmp(&self.made[*b].path));
        let mut sources: Vec<StorePath> = (0..self.sources.len())
            .filter(|source| shape.sources >> source & 1 == 1)
            .map(|source| self.sources[source].path.clone())
            .collect();
        sources.sort();
        let names: &[&str] =
            if shape.two_outputs && shape.fixed.is_none() { &["lib", "out"] } else { &["out"] };
        let output = |name: &&str| Output {
            name: (*name).to_owned(),
            path: self.sources[0].path.clone(),
            fixed: shape.fixed.map(|fixed| Fixed {
                recursive: false,
                algorithm: "sha256".to_owned(),
                hash: Sha256Hash::of(&fixed_contents(fixed)).as_bytes().to_vec(),
            }),
        };
        let mut derivation = Derivation {
            outputs: names.iter().map(output).collect(),
            inputs: inputs
                .iter()
                .map(|input| Input {
                    derivation: self.made[*input].path.clone(),
                    outputs: self.made[*input].outputs.iter().map(|(name, _)| name.clone()).collect(),
                })
                .collect(),
            sources,
            system: if shape.other_system { "aarch64-linux" } else { "x86_64-linux" }.to_owned(),
            builder: b"/bin/sh".to_vec(),
            args: Vec::new(),
            env: vec![(b"number".to_vec(), number.to_string().into_bytes())],
        };
        let hashes: Vec<Sha256Hash> = inputs.iter().map(|input| self.made[*input].hash).collect();
        let name = shape.fixed.map_or(format!("made-{number}"), |fixed| format!("fixed-{fixed}"));
        let outputs = derivation.outputs_with(&name, &hashes).unwrap();
        for (output, (_, path)) in derivation.outputs.iter_mut().zip(&outputs) {
            output.path = path.clone();
        }
        let text = derivation.print();
        self.made.push(Made {
            path: derivation.path_of_text(&format!("{name}.drv"), &text).unwrap(),
            hash: derivation.hash_with(&hashes),
            outputs,
            fixed: shape.fixed,
            text,
            inputs,
        });
    }

    /// The derivation at this path.
    pub(in crate::farm::tests) fn at(&self, path: &StorePath) -> &Made {
        self.made.iter().find(|made| made.path == *path).unwrap()
    }

    /// What it needs, and it last.
    fn closure(&self, number: usize) -> Vec<usize> {
        let mut wanted = vec![false; self.made.len()];
        wanted[number] = true;
        for at in (0..=number).rev() {
            if wanted[at] {
                for input in &self.made[at].inputs {
                    wanted[*input] = true;
                }
            }
        }
        (0..=number).filter(|at| wanted[*at]).collect()
    }

    /// A bundle of a derivation with all that it needs, or alone.
    pub(in crate::farm::tests) fn bundle(&self, number: usize, alone: bool) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for at in if alone { vec![number] } else { self.closure(number) } {
            let made = &self.made[at];
            writer.entry(Kind::Derivation, &made.path, made.text.len() as u64, &made.text[..]).unwrap();
        }
        writer.finish().unwrap()
    }

    /// A bundle of one source.
    pub(in crate::farm::tests) fn source_bundle(&self, number: usize) -> Vec<u8> {
        let source = &self.sources[number];
        let mut writer = Writer::new(Vec::new());
        writer.entry(Kind::Source, &source.path, source.nar.len() as u64, &source.nar[..]).unwrap();
        writer.finish().unwrap()
    }

    /// What a build makes as this output, and what that refers to. No two tries make the same, but fixed outputs.
    pub(in crate::farm::tests) fn output(
        &self,
        made: &Made,
        name: &str,
        tries: u64,
    ) -> (Vec<u8>, Vec<StorePath>) {
        if let Some(fixed) = made.fixed {
            return (Node::file(fixed_contents(fixed)).to_nar(), Vec::new());
        }
        let mut contents = noise(tries, 3000);
        let mut references = Vec::new();
        for input in &made.inputs {
            let (_, path) = &self.made[*input].outputs[0];
            write!(contents, " {path} ").unwrap();
            references.push(path.clone());
        }
        if name == "out" && made.outputs.len() > 1 {
            let (_, other) = &made.outputs[0];
            write!(contents, " {other} ").unwrap();
            references.push(other.clone());
        }
        references.sort();
        references.dedup();
        (Node::file(contents).to_nar(), references)
    }
}

fn fixed_contents(number: u8) -> Vec<u8> {
    format!("the contents of {number}").into_bytes()
}

/// Bytes that do not compress, for a number.
pub(in crate::farm::tests) fn noise(number: u64, count: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

/// A text, a text that refers to it, a file that is too large for the database, and another text.
fn sources() -> Vec<Source> {
    let text = |name: &str, contents: String, references: &[StorePath]| Source {
        path: path::text(name, contents.as_bytes(), references).unwrap(),
        nar: Node::file(contents).to_nar(),
    };
    let first = text("first", "a text".to_owned(), &[]);
    let second = text("second", format!("needs {}", first.path), std::slice::from_ref(&first.path));
    let nar = Node::file(noise(7, 100_000)).to_nar();
    let large = Source { path: path::source("large", &Sha256Hash::of(&nar)).unwrap(), nar };
    vec![first, second, large, text("last", "another text".to_owned(), &[])]
}
