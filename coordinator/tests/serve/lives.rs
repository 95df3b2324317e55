//! Builds from their submission to their end.

use std::sync::mpsc;
use std::thread;

use drover_wire::agent::{GiveUpReason, Report};
use drover_wire::route::{agents, clients};
use drover_wire::{BuildState, Code, ItemInfo};

use crate::agent::Agent;
use crate::graph::{derivation, output};
use crate::house::House;

#[test]
fn an_open_poll_is_answered_when_a_build_is_submitted() {
    let house = House::start();
    let agent = house.agent("one");
    let polling = thread::spawn({
        let agent = agent.clone();
        move || agent.allocation()
    });
    let made = derivation("made", &[]);
    let build = house.client().submit(&[&made]);
    let allocation = polling.join().unwrap();
    assert_eq!((allocation.build, allocation.derivation), (build, made.path));
}

#[test]
fn an_output_that_arrives_makes_what_waits_for_it_ready_and_travels_signed() {
    let house = House::start();
    let client = house.client();
    let below = derivation("below", &[]);
    let above = derivation("above", &[&below]);
    let build = client.submit(&[&below, &above]);
    assert_eq!(client.state(build), BuildState::Waiting);

    let agent = house.agent("one");
    let first = agent.allocation();
    assert_eq!(first.derivation, below.path);
    let (kept, bytes) = output(&below.out, b"below", &[]);
    assert_eq!(agent.succeed(first.lease, &kept, &bytes).state, BuildState::Succeeded);

    let second = agent.allocation();
    assert_eq!((&second.derivation, second.build), (&above.path, build));
    let closure = agent.closure(second.lease);
    let texts: Vec<_> = closure.texts.iter().map(|text| text.path()).collect();
    assert_eq!(texts, [&below.path, &above.path]);
    let held = closure.inputs[0].held.as_ref().unwrap();
    assert_eq!((&held.path, held.nar_hash), (&below.out, kept.nar_hash));
    assert!(held.import_signature.as_ref().is_some_and(|signature| signature.contains("sig-val")));

    let (kept, bytes) = output(&above.out, below.out.full().as_bytes(), &[&below.out]);
    agent.succeed(second.lease, &kept, &bytes);
    assert_eq!(client.end_of(build), BuildState::Succeeded);
    let item: ItemInfo = client.0.get(&clients::ITEM.path(&[&above.out.base_name()])).value();
    assert_eq!((item.nar_hash, item.references), (kept.nar_hash, vec![below.out.clone()]));
    assert_eq!(item.import_signature, None, "signatures are for agents");
}

#[test]
fn a_build_that_is_canceled_is_given_up_through_the_open_poll() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let (opened, orders) = mpsc::channel();
    thread::spawn({
        let agent = agent.clone();
        move || opened.send(agent.poll(1, &[lease]))
    });
    assert_eq!(client.cancel(build).status, 200);
    assert_eq!(client.state(build), BuildState::Canceled);
    let orders = orders.recv().unwrap();
    assert_eq!((orders.give_up[0].lease, orders.give_up[0].reason), (lease, GiveUpReason::Canceled));
    assert_eq!(agent.report(lease, &Report::Canceled).state, BuildState::Canceled);
}

#[test]
fn a_report_that_is_sent_again_gets_the_same_answer() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let report = Report::Failed { message: "exit code 1".to_owned() };
    assert_eq!(agent.report(lease, &report).state, BuildState::Failed);
    assert_eq!(agent.report(lease, &report).state, BuildState::Failed);
    assert_eq!(client.show(build).attempts.len(), 1);
    let other = house.agent("two");
    other.0.post(&agents::REPORT.path(&[&lease]), &report).refused(Code::LeaseNotHeld);
}

#[test]
fn an_allocation_whose_answer_was_lost_is_sent_again() {
    let house = House::start();
    house.client().submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let first = agent.allocation();
    assert_eq!(agent.allocation(), first);
}

#[test]
fn two_machines_with_the_same_uuid_are_told_so() {
    let house = House::start();
    let agent = house.agent("one");
    let (answered, answers) = mpsc::channel();
    for _ in 0..2 {
        let (machine, answered) = (agent.clone(), answered.clone());
        let poll = drover_wire::agent::Poll { accepting: 0, holding: Vec::new() };
        // The other one is still open when the house goes, and its answer is nobody's.
        thread::spawn(move || drop(answered.send(machine.0.post(&agents::POLL.path(&[]), &poll))));
    }
    // Which of the two comes first is not known; that one is answered.
    let problem = answers.recv().unwrap().refused(Code::Conflict);
    assert!(problem.message.contains("one") && problem.message.contains("two machines"), "{problem}");
}

#[test]
fn a_poll_whose_agent_went_away_does_not_swallow_a_build() {
    let house = House::with(&["--poll-seconds", "2"]);
    let (gone, there) = (house.agent("gone"), house.agent("there"));
    let body = serde_json::to_vec(&drover_wire::agent::Poll { accepting: 1, holding: Vec::new() }).unwrap();
    let mut connection =
        gone.0.open("POST", &agents::POLL.path(&[]), &format!("Content-Length: {}\r\n", body.len()));
    connection.send(&body);
    drop(connection);
    house.client().submit(&[&derivation("made", &[])]);
    let mut tries = std::iter::repeat_with(|| Agent::poll(&there, 1, &[]).allocations).take(20);
    // Whichever of the two has it: the one that is there, or the one that is gone and comes back.
    let found = tries.any(|all| !all.is_empty() || !gone.poll(1, &[]).allocations.is_empty());
    assert!(found, "nobody was given the build");
}
