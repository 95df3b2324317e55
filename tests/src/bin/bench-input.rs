//! The bench `input`: a closure of 1 GiB in 200 items from a coordinator on the loopback into the store of an agent that
//! builds in a sandbox, over `curl URL | zstd -d >NAR` for each item with the same parallelism, written to the same disk.
//! Both until it is synced. The agent's time is that from the submission of a build to the first line of its builder, so
//! all that it checks and unpacks is in it; theirs ends with nars.
//!
//! Beside that, without a limit, over the least that these two programs can be had for: as many pairs of them as the agent
//! has threads, each for its share of all items over one connection and into one file. What the agent takes more than these
//! is what they leave out: the hashes of what came, and a file for each file.
//!
//! Nothing of a run is removed before the last one has ended: without a journal, ext4 passes over each inode that was
//! freed in the last minutes, one by one, so whoever makes files then would pay for another one's removals.
//!
//! `bench-input FOLDER`: everything is made in that folder (9 GiB at a time). DROVER_BIN_DIR names the folder with the
//! programs as they are to be measured.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use drover_store::hash::HashingWriter;
use drover_store::nar;
use drover_tests::bench::{self, Figure, Limit, Result, Side};
use drover_tests::board::{Board, User};
use drover_tests::client::want;
use drover_tests::farm::{Farm, Setup};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::hand::Hand;
use drover_tests::tree;
use drover_wire::agent::{Output, Report};
use drover_wire::client::{Submission, Submitted};
use drover_wire::route::{agents, clients};

const ITEMS: usize = 200;
const SIZE: u64 = 1 << 30;
const SEED: u64 = 20_261_130;
const RUNS: usize = 5;
/// How many items an agent fetches at a time.
const AT_A_TIME: usize = 4;
const LIMIT: f64 = 1.3;

fn main() -> ExitCode {
    bench::main_of_several("input", run)
}

fn run() -> Result<Vec<Figure>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: bench-input FOLDER")?);
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let farm = Farm::with(&Setup { parent: Some(folder.clone()), ..Setup::default() });
    let mut graph = Graph::new("input")?;
    let mut items: Vec<Made> = Vec::new();
    for n in 0..ITEMS {
        let recipe = Recipe::new(&format!("item-{n}"), "exit 1");
        let below = references(n).into_iter().filter_map(|below| items.get(below));
        items.push(graph.add(below.fold(recipe, Recipe::input))?);
    }
    // One for each run, the uncounted one among them: each is built by an agent whose store has nothing.
    let needs: Vec<Made> = (0..=RUNS)
        .map(|n| {
            let needs = Recipe::new(&format!("needs-{n}"), "echo here; echo >$out");
            graph.add(items.iter().fold(needs, Recipe::input))
        })
        .collect::<std::io::Result<_>>()?;
    let trees = tempfile::Builder::new().prefix("tree-").tempdir_in(&folder)?;
    deliver(&farm, trees.path(), &graph, &items)?;

    let (uuid, password) = farm.client.new_agent("curl");
    let credentials = farm.dir().join("curlrc");
    fs::write(&credentials, format!("user = \"{uuid}:{password}\"\n"))?;
    let mut needs = needs.iter().enumerate();
    let mut boards = Vec::new();
    let (mut least, mut agents) = (Vec::new(), Vec::new());
    let fetch = |by: &dyn Fn(&Path) -> Result<()>| -> Result<Duration> {
        let dir = tempfile::Builder::new().prefix("nars-").tempdir_in(&folder)?;
        let start = Instant::now();
        by(dir.path())?;
        sync(dir.path())?;
        let time = start.elapsed();
        let files = fs::read_dir(dir.path())?.flatten().flat_map(|file| file.metadata());
        let size: u64 = files.map(|file| file.len()).sum();
        if size < SIZE { Err(format!("only {size} bytes came").into()) } else { Ok(time) }
    };
    let ratio = bench::ratio(
        RUNS,
        Side {
            name: "curl | zstd -d",
            run: &mut || {
                least.push(fetch(&|dir| shares(&farm, &credentials, &items, dir))?.as_secs_f64());
                fetch(&|dir| each(&farm, &credentials, &items, dir))
            },
        },
        Side {
            name: "agent",
            run: &mut || {
                let (n, made) = needs.next().ok_or("there is nothing left to build")?;
                let time = agent(&farm, &format!("board-{n}"), made, &mut boards)?;
                agents.push(time.as_secs_f64());
                Ok(time)
            },
        },
    );
    for board in &boards {
        remove(board)?;
    }
    let ratio = ratio?;
    // The first of each is not counted.
    let (least, agents) = (bench::median(&mut least[1..]), bench::median(&mut agents[1..]));
    println!("median: {AT_A_TIME} times curl | zstd -d for all {least:.3} s, agent {agents:.3} s");
    Ok(vec![
        Figure { of: "over curl | zstd -d for each item", figure: ratio, limit: Limit::Most(LIMIT) },
        Figure { of: "over one curl | zstd -d for each thread", figure: agents / least, limit: Limit::None },
    ])
}

/// To which items one refers: to itself, and to a few of those before it.
fn references(n: usize) -> Vec<usize> {
    let mut references = vec![n / 3, n / 2, n];
    references.dedup();
    references
}

