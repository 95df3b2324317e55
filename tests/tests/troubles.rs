//! Machines that are not as they should be: keys that are missing, disks that are full, sources that nobody has. Each is
//! said plainly, and nothing is lost.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::Path;

use drover_tests::client::{bundle, want};
use drover_tests::farm::{Farm, Setup, small_disk, words};
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground::{self, GATE};
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::http::Answer;
use drover_tests::service::Service;
use drover_tests::wait;
use drover_wire::agent::{Report, Reported, SetupStep};
use drover_wire::client::{NewAgent, Submission, Submitted, WaitsFor};
use drover_wire::route::clients;
use drover_wire::{BuildState, Code};

#[test]
fn an_agent_whose_daemon_lacks_the_key_says_so_and_how_to_add_it() {
    if !ground::available("a key that is missing") {
        return;
    }
    let farm = Farm::start();
    let (ground, stranger) = (farm.ground("one"), farm.stranger_ground("two"));
    let mut graph = Graph::new("no-key").unwrap();
    let input = graph.add(Recipe::new("input", "echo >$out")).unwrap();
    let needs = graph.add(Recipe::new("needs", "cat $inputs; echo >$out").input(&input)).unwrap();
    let first = farm.client.submit(&graph, &[&input]);
    let mut one = farm.agent("one", &ground, 1);
    farm.client.wait_success(&first);
    one.kill();

    let _two = farm.agent("two", &stranger, 1);
    let build = farm.client.submit(&graph, &[&needs])[0];
    let attempt = wait::until("the second agent should fail to set it up", || {
        farm.client.show(build).attempts.into_iter().find(|attempt| attempt.outcome.is_some())
    });
    assert_eq!(attempt.outcome.as_deref(), Some("setup-failed"), "{attempt:?}");
    assert_eq!(attempt.step, Some(SetupStep::ImportInputs));
    let message = attempt.message.unwrap();
    assert!(message.contains("ACL"), "{message}");
    assert!(message.contains("drover key show | guix archive --authorize"), "{message}");
    assert!(!farm.client.show(build).summary.state.is_final(), "a setup failure is no failure of the build");
    // An agent that can do it gets it.
    one.restart();
    farm.client.wait_success(&[build]);
}

#[test]
fn the_key_that_is_shown_is_what_guix_archive_authorizes() {
    if !ground::available("drover key show") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.stranger_ground("one");
    let key = farm.drover(["key", "show"]);
    assert!(key.status.success(), "{}", words(&key));
    let file = ground.dir.join("key");
    std::fs::write(&file, &key.stdout).unwrap();
    let script = format!("guix archive --authorize <{}", file.display());
    let output = ground.run(&["sh", "-c", &script]);
    assert!(output.status.success(), "{}", words(&output));
    let acl = std::fs::read_to_string(&ground.acl).unwrap();
    let q = farm.client.key();
    let q = q.split("(q").nth(1).unwrap().split('#').nth(1).unwrap();
    assert!(acl.to_uppercase().contains(&q.to_uppercase()), "{acl}");
}

#[test]
fn a_source_that_nobody_has_makes_its_build_wait_and_is_named() {
    if !ground::available("a source that nobody has") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("no-source").unwrap();
    let text = graph.add_source("lost-patch", b"lost").unwrap();
    let needs = Recipe { sources: vec![text.clone()], ..Recipe::new("needs", "cat $lost >$out") };
    let needs = graph.add(needs.env("lost", text.full())).unwrap();
    let above = graph.add(Recipe::new("above", "cat $inputs >$out").input(&needs)).unwrap();
    let beside = graph.add(Recipe::new("beside", "echo >$out")).unwrap();
    let folder = farm.dir().join("some");
    graph.write(&folder).unwrap();
    std::fs::remove_file(folder.join(text.base_name())).unwrap();
    let files: Vec<_> = [&above, &beside].map(|made| Graph::file(&folder, made)).into();
    let output = farm.drover(["build".as_ref(), files[0].as_os_str(), files[1].as_os_str()]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("lost-patch"), "{}", words(&output));

    let builds = farm.client.by_derivation();
    farm.client.wait_success(&[builds[&beside.path].build]);
    let details = farm.client.show(builds[&needs.path].build);
    assert_eq!(details.summary.state, BuildState::Waiting);
    assert!(details.why.contains("lost-patch"), "{}", details.why);
    assert!(
        details.waits_for.iter().any(|what| matches!(what, WaitsFor::Source { path, .. } if *path == text))
    );
    // Once somebody uploads it, all goes on by itself.
    let answer = farm.client.upload(&bundle(&graph));
    assert_eq!(answer.status, 200, "{}", answer.text());
    farm.client.wait_success(&[builds[&needs.path].build, builds[&above.path].build]);
}

