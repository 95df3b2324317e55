//! The bench `hooks`: a hundred thousand runs of hooks that fail, and what they leave in the coordinator's memory.
//!
//! What fails: the hook `push`, within the coordinator, because the folder that it copies to cannot be made; and beside it
//! a thousand runs of a hook `command`, whose program is `/bin/false`. None is tried again, so all of them stay in the
//! database as failed, to be shown and tried again by an operator.
//!
//! `bench-hooks`: DROVER_BIN_DIR names the folder with the programs as they are to be measured.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use drover_tests::bench::{self, Result, Verdict};
use drover_tests::farm::{Farm, Setup};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::sqlite;
use nix::sys::signal::Signal;

/// Runs that fail within the coordinator, and those after which the memory is looked at first.
const RUNS: u64 = 100_000;
const FIRST: u64 = 10_000;
/// Runs of programs that fail.
const PROGRAMS: usize = 1000;
/// How long all of it may take.
const TOO_LONG: Duration = Duration::from_secs(600);
const LIMIT_MIB: f64 = 2.0;

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    fs::write(&config, "")?;
    let flags = vec!["--config".to_owned(), config.display().to_string()];
    let mut farm = Farm::with(&Setup { flags, ..Setup::default() });
    submit(&farm)?;
    farm.coordinator.signal(Signal::SIGTERM);
    farm.coordinator.wait();
    // Not by way of the process, which is gone.
    let database = farm.dir().join("coordinator/drover.sqlite");
    add_events(&database)?;

    let file = folder.path().join("file");
    fs::write(&file, "no folder")?;
    let hooks = format!(
        "log = 'error'\n[hooks.push]\nfolder = '{}'\ntries = 1\n[hooks.tell]\nkind = 'command'\n\
         on = ['build-submitted']\nprogram = '/bin/false'\ntries = 1\nparallel = 2\n",
        file.join("mirror").display(),
    );
    fs::write(&config, hooks)?;
    let start = Instant::now();
    farm.restart();
    let resident = || farm.coordinator.resident() as f64 / f64::from(1 << 20);
    println!("{:.1} MiB resident at the start", resident());
    wait_failed(&database, "push", 1, start)?;
    let begin = Instant::now();
    wait_failed(&database, "push", FIRST, start)?;
    let first = resident();
    println!("{first:.2} MiB resident after {FIRST} runs that failed");
    wait_failed(&database, "push", RUNS, start)?;
    wait_failed(&database, "tell", PROGRAMS as u64, start)?;
    let end = resident();
    println!("{end:.2} MiB resident after {RUNS} runs that failed, and {PROGRAMS} programs");
    println!("{:.0} runs a second", RUNS as f64 / begin.elapsed().as_secs_f64());
    Ok(Verdict { name: "hooks", figure: end - first, limit: LIMIT_MIB, unit: " MiB" })
}

/// Builds whose submission is an event.
fn submit(farm: &Farm) -> Result<()> {
    // Nothing is built: any file will do for the shell.
    let mut graph = Graph::with_busybox(Path::new("/bin/sh"), "hooks")?;
    let made: Vec<Made> = (0..PROGRAMS)
        .map(|n| graph.add(Recipe::new("hello", "echo hello >$out").env("build", n.to_string())))
        .collect::<std::io::Result<_>>()?;
    let made: Vec<&Made> = made.iter().collect();
    let builds = farm.client.submit(&graph, &made);
    println!("{} builds submitted", builds.len());
    Ok(())
}

/// Has store items published, as far as hooks know, and all that happened before happen again.
fn add_events(database: &Path) -> Result<()> {
    let script = format!(
        "BEGIN; UPDATE hook_cursor SET event = 0; \
         WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {RUNS}) \
         INSERT INTO events (at, kind, path) SELECT unixepoch() * 1000, 'published', 1000000 + n FROM n; \
         COMMIT;"
    );
    let output = Command::new("sqlite3").arg("-batch").arg(database).arg(script).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

/// Waits until so many runs of a hook have failed. It is not the coordinator that is asked, whose memory is measured.
fn wait_failed(database: &Path, hook: &str, count: u64, start: Instant) -> Result<()> {
    let question = format!("SELECT count(*) FROM hook_runs WHERE hook = '{hook}' AND state = 'failed'");
    while sqlite::number(database, &question)? < count {
        if start.elapsed() > TOO_LONG {
            return Err(format!("{count} runs of the hook {hook} take longer than {TOO_LONG:?}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
