//! Builds in a sandbox that are ended from outside: nothing of them stays, and the agent goes on.

use drover_tests::board::{self, Board, User, open_gate};
use drover_tests::client::want;
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground::GATE;
use drover_tests::service::processes_with;
use drover_tests::wait;
use drover_wire::BuildState;
use drover_wire::client::Wanted;

fn killed(user: User) {
    if !board::available("an agent that is killed", user) {
        return;
    }
    let marker = format!("killed-in-the-sandbox-{user:?}");
    let farm = Farm::start();
    let board = Board::new(&farm, "board", user);
    let mut agent = board.agent(&farm, 1, &[]);
    let mut graph = Graph::new(&marker).unwrap();
    let first = graph.add(Recipe::new("first", "echo first >$out")).unwrap();
    let script = format!(
        "mkdir $out; echo half >$out/half; (sleep 1000) & {GATE} cat $inputs >$out/whole; rm $out/half"
    );
    let slow = graph.add(Recipe::new("slow", script).input(&first).env("marker", marker.as_str())).unwrap();
    let builds = farm.client.submit(&graph, &[&first, &slow]);
    farm.client.wait_success(&builds[..1]);
    farm.client.wait_log(builds[1], "at the gate");
    assert!(processes_with("marker", &marker).len() >= 2);

    agent.kill();
    wait::until("the builder should be gone with the agent", || {
        processes_with("marker", &marker).is_empty().then_some(())
    });
    assert!(!farm.client.show(builds[1]).summary.state.is_final());
    assert!(board.narinfo(slow.out()).is_none(), "half an output counts as an item");
    let left = board.making();
    agent.restart();
    // What the killed one had in the making goes before anything is built.
    farm.client.wait_log(builds[1], "at the gate");
    wait::until("the new agent should build", || {
        (!processes_with("marker", &marker).is_empty()).then_some(())
    });
    let making = board.making();
    assert!(left.iter().all(|folder| !making.contains(folder)), "{left:?} is still there");
    open_gate(&marker);
    farm.client.wait_success(&builds);
    let attempts = farm.client.show(builds[1]).attempts;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].outcome.as_deref(), Some("lease-lost"));
    let names: Vec<_> = std::fs::read_dir(board.item(slow.out())).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    wait::until("nothing should be in the making", || board.making().is_empty().then_some(()));
    wait::until("no process should be left", || processes_with("marker", &marker).is_empty().then_some(()));
}

#[test]
fn an_agent_that_is_killed_in_mid_build_leaves_nothing_and_goes_on() {
    let _alone = super::alone();
    killed(User::Same);
}

#[test]
fn so_does_one_of_a_plain_user() {
    let _alone = super::alone();
    killed(User::Plain);
}

#[test]
fn timeouts_silence_and_cancels_end_everything_of_a_build() {
    let _alone = super::alone();
    if !board::available("timeouts", User::Same) {
        return;
    }
    let farm = Farm::start();
    let board = Board::new(&farm, "board", User::Same);
    let _agent = board.agent(&farm, 3, &[]);
    let mut graph = Graph::new("endings").unwrap();
    let mut add = |name: &str, script: &str| {
        graph.add(Recipe::new(name, script).env("marker", "ended-in-the-sandbox")).unwrap()
    };
    let talk = "while true; do echo still here; sleep 0.2; done";
    let (long, silent) =
        (add("long", &format!("(trap '' TERM; {talk}) & {talk}")), add("silent", "sleep 1000"));
    let canceled = add("canceled", &format!("sleep 1000 & {talk}"));
    let builds = farm.client.submit_as(
        &graph,
        vec![
            Wanted { timeout: Some(2), max_silent_time: Some(100), ..want(&long) },
            Wanted { timeout: Some(100), max_silent_time: Some(2), ..want(&silent) },
            want(&canceled),
        ],
    );
    let long = farm.client.wait_state(builds[0], BuildState::TimedOut);
    let silent = farm.client.wait_state(builds[1], BuildState::TimedOut);
    assert!(silent.why.contains("silen"), "{}", silent.why);
    assert!(!long.why.contains("silen"), "{}", long.why);
    farm.client.wait_log(builds[2], "still here");
    assert_eq!(farm.client.cancel(builds[2]).summary.state, BuildState::Canceled);
    wait::until("all processes should be gone", || {
        processes_with("marker", "ended-in-the-sandbox").is_empty().then_some(())
    });
    wait::until("nothing should be in the making", || board.making().is_empty().then_some(()));
}
