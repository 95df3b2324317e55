//! The bench `rss`: the memory of the agent that boards have, static and with musl's allocator: while it has nothing to do,
//! beside distccd's, and while it sends an output of 1 GiB, which does not become less by compression.
//!
//! `bench-rss`: DROVER_BIN_DIR names the folder with the programs; the agent is the one that `ci/cross` makes. Wants root, for a
//! daemon, and 5 GiB for temporary files.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use drover_tests::bench::{self, Figure, Limit, Result};
use drover_tests::board::{Board, User};
use drover_tests::farm::{Farm, free_port};
use drover_tests::graph::{Graph, Recipe};
use drover_tests::service::{Service, Start, peak, resident};

const IDLE: Duration = Duration::from_secs(120);
const MOST_IDLE_MB: f64 = 3.0;
const MOST_SENDING_MB: f64 = 16.0;

fn main() -> ExitCode {
    bench::main_of_several("rss", run)
}

fn run() -> Result<Vec<Figure>> {
    // A farm for each agent, so that each gets what is meant for it.
    let (fresh_farm, sandbox_farm, daemon_farm) = (Farm::start(), Farm::start(), Farm::start());
    let ground = daemon_farm.ground("ground");
    let agents = [
        (
            "in its sandbox",
            &sandbox_farm,
            Board::new(&sandbox_farm, "board", User::Same).agent(&sandbox_farm, 1, &[]),
        ),
        ("beside a daemon", &daemon_farm, daemon_farm.agent("daemon", &ground, 1)),
    ];
    for (_, farm, _) in &agents {
        build(farm, "seq 1 100000; head -c 8000000 /dev/urandom >$out", 8)?;
    }
    let fresh = Board::new(&fresh_farm, "fresh", User::Same).agent(&fresh_farm, 1, &[]);
    let port = free_port().port().to_string();
    let theirs = Service::start(
        "distccd",
        Start::new("distccd")
            .args(["--no-detach", "--daemon", "--enable-tcp-insecure", "--log-stderr", "--log-level=error"])
            .args(["--allow", "127.0.0.1", "--listen", "127.0.0.1", "--port", &port]),
    );

    println!("idle for {} s", IDLE.as_secs());
    thread::sleep(IDLE);
    println!("distccd: {:.2} MB resident", megabytes(resident(theirs.pid()))?);
    let mut idle = megabytes(resident(fresh.pid()))?;
    println!("an agent that has just started: {idle:.2} MB");
    for (which, _, agent) in &agents {
        let figure = megabytes(resident(agent.pid()))?;
        println!("one that has built {which}: {figure:.2} MB");
        idle = idle.max(figure);
    }

    let mut sending = 0.0_f64;
    for (which, farm, agent) in &agents {
        // From here on the peak is that of what follows.
        fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5")?;
        build(farm, "head -c 1073741824 /dev/urandom >$out", 1)?;
        let figure = megabytes(peak(agent.pid()))?;
        println!("at most, while it builds 1 GiB {which} and sends it: {figure:.2} MB");
        sending = sending.max(figure);
    }
    Ok(vec![
        Figure { of: "MB, idle", figure: idle, limit: Limit::Most(MOST_IDLE_MB) },
        Figure { of: "MB, sending 1 GiB", figure: sending, limit: Limit::Most(MOST_SENDING_MB) },
    ])
}

/// Has a farm build so many things.
fn build(farm: &Farm, script: &str, count: u32) -> Result<()> {
    let mut graph = Graph::new("rss")?;
    let made: Vec<_> = (0..count)
        .map(|n| graph.add(Recipe::new(&format!("work-{count}-{n}"), script).env("n", n.to_string())))
        .collect::<std::io::Result<_>>()?;
    farm.client.wait_success(&farm.client.submit(&graph, &made.iter().collect::<Vec<_>>()));
    Ok(())
}

fn megabytes(bytes: Option<u64>) -> Result<f64> {
    Ok(bytes.ok_or("a process has ended")? as f64 / 1e6)
}
