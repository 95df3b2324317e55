//! The bench `rest`: how often an agent that has nothing to do is woken, by `strace -f` for a minute. It builds in its
//! sandbox, has built before, and its coordinator has the configuration that it has by itself.
//!
//! `bench-rest`: DROVER_BIN_DIR names the folder with the programs as they are to be measured.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use drover_tests::bench::{self, Result, Verdict};
use drover_tests::board::{Board, User};
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WATCHED: Duration = Duration::from_secs(60);
/// A call that took so many seconds had put its thread to sleep.
const ASLEEP: f64 = 0.001;
/// Two heartbeats and the end of a poll, with a few waits each for what the coordinator answers.
const LIMIT: f64 = 10.0;

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<Verdict> {
    let farm = Farm::start();
    let board = Board::new(&farm, "board", User::Same);
    let agent = board.agent(&farm, 1, &[]);
    let mut graph = Graph::new("rest")?;
    let made = graph.add(Recipe::new("work", "echo work; echo done >$out"))?;
    let builds = farm.client.submit(&graph, &[&made]);
    farm.client.wait_success(&builds);

    let trace = board.dir.join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-T", "-o"])
        .arg(&trace)
        .args(["-p", &agent.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()?;
    println!("watched for {} s", WATCHED.as_secs());
    std::thread::sleep(WATCHED);
    kill(Pid::from_raw(i32::try_from(strace.id())?), Signal::SIGINT)?;
    strace.wait()?;
    let trace = String::from_utf8_lossy(&fs::read(&trace)?).into_owned();
    let calls = trace.lines().filter(|line| line.ends_with('>')).count();
    if calls == 0 {
        return Err("strace saw no call: may it watch other processes here?".into());
    }
    let mut woken: BTreeMap<&str, u32> = BTreeMap::new();
    for call in trace.lines().filter_map(slept_in) {
        *woken.entry(call).or_default() += 1;
    }
    let each: Vec<String> = woken.iter().map(|(call, times)| format!("{call} {times}")).collect();
    println!("{calls} system calls, woken from: {}", each.join(", "));
    let figure = f64::from(woken.values().sum::<u32>());
    Ok(Verdict { name: "rest", figure, limit: LIMIT, unit: " times woken in a minute" })
}

/// The system call of which a line of a trace tells that its thread slept in it.
fn slept_in(line: &str) -> Option<&str> {
    let (call, seconds) = line.strip_suffix('>')?.rsplit_once('<')?;
    if seconds.parse::<f64>().ok()? < ASLEEP {
        return None;
    }
    let (_, call) = call.trim_start().split_once(' ')?;
    let call = call.trim_start();
    let call = call.strip_prefix("<... ").unwrap_or(call);
    call.split(['(', ' ']).next()
}
