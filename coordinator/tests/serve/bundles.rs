//! Bundles: what is kept of one that is refused, and one that is too large for one transaction.

use drover_store::{Derivation, Sha256Hash, StorePath, nar::Node, path};
use drover_wire::Code;
use drover_wire::bundle::Kind;
use drover_wire::client::{MissingAnswer, MissingQuestion, Uploaded};
use drover_wire::route::clients;

use crate::client::{Client, bundle};
use crate::graph::{Made, derivation};
use crate::house::House;

type Entry<'a> = (Kind, &'a StorePath, &'a [u8]);

fn entry(made: &Made) -> Entry<'_> {
    (Kind::Derivation, &made.path, &made.text)
}

fn missing(client: &Client, paths: &[&StorePath]) -> Vec<StorePath> {
    let question = MissingQuestion { paths: paths.iter().map(|path| (*path).clone()).collect() };
    let answer: MissingAnswer = client.0.post(&clients::MISSING.path(&[]), &question).value();
    answer.missing
}

/// A derivation whose text says something else than it must, under the name of that text.
fn changed(made: &Made, change: impl FnOnce(&mut Derivation)) -> (StorePath, Vec<u8>) {
    let mut derivation = Derivation::parse(&made.text).unwrap();
    change(&mut derivation);
    let text = derivation.print();
    (derivation.path_of_text("changed.drv", &text).unwrap(), text)
}

#[test]
fn what_came_before_something_that_is_refused_is_kept_and_nothing_else() {
    let elsewhere = derivation("elsewhere", &[]);
    let below = derivation("below", &[]);
    let above = derivation("above", &[&below]);
    let orphan = derivation("orphan", &[&elsewhere]);
    let (unread, unread_text) = (derivation("unread", &[]).path, b"Derive(".to_vec());
    let (wrong, wrong_text) = changed(&below, |derivation| derivation.outputs[0].path = above.out.clone());
    // Its outputs are right for what it says; only the input has no such output.
    let (no_output, no_output_text) = {
        let hash = Derivation::parse(&below.text).unwrap().hash_with(&[]);
        let (_, text) = changed(&above, |derivation| {
            derivation.inputs[0].outputs = vec!["lib".to_owned()];
            derivation.outputs[0].path = derivation.outputs_with("changed", &[hash]).unwrap().remove(0).1;
        });
        (Derivation::parse(&text).unwrap().path_of_text("changed.drv", &text).unwrap(), text)
    };
    let source = path::source("source", &Sha256Hash::of(b"another")).unwrap();
    let nar = Node::file("contents").to_nar();
    let cases: [(Entry<'_>, Code); 5] = [
        ((Kind::Derivation, &unread, &unread_text), Code::BadDerivation),
        ((Kind::Derivation, &wrong, &wrong_text), Code::BadDerivation),
        ((Kind::Derivation, &no_output, &no_output_text), Code::BadDerivation),
        (entry(&orphan), Code::MissingDerivation),
        ((Kind::Source, &source, &nar), Code::BadSource),
    ];
    for (refused, code) in cases {
        let house = House::start();
        let client = house.client();
        client.upload(&bundle(&[entry(&below), refused, entry(&above)])).refused(code);
        let all = [&below.path, refused.1, &above.path];
        assert_eq!(missing(&client, &all), [refused.1.clone(), above.path.clone()], "{code:?}");

        let uploaded: Uploaded = client.upload(&bundle(&[entry(&below), entry(&above)])).value();
        assert_eq!(uploaded, Uploaded { derivations: 1, sources: 0, known: 1 });
    }
}

#[test]
fn a_bundle_that_takes_several_transactions_refers_to_what_came_in_the_ones_before() {
    let house = House::start();
    let client = house.client();
    let first = derivation("first", &[]);
    let mut all: Vec<Made> = (0..4500).map(|n| derivation(&format!("n{n}"), &[&first])).collect();
    let last = derivation("last", &[&first, &all[0], &all[4499]]);
    all.insert(0, first);
    all.push(last);
    let missing_one = derivation("orphan", &[&derivation("elsewhere", &[])]);
    let mut entries: Vec<Entry<'_>> = all.iter().map(entry).collect();
    entries.push(entry(&missing_one));
    client.upload(&bundle(&entries)).refused(Code::MissingDerivation);
    let paths: Vec<&StorePath> = entries.iter().map(|(_, path, _)| *path).collect();
    assert_eq!(missing(&client, &paths), std::slice::from_ref(&missing_one.path));
    let build = client.submit(&[&all[4501]]);
    assert_eq!(client.show(build).summary.derivation, all[4501].path);
}

#[test]
fn a_text_refers_to_a_source_that_came_just_before_it_in_the_same_bundle() {
    let house = House::start();
    let client = house.client();
    let named = path::text("named", b"contents", &[]).unwrap();
    let contents = format!("(load \"{named}\")");
    let text = path::text("text", contents.as_bytes(), std::slice::from_ref(&named)).unwrap();
    let (named_nar, text_nar) = (Node::file("contents").to_nar(), Node::file(contents).to_nar());
    let entries = [(Kind::Source, &named, &named_nar[..]), (Kind::Source, &text, &text_nar[..])];
    let uploaded: Uploaded = client.upload(&bundle(&entries)).value();
    assert_eq!(uploaded, Uploaded { derivations: 0, sources: 2, known: 0 });
    let uploaded: Uploaded = client.upload(&bundle(&entries)).value();
    assert_eq!(uploaded, Uploaded { derivations: 0, sources: 0, known: 2 });
}
