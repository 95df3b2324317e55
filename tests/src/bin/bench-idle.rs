//! The bench `idle`: the memory of an agent that has nothing to do, against that of an idle Guile process with the
//! modules that an agent in Guile needs.
//!
//! `bench-idle`: DROVER_BIN_DIR names the folder with the programs as they are to be measured: the static agent, as machines
//! have it.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use drover_tests::bench::{self, Result, Verdict};
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Recipe};
use drover_tests::service::{Service, Start, processes_with, resident};
use drover_tests::wait;

const IDLE: Duration = Duration::from_secs(120);
const LIMIT_MB: f64 = 5.0;

/// What the agent of the field's present system loads, as far as the ground has it: the store, derivations, narinfos,
/// substitutes, HTTP and TLS.
const GUILE: &str = r#"
(for-each (lambda (module) (false-if-exception (resolve-interface module)))
          '((guix store) (guix derivations) (guix config) (guix utils) (guix base16) (guix base32)
            (guix serialization) (guix narinfo) (guix substitutes) (guix progress) (guix pki)
            (guix http-client) (guix build download) (guix build utils) (guix build syscalls)
            (web client) (web request) (web response) (web http) (web uri)
            (gnutls) (json) (lzlib) (zlib) (zstd) (gcrypt hash) (gcrypt pk-crypto)
            (srfi srfi-1) (srfi srfi-9) (srfi srfi-19) (srfi srfi-34) (srfi srfi-35)
            (ice-9 threads) (ice-9 match) (ice-9 atomic) (ice-9 ftw) (rnrs bytevectors) (logging logger)))
(gc)
(display "loaded\n")
(force-output)
(sleep 100000)
"#;

fn main() -> ExitCode {
    bench::main(run)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn run() -> Result<Verdict> {
    let farm = Farm::start();
    // One agent that has worked before: it has built, sent logs and uploaded, and has nothing left to do.
    let other = farm.ground("other");
    let used = farm.agent("used", &other, 2);
    let mut graph = Graph::new("idle")?;
    let script = "seq 1 100000; head -c 8000000 /dev/urandom >$out";
    let made: Vec<_> = (0..8)
        .map(|n| graph.add(Recipe::new(&format!("work-{n}"), script).env("n", n.to_string())))
        .collect::<std::io::Result<_>>()?;
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    farm.client.wait_success(&builds);

    // And one that has only just started.
    let ground = farm.ground("idle");
    let fresh = farm.agent("fresh", &ground, 2);
    farm.wait_online("fresh");

    let guile = Service::start(
        "guile",
        Start::new(drover_tests::top().join("ci/guix-root")).arg("run").arg(&ground.dir).args([
            "env",
            "DROVER_IDLE=guile",
            "GUILE_AUTO_COMPILE=0",
            "guile",
            "-c",
            GUILE,
        ]),
    );
    let _ = guile.line("loaded");
    let guile_pid =
        wait::until("Guile should be found", || processes_with("DROVER_IDLE", "guile").into_iter().max());

    println!("idle for {} s", IDLE.as_secs());
    thread::sleep(IDLE);
    let theirs = megabytes(resident(guile_pid).ok_or("Guile has ended")?);
    let ours = [("fresh", megabytes(fresh.resident())), ("after work", megabytes(used.resident()))];
    println!("Guile with the modules of an agent: {theirs:.1} MB resident");
    for (which, figure) in ours {
        println!("drover-agent, {which}: {figure:.2} MB resident, {:.1} times less", theirs / figure);
    }
    let figure = ours.iter().map(|(_, figure)| *figure).fold(0.0, f64::max);
    Ok(Verdict { name: "idle", figure, limit: LIMIT_MB, unit: " MB" })
}
