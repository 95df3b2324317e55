//! The bench `hooks`: a hundred thousand runs of hooks that fail, and what they leave in the coordinator's memory.
//!
//! What fails: the hook `push`, within the coordinator, which reads a published item and cannot put its nar, for there is
//! a file where the folder `nar` should be; and beside it runs of a hook `command`, whose program is `/bin/false`, before
//! the memory is looked at first and after. None is tried again, so all of them stay in the database as failed, to be
//! shown and tried again by an operator. It is logged as it usually is.
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
use drover_wire::BuildId;
use nix::sys::signal::Signal;

/// Runs that fail within the coordinator, and those after which the memory is looked at first.
const RUNS: u64 = 100_000;
const FIRST: u64 = 10_000;
/// Published items that they are about, by turns.
const ITEMS: u64 = 500;
/// Programs that fail: those that do before the memory is looked at first, and how often as many do after.
const PROGRAMS: usize = 1000;
const AGAIN: usize = 4;
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
    let builds = submit(&farm)?;
    farm.coordinator.signal(Signal::SIGTERM);
    farm.coordinator.wait();
    // Not by way of the process, which is gone.
    let database = farm.dir().join("coordinator/drover.sqlite");
    fill(&database)?;

    let mirror = folder.path().join("mirror");
    fs::create_dir(&mirror)?;
    fs::write(mirror.join("nar"), "no folder")?;
    let hooks = format!(
        "[hooks.push]\nfolder = '{}'\ntries = 1\n[hooks.tell]\nkind = 'command'\n\
         on = ['build-submitted']\nprogram = '/bin/false'\ntries = 1\nparallel = 2\n",
        mirror.display(),
    );
    fs::write(&config, hooks)?;
    let start = Instant::now();
    farm.restart();
    let resident = || farm.coordinator.resident() as f64 / f64::from(1 << 20);
    println!("{:.1} MiB resident at the start", resident());
    wait_failed(&database, "push", 1, start)?;
    let begin = Instant::now();
    wait_failed(&database, "tell", PROGRAMS, start)?;
    wait_failed(&database, "push", FIRST as usize, start)?;
    let first = resident();
    println!("{first:.2} MiB resident after {FIRST} runs that failed, and {PROGRAMS} programs");
    published_again(&database, RUNS - FIRST)?;
    submitted_again(&database)?;
    // Whatever happens has the events looked at.
    farm.client.cancel(builds[0]);
    for part in 2..=10 {
        wait_failed(&database, "push", (RUNS / 10 * part) as usize, start)?;
        println!("{:.2} MiB resident after {} runs", resident(), RUNS / 10 * part);
    }
    let pace = RUNS as f64 / begin.elapsed().as_secs_f64();
    let programs = PROGRAMS * (1 + AGAIN);
    wait_failed(&database, "tell", programs, start)?;
    let end = resident();
    println!("{end:.2} MiB resident after {RUNS} runs that failed, and {programs} programs");
    println!("{pace:.0} runs a second, {} bytes logged", farm.coordinator.text().len());
    let others =
        "SELECT count(*) FROM hook_runs WHERE hook = 'push' AND error NOT LIKE 'cannot write %/nar/zstd/%'";
    match sqlite::number(&database, others)? {
        0 => Ok(Verdict { name: "hooks", figure: end - first, limit: LIMIT_MIB, unit: " MiB" }),
        count => Err(format!("{count} runs failed before a nar could be put, or did not fail").into()),
    }
}

/// Builds whose submission is an event.
fn submit(farm: &Farm) -> Result<Vec<BuildId>> {
    // Nothing is built: any file will do for the shell.
    let mut graph = Graph::with_busybox(Path::new("/bin/sh"), "hooks")?;
    let made: Vec<Made> = (0..PROGRAMS)
        .map(|n| graph.add(Recipe::new("hello", "echo hello >$out").env("build", n.to_string())))
        .collect::<std::io::Result<_>>()?;
    let made: Vec<&Made> = made.iter().collect();
    let builds = farm.client.submit(&graph, &made);
    println!("{} builds submitted", builds.len());
    Ok(builds)
}

/// Publishes items, as far as hooks know, each many times, and has all builds submitted again.
fn fill(database: &Path) -> Result<()> {
    let items = below(ITEMS);
    let narinfo = "'StorePath: /gnu/store/' || printf('%032d-item', n) || char(10) || 'URL: nar/zstd/' \
                   || printf('%032d-item', n) || char(10) || 'NarSize: 3000' || char(10)";
    write(
        database,
        &format!(
            "BEGIN; UPDATE hook_cursor SET event = 0; \
             {items} INSERT INTO paths (id, base) SELECT 1000000 + n, printf('%032d-item', n) FROM n; \
             {items} INSERT INTO items (path, kind, nar_hash, nar_size, file_size, export_hash, added_at) \
                 SELECT 1000000 + n, 'output', zeroblob(32), 3000, 3000, zeroblob(32), 1 FROM n; \
             {items} INSERT INTO contents SELECT 1000000 + n, zeroblob(3000) FROM n; \
             {items} INSERT INTO published (path, narinfo, published_at) \
                 SELECT 1000000 + n, CAST({narinfo} AS BLOB), 1 FROM n; \
             COMMIT;"
        ),
    )?;
    published_again(database, FIRST)
}

/// Has items published so many times, by turns, as far as hooks know.
fn published_again(database: &Path, times: u64) -> Result<()> {
    let below = below(times);
    write(
        database,
        &format!(
            "BEGIN IMMEDIATE; {below} INSERT INTO events (at, kind, path) \
                 SELECT unixepoch() * 1000, 'published', 1000001 + n % {ITEMS} FROM n; COMMIT;"
        ),
    )
}

/// Numbers from 1 on, as a table for the statement that follows.
fn below(most: u64) -> String {
    format!("WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {most})")
}

/// Has all builds submitted again and again, as far as hooks know.
fn submitted_again(database: &Path) -> Result<()> {
    let again =
        "INSERT INTO events (at, kind, build) SELECT unixepoch() * 1000, 'build-submitted', id FROM builds;";
    write(database, &format!("BEGIN IMMEDIATE; {} COMMIT;", again.repeat(AGAIN)))
}

fn write(database: &Path, script: &str) -> Result<()> {
    let wait = ".timeout 30000";
    let output = Command::new("sqlite3").args(["-batch", "-cmd", wait]).arg(database).arg(script).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

/// Waits until so many runs of a hook have failed. It is not the coordinator that is asked, whose memory is measured.
fn wait_failed(database: &Path, hook: &str, count: usize, start: Instant) -> Result<()> {
    let question = format!("SELECT count(*) FROM hook_runs WHERE hook = '{hook}' AND state = 'failed'");
    while sqlite::number(database, &question)? < count as u64 {
        if start.elapsed() > TOO_LONG {
            return Err(format!("{count} runs of the hook {hook} take longer than {TOO_LONG:?}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
