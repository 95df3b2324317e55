use std::convert::Infallible;

use super::*;
use crate::Sha256Hash;
use crate::derivation::{HashModulo, Input, Output};

/// A derivation as Guix would write it, with the path of its text.
fn derivation(name: &str, inputs: &[(StorePath, Derivation)]) -> (StorePath, Derivation) {
    let mut inputs: Vec<_> = inputs.to_vec();
    inputs.sort_by(|a, b| a.0.cmp(&b.0));
    let blank = path::source("blank", &Sha256Hash::of(b"")).unwrap();
    let mut derivation = Derivation {
        outputs: vec![Output { name: "out".into(), path: blank, fixed: None }],
        inputs: inputs
            .iter()
            .map(|(path, _)| Input { derivation: path.clone(), outputs: vec!["out".into()] })
            .collect(),
        sources: vec![],
        system: "x86_64-linux".into(),
        builder: b"/bin/sh".to_vec(),
        args: vec![],
        env: vec![(b"out".to_vec(), b"".to_vec())],
    };
    let own = path::text(&format!("{name}.drv"), b"", &[]).unwrap();
    let mut hashes = HashModulo::new();
    let computed = hashes.computed_outputs::<Infallible>(&own, &derivation, |wanted| {
        Ok(inputs.iter().find(|(path, _)| path == wanted).unwrap().1.clone())
    });
    let output = computed.unwrap().remove(0).1;
    derivation.env[0].1 = output.as_str().as_bytes().to_vec();
    derivation.outputs[0].path = output;
    let path = derivation.path_of_text(&format!("{name}.drv"), &derivation.print()).unwrap();
    (path, derivation)
}

fn run(items: &[(StorePath, Vec<u8>)]) -> Report {
    check(items, NonZeroUsize::new(2).unwrap(), |(path, text), bytes| {
        bytes.extend_from_slice(text);
        Ok(path.clone())
    })
}

fn printed((path, derivation): &(StorePath, Derivation)) -> (StorePath, Vec<u8>) {
    (path.clone(), derivation.print())
}

#[test]
fn a_graph_that_is_right_is_clean_in_any_order() {
    let low = derivation("low", &[]);
    let high = derivation("high", std::slice::from_ref(&low));
    for items in [[&low, &high], [&high, &low]] {
        let report = run(&items.map(printed));
        let counts = (report.total, report.parsed, report.exact, report.named, report.outputs);
        assert_eq!(counts, (2, 2, 2, 2, 2), "{report:?}");
        assert!(report.is_clean());
    }
}

#[test]
fn a_changed_derivation_has_another_name_and_another_output() {
    let (path, mut changed) = derivation("low", &[]);
    changed.args.push(b"more".to_vec());
    let report = run(&[(path, changed.print())]);
    let counts = (report.total, report.parsed, report.exact, report.named, report.outputs);
    assert_eq!(counts, (1, 1, 1, 0, 0));
    assert!(matches!(report.problems[0].1, Problem::WrongName(_)));
    assert!(matches!(report.problems[1].1, Problem::WrongOutput { .. }));
}

#[test]
fn what_cannot_be_parsed_is_named_and_so_is_who_needs_it() {
    let low = derivation("low", &[]);
    let middle = derivation("middle", std::slice::from_ref(&low));
    let other = derivation("other", &[]);
    let report = run(&[(low.0.clone(), b"Derive(".to_vec()), printed(&middle), printed(&other)]);
    assert_eq!((report.total, report.parsed, report.outputs), (3, 2, 1));
    assert!(report.problems.iter().any(|(name, problem)| {
        *name == low.0.full() && matches!(problem, Problem::Malformed(ParseError { offset: 7, .. }))
    }));
    assert!(report.problems.contains(&(middle.0.full(), Problem::MissingInput(low.0))));
}

#[test]
fn a_circle_ends_and_a_second_copy_counts_as_such() {
    let (path, mut own) = derivation("circle", &[]);
    own.inputs.push(Input { derivation: path.clone(), outputs: vec!["out".into()] });
    let circle = (path.clone(), own.print());
    let report = run(&[circle.clone(), circle]);
    assert_eq!(report.outputs, 0);
    assert!(report.problems.contains(&(path.full(), Problem::UnresolvedInput(path.clone()))));
    assert!(report.problems.contains(&(path.full(), Problem::Duplicate)));
}
