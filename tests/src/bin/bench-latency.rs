//! The bench `latency`: from the submission of a build on an idle farm to the first byte of its builder's log at a client
//! that follows it, over 100 builds; beside the same kind of build given to the daemon directly.
//!
//! `bench-latency`: DROVER_BIN_DIR names the folder with the programs as they are to be measured.

use std::io::Read as _;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use drover_agent::config::DaemonSocket;
use drover_agent::daemon::{Connection, Event, NewText, Options};
use drover_store::derivation::Derivation;
use drover_tests::bench::{self, Result, Verdict, median};
use drover_tests::client::want;
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::wait;
use drover_wire::client::{Submission, Submitted};
use drover_wire::route::clients;

const BUILDS: usize = 100;
const LIMIT_MS: f64 = 30.0;

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<Verdict> {
    let farm = Farm::start();
    let ground = farm.ground("latency");
    let _agent = farm.agent("latency", &ground, 1);
    farm.wait_online("latency");
    let mut graph = Graph::new("latency")?;
    let make = |graph: &mut Graph, side: &str, n: usize| {
        graph.add(Recipe::new("hello", "echo hello >$out; echo hello").env("build", format!("{side}-{n}")))
    };
    // The first of each side is not counted: it finds nothing in the store yet.
    let through: Vec<Made> =
        (0..=BUILDS).map(|n| make(&mut graph, "farm", n)).collect::<std::io::Result<_>>()?;
    let directly: Vec<Made> =
        (0..=BUILDS).map(|n| make(&mut graph, "daemon", n)).collect::<std::io::Result<_>>()?;
    let uploaded = farm.client.upload(&drover_tests::client::bundle(&graph));
    if uploaded.status != 200 {
        return Err(uploaded.text().into());
    }

    let socket: DaemonSocket = ground.socket.display().to_string().parse()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (n, (farms, daemons)) in through.iter().zip(&directly).enumerate() {
        let time = submit(&farm, farms)?;
        let direct = build(&socket, &graph, daemons)?;
        if n > 0 {
            ours.push(time.as_secs_f64() * 1000.0);
            theirs.push(direct.as_secs_f64() * 1000.0);
        }
    }
    for (what, times) in [("the daemon alone", &mut theirs), ("the farm", &mut ours)] {
        let middle = median(times);
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        println!("{what}: median {middle:.1} ms, 10 % below {:.1} ms, 10 % above {:.1} ms", at(10), at(90));
    }
    println!("of that the farm's own share: {:.1} ms", median(&mut ours) - median(&mut theirs));
    Ok(Verdict { name: "latency", figure: median(&mut ours), limit: LIMIT_MS, unit: " ms" })
}

/// From the submission to the first byte of the log.
fn submit(farm: &Farm, made: &Made) -> Result<Duration> {
    let submission = Submission { builds: vec![want(made)] };
    let start = Instant::now();
    let submitted: Submitted = farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission).value();
    let build = submitted.builds.first().ok_or("nothing was submitted")?.build;
    let path = format!("{}?follow=true", clients::LOG.path(&[&build]));
    let mut byte = [0];
    let time = loop {
        let read = farm.client.peer.try_stream(&path).map(|mut log| log.read(&mut byte));
        match read {
            Some(Ok(1..)) => break start.elapsed(),
            _ if start.elapsed() > wait::LONG => return Err("no log came".into()),
            // There is no try yet.
            _ => thread::sleep(Duration::from_millis(1)),
        }
    };
    farm.client.wait_success(&[build]);
    // Until the agent has nothing left of it either.
    wait::until("the agent should be idle", || {
        farm.client.agents().iter().all(|agent| agent.builds.is_empty()).then_some(())
    });
    Ok(time)
}

/// From asking the daemon to the first byte of the builder's output.
fn build(socket: &DaemonSocket, graph: &Graph, made: &Made) -> Result<Duration> {
    let text = graph.bytes(&made.path).ok_or("the derivation has gone")?;
    let derivation = Derivation::parse(text)?;
    let mut connection = Connection::open(socket)?;
    for source in &derivation.sources {
        if let Some(bytes) = graph.bytes(source) {
            let references = [graph.shell().clone()];
            connection
                .add_texts([NewText { path: source, text: bytes, references: &references }].into_iter())?;
        }
    }
    drop(connection);
    let start = Instant::now();
    let mut connection = Connection::open(socket)?;
    connection.set_options(&Options::default())?;
    let references = derivation.references();
    connection.add_texts([NewText { path: &made.path, text, references: &references }].into_iter())?;
    let mut first = None;
    connection.build(&made.path, Some(Duration::from_secs(60)), |event| {
        if matches!(event, Event::Output(_)) {
            first.get_or_insert_with(|| start.elapsed());
        }
        Ok(())
    })?;
    first.ok_or_else(|| "the builder said nothing".into())
}
