//! Numbers, and whether the coordinator is there, for those who watch it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use drover_wire::Code;
use drover_wire::agent::{Heartbeat, Machine, Report};
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
    scrape(&client.0)
}

#[test]
fn alerts_and_dashboard_name_only_numbers_that_there_are() {
    let text = of_a_farm_at_work();
    let samples: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for (file, named) in [
        ("alerts.yml", include_str!("../../metrics/alerts.yml")),
        ("dashboard.json", include_str!("../../metrics/dashboard.json")),
    ] {
        let words = named.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("drover_")).collect();
        assert!(named.len() > 15, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&samples).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which are not among {samples:?}");
    }
    serde_json::from_str::<serde_json::Value>(include_str!("../../metrics/dashboard.json")).unwrap();
}

#[test]
fn promtool_finds_nothing_wrong_with_the_numbers_and_the_alerts() {
    let Some(promtool) = std::env::var_os("DROVER_PROMTOOL") else {
        println!(
            "SKIPPED: promtool about numbers and alerts: DROVER_PROMTOOL does not name that program of Prometheus"
        );
        return;
    };
    let text = of_a_farm_at_work();
    let mut checking = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checking.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
    assert!(checked.status.success() && said.is_empty(), "promtool check metrics: {said}\n{text}");
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts.test.yml")] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/metrics");
        let checked =
            Command::new(&promtool).args([what, "rules", file]).current_dir(folder).output().unwrap();
        let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
        assert!(checked.status.success() && said.contains("SUCCESS"), "promtool {what} rules: {said}");
    }
}
