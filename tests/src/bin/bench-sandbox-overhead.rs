//! The bench `sandbox-overhead`: what the agent's own sandbox adds to a build. An empty one, from its place to the
//! description of its output, and the memory of an agent that does such builds. For the time the executor is compiled for
//! speed, as in the bench `sandbox`, and not for size; the memory is that of the agent as it is installed.
//!
//! `bench-sandbox-overhead FOLDER`: the store is in that folder. DROVER_BIN_DIR names the folder with the programs as they
//! are to be measured.

use std::path::PathBuf;
use std::process::ExitCode;

use drover_agent::executor::Executor as _;
use drover_tests::bench::{self, Figure, Limit, Result, median, timed};
use drover_tests::board::{Board, User};
use drover_tests::direct;
use drover_tests::farm::{Farm, Setup};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::service;

const WARM: usize = 20;
const BUILDS: usize = 200;
const BUILDS_OF_AGENT: usize = 40;
const LIMIT_MS: f64 = 8.0;
const LIMIT_MB: f64 = 8.0;

fn main() -> ExitCode {
    bench::main_of_several("sandbox-overhead", run)
}

fn run() -> Result<Vec<Figure>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: bench-sandbox-overhead FOLDER")?);
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    Ok(vec![
        Figure { of: "ms for an empty build", figure: time(&folder)?, limit: Limit::Most(LIMIT_MS) },
        Figure { of: "MB of memory at most", figure: memory(&folder)?, limit: Limit::Most(LIMIT_MB) },
    ])
}

fn empty(graph: &mut Graph, builds: usize) -> Result<Vec<Made>> {
    let made = (0..builds).map(|n| graph.add(Recipe::new(&format!("empty-{n}"), ": >$out")));
    Ok(made.collect::<std::io::Result<_>>()?)
}

/// The median of the times of empty builds, in milliseconds.
fn time(folder: &std::path::Path) -> Result<f64> {
    let dir = tempfile::Builder::new().prefix("b-").tempdir_in(folder)?;
    let sandbox = direct::sandbox(dir.path())?;
    let mut shelf = sandbox.open()?;
    let mut graph = Graph::new("overhead")?;
    let made = empty(&mut graph, WARM + BUILDS)?;
    direct::add_shell(shelf.as_mut(), &graph)?;
    let mut times = Vec::new();
    for made in &made {
        let (_, time) = timed(|| direct::build(sandbox.open()?.as_mut(), &graph, made))?;
        times.push(time.as_secs_f64() * 1000.0);
    }
    times.drain(..WARM);
    let middle = median(&mut times);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!(
        "an empty build: median {middle:.2} ms, 10 % below {:.2} ms, 10 % above {:.2} ms",
        at(10),
        at(90)
    );
    Ok(middle)
}

/// The most memory that an agent had while it did such builds, in megabytes.
fn memory(folder: &std::path::Path) -> Result<f64> {
    let farm = Farm::with(&Setup { parent: Some(folder.to_owned()), ..Setup::default() });
    let board = Board::new(&farm, "board", User::Same);
    let agent = board.agent(&farm, 1, &[]);
    let at_rest = agent.resident();
    let mut graph = Graph::new("memory")?;
    let made = empty(&mut graph, BUILDS_OF_AGENT)?;
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    farm.client.wait_success(&builds);
    let most = service::peak(agent.pid()).ok_or("the agent has ended")?;
    println!(
        "the agent: {:.2} MB before its first build, {:.2} MB at most",
        at_rest as f64 / 1e6,
        most as f64 / 1e6
    );
    Ok(most as f64 / 1e6)
}
