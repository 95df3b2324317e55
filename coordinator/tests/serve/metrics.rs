//! Numbers, and whether the coordinator is there, for those who watch it.

mod rules;

use std::process::Command;
use std::time::{Duration, Instant};

use drover_wire::Code;
use drover_wire::agent::{Heartbeat, Machine, Poll, Report, SetupStep};
use drover_wire::route::{agents, clients, health};

use crate::graph::{derivation, output};
use crate::house::House;
use crate::peer::Peer;

fn scrape(peer: &Peer) -> String {
    let answer = peer.get(&clients::METRICS.path(&[]));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    String::from_utf8(answer.body).unwrap()
}

/// The value of a sample; its name goes with its labels.
fn value(text: &str, sample: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_build_is_seen_in_the_numbers_as_it_goes_through_the_farm() {
    let house = House::start();
    let client = house.client();
    let build = client.submit(&[&derivation("made", &[])]);
    let text = scrape(&client.0);
    assert_eq!(value(&text, "drover_builds{state=\"ready\",system=\"x86_64-linux\"}"), Some(1.0), "{text}");
    assert_eq!(value(&text, "drover_leases_open"), Some(0.0));
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    agent.log(lease, 0, b"twelve bytes");
    let text = scrape(&client.0);
    assert_eq!(value(&text, "drover_leases_open"), Some(1.0), "{text}");
    assert_eq!(value(&text, "drover_agent_holding{agent=\"one\"}"), Some(1.0));
    assert_eq!(value(&text, "drover_agent_online{agent=\"one\"}"), Some(1.0));
    assert_eq!(value(&text, "drover_log_received_bytes_total"), Some(12.0));
    for histogram in ["drover_build_wait_seconds", "drover_build_dispatch_seconds"] {
        let count = format!("{histogram}_count{{system=\"x86_64-linux\"}}");
        assert_eq!(value(&text, &count), Some(1.0), "{count} in {text}");
    }
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    let text = scrape(&client.0);
    assert_eq!(value(&text, "drover_builds{state=\"failed\",system=\"x86_64-linux\"}"), Some(1.0), "{text}");
    assert_eq!(value(&text, "drover_builds{state=\"ready\",system=\"x86_64-linux\"}"), Some(0.0));
    assert_eq!(value(&text, "drover_leases_closed_total{outcome=\"failed\"}"), Some(1.0));
    let built = "drover_build_duration_seconds_count{system=\"x86_64-linux\",outcome=\"failed\"}";
    assert_eq!(value(&text, built), Some(1.0));
    // What is asked for stands there by its pattern.
    client.show(build);
    let shown = scrape(&client.0);
    let route = "drover_requests_total{listener=\"clients\",method=\"GET\",route=\"/v1/builds/{build}\",status=\"2xx\"}";
    assert_eq!(value(&shown, route), Some(1.0), "{shown}");
    assert!(!shown.contains(&build.to_string()), "{shown}");
}

#[test]
fn only_the_first_try_tells_how_long_a_build_waited_since_its_submission() {
    let house = House::start();
    let client = house.client();
    client.submit(&[&derivation("made", &[])]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::HandedBack { message: "it stops".to_owned() });
    house.agent("two").allocation();
    let text = scrape(&client.0);
    let count = |histogram: &str| value(&text, &format!("{histogram}_count{{system=\"x86_64-linux\"}}"));
    assert_eq!(count("drover_build_wait_seconds"), Some(1.0), "{text}");
    assert_eq!(count("drover_build_dispatch_seconds"), Some(2.0), "{text}");
    assert_eq!(value(&text, "drover_leases_opened_total"), Some(2.0));
}

#[test]
fn a_request_is_counted_although_nobody_waits_for_its_answer() {
    let house = House::start();
    let client = house.client();
    let agent = house.agent("one");
    let poll = serde_json::to_vec(&Poll { accepting: 1, holding: Vec::new() }).unwrap();
    let headers = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n",
        poll.len()
    );
    let mut asks = agent.0.open("POST", &agents::POLL.path(&[]), &headers);
    // Somebody is about to answer.
    assert_eq!(asks.head(), ["HTTP/1.1 100 Continue"]);
    asks.send(&poll);
    // It is held open, for there is nothing to build.
    drop(asks);
    let of = "drover_requests_total{listener=\"agents\",method=\"POST\",route=\"/v1/poll\",status=\"left\"}";
    let latest = Instant::now() + Duration::from_secs(60);
    while value(&scrape(&client.0), of) != Some(1.0) {
        assert!(Instant::now() < latest, "{}", scrape(&client.0));
    }
    let times =
        "drover_request_duration_seconds_count{listener=\"agents\",method=\"POST\",route=\"/v1/poll\"}";
    assert_eq!(value(&scrape(&client.0), times), None);
}

