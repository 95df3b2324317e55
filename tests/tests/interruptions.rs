//! Programs that are killed, connections that break: no build is lost by it, and none is built in vain.

use std::fs;
use std::time::Duration;

use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground::{self, GATE};
use drover_tests::proxy::Proxy;
use drover_tests::service::{Service, processes_with};
use drover_tests::wait;
use drover_wire::BuildState;
use nix::sys::signal::Signal;

fn gated(name: &str) -> Recipe {
    Recipe::new(name, format!("{GATE} echo done >$out"))
}

#[test]
fn a_coordinator_that_is_killed_in_mid_build_gets_the_result_when_it_is_back() {
    if !ground::available("the coordinator is killed") {
        return;
    }
    let mut farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("coordinator-killed").unwrap();
    let made = graph.add(gated("slow")).unwrap();
    let after = graph.add(Recipe::new("after", "cat $inputs; echo >$out").input(&made)).unwrap();
    let builds = farm.client.submit(&graph, &[&made, &after]);
    farm.client.wait_log(builds[0], "at the gate");

    farm.coordinator.kill();
    ground.open_gate(&made);
    wait::until("the build should have ended without the coordinator", || {
        ground.has(made.out()).then_some(())
    });
    farm.restart();
    farm.client.wait_success(&builds);
    let details = farm.client.show(builds[0]);
    assert_eq!(details.attempts.len(), 1, "{:#?}", details.attempts);
    let log = String::from_utf8_lossy(&farm.client.log(builds[0])).into_owned();
    assert_eq!(log, "at the gate\nthrough the gate\n");
}

#[test]
fn a_coordinator_that_is_killed_while_it_is_busy_loses_nothing_that_it_acknowledged() {
    if !ground::available("the coordinator is killed again and again") {
        return;
    }
    let mut farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 3);
    let mut graph = Graph::new("killed-often").unwrap();
    let mut all = Vec::new();
    for number in 0..30 {
        let mut recipe =
            Recipe::new(&format!("step-{number}"), "echo \"$name\"; cat $inputs; echo $name >$out");
        if number >= 3 {
            recipe = recipe.input(&all[number - 3]);
        }
        all.push(graph.add(recipe).unwrap());
    }
    let builds = farm.client.submit(&graph, &all.iter().collect::<Vec<_>>());
    for ended in [3, 9, 15, 21] {
        wait::until(&format!("{ended} builds should have ended"), || {
            let builds = farm.client.builds();
            (builds.iter().filter(|build| build.state == BuildState::Succeeded).count() >= ended)
                .then_some(())
        });
        let before: Vec<_> =
            farm.client.builds().into_iter().filter(|build| build.state.is_final()).collect();
        farm.coordinator.kill();
        farm.restart();
        let after = farm.client.by_derivation();
        for build in before {
            assert_eq!(after[&build.derivation], build);
        }
    }
    farm.client.wait_success(&builds);
    // None was begun twice. One may have been given out twice: when the answer was lost that gave it to the agent.
    for build in builds {
        let details = farm.client.show(build);
        let begun = details.attempts.iter().filter(|attempt| attempt.started_at.is_some()).count();
        assert_eq!(begun, 1, "{:#?}", details.attempts);
        assert!(details.outputs.iter().all(|output| output.kept.is_some()));
    }
}

#[test]
fn an_agent_that_is_killed_gives_its_builds_up_when_it_is_back() {
    if !ground::available("the agent is killed") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let mut agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("agent-killed").unwrap();
    let made = graph.add(gated("slow").env("marker", "agent-killed")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");

    agent.kill();
    wait::until("the builder should be gone with the agent", || {
        processes_with("marker", "agent-killed").is_empty().then_some(())
    });
    assert!(!farm.client.show(build).summary.state.is_final());
    agent.restart();
    ground.open_gate(&made);
    farm.client.wait_success(&[build]);
    let attempts = farm.client.show(build).attempts;
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].outcome.as_deref(), Some("lease-lost"));
}