#[test]
fn a_full_disk_at_the_coordinator_is_said_and_the_result_is_sent_later() {
    if !ground::available("a full disk at the coordinator") {
        return;
    }
    const DISK: u64 = 24 << 20;
    let farm = Farm::with(&Setup { disk: Some(DISK), ..Setup::default() });
    let ground = farm.ground("one");
    let mut agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("coordinator-full").unwrap();
    let large = graph.add(Recipe::new("large", "head -c 16000000 /dev/urandom >$out")).unwrap();
    let filler = farm.state().join("filler");
    std::fs::write(&filler, vec![1; 12 << 20]).unwrap();
    let build = farm.client.submit(&graph, &[&large])[0];
    wait::until("the agent should be told that the disk is full", || {
        let said = agent.text().to_lowercase();
        (said.contains("disk is full") || said.contains("storage-full") || said.contains("507")).then_some(())
    });
    assert!(!farm.client.show(build).summary.state.is_final());
    assert!(agent.exited().is_none());
    std::fs::remove_file(&filler).unwrap();
    farm.client.wait_success(&[build]);
    assert_eq!(farm.client.show(build).attempts.len(), 1);
}

/// Takes what is left of the disk that this is on.
fn fill(filler: &Path) {
    let mut file = std::fs::File::create(filler).unwrap();
    for size in [1 << 20, 4096, 1] {
        let bytes = vec![1; size];
        while file.write_all(&bytes).is_ok() {}
    }
}

#[test]
fn on_a_disk_without_a_byte_left_everybody_is_told_to_wait_and_nothing_is_lost() {
    if !ground::available("a disk without a byte left") {
        return;
    }
    let farm = Farm::with(&Setup { disk: Some(24 << 20), ..Setup::default() });
    let hand = Hand::new(&farm, "hand");
    let mut graph = Graph::new("not-a-byte").unwrap();
    let made = graph.add(Recipe::new("made", "echo >$out")).unwrap();
    let other = graph.add(Recipe::new("other", "echo >$out")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    let lease = hand.allocation().lease;
    let nar = file_nar(b"contents");
    let (output, bytes) = (declared(made.out(), &nar, &[]), zstd::encode_all(&nar[..], 3).unwrap());
    let submission = Submission { builds: vec![want(&other)] };
    let end = Report::Succeeded { outputs: vec![output.clone()] };
    let filler = farm.state().join("filler");
    fill(&filler);

    let full = |what: &str, answer: &Answer| {
        assert_eq!(answer.status, 507, "{what}: {}", answer.text());
        answer.refused(507, Code::StorageFull);
    };
    full("a submission", &farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission));
    full("a bundle", &farm.client.upload(&bundle(&graph)));
    full("a log", &hand.log(lease, 0, b"a line\n"));
    full("an output", &hand.declare(lease, &output));
    full(
        "a new agent",
        &farm.client.peer.post(&clients::NEW_AGENT.path(&[]), &NewAgent { name: "x".to_owned() }),
    );
    let rotate = ["key", "rotate", "--after", "7d"];
    let rotated = farm.drover(rotate);
    assert!(!rotated.status.success() && words(&rotated).contains("full"), "{}", words(&rotated));
    // What only reads goes on.
    assert!(!farm.client.show(build).summary.state.is_final());
    assert!(words(&farm.drover(["storage"])).contains("state"));

    std::fs::remove_file(&filler).unwrap();
    hand.deliver(lease, &output, &bytes);
    fill(&filler);
    full("a report", &hand.report(lease, &end));
    std::fs::remove_file(&filler).unwrap();
    let _: Reported = hand.report(lease, &end).value();
    let details = farm.client.show(build);
    assert_eq!((details.summary.state, details.attempts.len()), (BuildState::Succeeded, 1));
    // No half of a key is left.
    let keys = farm.drover(["key", "list"]);
    assert!(keys.status.success(), "{}", words(&keys));
    let secrets = std::fs::read_dir(farm.state().join("keys")).unwrap().count();
    assert_eq!(secrets, 1);
    let rotated = farm.drover(rotate);
    assert!(rotated.status.success(), "{}", words(&rotated));
    let _: Submitted = farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission).value();
}

