//! What nothing keeps goes, whatever happens to the coordinator meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use drover_store::StorePath;
use drover_store::narinfo::NarInfo;
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::http::Peer;
use drover_tests::wait;
use drover_wire::agent::Report;
use drover_wire::retention::RetentionStatus;

const RULES: &str =
    "narinfo-ttl-seconds = 1\n[[retention.sets]]\nnames = \"*\"\n[retention.others]\ndays = 0\n";
const BUILDS: usize = 40;

fn narinfo(farm: &Farm, path: &StorePath) -> Option<NarInfo> {
    let public = Peer::stranger(&format!("http://{}", farm.public));
    let answer = public.get(&format!("/{}.narinfo", path.hash_part()));
    (answer.status == 200).then(|| NarInfo::parse(answer.text().as_bytes()).unwrap())
}

fn status(farm: &Farm) -> RetentionStatus {
    let status = farm.drover(["retention", "status", "--json"]);
    serde_json::from_slice(&status.stdout).unwrap()
}

/// Has it looked when something is due, and kills the coordinator when it is seen to be so far.
fn kill_in_a_look(
    farm: &mut Farm,
    all: &[Made],
    so_far: impl Fn(&RetentionStatus) -> bool,
) -> RetentionStatus {
    wait::until("the next step should be due", || {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        status(farm).next_due.is_none_or(|due| due <= at).then_some(())
    });
    let mut run = farm.drover_command(["retention", "run"]);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait::until("it should be looked", || so_far(&status(farm)).then_some(()));
    farm.coordinator.kill();
    let _ = run.kill();
    let _ = run.wait();
    farm.restart();
    // What is published refers to nothing that is not.
    for info in all.iter().filter_map(|made| narinfo(farm, made.out())) {
        for reference in &info.references {
            assert!(narinfo(farm, reference).is_some(), "{} refers to {reference}", info.store_path);
        }
    }
    status(farm)
}

