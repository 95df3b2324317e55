//! The coordinator stops, and comes back.

use std::io::Read as _;
use std::thread;

use drover_wire::agent::{Orders, Received};
use drover_wire::client::LogQuery;
use drover_wire::route::clients;
use drover_wire::{BuildState, Code};

use crate::agent::{Agent, upload_path};
use crate::graph::{derivation, noise, output};
use crate::house::House;

#[test]
fn what_is_held_open_ends_when_the_coordinator_is_asked_to_stop() {
    let house = House::start();
    let client = house.client();
    let agent = house.agent("one");
    let build = client.submit(&[&derivation("made", &[])]);
    let lease = agent.allocation().lease;
    assert_eq!(agent.log(lease, 0, b"begin").status, 200);
    let mut log = client.log(build, &LogQuery { follow: true, ..LogQuery::default() });
    log.read_exact(&mut [0; 5]).unwrap();
    let waiting = thread::spawn({
        let client = client.clone();
        move || {
            let question = drover_wire::client::WaitQuestion { builds: vec![build], seconds: 60 };
            client.0.post(&clients::WAIT.path(&[]), &question)
        }
    });
    let polling = thread::spawn(move || agent.poll(1, &[lease]));
    // Either may come too late, and finds nobody.
    house.terminate();
    assert_eq!(log.read(&mut [0; 1]).unwrap(), 0);
    assert!(house.wait().success());
    let orders = polling.join();
    assert!(orders.is_err() || orders.is_ok_and(|orders| orders == Orders::default()));
    let _ = waiting.join();
}

#[test]
fn after_a_crash_a_lease_its_log_and_its_upload_go_on() {
    let mut house = House::start();
    let made = derivation("made", &[]);
    let build = house.client().submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    assert_eq!(agent.log(lease, 0, b"before ").status, 200);
    let (kept, bytes) = output(&made.out, &noise(1 << 20), &[]);
    agent.declare(lease, &kept);
    let path = format!("{}?offset=0", upload_path(lease, &made.out));
    let mut connection = agent.0.open("PATCH", &path, "Transfer-Encoding: chunked\r\n");
    connection.chunk(&bytes[..500_000]);
    drop(connection);
    let mut asked = std::iter::repeat_with(|| agent.declare(lease, &kept).received).take(10_000);
    assert!(asked.any(|received| received == 500_000));

    house.crash_and_restart();
    let agent = Agent(agent.0.moved_to(house.agents));
    assert_eq!(agent.hello(&[lease]).give_up, []);
    let received: Received = agent.log(lease, 7, b"after").value();
    assert_eq!(received.received, 12);
    let there = agent.declare(lease, &kept).received;
    assert!((1..=500_000).contains(&there), "{there}");
    assert_eq!(agent.succeed(lease, &kept, &bytes).state, BuildState::Succeeded);
    let client = house.client();
    assert_eq!(client.end_of(build), BuildState::Succeeded);
    assert_eq!(client.whole_log(build), b"before after");
    assert_eq!(client.show(build).attempts.len(), 1);
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let mut house = House::start();
    let made = derivation("made", &[]);
    let build = house.client().submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let (kept, bytes) = output(&made.out, b"contents", &[]);
    agent.succeed(lease, &kept, &bytes);
    house.crash_and_restart();
    let client = house.client();
    assert_eq!(client.state(build), BuildState::Succeeded);
    assert!(client.0.get(&clients::NAR.path(&[&made.out.base_name()])).body == bytes);
}

#[test]
fn an_agent_that_comes_back_without_its_build_gives_it_up() {
    let house = House::start();
    let build = house.client().submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    agent.hello(&[]);
    agent.log(lease, 0, b"x").refused(Code::LeaseNotHeld);
    assert_eq!(house.client().state(build), BuildState::Ready);
    assert_ne!(agent.allocation().lease, lease);
}

#[test]
fn a_second_coordinator_is_not_let_into_the_same_folder() {
    let house = House::start();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_drover"))
        .args([
            "serve",
            "--agents-listen",
            "127.0.0.1:0",
            "--clients-listen",
            "127.0.0.1:0",
            "--public-listen",
            "127.0.0.1:0",
            "--state",
        ])
        .arg(house.folder.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains(house.folder.path().to_str().unwrap()), "{words}");
}
