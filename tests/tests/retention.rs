//! What nothing keeps goes, whatever happens to the coordinator meanwhile.

use std::fs;
use std::process::{Command, Stdio};

use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::wait;
use drover_wire::agent::Report;

const RULES: &str =
    "narinfo-ttl-seconds = 0\n[[retention.sets]]\nnames = \"*\"\n[retention.others]\ndays = 0\n";
const BUILDS: usize = 40;

#[test]
fn a_removal_that_is_interrupted_by_kills_goes_on_and_leaves_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("drover.toml");
    fs::write(&config, RULES).unwrap();
    let mut farm = Farm::with_flags(&["--config", config.to_str().unwrap()]);
    let hand = Hand::new(&farm, "hand");
    let mut graph = Graph::new("retention").unwrap();
    let all: Vec<_> = (0..BUILDS)
        .map(|number| graph.add(Recipe::new(&format!("made-{number}"), "echo >$out")).unwrap())
        .collect();
    let kept = &all[0];
    graph.write(folder.path()).unwrap();
    let builds = farm.client.submit(&graph, &all.iter().collect::<Vec<_>>());
    for _ in 0..BUILDS {
        let allocation = hand.allocation();
        let made = all.iter().find(|made| made.file().ends_with(allocation.derivation.base_name())).unwrap();
        let nar = file_nar(made.out().name().as_bytes());
        let output = declared(made.out(), &nar, &[]);
        hand.deliver(allocation.lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
        let _ = hand.report(allocation.lease, &Report::Succeeded { outputs: vec![output] });
    }
    farm.client.wait_success(&builds);
    let row = serde_json::json!({"derivation": kept.path.as_str(), "package": "kept", "version": "1", "system": "x86_64-linux"});
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, format!("{row}\n")).unwrap();
    let submitted =
        farm.drover(["set", "submit", "all", "--revision", "1", "--from", rows.to_str().unwrap()]);
    assert!(submitted.status.success(), "{submitted:?}");

    for _ in 0..3 {
        let mut run = farm.drover_command(["retention", "run"]);
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait::until("it should be looked", || {
            let status = farm.drover(["retention", "status", "--json"]);
            let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
            let begun = status["running"] == true || status["runs"] != 0 || status["announced"]["items"] != 0;
            begun.then_some(())
        });
        farm.coordinator.kill();
        let _ = run.kill();
        let _ = run.wait();
        farm.restart();
    }
    let ended = farm.drover(["retention", "run", "--json"]);
    assert!(ended.status.success(), "{ended:?}");
    let nars = || {
        let out = Command::new("find").arg(farm.state().join("nars")).args(["-type", "f"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).lines().filter(|line| line.contains("-made-")).count()
    };
    wait::until("only what is kept should have a file", || (nars() == 1).then_some(()));
    let why = farm.drover(["retention", "--why", kept.out().as_str(), all[1].out().as_str()]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("stays: sets *") && why.contains("wanted by all@1: kept 1"), "{why}");
    assert!(why.contains(&format!("{}: it is not here", all[1].out())), "{why}");
}
