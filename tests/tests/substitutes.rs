//! Inputs from a substitute server: a real `guix publish` beside another store.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use drover_tests::farm::{Farm, free_port, wait_listening, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::{self, Ground};
use drover_tests::service::Service;
use drover_wire::BuildState;

/// A farm that has built these, and a server that publishes what is in its store.
// In the order in which they end: the farm's folder, in which the others are, goes last.
struct Elsewhere {
    _publish: Service,
    ground: Ground,
    url: String,
    _farm: Farm,
}

impl Elsewhere {
    fn with(graph: &Graph, made: &[&Made]) -> Self {
        let farm = Farm::start();
        let ground = farm.ground("elsewhere");
        let agent = farm.agent("elsewhere", &ground, 1);
        let builds = farm.client.submit(graph, made);
        farm.client.wait_success(&builds);
        drop(agent);
        let output = ground.run(&["guix", "archive", "--generate-key"]);
        assert!(output.status.success(), "{}", words(&output));
        let address = free_port();
        let port = format!("--port={}", address.port());
        let mut publish =
            Service::start("guix publish", ground.beside(&["guix", "publish", "--listen=127.0.0.1", &port]));
        wait_listening(&mut publish, &[address]);
        Self { _publish: publish, ground, url: format!("http://{address}"), _farm: farm }
    }

    /// Lets a daemon take what is published.
    fn trusted_by(&self, other: &Ground) {
        let key = std::fs::read_to_string(self.ground.dir.join("etc-guix/signing-key.pub")).unwrap();
        let file = other.dir.join("publisher");
        std::fs::write(&file, key).unwrap();
        let script = format!("guix archive --authorize <{}", file.display());
        let output = other.run(&["sh", "-c", &script]);
        assert!(output.status.success(), "{}", words(&output));
    }
}

/// An input, and what needs it.
fn pair(graph: &mut Graph) -> (Made, Made) {
    let input = graph.add(Recipe::new("input", "echo input >$out")).unwrap();
    let needs = graph.add(Recipe::new("needs", "cat $inputs; echo needs >$out").input(&input)).unwrap();
    (input, needs)
}

#[test]
fn an_input_that_a_server_has_is_substituted_and_not_built() {
    if !ground::available("a substitute") {
        return;
    }
    let mut graph = Graph::new("substituted").unwrap();
    let (input, needs) = pair(&mut graph);
    let elsewhere = Elsewhere::with(&graph, &[&input]);

    let farm = Farm::with_flags(&["--substitute-servers", &elsewhere.url]);
    let ground = farm.ground_with_network("here");
    elsewhere.trusted_by(&ground);
    let start = farm.agent_start("here", &ground, &format!("http://{}", farm.agents));
    let _agent = Service::start("here", start.args(["--non-derivation-substitute-urls", &elsewhere.url]));
    let builds = farm.client.submit(&graph, &[&needs]);
    farm.client.wait_success(&builds);
    assert_eq!(farm.client.builds().len(), 1, "the input was built");
    assert!(ground.has(input.out()) && ground.has(needs.out()));
    assert_eq!(farm.client.log(builds[0]), b"input\n");
}

#[test]
fn an_input_that_a_server_promised_and_does_not_give_is_built() {
    if !ground::available("a broken promise") {
        return;
    }
    let mut graph = Graph::new("promised").unwrap();
    let (input, needs) = pair(&mut graph);
    let mut elsewhere = Elsewhere::with(&graph, &[&input]);

    let farm = Farm::with_flags(&["--substitute-servers", &elsewhere.url]);
    let ground = farm.ground_with_network("here");
    elsewhere.trusted_by(&ground);
    let build = farm.client.submit(&graph, &[&needs])[0];
    assert_eq!(farm.client.show(build).summary.state, BuildState::Ready);
    elsewhere.ground.stop();
    let start = farm.agent_start("here", &ground, &format!("http://{}", farm.agents));
    let _agent = Service::start("here", start.args(["--non-derivation-substitute-urls", &elsewhere.url]));
    farm.client.wait_success(&[build]);
    let details = farm.client.show(build);
    assert_eq!(details.attempts[0].outcome.as_deref(), Some("missing-inputs"), "{:#?}", details.attempts);
    let input = farm.client.by_derivation()[&input.path].clone();
    assert_eq!(input.state, BuildState::Succeeded);
    assert!(!farm.client.show(input.build).wanted);
}

#[test]
fn what_a_server_has_is_built_here_all_the_same_when_it_is_asked_for() {
    if !ground::available("built here") {
        return;
    }
    let mut graph = Graph::new("built-here").unwrap();
    let (input, _) = pair(&mut graph);
    let elsewhere = Elsewhere::with(&graph, &[&input]);
    let farm = Farm::with_flags(&["--substitute-servers", &elsewhere.url]);
    let ground = farm.ground_with_network("here");
    elsewhere.trusted_by(&ground);
    let start = farm.agent_start("here", &ground, &format!("http://{}", farm.agents));
    let _agent = Service::start("here", start.args(["--non-derivation-substitute-urls", &elsewhere.url]));
    let build = farm.client.submit(&graph, &[&input])[0];
    farm.client.wait_success(&[build]);
    let details = farm.client.show(build);
    assert!(details.attempts[0].started_at.is_some(), "it was not built: {details:#?}");
}
