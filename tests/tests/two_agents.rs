//! A graph built by two agents that share nothing but the coordinator.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::fs;

use drover_store::hash::HashingWriter;
use drover_store::nar;
use drover_store::path::StorePath;
use drover_tests::demo::{self, Options};
use drover_tests::farm::{Farm, words};
use drover_tests::graph::{Graph, Recipe};
use drover_tests::ground;

fn nar_hash(path: &std::path::Path) -> String {
    let mut hash = HashingWriter::new(std::io::sink());
    nar::pack(path, &mut hash).unwrap();
    hash.finish().1.to_string()
}

#[test]
fn two_agents_with_a_store_each_build_a_graph_and_its_inputs_travel_through_the_coordinator() {
    if !ground::available("two agents") {
        return;
    }
    let farm = Farm::start();
    let grounds = HashMap::from([("left", farm.ground("left")), ("right", farm.ground("right"))]);
    let _agents: Vec<_> = grounds.iter().map(|(name, ground)| farm.agent(name, ground, 1)).collect();
    for name in grounds.keys() {
        farm.wait_online(name);
    }

    let mut graph = Graph::new("two").unwrap();
    let options = Options { salt: "two".to_owned(), work: 1, most: 60, ..Options::default() };
    let mut made = demo::add(&mut graph, &options).unwrap();
    // What takes outputs from everywhere has inputs from both agents, whoever built what.
    let all = made.iter().fold(Recipe::new("all", "for i in $inputs; do echo $i; done >$out"), Recipe::input);
    made.push(graph.add(all).unwrap());
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    farm.client.wait_success(&builds);

    let by_derivation = farm.client.by_derivation();
    let agent_of = |path: &StorePath| by_derivation[path].agent.clone().unwrap();
    let built: HashSet<String> = made.iter().map(|made| agent_of(&made.path)).collect();
    assert_eq!(built.len(), 2, "only {built:?} built anything");

    let last = made.last().unwrap();
    let home = agent_of(&last.path);
    for other in &made {
        for (_, output) in &other.outputs {
            assert!(
                grounds[home.as_str()].has(output),
                "{output} did not come to {home}, where it was needed"
            );
        }
    }

    // What a client fetches is what the agent's store has, and what the daemon says about it.
    for made in [&made[20], last] {
        let folder = farm.dir().join(format!("fetched-{}", made.path.name()));
        std::fs::create_dir(&folder).unwrap();
        let to = folder.join(made.out().base_name());
        let output = farm.drover(["fetch", made.out().as_str(), "--to", folder.to_str().unwrap()]);
        assert!(output.status.success(), "{}", words(&output));
        let item = grounds[agent_of(&made.path).as_str()].item(made.out());
        assert_eq!(nar_hash(&to), nar_hash(&item));
        if item.is_file() {
            assert_eq!(fs::read(&to).unwrap(), fs::read(&item).unwrap());
        }
    }

    // The two daemons agree that what they have is what they were told.
    for ground in grounds.values() {
        let output = ground.run(&["guix", "gc", "--verify=contents"]);
        assert!(output.status.success(), "{}", words(&output));
    }
}

#[test]
fn what_the_farm_has_built_is_not_built_again() {
    if !ground::available("not built again") {
        return;
    }
    let farm = Farm::start();
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("again").unwrap();
    let made = graph.add(Recipe::new("once", "date >$out || echo >$out")).unwrap();
    let first = farm.client.submit(&graph, &[&made]);
    farm.client.wait_success(&first);
    let second = farm.client.submit(&graph, &[&made]);
    farm.client.wait_success(&second);
    assert_eq!(first, second);
    assert_eq!(farm.client.show(first[0]).attempts.len(), 1);
}
