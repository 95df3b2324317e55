//! Outputs on their way to the coordinator.

use drover_wire::agent::{Output, Received, Report};
use drover_wire::route::{agents, clients};
use drover_wire::{BuildState, Code, LeaseId};

use crate::agent::{Agent, upload_path};
use crate::graph::{Made, derivation, noise, output};
use crate::house::House;

/// A coordinator, and an agent that has a build.
fn building() -> (House, Agent, LeaseId, Made) {
    let house = House::start();
    let made = derivation("made", &[]);
    house.client().submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    (house, agent, lease, made)
}

/// Asks until so much has arrived: a connection that breaks is noticed when it is.
fn wait_received(agent: &Agent, lease: LeaseId, output: &Output, bytes: u64) {
    let mut asked = std::iter::repeat_with(|| agent.declare(lease, output)).take(10_000);
    assert!(asked.any(|received| received == Received { received: bytes, complete: false }));
}

#[test]
fn an_upload_that_breaks_off_goes_on_where_it_was() {
    let (house, agent, lease, made) = building();
    let (kept, bytes) = output(&made.out, &noise(1 << 20), &[]);
    assert_eq!(agent.declare(lease, &kept), Received { received: 0, complete: false });
    let mut done = 0;
    for next in [300_000, 700_001] {
        let path = format!("{}?offset={done}", upload_path(lease, &made.out));
        let mut connection = agent.0.open("PATCH", &path, "Transfer-Encoding: chunked\r\n");
        connection.chunk(&bytes[done..next]);
        drop(connection);
        wait_received(&agent, lease, &kept, next as u64);
        done = next;
    }
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
    let nar = house.client().0.get(&clients::NAR.path(&[&made.out.base_name()]));
    assert!(nar.body == bytes);
}

#[test]
fn an_upload_that_hangs_gives_way_to_a_newer_one() {
    let (_house, agent, lease, made) = building();
    let (kept, bytes) = output(&made.out, &noise(1 << 20), &[]);
    agent.declare(lease, &kept);
    let path = format!("{}?offset=0", upload_path(lease, &made.out));
    let mut hanging = agent.0.open("PATCH", &path, "Transfer-Encoding: chunked\r\n");
    hanging.chunk(&bytes[..1000]);
    // It stays open.
    wait_received(&agent, lease, &kept, 1000);
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
}

#[test]
fn a_copy_that_was_not_removed_when_its_output_had_its_place_goes_at_the_next_start() {
    let (mut house, agent, lease, made) = building();
    let (kept, bytes) = output(&made.out, b"contents", &[]);
    agent.declare(lease, &kept);
    let received: Received = agent.upload(lease, &made.out, 0, &bytes).value();
    assert!(received.complete);
    let copy = house.folder.path().join("uploads").join(format!("{lease}-{}", made.out.base_name()));
    std::fs::write(&copy, &bytes).unwrap();
    house.crash_and_restart();
    assert!(!copy.exists());
    let agent = Agent(agent.0.moved_to(house.agents));
    assert!(agent.declare(lease, &kept).complete);
}

#[test]
fn an_upload_at_a_wrong_offset_is_refused_with_the_right_one() {
    let (_house, agent, lease, made) = building();
    let (kept, bytes) = output(&made.out, b"contents", &[]);
    agent.declare(lease, &kept);
    for wrong in [1, bytes.len() as u64, u64::MAX] {
        let problem = agent.upload(lease, &made.out, wrong, &bytes).refused(Code::WrongOffset);
        assert_eq!(problem.received, Some(0));
    }
    agent.succeed(lease, &kept, &bytes);
}

#[test]
fn an_output_that_is_not_what_was_declared_is_refused_and_can_be_sent_anew() {
    let (house, agent, lease, made) = building();
    let (kept, bytes) = output(&made.out, &noise(5000), &[]);
    let (_, other) = output(&made.out, &noise(4999), &[]);
    let shorter = &bytes[..bytes.len() - 1];
    let longer = [&bytes[..], b"more"].concat();
    for wrong in [&other[..], shorter, &longer, b"no nar"] {
        agent.declare(lease, &kept);
        agent.upload(lease, &made.out, 0, wrong).refused(Code::BadOutput);
        house.client().0.get(&clients::ITEM.path(&[&made.out.base_name()])).refused(Code::NotFound);
    }
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
}

#[test]
fn a_nar_that_is_padded_with_what_is_skipped_is_refused_and_does_not_fill_the_disk() {
    let (_house, agent, lease, made) = building();
    let (kept, bytes) = output(&made.out, b"contents", &[]);
    agent.declare(lease, &kept);
    let padding: u32 = 100 << 10;
    let mut padded = [0x184d_2a50_u32.to_le_bytes(), padding.to_le_bytes()].concat();
    padded.resize(padded.len() + padding as usize, 0);
    padded.extend_from_slice(&bytes);
    let problem = agent.upload(lease, &made.out, 0, &padded).refused(Code::BadOutput);
    assert!(problem.message.contains("compressed"), "{problem}");
    assert_eq!(agent.declare(lease, &kept), Received { received: 0, complete: false });
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
}

#[test]
fn only_the_outputs_of_the_derivation_are_taken_and_only_from_who_builds_it() {
    let (house, agent, lease, made) = building();
    let other = derivation("other", &[]);
    let (foreign, _) = output(&other.out, b"contents", &[]);
    agent.0.post(&agents::DECLARE.path(&[&lease]), &foreign).refused(Code::BadOutput);
    let (kept, bytes) = output(&made.out, b"contents", &[]);
    let stranger = house.agent("two");
    stranger.0.post(&agents::DECLARE.path(&[&lease]), &kept).refused(Code::LeaseNotHeld);
    stranger.upload(lease, &made.out, 0, &bytes).refused(Code::LeaseNotHeld);
    let report = Report::Succeeded { outputs: vec![kept.clone()] };
    stranger.0.post(&agents::REPORT.path(&[&lease]), &report).refused(Code::LeaseNotHeld);
    // Nor is success believed before the output is there.
    let early = agent.0.post(&agents::REPORT.path(&[&lease]), &report);
    assert!((400..500).contains(&early.status), "{early:?}");
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
}

#[test]
fn a_reference_to_what_the_build_cannot_have_seen_is_refused_when_all_that_it_needs_is_known() {
    let house = House::start();
    let (input, stranger) = (derivation("input", &[]), derivation("stranger", &[]));
    let made = derivation("made", &[&input]);
    let agent = house.agent("one");
    for built in [&input, &stranger] {
        house.client().submit(&[built]);
        let (kept, bytes) = output(&built.out, b"contents", &[]);
        agent.succeed(agent.allocation().lease, &kept, &bytes);
    }
    house.client().submit(&[&made]);
    let lease = agent.allocation().lease;
    let text = format!("{} {}", input.out, stranger.out);
    let (both, bytes) = output(&made.out, text.as_bytes(), &[&input.out, &stranger.out]);
    agent.declare(lease, &both);
    let problem = agent.upload(lease, &made.out, 0, &bytes).refused(Code::BadOutput);
    assert!(problem.message.contains(stranger.out.base_name()), "{problem}");
    let (kept, bytes) = output(&made.out, input.out.full().as_bytes(), &[&input.out]);
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
}