#[test]
fn an_agent_that_is_killed_before_its_upload_sends_the_result_when_it_is_back() {
    if !ground::available("the agent is killed before its upload") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let proxy = Proxy::to(farm.agents);
    let start = farm.agent_start("one", &ground, &proxy.url());
    let mut agent = Service::start("one", start);
    let mut graph = Graph::new("killed-before-upload").unwrap();
    let made = graph.add(gated("slow")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    proxy.cut();
    ground.open_gate(&made);
    wait::until("the agent should have written down the result", || {
        let leases = fs::read_dir(ground.dir.join("agent/leases")).ok()?;
        leases.flatten().any(|lease| lease.path().join("report.json").is_file()).then_some(())
    });
    agent.kill();
    // The result is rooted until it is uploaded.
    let output = ground.run(&["guix", "gc"]);
    assert!(output.status.success());
    assert!(ground.has(made.out()), "the result was collected as garbage");
    proxy.restore();
    agent.restart();
    farm.client.wait_success(&[build]);
    assert_eq!(farm.client.show(build).attempts.len(), 1);
}

#[test]
fn an_upload_that_is_cut_off_goes_on_where_it_was() {
    if !ground::available("an upload is cut off") {
        return;
    }
    const SIZE: u64 = 24 << 20;
    let farm = Farm::start();
    let ground = farm.ground("one");
    let proxy = Proxy::to(farm.agents);
    let _agent = Service::start("one", farm.agent_start("one", &ground, &proxy.url()));
    farm.wait_online("one");
    let mut graph = Graph::new("cut-upload").unwrap();
    let script = format!("{GATE} head -c {SIZE} /dev/urandom >$out");
    let made = graph.add(Recipe::new("large", script)).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    let before = proxy.sent();
    proxy.cut_after(SIZE * 2 / 3);
    ground.open_gate(&made);
    proxy.wait_cut();
    assert!(!farm.client.show(build).summary.state.is_final());
    proxy.restore();
    farm.client.wait_success(&[build]);
    let sent = proxy.sent() - before;
    assert!(sent >= SIZE, "the proxy saw {sent} bytes only");
    assert!(sent < SIZE * 3 / 2, "{sent} bytes were sent of {SIZE}: the upload did not go on where it was");
    assert_eq!(farm.client.show(build).attempts.len(), 1);
}

#[test]
fn connections_that_break_or_stall_never_fail_a_build() {
    if !ground::available("connections break") {
        return;
    }
    let farm = Farm::with_flags(&["--lease-seconds", "6", "--heartbeat-seconds", "2", "--poll-seconds", "3"]);
    let ground = farm.ground("one");
    let proxy = Proxy::to(farm.agents);
    let _agent = Service::start("one", farm.agent_start("one", &ground, &proxy.url()));
    let mut graph = Graph::new("breaks").unwrap();
    let first = graph.add(gated("first")).unwrap();
    let second = graph.add(gated("second").input(&first)).unwrap();
    let builds = farm.client.submit(&graph, &[&first, &second]);

    farm.client.wait_log(builds[0], "at the gate");
    proxy.cut();
    ground.open_gate(&first);
    wait::until("the build should end", || ground.has(first.out()).then_some(()));
    proxy.restore();
    farm.client.wait_log(builds[1], "at the gate");
    proxy.stall();
    ground.open_gate(&second);
    wait::until("the build should end", || ground.has(second.out()).then_some(()));
    proxy.cut();
    proxy.restore();
    farm.client.wait_success(&builds);
    for build in builds {
        assert_eq!(farm.client.show(build).attempts.len(), 1);
    }
}

#[test]
fn a_coordinator_that_is_away_for_longer_than_a_lease_costs_nothing() {
    if !ground::available("the coordinator is away") {
        return;
    }
    let mut farm =
        Farm::with_flags(&["--lease-seconds", "2", "--heartbeat-seconds", "1", "--poll-seconds", "2"]);
    let (ground, other) = (farm.ground("one"), farm.ground("two"));
    let _agent = farm.agent("one", &ground, 2);
    let mut graph = Graph::new("away").unwrap();
    let ends = graph.add(gated("ends-while-away")).unwrap();
    let goes_on = graph.add(gated("goes-on")).unwrap();
    let builds = farm.client.submit(&graph, &[&ends, &goes_on]);
    for build in &builds {
        farm.client.wait_log(*build, "at the gate");
    }
    farm.coordinator.kill();
    ground.open_gate(&ends);
    wait::until("the build should end", || ground.has(ends.out()).then_some(()));
    // Not waiting for anything: it is the time itself that is tried here, more than a lease of it.
    std::thread::sleep(Duration::from_secs(4));
    farm.restart();
    // Somebody who would take the builds, if they were to be had.
    let _other = farm.agent("two", &other, 2);
    farm.wait_online("two");
    ground.open_gate(&goes_on);
    farm.client.wait_success(&builds);
    for build in builds {
        let details = farm.client.show(build);
        assert_eq!(details.attempts.len(), 1, "{:#?}", details.attempts);
    }
}

#[test]
fn a_build_whose_agent_stays_away_goes_to_another_and_the_late_result_is_not_taken() {
    if !ground::available("an agent stays away") {
        return;
    }
    let farm = Farm::with_flags(&["--lease-seconds", "3", "--heartbeat-seconds", "1", "--poll-seconds", "2"]);
    let (ground, other) = (farm.ground("one"), farm.ground("two"));
    let proxy = Proxy::to(farm.agents);
    let _agent = Service::start("one", farm.agent_start("one", &ground, &proxy.url()));
    let mut graph = Graph::new("stays-away").unwrap();
    let made = graph.add(gated("slow").env("marker", "stays-away")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");
    proxy.cut();
    let _other = farm.agent("two", &other, 1);
    other.open_gate(&made);
    farm.client.wait_success(&[build]);
    let details = farm.client.show(build);
    assert_eq!(details.summary.agent.as_deref(), Some("two"));
    assert_eq!(details.attempts.len(), 2);
    // The first one comes back and drops its build: the builder goes, and nothing changes for anybody.
    proxy.restore();
    wait::until("the first agent should give the build up", || {
        processes_with("marker", "stays-away").is_empty().then_some(())
    });
    assert_eq!(farm.client.show(build).summary, details.summary);
}

#[test]
fn a_daemon_that_goes_away_in_mid_build_costs_the_try_but_not_the_agent() {
    if !ground::available("the daemon goes away") {
        return;
    }
    let farm = Farm::start();
    let mut ground = farm.ground("one");
    let mut agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("daemon-away").unwrap();
    let made = graph.add(gated("slow")).unwrap();
    let build = farm.client.submit(&graph, &[&made])[0];
    farm.client.wait_log(build, "at the gate");

    ground.stop();
    wait::until("the build should be handed back", || {
        let attempts = farm.client.show(build).attempts;
        attempts[0].outcome.clone().filter(|outcome| outcome == "handed-back" || outcome == "setup-failed")
    });
    assert!(!farm.client.show(build).summary.state.is_final());
    let said = farm.client.show(build).attempts[0].message.clone().unwrap();
    assert!(said.contains("daemon"), "{said}");
    assert!(agent.exited().is_none(), "the agent ended with its daemon");
    ground.resume();
    ground.open_gate(&made);
    farm.client.wait_success(&[build]);
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success());
}
