//! The real closure of `hello`, as Guix 1.5.0 made it: every format must agree with every byte of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail as tests do")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Component, Path};

use drover_store::check::check;
use drover_store::derivation::text_path;
use drover_store::nar::Node;
use drover_store::source::{Method, method_of};
use drover_store::{Derivation, StorePath};

/// What an archive of store items holds, by base name.
fn items(archive: &str) -> BTreeMap<String, Node> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(archive);
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut root = Node::Directory(BTreeMap::new());
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let node = match entry.header().entry_type() {
            tar::EntryType::Directory => Node::Directory(BTreeMap::new()),
            tar::EntryType::Symlink => Node::Symlink(entry.link_name_bytes().unwrap().into_owned()),
            // Files of one content are one file in a store.
            tar::EntryType::Link => at(&root, &names(&entry.link_name().unwrap().unwrap())).clone(),
            kind => {
                assert!(kind.is_file(), "{kind:?}");
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents).unwrap();
                Node::File { executable: entry.header().mode().unwrap() & 0o100 != 0, contents }
            }
        };
        let names = names(&entry.path().unwrap());
        put(&mut root, &names, node);
    }
    match root {
        Node::Directory(items) => {
            items.into_iter().map(|(name, node)| (String::from_utf8(name).unwrap(), node)).collect()
        }
        _ => unreachable!("the root was made as a directory"),
    }
}

fn names(path: &Path) -> Vec<Vec<u8>> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.as_encoded_bytes().to_vec()),
        _ => None,
    });
    names.collect()
}

fn at<'a>(node: &'a Node, names: &[Vec<u8>]) -> &'a Node {
    match (node, names) {
        (node, []) => node,
        (Node::Directory(entries), [name, below @ ..]) => at(&entries[name], below),
        _ => panic!("{names:?} is below a file"),
    }
}

fn put(parent: &mut Node, names: &[Vec<u8>], node: Node) {
    let (Node::Directory(entries), [name, below @ ..]) = (parent, names) else {
        assert!(names.is_empty(), "{names:?} is below a file");
        return;
    };
    let place = entries.entry(name.clone());
    if below.is_empty() {
        place.or_insert(node);
    } else {
        put(place.or_insert_with(|| Node::Directory(BTreeMap::new())), below, node);
    }
}

fn derivations() -> Vec<(StorePath, Vec<u8>)> {
    let items = items("hello-drvs.tar.zst").into_iter().map(|(name, node)| match node {
        Node::File { contents, .. } => (StorePath::parse_base(&name).unwrap(), contents),
        _ => panic!("{name} is no file"),
    });
    items.collect()
}

#[test]
fn every_derivation_prints_and_hashes_to_what_guix_wrote() {
    let derivations = derivations();
    assert_eq!(derivations.len(), 745);
    for (path, text) in &derivations {
        assert_eq!(Derivation::parse(text).unwrap().print(), *text, "{path}");
        assert_eq!(text_path(path.name(), text).unwrap(), *path);
    }
    let report = check(&derivations, NonZeroUsize::new(2).unwrap(), |(path, text), bytes| {
        bytes.extend_from_slice(text);
        Ok(path.clone())
    });
    assert_eq!(report.problems, []);
    let counts = [report.total, report.parsed, report.exact, report.named, report.outputs];
    assert_eq!(counts, [745; 5]);
}

#[test]
fn every_source_recomputes_to_its_own_path() {
    let sources = items("hello-sources.tar.zst");
    let mut used: BTreeMap<StorePath, Vec<StorePath>> = BTreeMap::new();
    for (_, text) in derivations() {
        let derivation = Derivation::parse(&text).unwrap();
        for path in &derivation.sources {
            used.entry(path.clone()).or_insert_with(|| derivation.sources.clone());
        }
    }
    let (mut texts, mut recursive, mut flat) = (0, 0, 0);
    for (path, candidates) in &used {
        let nar = sources[path.base_name()].to_nar();
        match method_of(path, &nar[..], candidates).unwrap() {
            Some(Method::Text { .. }) => texts += 1,
            Some(Method::Recursive) => recursive += 1,
            Some(Method::Flat) => flat += 1,
            None => panic!("{path} does not recompute"),
        }
    }
    assert_eq!(sources.len(), 429);
    assert_eq!([texts, recursive, flat], [358, 65, 6]);
}
