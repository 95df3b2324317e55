//! The bench `page`: the page that shows what goes on, of a farm with 200 agents and 100,000 builds in the queue: how long
//! the coordinator takes for it, how many bytes it has, and how much processor time it takes in a browser, its script and
//! all that this causes, over 60 seconds in which something happens all the time.
//!
//! `bench-page FOLDER`: see `whole_guix` for what is in it. DROVER_BIN_DIR names the folder with the programs as they are to
//! be measured, DROVER_BROWSER and DROVER_CHROMIUM the browser.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use drover_tests::bench::{self, Figure, Limit, Result, median};
use drover_tests::browser::{Browser, Look};
use drover_tests::farm::{Farm, Setup};
use drover_tests::hand::Hand;
use drover_tests::whole_guix::{self, WholeGuix};
use drover_wire::agent::{Heartbeat, Machine, Orders, Poll, Progress};
use drover_wire::event::FarmState;
use drover_wire::route::{agents, clients};
use drover_wire::{BuildState, LeaseId, Phase};

const AGENTS: usize = 200;
const QUEUED: u64 = 100_000;
/// Agents that have something to build.
const BUSY: usize = 50;
const REQUESTS: usize = 60;
const LIVE: Duration = Duration::from_secs(60);
/// Between two things that happen.
const BEAT: Duration = Duration::from_millis(200);
const MOST_MS: f64 = 20.0;
const MOST_KB: f64 = 100.0;
const MOST_SECONDS: f64 = 3.0;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [folder] => bench::main_of_several("page", || run(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-page FOLDER");
            ExitCode::from(2)
        }
    }
}

fn run(folder: &Path) -> Result<Vec<Figure>> {
    let scratch = tempfile::Builder::new().prefix("page-").tempdir_in(folder)?;
    let guix = WholeGuix::read(folder, &["x86_64-linux", "aarch64-linux"])?;
    let rows = scratch.path().join("rows");
    whole_guix::write_rows(&guix.rows, &rows)?;
    let farm = Farm::with(&Setup { parent: Some(scratch.path().to_owned()), ..Setup::default() });
    whole_guix::submit(&farm, "guix", "1.5.0", &rows, &guix.store)?;
    let held = start_agents(&farm)?;
    let state: FarmState = farm.client.peer.get(&clients::STATE.path(&[])).value();
    let queued: u64 =
        [BuildState::Waiting, BuildState::Ready].iter().filter_map(|of| state.builds.get(of)).sum();
    println!(
        "{} agents, of which {} hold builds; {queued} builds in the queue",
        state.agents.len(),
        held.len()
    );
    if queued < QUEUED || state.agents.len() < AGENTS {
        return Err("that is not enough".into());
    }

    let token = std::fs::read_to_string(farm.state().join("client-token"))?;
    let (milliseconds, bytes, packed) = ask(&farm, token.trim())?;
    println!(
        "the page: {bytes} bytes, {packed} compressed; median {milliseconds:.1} ms of {REQUESTS} requests"
    );

    let (task, script) = watch(&farm, token.trim(), &held)?;
    println!(
        "the page's main thread over {} s: {task:.2} s, of which {script:.2} s were its script's",
        LIVE.as_secs()
    );
    Ok(vec![
        Figure { of: "ms for the page", figure: milliseconds, limit: Limit::Most(MOST_MS) },
        Figure { of: "KB compressed", figure: packed as f64 / 1000.0, limit: Limit::Most(MOST_KB) },
        // What a script does after it has waited is not in the browser's figure for scripts: all of it is, and more.
        Figure {
            of: "s of processor for all that the page does in 60 s",
            figure: task,
            limit: Limit::Most(MOST_SECONDS),
        },
    ])
}

/// An agent that holds a build.
struct Holder {
    agent: Hand,
    lease: LeaseId,
}

/// All agents, of which some take a build.
fn start_agents(farm: &Farm) -> Result<Vec<Holder>> {
    let mut held = Vec::new();
    for n in 0..AGENTS {
        let agent = Hand::new(farm, &format!("agent-{n:03}"));
        if n < BUSY {
            let poll = Poll { accepting: 1, holding: Vec::new() };
            let orders: Orders = agent.peer.post(&agents::POLL.path(&[]), &poll).value();
            let allocation = orders.allocations.first().ok_or("there is nothing to build")?;
            held.push(Holder { lease: allocation.lease, agent });
            continue;
        }
        beat(&agent, Vec::new(), n);
    }
    Ok(held)
}

fn beat(agent: &Hand, leases: Vec<Progress>, n: usize) {
    let machine = Machine {
        load_1min: Some(n as f64 / 7.0),
        processors: Some(16),
        store_free: Some((n as u64) << 30),
        state_free: Some(1 << 30),
        memory_available: Some((n as u64) << 26),
    };
    let heartbeat = Heartbeat { accepting: 1, machine, leases };
    let _orders: Orders = agent.peer.post(&agents::HEARTBEAT.path(&[]), &heartbeat).value();
}

/// The median time of the page, its bytes, and those that are sent to who takes it compressed.
fn ask(farm: &Farm, token: &str) -> Result<(f64, usize, usize)> {
    let peer = farm.client.peer.token(token).header("accept", "text/html");
    let plain = peer.get("/");
    let packing = peer.header("accept-encoding", "gzip");
    let mut times = Vec::new();
    let mut packed = 0;
    for _ in 0..REQUESTS {
        let start = Instant::now();
        let answer = packing.get("/");
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        if answer.status != 200 || !answer.body.starts_with(&[0x1f, 0x8b]) {
            return Err(format!("no compressed page: {}", answer.status).into());
        }
        packed = answer.body.len();
    }
    Ok((median(&mut times), plain.body.len(), packed))
}

/// Has a browser look at the page while something happens, and gives the seconds of processor that its main thread took, and
/// of these its script.
fn watch(farm: &Farm, token: &str, held: &[Holder]) -> Result<(f64, f64)> {
    let mut browser = Browser::start().ok_or("there is no browser: see ci/test browser")?;
    let url = format!("http://{}", farm.clients);
    browser.open(Look::default());
    browser.log_in(&url, token);
    browser.wait("document.querySelectorAll('main tr').length > 200");
    browser.wait("document.getElementById('live').dataset.state === 'live'");
    let before = browser.times();
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < LIVE {
        let holder = held.get(n % held.len()).ok_or("no agent holds a build")?;
        let phase = if n / held.len() % 2 == 0 { Phase::FetchingInputs } else { Phase::Queued };
        beat(&holder.agent, vec![Progress { lease: holder.lease, phase }], n % 100);
        n += 1;
        thread::sleep(BEAT);
    }
    let after = browser.times();
    Ok((after.0 - before.0, after.1 - before.1))
}
