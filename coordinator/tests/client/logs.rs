//! `drover log`.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::double::{BUILD, Double, Reply, Request};
use crate::{drover, run};

/// A build's details: its state, and how far each try is (log size, ended).
fn details(state: &str, tries: &[(usize, bool)]) -> Value {
    let attempts = tries.iter().enumerate().map(|(i, (size, ended))| {
        json!({"number": i + 1, "agent": "sparky", "allocated_at": 0, "started_at": 0,
            "ended_at": ended.then_some(1), "outcome": ended.then_some("lease-lost"), "step": null,
            "message": null, "log_size": size})
    });
    json!({
        "summary": {"build": BUILD, "derivation": "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-m4.drv",
            "system": "x86_64-linux", "state": state, "phase": null, "priority": 0, "tags": {}, "agent": null,
            "submitted_at": 0, "started_at": null, "ended_at": null},
        "why": "it waits for an agent", "wanted": true, "timeout": null, "max_silent_time": null,
        "waits_for": [], "waits_for_count": 0, "outputs": [], "attempts": attempts.collect::<Vec<_>>()
    })
}

fn is_log(request: &Request) -> bool {
    request.path.ends_with("/log")
}

/// The number of a field of a query.
fn field(request: &Request, name: &str) -> usize {
    let found = request.query.split('&').filter_map(|f| f.split_once('=')).find(|(key, _)| *key == name);
    found.unwrap().1.parse().unwrap()
}

const LOG: &[u8] = b"start\nnot text: \xff\xfe \x1b[31m\0\nend";

#[test]
fn a_log_is_printed_byte_for_byte_though_the_connection_breaks() {
    let double = Double::new(|request| {
        if !is_log(request) {
            return Reply::json(&details("failed", &[(LOG.len(), true)]));
        }
        let from = field(request, "offset");
        Reply::bytes(200, &LOG[from..]).cut(7)
    });
    assert_eq!(run(drover(&double, &["log", BUILD])).ended(0).stdout, LOG);
    let asked: Vec<_> = double.requests().iter().filter(|r| is_log(r)).map(|r| field(r, "offset")).collect();
    assert_eq!(asked, [0, 7, 14, 21, 28]);
    assert_eq!(run(drover(&double, &["log", BUILD, "--offset", "28"])).ended(0).stdout, &LOG[28..]);
}

#[test]
fn the_last_bytes_of_a_log_are_those_that_are_there_when_it_is_asked_for() {
    let double = Double::new(|request| {
        if !is_log(request) {
            return Reply::json(&details("failed", &[(LOG.len(), true)]));
        }
        Reply::bytes(200, &LOG[field(request, "offset")..])
    });
    for tail in [0, 3, LOG.len(), 1_000] {
        let printed = run(drover(&double, &["log", BUILD, "--tail", &tail.to_string()])).ended(0).stdout;
        assert_eq!(printed, &LOG[LOG.len().saturating_sub(tail)..]);
    }
    run(drover(&double, &["log", BUILD, "--tail", "3", "--offset", "1"])).ended(2);
}

#[test]
fn a_build_without_a_log_is_an_error_in_words() {
    let double = Double::new(|_| Reply::json(&details("ready", &[])));
    let ran = run(drover(&double, &["log", BUILD])).ended(1);
    assert!(ran.stderr.contains("it waits for an agent"), "{}", ran.stderr);
    let double = Double::new(|_| Reply::json(&details("failed", &[(3, true)])));
    run(drover(&double, &["log", BUILD, "--attempt", "7"])).ended(1);
}

#[test]
fn following_goes_through_every_try_to_the_builds_end() {
    // What the build looks like each time that it is asked about.
    let looks = std::sync::Mutex::new(
        vec![
            details("ready", &[]),
            details("running", &[(0, false)]),
            details("running", &[(6, false)]),
            details("ready", &[(6, true)]),
            details("running", &[(6, true), (0, false)]),
            details("succeeded", &[(6, true), (7, true)]),
        ]
        .into_iter(),
    );
    let double = Double::new(move |request| {
        if !is_log(request) {
            let mut looks = looks.lock().unwrap();
            let look = looks.next().unwrap_or_else(|| details("succeeded", &[(6, true), (7, true)]));
            return Reply::json(&look);
        }
        let log: &[u8] = if field(request, "attempt") == 1 { b"first\n" } else { b"second\n" };
        let from = field(request, "offset");
        // The first answer closes early, as when the coordinator is restarted.
        let to = if from == 0 { 3 } else { log.len() };
        Reply::bytes(200, &log[from..to])
    });
    let ran = run(drover(&double, &["log", BUILD, "--follow"])).ended(0);
    assert_eq!(ran.text(), "first\nsecond\n");
    assert!(ran.stderr.contains("try 1 on sparky is over (lease-lost)"), "{}", ran.stderr);
}

#[test]
fn a_silent_builder_is_followed_on_without_a_word() {
    use drover::client::log::{LogRequest, log};
    use drover::client::{Coordinator, Token, Unit, Watch};

    struct Strict;
    impl Watch for Strict {
        fn begin(&self, _: &str, _: Option<u64>, _: Unit) {}
        fn advance(&self, _: u64) {}
        fn note(&self, _: &str) {}
        fn warn(&self, sentence: &str) {
            panic!("{sentence}");
        }
        fn end(&self) {}
    }

    let looks = AtomicUsize::new(0);
    let double = Double::new(move |request| {
        if !is_log(request) {
            let first = looks.fetch_add(1, Ordering::Relaxed) == 0;
            let state = if first { "running" } else { "succeeded" };
            return Reply::json(&details(state, &[(LOG.len(), !first)]));
        }
        // The first answer has some bytes and then nothing for as long as anybody waits.
        match field(request, "offset") {
            0 => Reply::bytes(200, LOG).hang_after(7),
            from => Reply::bytes(200, &LOG[from..]),
        }
    });
    let token = Token::parse(crate::double::TOKEN, "the test").unwrap();
    let silence = std::time::Duration::from_millis(300);
    let coordinator = Coordinator::new(&double.url, &token).unwrap().with_silence(silence);
    let request =
        LogRequest { build: BUILD.parse().unwrap(), attempt: None, offset: 0, tail: None, follow: true };
    let mut out = Vec::new();
    log(&coordinator, &request, &mut out, &Strict).unwrap();
    assert_eq!(out, LOG);
}

#[test]
fn a_build_that_nobody_starts_for_long_is_looked_at_as_often_as_before() {
    // With waits that double, the last of these looks would be a minute away.
    const LOOKS: usize = 12;
    let looks = AtomicUsize::new(0);
    let double = Double::new(move |request| {
        if is_log(request) {
            return Reply::bytes(200, &LOG[field(request, "offset")..]);
        }
        let still = looks.fetch_add(1, Ordering::Relaxed) < LOOKS;
        let (state, tries): (_, &[_]) =
            if still { ("ready", &[]) } else { ("succeeded", &[(LOG.len(), true)]) };
        Reply::json(&details(state, tries))
    });
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let ran = run(drover(&double, &["log", BUILD, "--follow"])).ended(0);
        // The test has given up.
        let _ = done.send(ran.stdout);
    });
    let printed = ended.recv_timeout(std::time::Duration::from_secs(30));
    assert_eq!(printed.expect("it should not have been waited for longer and longer"), LOG);
}
