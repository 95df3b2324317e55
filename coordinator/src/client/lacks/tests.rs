use std::cell::RefCell;
use std::fs;
use std::path::Path;

use drover_store::derivation::{Derivation, Input, Output};
use proptest::prelude::*;

use super::*;
use crate::client::Nobody;
use crate::client::closure::Places;

/// Writes a derivation with these inputs and this source into the folder.
fn write(folder: &Path, name: &str, inputs: &[&StorePath], source: &StorePath) -> StorePath {
    let mut inputs: Vec<Input> = inputs
        .iter()
        .map(|path| Input { derivation: (*path).clone(), outputs: vec!["out".to_owned()] })
        .collect();
    inputs.sort_by(|a, b| a.derivation.cmp(&b.derivation));
    inputs.dedup();
    let out = StorePath::parse_base(&format!("{}-x", "0".repeat(32))).unwrap();
    let derivation = Derivation {
        outputs: vec![Output { name: "out".to_owned(), path: out, fixed: None }],
        inputs,
        sources: vec![source.clone()],
        system: "x86_64-linux".to_owned(),
        builder: b"/bin/sh".to_vec(),
        args: Vec::new(),
        env: Vec::new(),
    };
    let text = derivation.print();
    let path = derivation.path_of_text(&format!("{name}.drv"), &text).unwrap();
    fs::write(folder.join(path.base_name()), text).unwrap();
    path
}

fn source(name: &str) -> StorePath {
    StorePath::parse_base(&format!("{}-{name}", "1".repeat(32))).unwrap()
}

/// What was found out, with how many paths each round asked about.
fn find(folder: &Path, wanted: &[&StorePath], known: &HashSet<StorePath>) -> (Vec<StorePath>, Vec<usize>) {
    let mut places = Places::default();
    places.add(folder);
    let mut graph = Graph::new(&places);
    let wanted: Vec<Index> = wanted.iter().map(|path| graph.add((*path).clone(), None, None)).collect();
    let rounds = RefCell::new(Vec::new());
    let ask = |paths: Vec<StorePath>| {
        rounds.borrow_mut().push(paths.len());
        Ok(paths.into_iter().filter(|path| !known.contains(path)).collect())
    };
    let lacks = Lacks::find(&mut graph, &wanted, ask, &Nobody).unwrap();
    assert_eq!(lacks.nowhere(&graph).count(), 0);
    let order = lacks.in_order(&graph, &wanted);
    for index in &order {
        assert!(graph.sources_of(*index).iter().all(|source| lacks.sources[*source].is_some()));
    }
    (order.into_iter().map(|index| graph.nodes[index].path.clone()).collect(), rounds.into_inner())
}

/// Each derivation needs the one before.
fn chain(folder: &Path, length: usize) -> Vec<StorePath> {
    let mut chain: Vec<StorePath> = Vec::new();
    for n in 0..length {
        let before: Vec<&StorePath> = chain.last().into_iter().collect();
        chain.push(write(folder, &format!("n{n}"), &before, &source("s")));
    }
    chain
}

#[test]
fn something_new_on_top_of_what_is_known_reads_and_asks_about_nothing_below() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(folder.path(), 30);
    let known: HashSet<StorePath> = chain.iter().cloned().chain([source("s")]).collect();
    let new = write(folder.path(), "new", &[&chain[29]], &source("s"));
    // What is not read need not be there.
    chain.iter().for_each(|path| fs::remove_file(folder.path().join(path.base_name())).unwrap());
    let (lacking, rounds) = find(folder.path(), &[&new, &chain[3], &chain[29]], &known);
    assert_eq!(lacking, [new]);
    assert_eq!(rounds, [3, 1]);
}

#[test]
fn a_coordinator_that_has_nothing_is_asked_three_times() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(folder.path(), 200);
    let (lacking, rounds) = find(folder.path(), &[&chain[199]], &HashSet::new());
    assert_eq!(lacking, chain);
    // Itself; what it needs, and its source; everything.
    assert_eq!(rounds, [1, 2, 198]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_lacks_is_found_in_an_order_that_can_be_sent(
        edges in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..60),
        wanted in proptest::collection::vec(any::<prop::sample::Index>(), 1..6),
        known in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut all: Vec<StorePath> = Vec::new();
        let mut inputs: Vec<Vec<usize>> = Vec::new();
        for (n, edges) in edges.iter().enumerate() {
            let below: Vec<usize> = edges.iter().filter(|_| n > 0).map(|edge| edge.index(n)).collect();
            let paths: Vec<&StorePath> = below.iter().map(|n| &all[*n]).collect();
            let path = write(folder.path(), &format!("n{n}"), &paths, &source("s"));
            all.push(path);
            inputs.push(below);
        }
        let below = |start: Vec<usize>| {
            let mut found = HashSet::new();
            let mut open = start;
            while let Some(n) = open.pop() {
                if found.insert(n) {
                    open.extend(&inputs[n]);
                }
            }
            found
        };
        let known = below(known.iter().map(|index| index.index(all.len())).collect());
        let wanted: Vec<usize> = wanted.iter().map(|index| index.index(all.len())).collect();
        let expected: HashSet<StorePath> =
            below(wanted.clone()).difference(&known).map(|n| all[*n].clone()).collect();
        let known: HashSet<StorePath> = known.iter().map(|n| all[*n].clone()).collect();

        let paths: Vec<&StorePath> = wanted.iter().map(|n| &all[*n]).collect();
        let (lacking, _) = find(folder.path(), &paths, &known);
        let mut here = known;
        for path in &lacking {
            let n = all.iter().position(|other| other == path).unwrap();
            prop_assert!(inputs[n].iter().all(|input| here.contains(&all[*input])));
            prop_assert!(here.insert(path.clone()), "twice");
        }
        prop_assert_eq!(lacking.into_iter().collect::<HashSet<_>>(), expected);
    }
}
