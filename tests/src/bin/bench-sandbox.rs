//! The bench `sandbox`: 300 small builds in a row in the agent's own sandbox, over the same 300 by guix-daemon through the
//! agent's own client, both without a farm. The daemon has one connection for all of them, because each new one costs it a
//! process; the sandbox a place for each, as an agent opens it. The daemon writes its database to the disk as it goes; the
//! store of a sandbox is saved now and then, so here at the end of each run and in its time. Both runs begin with nothing
//! that waits to be written, and are by turns: what one has removed may slow down the making of files for both (without a
//! journal ext4 passes over each inode that was freed in the last minutes), and nothing more is removed between them.
//!
//! The executor is compiled for speed here, as the daemon is, and not for size as the agent that is installed.
//!
//! `bench-sandbox FOLDER`: both stores are in that folder, so on one disk. Wants root, for the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use drover_agent::config::DaemonSocket;
use drover_agent::executor::Executor;
use drover_agent::executor::daemon::DaemonExecutor;
use drover_os::{machine, tree};
use drover_tests::bench::{self, Result, Side, Verdict, timed};
use drover_tests::direct;
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::Ground;

const BUILDS: usize = 300;
const RUNS: usize = 5;
const LIMIT: f64 = 0.8;

fn main() -> ExitCode {
    // As the agent does at its start.
    machine::hoard_no_memory();
    bench::main(run)
}

fn run() -> Result<Verdict> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: bench-sandbox FOLDER")?);
    std::fs::create_dir_all(&folder)?;
    let dir = tempfile::Builder::new().prefix("b-").tempdir_in(folder.canonicalize()?)?;
    let ground = Ground::start(&dir.path().join("g"), &[]);
    let socket: DaemonSocket = ground.socket.display().to_string().parse()?;
    let (daemon, sandbox) = (DaemonExecutor::new(socket), direct::sandbox(dir.path())?);
    let mut connection = daemon.open()?;
    let mut shelf = sandbox.open()?;
    let (graph, _) = graph("shell", 0)?;
    direct::add_shell(connection.as_mut(), &graph)?;
    direct::add_shell(shelf.as_mut(), &graph)?;

    println!("{BUILDS} builds a run");
    let written = || {
        // As the agent does when it has nothing to build: what lies about is copied by each fork.
        machine::release_memory();
        tree::sync_file_system(dir.path())
    };
    let (mut their_run, mut our_run) = (0, 0);
    let ratio = bench::ratio(
        RUNS,
        Side {
            name: "guix-daemon",
            run: &mut || {
                their_run += 1;
                let (graph, made) = self::graph(&format!("run-{their_run}"), BUILDS)?;
                written()?;
                let builds =
                    || made.iter().try_for_each(|made| direct::build(connection.as_mut(), &graph, made));
                Ok(timed(builds)?.1)
            },
        },
        Side {
            name: "sandbox",
            run: &mut || {
                our_run += 1;
                let (graph, made) = self::graph(&format!("run-{our_run}"), BUILDS)?;
                written()?;
                each_in_its_place(&sandbox, &graph, &made)
            },
        },
    )?;
    Ok(Verdict { name: "sandbox", figure: ratio, limit: LIMIT, unit: "" })
}

fn each_in_its_place(executor: &dyn Executor, graph: &Graph, made: &[Made]) -> Result<Duration> {
    let builds = || {
        made.iter().try_for_each(|made| direct::build(executor.open()?.as_mut(), graph, made))?;
        executor.save();
        Ok(())
    };
    Ok(timed(builds)?.1)
}

/// So many derivations, the same for the same salt: a few lines of work, and an output with a few files.
fn graph(salt: &str, builds: usize) -> Result<(Graph, Vec<Made>)> {
    let mut graph = Graph::new(salt)?;
    let script = "echo building $name; mkdir -p $out/bin; echo $name >$out/name; \
                  printf '#!%s/sh\\necho %s\\n' $PATH $name >$out/bin/$name; chmod 755 $out/bin/$name";
    let made = (0..builds).map(|n| graph.add(Recipe::new(&format!("small-{n}"), script)));
    let made = made.collect::<std::io::Result<_>>()?;
    Ok((graph, made))
}
