//! How builds end that do not succeed, and what one is told of it.

use drover_tests::client::want;
use drover_tests::farm::{Farm, words};
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground::{self, GATE};
use drover_tests::service::processes_with;
use drover_tests::wait;
use drover_wire::BuildState;
use drover_wire::client::Wanted;

#[test]
fn a_failing_build_fails_what_depends_on_it_and_the_command_that_waits() {
    if !ground::available("a failing build") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 2);
    let mut graph = Graph::new("failing").unwrap();
    let bad = graph.add(Recipe::new("bad", "echo 'this goes wrong'; exit 3")).unwrap();
    let middle = graph.add(Recipe::new("middle", "echo >$out").input(&bad)).unwrap();
    let top = graph.add(Recipe::new("top", "echo >$out").input(&middle)).unwrap();
    let good = graph.add(Recipe::new("good", "echo >$out")).unwrap();

    let (top_file, bad_file) = (farm.file(&graph, &top), farm.file(&graph, &bad));
    let waited = farm.drover(["build".as_ref(), "--wait".as_ref(), top_file.as_os_str()]);
    assert_eq!(waited.status.code(), Some(7), "{}", words(&waited));
    let alone = farm.drover(["build".as_ref(), "--wait".as_ref(), bad_file.as_os_str()]);
    assert_eq!(alone.status.code(), Some(1), "{}", words(&alone));
    let fine = farm.drover(["build".as_ref(), "--wait".as_ref(), farm.file(&graph, &good).as_os_str()]);
    assert_eq!(fine.status.code(), Some(0), "{}", words(&fine));

    let builds = farm.client.by_derivation();
    assert_eq!(builds[&top.path].state, BuildState::DependencyFailed);
    assert_eq!(builds[&middle.path].state, BuildState::DependencyFailed);
    let why = farm.client.show(builds[&top.path].build).why;
    assert!(why.contains("bad"), "the cause is not named: {why}");
    let shown = farm.drover(["show", &builds[&top.path].build.to_string()]);
    assert!(words(&shown).contains("bad.drv"), "{}", words(&shown));
    let log = farm.drover(["log", &farm.client.by_derivation()[&bad.path].build.to_string()]);
    assert!(words(&log).contains("this goes wrong"), "{}", words(&log));
    assert!(!ground.has(top.out()) && !ground.has(bad.out()));
}

#[test]
fn a_log_of_bytes_that_are_no_text_comes_back_byte_for_byte() {
    if !ground::available("a log that is not UTF-8") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("bytes").unwrap();
    // Latin-1, overlong and surrogate forms, zero bytes, returns, a line of 300 kB, and what looks like the daemon's own.
    let mut expected = b"caf\xe9 \xff\xfe \xc0\x80 \xed\xa0\x80 \x00 end\r\n".to_vec();
    expected
        .extend_from_slice(b"@ build-succeeded /gnu/store/none.drv -\n@ build-log 1 100000\n@ nonsense\n");
    expected.extend(b"abcdefghij".repeat(30_000));
    expected.extend_from_slice(b"\nthe last line has no end \xf0\x9f");
    let text = graph.add_flat("bytes", &expected).unwrap();
    let made = graph
        .add(
            Recipe { sources: vec![text.clone()], ..Recipe::new("noisy", "cat $text; echo >$out") }
                .env("text", text.full()),
        )
        .unwrap();
    let builds = farm.client.submit(&graph, &[&made]);
    farm.client.wait_success(&builds);

    let build = builds[0].to_string();
    let log = farm.drover(["log", &build]);
    assert!(log.status.success(), "{}", words(&log));
    assert!(log.stdout == expected, "{} bytes came back of {}", log.stdout.len(), expected.len());
    assert_eq!(farm.client.log(builds[0]), expected);
    let followed = farm.drover(["log", "--follow", &build]);
    assert!(followed.stdout == expected, "{} bytes came back of {}", followed.stdout.len(), expected.len());
}

#[test]
fn a_canceled_build_is_over_at_once_and_its_processes_are_gone() {
    if !ground::available("a canceled build") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("cancel").unwrap();
    let script = format!("echo before; (sleep 1000 & sleep 1000) & {GATE} echo >$out");
    let made = graph.add(Recipe::new("endless", script).env("marker", "to-be-canceled")).unwrap();
    let next = graph.add(Recipe::new("next", "echo >$out")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    assert!(processes_with("marker", "to-be-canceled").len() >= 3);

    let canceled = farm.drover(["cancel", &build.to_string()]);
    assert!(canceled.status.success(), "{}", words(&canceled));
    assert_eq!(farm.client.show(build).summary.state, BuildState::Canceled);
    wait::until("the builder's processes should be gone", || {
        processes_with("marker", "to-be-canceled").is_empty().then_some(())
    });
    // The agent is free again, the log is there, and the state is still the same.
    let builds = farm.client.submit(&graph, &[&next]);
    farm.client.wait_success(&builds);
    farm.client.wait_log(build, "at the gate");
    let details = farm.client.show(build);
    assert_eq!(details.summary.state, BuildState::Canceled, "{}", details.why);
    assert!(!ground.has(made.out()));
}

#[test]
fn a_build_that_waits_can_be_canceled_and_fails_what_depends_on_it() {
    let farm = Farm::start();
    let mut graph = Graph::new("cancel-waiting").unwrap();
    let one = graph.add(Recipe::new("one", "echo >$out")).unwrap();
    let two = graph.add(Recipe::new("two", "echo >$out").input(&one)).unwrap();
    let two_build = farm.client.submit(&graph, &[&two])[0];
    let one_build = farm.client.by_derivation()[&one.path].build;
    let details = farm.client.cancel(one_build);
    assert_eq!(details.summary.state, BuildState::Canceled);
    assert_eq!(farm.client.show(two_build).summary.state, BuildState::DependencyFailed);
}

#[test]
fn a_timeout_is_told_apart_from_silence_and_from_a_failure() {
    if !ground::available("timeouts") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 2);
    let mut graph = Graph::new("timeouts").unwrap();
    let long = graph.add(Recipe::new("long", "while true; do echo still here; sleep 0.2; done")).unwrap();
    let silent = graph.add(Recipe::new("silent", "echo first; sleep 1000; echo >$out")).unwrap();
    let builds = farm.client.submit_as(
        &graph,
        vec![
            Wanted { timeout: Some(2), max_silent_time: Some(100), ..want(&long) },
            Wanted { timeout: Some(100), max_silent_time: Some(2), ..want(&silent) },
        ],
    );
    let (long, silent) = (
        farm.client.wait_state(builds[0], BuildState::TimedOut),
        farm.client.wait_state(builds[1], BuildState::TimedOut),
    );
    assert_eq!(long.attempts[0].outcome.as_deref(), Some("timed-out"));
    assert_eq!(silent.attempts[0].outcome.as_deref(), Some("timed-out"));
    assert!(silent.why.contains("silen"), "{}", silent.why);
    assert!(!long.why.contains("silen"), "{}", long.why);
    let longer = graph.add(Recipe::new("longer", "while true; do echo still here; sleep 0.2; done")).unwrap();
    let longer = farm.file(&graph, &longer);
    let again = farm.drover([
        "build".as_ref(),
        "--wait".as_ref(),
        "--timeout".as_ref(),
        "1".as_ref(),
        longer.as_os_str(),
    ]);
    assert_eq!(again.status.code(), Some(6), "{}", words(&again));
}