/// Makes the items and has the coordinator take them, as if an agent had built them; each refers to a few others.
fn deliver(farm: &Farm, trees: &Path, graph: &Graph, items: &[Made]) -> Result<()> {
    let hand = Hand::new(farm, "hand");
    let uploaded = farm.client.upload(&drover_tests::client::bundle(graph));
    if uploaded.status != 200 {
        return Err(uploaded.text().into());
    }
    let submission = Submission { builds: items.iter().map(want).collect() };
    let _: Submitted = farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission).value();
    let (mut files, mut nars, mut sent) = (0, 0, 0);
    for _ in items {
        let allocation = hand.allocation();
        let n = items.iter().position(|made| made.path == allocation.derivation).ok_or("another build")?;
        let root = trees.join(n.to_string());
        tree::make(&root, SEED + n as u64, SIZE / ITEMS as u64)?;
        let mut references: Vec<_> = references(n).iter().map(|n| items[*n].out().clone()).collect();
        references.sort();
        let names: Vec<&str> = references.iter().map(|path| path.as_str()).collect();
        fs::write(root.join("references"), names.join("\n"))?;
        let (mut compressed, mut hash) = (Vec::new(), HashingWriter::new(std::io::sink()));
        {
            let mut encoder = zstd::Encoder::new(&mut compressed, 3)?;
            let mut nar = Vec::new();
            files += nar::pack(&root, &mut nar)?.entries;
            hash.write_all(&nar)?;
            encoder.write_all(&nar)?;
            encoder.finish()?;
        }
        let (_, nar_hash, nar_size) = hash.finish();
        (nars, sent) = (nars + nar_size, sent + compressed.len());
        let output = Output { path: items[n].out().clone(), nar_hash, nar_size, references };
        hand.deliver(allocation.lease, &output, &compressed);
        let ended = hand.report(allocation.lease, &Report::Succeeded { outputs: vec![output] });
        if ended.status != 200 {
            return Err(ended.text().into());
        }
    }
    println!(
        "{ITEMS} items, seed {SEED}: {files} files and folders, nars of {nars} bytes, {sent} bytes compressed"
    );
    Ok(())
}

/// `curl` as the agent, and `zstd -d` behind it: what they bring goes into this file.
fn curl<'i>(
    farm: &Farm,
    credentials: &Path,
    items: impl Iterator<Item = &'i Made>,
    to: &Path,
) -> Result<(Child, Child)> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--fail-early", "--noproxy", "*", "--config"])
        .arg(credentials);
    for item in items {
        curl.arg(format!("http://{}{}", farm.agents, agents::NAR.path(&[&item.out().base_name()])));
    }
    let mut curl = curl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let compressed = curl.stdout.take().ok_or("curl has no output")?;
    let mut zstd = Command::new("zstd");
    let zstd = zstd.args(["-d", "-q", "-c"]).stdin(compressed).stdout(File::create(to)?).spawn()?;
    Ok((curl, zstd))
}

fn wait((mut curl, mut zstd): (Child, Child)) -> Result<()> {
    if !curl.wait()?.success() || !zstd.wait()?.success() {
        return Err("curl or zstd has failed".into());
    }
    Ok(())
}

/// Downloads each item by a `curl` and a `zstd` of its own into a file of its own, so many at a time.
fn each(farm: &Farm, credentials: &Path, items: &[Made], to: &Path) -> Result<()> {
    std::thread::scope(|scope| {
        let worker = |worker: usize| {
            for (n, item) in items.iter().enumerate().skip(worker).step_by(AT_A_TIME) {
                let got = curl(farm, credentials, std::iter::once(item), &to.join(n.to_string()));
                got.and_then(wait).map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        };
        let workers: Vec<_> = (0..AT_A_TIME).map(|n| scope.spawn(move || worker(n))).collect();
        for worker in workers {
            worker.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    })
}

/// Downloads all items by so many pairs of processes, each with a share of them over one connection into one file.
fn shares(farm: &Farm, credentials: &Path, items: &[Made], to: &Path) -> Result<()> {
    let mut workers = Vec::new();
    for worker in 0..AT_A_TIME {
        let share = items.iter().skip(worker).step_by(AT_A_TIME);
        workers.push(curl(farm, credentials, share, &to.join(worker.to_string()))?);
    }
    workers.into_iter().try_for_each(wait)
}

/// From the submission of a build to the first line of its builder, by a new agent with an empty store.
fn agent(farm: &Farm, name: &str, made: &Made, boards: &mut Vec<Board>) -> Result<Duration> {
    let board = Board::new(farm, name, User::Same);
    let mut agent = board.agent(farm, 1, &[]);
    let start = Instant::now();
    let submission = Submission { builds: vec![want(made)] };
    let submitted: Submitted = farm.client.peer.post(&clients::SUBMIT.path(&[]), &submission).value();
    let build = submitted.builds.first().ok_or("nothing was submitted")?.build;
    let path = format!("{}?follow=true", clients::LOG.path(&[&build]));
    loop {
        let read = farm.client.peer.try_stream(&path).map(|mut log| log.read(&mut [0]));
        match read {
            Some(Ok(1..)) => break,
            _ if agent.exited().is_some() => return Err(format!("the agent ended: {}", agent.text()).into()),
            _ if start.elapsed() > Duration::from_secs(600) => return Err("no log came".into()),
            // There is no try yet.
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    sync(&board.store)?;
    let time = start.elapsed();
    farm.client.wait_success(&[build]);
    drop(agent);
    boards.push(board);
    Ok(time)
}

fn remove(board: &Board) -> Result<()> {
    let removed =
        Command::new("sh").args(["-c", "chmod -R u+w \"$0\" && rm -rf \"$0\""]).arg(&board.dir).status()?;
    if removed.success() { Ok(()) } else { Err("the store cannot be removed".into()) }
}

/// Waits until the disk has everything that was written to it.
fn sync(folder: &Path) -> Result<()> {
    let synced = Command::new("sync").arg("--file-system").arg(folder).status()?;
    if synced.success() { Ok(()) } else { Err("sync has failed".into()) }
}