#[test]
fn numbers_are_for_those_with_a_token_or_of_this_machine() {
    let house = House::with(&["--metrics-listen", "127.0.0.1:0"]);
    Peer::new(house.clients, "").get(&clients::METRICS.path(&[])).refused(Code::Unauthorized);
    Peer::new(house.agents, "").get(&clients::METRICS.path(&[])).refused(Code::Unauthorized);
    assert_eq!(house.stranger().get(&clients::METRICS.path(&[])).status, 404);
    let local = Peer::new(house.metrics.expect("it says where"), "");
    assert!(scrape(&local).contains("\ndrover_process_start_time_seconds "));
    // Nothing else is there.
    local.get(&clients::AGENTS.path(&[])).refused(Code::NotFound);
    assert_eq!(local.get(&health::READY.path(&[])).status, 200);
}

#[test]
fn who_watches_needs_no_token_to_see_whether_the_coordinator_is_ready() {
    let house = House::start();
    let stranger = Peer::new(house.clients, "");
    let healthy = stranger.get(&health::HEALTHY.path(&[]));
    assert_eq!((healthy.status, &healthy.body[..]), (200, &b"The coordinator runs.\n"[..]));
    let ready = stranger.get(&health::READY.path(&[]));
    assert_eq!((ready.status, &ready.body[..]), (200, &b"The coordinator is ready.\n"[..]));
}

#[test]
fn a_coordinator_without_room_is_not_ready_and_says_so() {
    let house = House::with(&["--disk-reserve-mib", "1000000000"]);
    let stranger = Peer::new(house.clients, "");
    let ready = stranger.get(&health::READY.path(&[]));
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8(ready.body).unwrap().contains("full"));
    assert_eq!(stranger.get(&health::HEALTHY.path(&[])).status, 200);
}

#[test]
fn an_address_that_others_reach_is_no_place_for_numbers_without_a_token() {
    let refused = Command::new(env!("CARGO_BIN_EXE_drover"))
        .args(["serve", "--metrics-listen", "0.0.0.0:8748"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("loopback"));
}

/// All that Prometheus could see of a farm that has done everything once.
fn of_a_farm_at_work() -> String {
    let house = House::start();
    let client = house.client();
    let made = derivation("made", &[]);
    client.submit(&[&made]);
    let agent = house.agent("one");
    let machine = Machine {
        load_1min: Some(0.5),
        processors: Some(2),
        store_free: Some(1 << 30),
        state_free: Some(1 << 30),
        memory_available: Some(1 << 30),
    };
    let heartbeat = Heartbeat { accepting: 1, leases: Vec::new(), machine };
    assert_eq!(agent.0.post(&agents::HEARTBEAT.path(&[]), &heartbeat).status, 200);
    let (kept, compressed) = output(&made.out, b"made", &[]);
    let lease = agent.allocation().lease;
    agent.log(lease, 0, b"a line\n");
    agent.succeed(lease, &kept, &compressed);
    client.submit(&[&derivation("failing", &[])]);
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    let below = derivation("below", &[]);
    client.submit(&[&below, &derivation("above", &[&below])]);
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::SetupFailed { step: SetupStep::DiskFull, message: "full".to_owned() });
    scrape(&client.0)
}
