//! Logs, as they are read.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread;

use drover_wire::Code;
use drover_wire::agent::Report;
use drover_wire::client::{LOG_OFFSET_HEADER, LOG_SIZE_HEADER, LogQuery};
use drover_wire::route::clients;

use crate::graph::{derivation, noise};
use crate::hooks::eventually;
use crate::house::House;

const FOLLOW: LogQuery = LogQuery { offset: None, tail: None, attempt: None, follow: true };

#[test]
fn a_followed_log_brings_every_chunk_when_it_comes_and_ends_with_the_try() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let mut log = client.log(build, &FOLLOW);
    let mut sent = 0;
    for chunk in [b"one\n".as_slice(), b"\xff\x00two", &noise(200_000), b"the last"] {
        assert_eq!(agent.log(lease, sent, chunk).status, 200);
        sent += chunk.len() as u64;
        // Nothing more is sent until this is here.
        let mut here = vec![0; chunk.len()];
        log.read_exact(&mut here).unwrap();
        assert!(here == chunk, "the chunk at {sent} is another one");
    }
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    assert_eq!(log.read(&mut [0; 10]).unwrap(), 0);
}

#[test]
fn a_log_can_be_followed_before_there_is_any() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let reading = thread::spawn({
        let client = client.clone();
        move || {
            let mut log = String::new();
            client.log(build, &FOLLOW).read_to_string(&mut log).map(|_| log)
        }
    });
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    assert_eq!(agent.log(lease, 0, b"begin\n").status, 200);
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    assert_eq!(reading.join().unwrap().unwrap(), "begin\n");
}

#[test]
fn a_log_reads_the_same_from_any_offset_while_it_grows_and_afterwards() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let text = noise(250_000);
    assert_eq!(agent.log(lease, 0, &text).status, 200);
    let from = |offset: usize| {
        let mut log = Vec::new();
        let query = LogQuery { offset: Some(offset as u64), ..LogQuery::default() };
        client.log(build, &query).read_to_end(&mut log).unwrap();
        log
    };
    let check = || {
        for offset in [0, 1, 131_072, 249_999, 250_000, 300_000] {
            assert!(
                from(offset) == text.get(offset..).unwrap_or_default(),
                "from {offset} it is another one"
            );
        }
    };
    check();
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    check();
}

#[test]
fn a_chunk_at_a_wrong_offset_is_refused_and_nothing_of_it_is_kept() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    assert_eq!(agent.log(lease, 0, b"first ").status, 200);
    for wrong in [0, 5, 7, u64::MAX] {
        assert_eq!(agent.log(lease, wrong, b"xxx").refused(Code::WrongOffset).received, Some(6));
    }
    house.agent("two").log(lease, 6, b"xxx").refused(Code::LeaseNotHeld);
    assert_eq!(client.whole_log(build), b"first ");
}

#[test]
fn a_log_that_is_nowhere_is_not_found() {
    let house = House::start();
    let client = house.client();
    let unknown = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    client.0.get(&clients::LOG.path(&[&unknown])).refused(Code::NotFound);
    let build = client.submit(&[&derivation("made", &[])]);
    client.0.get(&format!("{}?attempt=7", clients::LOG.path(&[&build]))).refused(Code::NotFound);
}

#[test]
fn the_end_of_a_log_comes_with_where_it_begins_while_the_log_grows_and_afterwards() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    // Nothing is there yet.
    let ask = |tail: u64| client.0.get(&format!("{}?tail={tail}", clients::LOG.path(&[&build])));
    assert_eq!((ask(7).header(LOG_OFFSET_HEADER), ask(7).body.len()), ("0", 0));
    // Several frames, when it is packed.
    let text = noise(2_500_000);
    let mut sent = 0;
    for chunk in text.chunks(200_000) {
        assert_eq!(agent.log(lease, sent, chunk).status, 200);
        sent += chunk.len() as u64;
    }
    let check = || {
        for tail in [0, 1, 70_000, 1_500_000, 2_500_000, 9_999_999] {
            let answer = ask(tail);
            let from = text.len().saturating_sub(usize::try_from(tail).unwrap());
            assert!(answer.body == text[from..], "the last {tail} are others");
            assert_eq!(answer.header(LOG_OFFSET_HEADER), from.to_string());
            assert_eq!(answer.header(LOG_SIZE_HEADER), "2500000");
        }
    };
    check();
    // Who follows from there gets what comes.
    let query = LogQuery { tail: Some(3), follow: true, ..LogQuery::default() };
    let mut follower = client.log(build, &query);
    let mut three = [0; 3];
    follower.read_exact(&mut three).unwrap();
    assert_eq!(three, text[text.len() - 3..]);
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    assert_eq!(follower.read(&mut [0; 10]).unwrap(), 0);
    let logs = house.folder.path().join("logs");
    let is_packed = |files: &[PathBuf]| files.iter().all(|file| file.extension() == Some("zst".as_ref()));
    eventually("the log should be packed", || is_packed(&files_below(&logs)).then_some(()));
    check();
    client.0.get(&format!("{}?tail=1&offset=1", clients::LOG.path(&[&build]))).refused(Code::BadRequest);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
