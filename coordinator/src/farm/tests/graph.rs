//! A small graph with everything that makes graphs difficult: two derivations of one output, both of them inputs of one
//! derivation; two outputs of which one is wanted; sources that several name; a diamond; a builtin.

use drover_store::derivation::{Derivation, Fixed, Input, Output as Made};
use drover_store::nar::Node as Nar;
use drover_store::{Sha256Hash, StorePath, path};
use drover_wire::agent::Output;

/// The system that both agents build for.
pub(super) const SYSTEM: &str = "x86_64-linux";

/// A derivation of the graph.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) path: StorePath,
    pub(super) text: Vec<u8>,
    pub(super) outputs: Vec<(String, StorePath)>,
    contents: Vec<u8>,
    hash: Sha256Hash,
}

/// A source of the graph.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) path: StorePath,
    pub(super) nar: Vec<u8>,
}

/// The derivations, each after its inputs, and the sources.
pub(super) fn graph() -> (Vec<Node>, Vec<Source>) {
    let sources: Vec<Source> = ["one", "two"].into_iter().map(source).collect();
    let [one, two] = [&sources[0].path, &sources[1].path];
    let file = fixed("file", b"https://a.example/file");
    let mirrored = fixed("file", b"https://b.example/file");
    let b = node("b", &["out", "lib"], &[(&file, "out")], &[one]);
    let c = node("c", &["out"], &[(&mirrored, "out")], &[two]);
    let d = node("d", &["out"], &[(&b, "out"), (&c, "out")], &[]);
    let e = node("e", &["out"], &[(&b, "lib")], &[one, two]);
    let f = node("f", &["out"], &[(&d, "out"), (&e, "out"), (&file, "out")], &[]);
    let g = node("g", &["out"], &[(&c, "out")], &[]);
    let h = node("h", &["out"], &[(&file, "out"), (&mirrored, "out")], &[]);
    let top = node("top", &["out"], &[(&f, "out"), (&g, "out"), (&h, "out")], &[]);
    (vec![file, mirrored, b, c, d, e, f, g, h, top], sources)
}

fn source(name: &str) -> Source {
    let nar = Nar::file(format!("the source {name}")).to_nar();
    Source { path: path::source(name, &Sha256Hash::of(&nar)).unwrap(), nar }
}

fn anything() -> StorePath {
    StorePath::parse_base(&format!("{}-x", "0".repeat(32))).unwrap()
}

fn fixed(name: &str, url: &[u8]) -> Node {
    let contents = b"what everybody has".to_vec();
    let hash = Sha256Hash::of(&contents).as_bytes().to_vec();
    let fixed = Fixed { recursive: false, algorithm: "sha256".to_owned(), hash };
    let output = Made { name: "out".to_owned(), path: anything(), fixed: Some(fixed) };
    let env = vec![(b"url".to_vec(), url.to_vec())];
    finish(name, vec![output], &[], &[], b"builtin:download", env, contents)
}

fn node(name: &str, outputs: &[&str], inputs: &[(&Node, &str)], sources: &[&StorePath]) -> Node {
    let output = |output: &&str| Made { name: (*output).to_owned(), path: anything(), fixed: None };
    let outputs = outputs.iter().map(output).collect();
    let contents = format!("built as {name}").into_bytes();
    finish(name, outputs, inputs, sources, b"/bin/sh", Vec::new(), contents)
}

fn finish(
    name: &str,
    mut outputs: Vec<Made>,
    inputs: &[(&Node, &str)],
    sources: &[&StorePath],
    builder: &[u8],
    env: Vec<(Vec<u8>, Vec<u8>)>,
    contents: Vec<u8>,
) -> Node {
    outputs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut inputs = inputs.to_vec();
    inputs.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    let mut sources: Vec<StorePath> = sources.iter().map(|path| (*path).clone()).collect();
    sources.sort_unstable();
    let input = |(node, output): &(&Node, &str)| Input {
        derivation: node.path.clone(),
        outputs: vec![(*output).to_owned()],
    };
    let mut derivation = Derivation {
        outputs,
        inputs: inputs.iter().map(input).collect(),
        sources,
        system: SYSTEM.to_owned(),
        builder: builder.to_vec(),
        args: Vec::new(),
        env,
    };
    let hashes: Vec<Sha256Hash> = inputs.iter().map(|(node, _)| node.hash).collect();
    let outputs = derivation.outputs_with(name, &hashes).unwrap();
    for (output, (_, path)) in derivation.outputs.iter_mut().zip(&outputs) {
        output.path = path.clone();
    }
    let text = derivation.print();
    let path = derivation.path_of_text(&format!("{name}.drv"), &text).unwrap();
    Node { path, text, outputs, contents, hash: derivation.hash_with(&hashes) }
}

impl Node {
    /// What an agent that built it declares and uploads.
    pub(super) fn built(&self) -> Vec<(Output, Vec<u8>)> {
        let nar = Nar::file(self.contents.clone()).to_nar();
        let output = |(_, path): &(String, StorePath)| Output {
            path: path.clone(),
            nar_hash: Sha256Hash::of(&nar),
            nar_size: nar.len() as u64,
            references: Vec::new(),
        };
        let compressed = zstd::encode_all(&nar[..], 1).unwrap();
        self.outputs.iter().map(|made| (output(made), compressed.clone())).collect()
    }
}
