//! The bench `narinfo`: narinfos a second, against `guix publish --cache` with the same ones, and against a bare handler
//! of the same framework that always answers the same. Servers have one core, by turns; the client has another.
//!
//! `bench-narinfo` compares; `bench-narinfo --bare PORT BYTES` is the bare handler. DROVER_BIN_DIR names the folder with
//! the programs as they are to be measured.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::routing::get;
use drover_tests::bench::{self, Figure, Limit, Result, median};
use drover_tests::farm::{Farm, free_port, wait_listening, words};
use drover_tests::ground::Ground;
use drover_tests::load;
use drover_tests::random::Random;
use drover_tests::service::{Service, Start};
use drover_tests::shelf::{self, Item};
use drover_tests::wait;

const ITEMS: usize = 10_000;
const SEED: u64 = 20_261_124;
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
const OVER_PUBLISH: f64 = 5.0;
const OVER_BARE: f64 = 0.4;
/// How much of its core the bare handler must have for the comparison to be one.
const BUSY: f64 = 0.85;
const SERVERS_CORE: &str = "0";
const CLIENTS_CORE: usize = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--bare", port, size] => match bare(port, size) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the bare handler could not run: {error}");
                ExitCode::FAILURE
            }
        },
        [] => bench::main_of_several("narinfo", run),
        _ => {
            eprintln!("usage: bench-narinfo | bench-narinfo --bare PORT BYTES");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<Vec<Figure>> {
    let items = shelf::items(ITEMS, SEED)?;
    let size = items.iter().map(|item| item.narinfo.len()).sum::<usize>() / items.len();
    println!("{ITEMS} narinfos, seed {SEED}, {size} bytes on average; {CONNECTIONS} connections");
    let farm = coordinator(&items)?;
    let ground = farm.stranger_ground("publish");
    let (_publish, publish) = guix_publish(&ground, &items)?;
    let bare = free_port();
    let this = std::env::current_exe()?;
    let start = Start::new(this).args(["--bare", &bare.port().to_string(), &size.to_string()]);
    let mut handler = Service::start("bare handler", on_core(start));
    wait_listening(&mut handler, &[bare]);

    load::pin(CLIENTS_CORE)?;
    let mut paths: Vec<String> =
        items.iter().map(|item| format!("/{}.narinfo", item.path.hash_part())).collect();
    for (item, path) in items.iter().zip(&paths).step_by(97) {
        // It offers the nar uncompressed as well, to those who do not know zstd.
        if !load::get(farm.public, path)?.starts_with(item.narinfo.as_bytes())
            || load::get(publish, path)? != item.narinfo.as_bytes()
        {
            return Err(format!("the narinfo of {} is not served as it is", item.path).into());
        }
    }
    let mut random = Random::new(SEED);
    // Everything once, so that all is warm.
    for server in [farm.public, publish, bare] {
        for path in &paths {
            load::get(server, path)?;
        }
    }
    let (mut ours, mut of_publish, mut of_bare, mut busy) = (vec![], vec![], vec![], vec![]);
    for round in 1..=ROUNDS {
        paths = random.choose(paths, ITEMS);
        let our = Load::of(farm.public, farm.coordinator.pid(), &paths)?;
        let theirs = load::rate(publish, &paths, CONNECTIONS, TIME)?;
        let constant = Load::of(bare, handler.pid(), &paths)?;
        println!("round {round}: drover {our}; guix publish {theirs:.0}/s; bare {constant}");
        ours.push(our.rate);
        of_publish.push(theirs);
        of_bare.push(constant.rate);
        busy.push(constant.server);
    }
    let (ours, theirs, constant) = (median(&mut ours), median(&mut of_publish), median(&mut of_bare));
    println!("median: drover {ours:.0}/s, guix publish {theirs:.0}/s, bare {constant:.0}/s");
    Ok(vec![
        Figure { of: "over guix publish", figure: ours / theirs, limit: Limit::Least(OVER_PUBLISH) },
        Figure { of: "over a bare handler", figure: ours / constant, limit: Limit::Least(OVER_BARE) },
        // A bare handler that waits for the client, or for others on its core, is slower than it could be.
        Figure {
            of: "of its core that the bare handler had",
            figure: median(&mut busy),
            limit: Limit::Least(BUSY),
        },
    ])
}

/// What one server answered, and how busy both ends were meanwhile.
struct Load {
    /// Answers a second.
    rate: f64,
    /// How much of its core the server had.
    server: f64,
    /// How much of its core the client had.
    client: f64,
}

impl Load {
    fn of(server: SocketAddr, process: u32, paths: &[String]) -> Result<Self> {
        let used = || -> Result<(f64, f64)> {
            Ok((load::processor_seconds(&[process])?, load::processor_seconds(&[std::process::id()])?))
        };
        let (start, before) = (Instant::now(), used()?);
        let rate = load::rate(server, paths, CONNECTIONS, TIME)?;
        let (after, time) = (used()?, start.elapsed().as_secs_f64());
        Ok(Self { rate, server: (after.0 - before.0) / time, client: (after.1 - before.1) / time })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, server, client } = self;
        write!(f, "{rate:.0}/s ({:.0} % of its core, the client {:.0} %)", server * 100.0, client * 100.0)
    }
}

fn on_core(start: Start) -> Start {
    Start::new("taskset").args(["-c", SERVERS_CORE]).args(start.words)
}

/// A coordinator that has published these.
fn coordinator(items: &[Item]) -> Result<Farm> {
    let mut farm = Farm::start();
    farm.coordinator.kill();
    shelf::publish(&farm.dir().join("coordinator").join("drover.sqlite"), items)?;
    let words = std::mem::take(&mut farm.coordinator.start_mut().words);
    *farm.coordinator.start_mut() = on_core(Start { words, env: Vec::new() });
    farm.restart();
    Ok(farm)
}

/// `guix publish` with these in its cache, laid out as it does itself.
fn guix_publish(ground: &Ground, items: &[Item]) -> Result<(Service, SocketAddr)> {
    let made = ground.run(&["guix", "archive", "--generate-key"]);
    if !made.status.success() {
        return Err(words(&made).into());
    }
    let cache = ground.dir.join("publish-cache");
    for folder in ["hashes", "zstd"] {
        fs::create_dir_all(cache.join(folder))?;
    }
    for item in items {
        write(&cache.join("hashes").join(item.path.hash_part()), &item.path.full())?;
        write(&cache.join(format!("zstd/{}.narinfo", item.path.base_name())), &item.narinfo)?;
    }
    let address = free_port();
    let cache = format!("--cache={}", cache.display());
    let port = format!("--port={}", address.port());
    let publish = ["guix", "publish", "--listen=127.0.0.1", &port, &cache, "--compression=zstd", "--ttl=1d"];
    let mut publish = Service::start("guix publish", on_core(ground.beside(&publish)));
    wait_listening(&mut publish, &[address]);
    wait::until("guix publish should answer", || load::get(address, "/nix-cache-info").ok());
    Ok((publish, address))
}

fn write(file: &Path, text: &str) -> Result<()> {
    Ok(fs::write(file, text)?)
}

/// The bare handler.
fn bare(port: &str, size: &str) -> Result<()> {
    let (port, size): (u16, usize) = (port.parse()?, size.parse()?);
    let text: &'static str = "x".repeat(size).leak();
    let head = [(CONTENT_TYPE, "application/x-nix-narinfo"), (CACHE_CONTROL, "public, max-age=86400")];
    let router = Router::new().route("/{narinfo}", get(move || async move { (head, text) }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        Ok(axum::serve(listener, router).await?)
    })
}
