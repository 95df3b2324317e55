//! Fixed outputs whose upstream is looked at.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use drover_store::derivation::Fixed;
use drover_store::{Derivation, Sha256Hash};
use drover_wire::Code;
use drover_wire::agent::Report;
use drover_wire::bundle::Kind;
use drover_wire::route::clients;
use drover_wire::source::{Source, SourceList, SourceState};

use crate::client::{Client, bundle};
use crate::graph::{Made, derivation};
use crate::house::House;

/// A server whose answer can be changed, and its address.
fn upstream() -> (String, Arc<Mutex<(&'static str, &'static str)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.tar", listener.local_addr().unwrap());
    let answer = Arc::new(Mutex::new(("200 OK", "right")));
    let given = Arc::clone(&answer);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let (status, body) = *given.lock().unwrap();
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    (url, answer)
}

/// A derivation that fetches something; with `builtin` the daemon does.
fn fetches(name: &str, url: &str, builtin: bool) -> Made {
    let mut made = derivation(name, &[]);
    let mut text = Derivation::parse(&made.text).unwrap();
    if builtin {
        text.builder = b"builtin:download".to_vec();
    }
    let hash = Sha256Hash::of(b"right").as_bytes().to_vec();
    text.outputs[0].fixed = Some(Fixed { recursive: false, algorithm: "sha256".to_owned(), hash });
    text.env = vec![(b"url".to_vec(), format!("\"{url}\"").into_bytes())];
    made.out = text.outputs_with(name, &[]).unwrap().remove(0).1;
    text.outputs[0].path = made.out.clone();
    made.text = text.print();
    made.path = text.path_of_text(&format!("{name}.drv"), &made.text).unwrap();
    made
}

fn check(client: &Client, made: &Made) -> SourceState {
    let checked: Source = client.0.post(&clients::CHECK_SOURCE.path(&[&made.out.base_name()]), &()).value();
    assert_eq!(checked.path, made.out);
    assert!(checked.checked_at.is_some() && !checked.held);
    checked.state
}

fn listed(client: &Client, query: &str) -> Vec<(String, SourceState)> {
    let list: SourceList = client.0.get(&format!("{}{query}", clients::SOURCES.path(&[]))).value();
    list.sources.into_iter().map(|source| (source.path.name().to_owned(), source.state)).collect()
}

#[test]
fn an_upstream_that_changes_or_vanishes_is_listed_as_such() {
    let house = House::with(&["--sources-check-private"]);
    let client = house.client();
    let (url, answer) = upstream();
    let made = fetches("x.tar", &url, true);
    let entries = [(Kind::Derivation, &made.path, made.text.as_slice())];
    assert_eq!(client.upload(&bundle(&entries)).status, 200);
    assert_eq!(check(&client, &made), SourceState::There);
    assert!(listed(&client, "?vanished=true&changed=true").is_empty());
    *answer.lock().unwrap() = ("200 OK", "something else");
    assert_eq!(check(&client, &made), SourceState::Changed);
    *answer.lock().unwrap() = ("500 Oops", "");
    assert_eq!(check(&client, &made), SourceState::Unknown);
    *answer.lock().unwrap() = ("410 Gone", "");
    assert_eq!(check(&client, &made), SourceState::Vanished);
    let all = [("x.tar".to_owned(), SourceState::Vanished)];
    assert_eq!(listed(&client, "?vanished=true"), all);
    assert_eq!(listed(&client, ""), all);
    assert!(listed(&client, "?changed=true").is_empty());
}

#[test]
fn what_a_build_found_out_about_an_upstream_is_noted() {
    let house = House::start();
    let client = house.client();
    let made = fetches("y.tar", "https://y.invalid/", false);
    client.submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::Failed { message: format!("hash mismatch for store item '{}'", made.out) });
    assert_eq!(listed(&client, "?changed=true"), [("y.tar".to_owned(), SourceState::Changed)]);
}

#[test]
fn what_is_no_fixed_output_cannot_be_looked_at() {
    let house = House::start();
    let client = house.client();
    let made = derivation("made", &[]);
    client.submit(&[&made]);
    for path in [&made.out, &fetches("never", "https://n.invalid/", true).out] {
        let answer = client.0.post(&clients::CHECK_SOURCE.path(&[&path.base_name()]), &());
        answer.refused(Code::NotFound);
    }
}