#[test]
fn a_full_disk_at_the_agent_hands_the_build_back_and_the_agent_lives() {
    if !ground::available("a full disk at the agent") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let state = ground.dir.join("agent");
    std::fs::create_dir_all(&state).unwrap();
    let start = farm.agent_start("one", &ground, &format!("http://{}", farm.agents));
    let mut agent = Service::start("one", small_disk(&start, &state, 100 << 20));
    let mut graph = Graph::new("agent-full").unwrap();
    let script = format!("{GATE} seq 1 2000000; echo >$out");
    let made = graph.add(Recipe::new("talks-a-lot", script)).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    let filler = drover_tests::farm::seen_by(&agent, &state.join("filler"));
    // The disk fills up: what fits is written, and the log does not fit.
    let _ = std::fs::write(&filler, vec![1; 100 << 20]);
    ground.open_gate(&made);
    let outcome = wait::until("the try should end", || farm.client.show(build).attempts[0].outcome.clone());
    if outcome != "succeeded" {
        assert!(outcome == "handed-back" || outcome == "setup-failed", "{outcome}");
        let message = farm.client.show(build).attempts[0].message.clone().unwrap();
        assert!(message.contains("disk") || message.contains("space"), "{message}");
    }
    assert!(agent.exited().is_none(), "the agent ended");
    std::fs::remove_file(&filler).unwrap();
    if outcome != "succeeded" {
        wait::until("the build should be tried again", || {
            (farm.client.show(build).attempts.len() > 1).then_some(())
        });
        farm.client.wait_log(build, "at the gate");
        ground.open_gate(&made);
    }
    farm.client.wait_success(&[build]);
}

#[test]
fn an_output_that_is_there_already_is_built_here_all_the_same() {
    if !ground::available("an output that is there") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let mut graph = Graph::new("there").unwrap();
    let made = graph.add(Recipe::new("there", "echo $RANDOM-$RANDOM-$RANDOM >$out")).unwrap();
    let agent = farm.agent("one", &ground, 1);
    let build = farm.client.submit(&graph, &[&made]);
    farm.client.wait_success(&build);
    let before = std::fs::read(ground.item(made.out())).unwrap();
    drop(agent);
    // Another farm with the same daemon: the output is valid in the store, and nothing of it was built for this farm.
    let other = Farm::start();
    let mut again = Graph::new("there").unwrap();
    let same = again.add(Recipe::new("there", "echo $RANDOM-$RANDOM-$RANDOM >$out")).unwrap();
    assert_eq!(same, made);
    let _agent = other.agent("one", &ground, 1);
    let build = other.client.submit(&again, &[&same]);
    other.client.wait_success(&build);
    assert_ne!(std::fs::read(ground.item(made.out())).unwrap(), before, "it was not built anew");
}

#[test]
fn a_builder_for_another_machine_fails_its_setup_and_not_the_build() {
    if !ground::available("another machine") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let start = farm.agent_start("one", &ground, &format!("http://{}", farm.agents));
    let _agent = Service::start("one", start.args(["--system", "i586-gnu"]));
    let mut graph = Graph::new("elsewhere").unwrap();
    let made = graph.add(Recipe::new("elsewhere", "echo >$out").system("i586-gnu")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    let attempt = wait::until("the try should end", || {
        farm.client.show(build).attempts.into_iter().find(|attempt| attempt.outcome.is_some())
    });
    let log = String::from_utf8_lossy(&farm.client.log(build)).into_owned();
    assert_eq!(attempt.outcome.as_deref(), Some("setup-failed"), "{attempt:?}\n{log}");
    assert_eq!(attempt.step, Some(SetupStep::UnsupportedPlatform), "{attempt:?}");
}

#[test]
fn nobody_is_given_what_nobody_can_build() {
    let farm = Farm::start();
    let mut graph = Graph::new("nobody").unwrap();
    let made = graph.add(Recipe::new("nobody", "echo >$out").system("riscv64-linux")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    let details = farm.client.show(build);
    assert_eq!(details.summary.state, BuildState::Ready);
    assert!(details.why.contains("riscv64-linux"), "{}", details.why);
}
