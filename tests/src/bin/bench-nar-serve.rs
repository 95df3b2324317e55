//! The bench `nar-serve`: a nar of 512 MiB from drover, against the same file from nginx. Servers have one core, by
//! turns; the client has another.
//!
//! `bench-nar-serve`: DROVER_BIN_DIR names the folder with the programs as they are to be measured.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use drover_tests::bench::{self, Figure, Limit, Result, median, peak_kib};
use drover_tests::farm::{Farm, free_port, wait_listening};
use drover_tests::load;
use drover_tests::random::Random;
use drover_tests::service::{Service, Start};
use drover_tests::shelf::{self, Item};

const SIZE: u64 = 512 << 20;
const SEED: u64 = 20_261_124;
const ROUNDS: usize = 9;
const THROUGHPUT: f64 = 1.0;
const PROCESSOR: f64 = 3.0;
/// What the memory of the coordinator may grow by from a small answer on, in KiB.
const GROWTH_KIB: u64 = 8 * 1024;
const SERVERS_CORE: &str = "0";
const CLIENTS_CORE: usize = 1;

fn main() -> ExitCode {
    bench::main_of_several("nar-serve", run)
}

fn run() -> Result<Vec<Figure>> {
    let mut items = shelf::items(1, SEED)?;
    let item = items.first_mut().ok_or("there is no item")?;
    item.file_size = SIZE;
    println!("a nar of {SIZE} bytes, seed {SEED}");
    let (farm, file) = coordinator(item)?;
    let nar = format!("/nar/zstd/{}", item.path.base_name());
    let (nginx, theirs_at) = nginx(&farm.dir().join("nginx"), &file)?;

    load::pin(CLIENTS_CORE)?;
    let status = format!("/proc/{}/status", farm.coordinator.pid());
    let ours = Served { at: farm.public, path: &nar, processes: vec![farm.coordinator.pid()] };
    let theirs = Served { at: theirs_at, path: "/nar", processes: vec![nginx.pid()] };
    // What it needs for a small answer: a coordinator that holds nars in memory shows with the first of them.
    load::get(farm.public, &format!("/{}.narinfo", item.path.hash_part()))?;
    let before = peak_kib(&status)?;
    // Once without counting: all is warm after that.
    ours.once()?;
    theirs.once()?;
    let (mut our_rates, mut their_rates, mut our_seconds, mut their_seconds) =
        (vec![], vec![], vec![], vec![]);
    for round in 1..=ROUNDS {
        let (their_rate, their_second) = theirs.once()?;
        let (our_rate, our_second) = ours.once()?;
        println!(
            "round {round}: drover {our_rate:.2} GiB/s, {our_second:.3} processor seconds a GiB; nginx {their_rate:.2} \
             GiB/s, {their_second:.3}"
        );
        our_rates.push(our_rate);
        their_rates.push(their_rate);
        our_seconds.push(our_second);
        their_seconds.push(their_second);
    }
    let after = peak_kib(&status)?;
    println!("peak memory of drover: {before} KiB before, {after} KiB after");
    let (our_rate, their_rate) = (median(&mut our_rates), median(&mut their_rates));
    let (our_second, their_second) = (median(&mut our_seconds), median(&mut their_seconds));
    println!(
        "median: drover {our_rate:.2} GiB/s, {our_second:.3} s/GiB; nginx {their_rate:.2} GiB/s, {their_second:.3} s/GiB"
    );
    Ok(vec![
        Figure {
            of: "of nginx's throughput",
            figure: our_rate / their_rate,
            limit: Limit::Least(THROUGHPUT),
        },
        Figure {
            of: "of nginx's processor seconds",
            figure: our_second / their_second,
            limit: Limit::Most(PROCESSOR),
        },
        Figure {
            of: "MiB more memory after all downloads",
            figure: after.saturating_sub(before) as f64 / 1024.0,
            limit: Limit::Most(GROWTH_KIB as f64 / 1024.0),
        },
    ])
}

/// A server of the nar.
struct Served<'a> {
    at: SocketAddr,
    path: &'a str,
    processes: Vec<u32>,
}

impl Served<'_> {
    /// Downloads it: GiB a second, and processor seconds for each GiB.
    fn once(&self) -> Result<(f64, f64)> {
        let before = load::processor_seconds(&self.processes)?;
        let (bytes, time) = load::download(self.at, self.path)?;
        if bytes != SIZE {
            return Err(format!("{bytes} bytes came").into());
        }
        let used = load::processor_seconds(&self.processes)? - before;
        let gib = bytes as f64 / f64::from(1 << 30);
        Ok((gib / time.as_secs_f64(), used / gib))
    }
}

/// A coordinator that has published the item, and the file with its nar.
fn coordinator(item: &Item) -> Result<(Farm, std::path::PathBuf)> {
    let mut farm = Farm::start();
    farm.coordinator.kill();
    let base = item.path.base_name();
    let folder =
        farm.dir().join("coordinator").join("nars").join(base.get(..2).ok_or("a name without a beginning")?);
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{base}.nar.zst"));
    let mut out = BufWriter::new(File::create(&file)?);
    let mut random = Random::new(SEED);
    for _ in 0..SIZE / 8 {
        out.write_all(&random.number().to_le_bytes())?;
    }
    out.flush()?;
    shelf::publish(&farm.dir().join("coordinator").join("drover.sqlite"), std::slice::from_ref(item))?;
    let words = std::mem::take(&mut farm.coordinator.start_mut().words);
    *farm.coordinator.start_mut() = on_core(Start { words, env: Vec::new() });
    farm.restart();
    Ok((farm, file))
}

fn on_core(start: Start) -> Start {
    Start::new("taskset").args(["-c", SERVERS_CORE]).args(start.words)
}

/// nginx as one process, which ends with the bench however that ends; and with sendfile, as Debian sets it up.
fn nginx(folder: &Path, file: &Path) -> Result<(Service, SocketAddr)> {
    fs::create_dir_all(folder)?;
    let (address, dir) = (free_port(), folder.display());
    let file = file.display();
    let config = folder.join("nginx.conf");
    fs::write(
        &config,
        format!(
            "daemon off; master_process off; user root; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{ worker_connections 768; }}\n\
             http {{\n  sendfile on; tcp_nopush on; access_log off; default_type application/octet-stream;\n  \
             client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d; \
             scgi_temp_path {dir}/e;\n  server {{ listen {address}; location = /nar {{ alias {file}; }} }}\n}}\n"
        ),
    )?;
    let start = Start::new("nginx").args(["-p".to_owned(), format!("{dir}")]).arg("-c").arg(&config);
    let mut nginx = Service::start("nginx", on_core(start));
    wait_listening(&mut nginx, &[address]);
    Ok((nginx, address))
}