#[test]
fn a_removal_that_is_interrupted_by_kills_goes_on_and_leaves_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("drover.toml");
    fs::write(&config, RULES).unwrap();
    let mut farm = Farm::with_flags(&["--config", config.to_str().unwrap()]);
    let hand = Hand::new(&farm, "hand");
    let mut graph = Graph::new("retention").unwrap();
    // Each refers to the one before, but for the first two, of which one is kept.
    let mut all: Vec<Made> = Vec::new();
    for number in 0..BUILDS {
        let mut recipe = Recipe::new(&format!("made-{number}"), "echo >$out");
        if number > 1 {
            recipe = recipe.input(&all[number - 1]);
        }
        all.push(graph.add(recipe).unwrap());
    }
    let kept = &all[0];
    graph.write(folder.path()).unwrap();
    let builds = farm.client.submit(&graph, &all.iter().collect::<Vec<_>>());
    for _ in 0..BUILDS {
        let allocation = hand.allocation();
        let is_it = |made: &Made| made.file().ends_with(allocation.derivation.base_name());
        let number = all.iter().position(is_it).unwrap();
        let references: Vec<_> = (number > 1).then(|| all[number - 1].out().clone()).into_iter().collect();
        let contents = references.first().map_or("nothing", |reference| reference.as_str());
        let nar = file_nar(format!("{number}: {contents}").as_bytes());
        let output = declared(all[number].out(), &nar, &references);
        hand.deliver(allocation.lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
        let _ = hand.report(allocation.lease, &Report::Succeeded { outputs: vec![output] });
    }
    farm.client.wait_success(&builds);
    wait::until("all should be published", || {
        all.iter().all(|made| narinfo(&farm, made.out()).is_some()).then_some(())
    });
    let row = serde_json::json!({"derivation": kept.path.as_str(), "package": "kept", "version": "1", "system": "x86_64-linux"});
    let rows = folder.path().join("rows.jsonl");
    fs::write(&rows, format!("{row}\n")).unwrap();
    let submitted =
        farm.drover(["set", "submit", "all", "--revision", "1", "--from", rows.to_str().unwrap()]);
    assert!(submitted.status.success(), "{submitted:?}");

    let announced = kill_in_a_look(&mut farm, &all, |status| status.announced.items > 0);
    assert!(announced.announced.items > 0 && announced.withdrawn.items == 0, "{announced:?}");
    let withdrawn = kill_in_a_look(&mut farm, &all, |status| status.withdrawn.items > 0);
    assert!(withdrawn.withdrawn.items > 0, "{withdrawn:?}");
    kill_in_a_look(&mut farm, &all, |status| status.running || status.runs > 0);
    let nars = |farm: &Farm| {
        let out = Command::new("find").arg(farm.state().join("nars")).args(["-type", "f"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).lines().filter(|line| line.contains("-made-")).count()
    };
    wait::until("only what is kept should have a file", || {
        let ended = farm.drover(["retention", "run", "--json"]);
        assert!(ended.status.success(), "{ended:?}");
        (nars(&farm) == 1).then_some(())
    });
    let published = all.iter().filter(|made| narinfo(&farm, made.out()).is_some());
    assert_eq!(published.map(Made::out).collect::<Vec<_>>(), [kept.out()]);
    let why = farm.drover(["retention", "--why", kept.out().as_str(), all[1].out().as_str()]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("stays: sets *") && why.contains("wanted by all@1: kept 1"), "{why}");
    assert!(why.contains(&format!("{}: it is not here", all[1].out())), "{why}");
}

#[test]
fn the_command_says_what_stays_and_why_and_refuses_what_cannot_be() {
    let farm = Farm::start();
    let json = |words: &[&str]| -> serde_json::Value {
        let output = farm.drover(words.iter().copied());
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let text = |words: &[&str]| {
        let output = farm.drover(words.iter().copied());
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-hello";
    assert!(text(&["retention"]).contains("There are no rules for sets"));
    assert_eq!(text(&["retention", "--dry-run"]), text(&["retention"]));
    let plan = json(&["retention", "--dry-run", "--json", "--why", path]);
    assert_eq!((&plan["removes"], &plan["others"]["items"]), (&false.into(), &0.into()));
    assert_eq!((&plan["elsewhere"], &plan["unless_elsewhere"]["items"]), (&0.into(), &0.into()));
    assert_eq!((&plan["why"][0]["path"], &plan["why"][0]["fate"]), (&path.into(), &"not-held".into()));
    assert!(text(&["retention", "--why", path]).contains(&format!("{path}: it is not here")));
    let many = vec![path; 100];
    let why = [&["retention", "--json", "--why"], &many[..]].concat();
    assert_eq!(json(&why)["why"].as_array().unwrap().len(), 100);

    let status = text(&["retention", "status"]);
    assert!(status.contains("announced: 0 items") && status.contains("withdrawn: 0 items"), "{status}");
    assert!(status.contains("it was not looked since the coordinator started"), "{status}");
    assert_eq!(json(&["retention", "status", "--json"])["runs"], 0);
    let ran = json(&["retention", "run", "--json"]);
    assert_eq!((&ran["runs"], &ran["last"]["error"], &ran["elsewhere"]), (&1.into(), &().into(), &0.into()));
    assert!(text(&["retention", "run"]).contains("last look"));
    // What goes by its age has been looked at, too, each time.
    let aged = || farm.coordinator.text().matches("what was old enough has gone").count();
    wait::until("the log should say so", || (aged() == 2).then_some(()));

    for (words, said) in [
        (&["retention", "--why", "hello"][..], "hello"),
        (&["retention", "--why", "/gnu/store/short-hello"], "short-hello"),
        (&["retention", "--why"], "--why"),
        (&["retention", "--estimate", "--dry-run"], "--dry-run"),
        (&["retention", "--estimate", "--why", path], "--why"),
        (&["retention", "--dry-run", "status"], "status"),
        (&["retention", "forget"], "forget"),
    ] {
        let output = farm.drover(words.iter().copied());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(said), "{words:?}: {output:?}");
    }
    let too_many = [&["retention", "--why"], &vec![path; 101][..]].concat();
    assert_eq!(farm.drover(too_many).status.code(), Some(2));
}
