//! SIGTERM: what ends in time is finished, the rest is handed back, and the exit code is 0.

use std::time::Instant;

use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground::{self, GATE};
use drover_tests::service::{Service, processes_with};
use drover_tests::wait;
use drover_wire::BuildState;
use nix::sys::signal::Signal;

#[test]
fn an_agent_that_is_asked_to_stop_finishes_its_build_and_takes_no_other() {
    if !ground::available("an agent drains") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let mut agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("drain").unwrap();
    let made = graph.add(Recipe::new("slow", format!("{GATE} echo last words; echo >$out"))).unwrap();
    let held = graph.add(Recipe::new("held", "echo >$out")).unwrap();
    let builds = farm.client.submit(&graph, &[&made, &held]);
    farm.client.wait_log(builds[0], "at the gate");

    agent.signal(Signal::SIGTERM);
    wait::until("what it holds and has not started should be handed back", || {
        (farm.client.show(builds[1]).summary.state == BuildState::Ready).then_some(())
    });
    ground.open_gate(&made);
    let status = agent.wait();
    assert_eq!(status.code(), Some(0));
    let done = farm.client.show(builds[0]);
    assert_eq!(done.summary.state, BuildState::Succeeded, "{}", done.why);
    assert!(farm.client.log(builds[0]).ends_with(b"last words\n"));
    assert_eq!(farm.client.show(builds[1]).summary.state, BuildState::Ready);
}

#[test]
fn an_agent_hands_back_what_does_not_end_within_the_drain_time() {
    if !ground::available("the drain time ends") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let start =
        farm.agent_start("one", &ground, &format!("http://{}", farm.agents)).args(["--drain-time", "1"]);
    let mut agent = Service::start("one", start);
    let mut graph = Graph::new("drain-ends").unwrap();
    let made =
        graph.add(Recipe::new("slow", format!("{GATE} echo >$out")).env("marker", "drain-ends")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0));
    let details = farm.client.show(build);
    assert_eq!(details.attempts[0].outcome.as_deref(), Some("handed-back"), "{details:#?}");
    assert_eq!(details.summary.state, BuildState::Ready);
    assert_eq!(farm.client.log(build), b"at the gate\n");
    wait::until("its builder should be gone", || {
        processes_with("marker", "drain-ends").is_empty().then_some(())
    });
}

#[test]
fn a_second_sigterm_hands_back_at_once() {
    if !ground::available("a second SIGTERM") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let start =
        farm.agent_start("one", &ground, &format!("http://{}", farm.agents)).args(["--drain-time", "1h"]);
    let mut agent = Service::start("one", start);
    let mut graph = Graph::new("twice").unwrap();
    let made = graph.add(Recipe::new("slow", format!("{GATE} echo >$out"))).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    agent.signal(Signal::SIGTERM);
    wait::until("the agent should take nothing new", || {
        farm.client.agents().iter().any(|agent| agent.accepting == 0).then_some(())
    });
    assert!(agent.exited().is_none(), "one SIGTERM was enough");
    let asked = Instant::now();
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0));
    assert!(asked.elapsed().as_secs() < 3600, "it waited for its drain time");
    let details = farm.client.show(build);
    assert_eq!(details.attempts[0].outcome.as_deref(), Some("handed-back"), "{details:#?}");
}

#[test]
fn a_coordinator_that_is_asked_to_stop_does_so_with_agents_and_clients_attached() {
    if !ground::available("a coordinator stops") {
        return;
    }
    let mut farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("serve-stops").unwrap();
    let made = graph.add(Recipe::new("slow", format!("{GATE} echo >$out"))).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    let mut follower = farm.drover_command(["log", "--follow", &build.to_string()]).spawn().unwrap();
    farm.coordinator.signal(Signal::SIGTERM);
    assert_eq!(farm.coordinator.wait().code(), Some(0));
    farm.restart();
    ground.open_gate(&made);
    farm.client.wait_success(&[build]);
    let _ = follower.kill();
    let _ = follower.wait();
}
