//! The bench `herd`: what 2.4 million narinfos cost. Narinfos at random from a coordinator with so many, and from one
//! with 10,000; the most memory that it has resident; how long it takes to start, to find what retention may take away,
//! to withdraw that and to remove it.
//!
//! `bench-herd FOLDER`: where the databases are made and kept for the next time; 8 GiB. DROVER_BIN_DIR names the folder
//! with the programs as they are to be measured.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use drover_tests::bench::{self, Figure, Limit, Result, timed};
use drover_tests::farm::{Farm, Setup};
use drover_tests::http::Peer;
use drover_tests::{herd, service, wait};
use drover_wire::retention::{RetentionRun, RetentionStatus};
use drover_wire::route::clients;

const HERD: usize = 2_400_000;
const FEW: usize = 10_000;
const CONNECTIONS: usize = 4;
/// Requests over each connection: before those that count, and those.
const WARM: usize = 5_000;
const REQUESTS: usize = 25_000;
/// How long the sweep is waited for, and between two looks.
const LONGEST: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(5);
const LIMIT_RATIO: f64 = 3.0;
const LIMIT_RESIDENT_MB: f64 = 200.0;
const LIMIT_SWEEP_SECONDS: f64 = 60.0;

/// What half of the herd is kept by: the rest goes when it is found that nothing has wanted it for a day.
const CONFIG: &str = "[retention]
sweep-hours = 8784
[retention.others]
days = 1
[[retention.sets]]
names = \"inputs-*\"
keep-revisions = 1
build-inputs = true
[[retention.sets]]
names = \"kept-*\"
keep-revisions = 1
";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [folder] => bench::main_of_several("herd", || run(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-herd FOLDER");
            ExitCode::from(2)
        }
    }
}

fn run(folder: &Path) -> Result<Vec<Figure>> {
    let few = Coordinator::start(folder, FEW)?;
    let of_few = few.narinfos()?;
    drop(few);
    let mut many = Coordinator::start(folder, HERD)?;
    let of_many = many.narinfos()?;
    let after_load = many.resident_mb()?;
    println!("resident after the load: {after_load:.1} MB");
    let (announced, sweep) = many.sweep(|run| run.announced)?;
    println!("announced: {announced} of {HERD} in {sweep:.1} s");
    if announced < HERD as u64 / 4 || announced > HERD as u64 * 3 / 4 {
        return Err("about half of the items should be announced".into());
    }
    let mut peak = many.peak_mb()?;
    println!("at most resident until after the sweep: {peak:.1} MB");
    many.all_is_due()?;
    let (withdrawn, withdrawing) = many.sweep(|run| run.withdrawn)?;
    println!("withdrawn: {withdrawn} in {withdrawing:.1} s");
    peak = peak.max(many.peak_mb()?);
    many.all_is_due()?;
    let (removed, removing) = many.sweep(|run| run.removed.items)?;
    println!("removed: {removed} in {removing:.1} s");
    peak = peak.max(many.peak_mb()?);
    if (withdrawn, removed) != (announced, announced) {
        return Err("what is announced should be withdrawn and removed".into());
    }
    Ok(vec![
        Figure {
            of: "of the p99 of narinfos of 10,000",
            figure: of_many / of_few,
            limit: Limit::Most(LIMIT_RATIO),
        },
        Figure { of: "s for a sweep", figure: sweep, limit: Limit::Most(LIMIT_SWEEP_SECONDS) },
        Figure { of: "s to withdraw half of them", figure: withdrawing, limit: Limit::None },
        Figure { of: "s to remove these", figure: removing, limit: Limit::None },
        Figure { of: "MB resident at most", figure: peak, limit: Limit::Most(LIMIT_RESIDENT_MB) },
        Figure { of: "bytes of database for each nar", figure: many.bytes_a_nar, limit: Limit::None },
    ])
}

/// A real coordinator with so many items.
struct Coordinator {
    farm: Farm,
    count: usize,
    /// Bytes of the database for each nar.
    bytes_a_nar: f64,
    keys: Vec<String>,
}

impl Coordinator {
    fn start(folder: &Path, count: usize) -> Result<Self> {
        let config = folder.join("herd.toml");
        fs::write(&config, CONFIG)?;
        let flags = ["--config".to_owned(), config.display().to_string()].to_vec();
        let setup = Setup { parent: Some(folder.to_owned()), flags, ..Setup::default() };
        let mut farm = Farm::with(&setup);
        farm.coordinator.kill();
        let kept = kept(folder, count, &farm)?;
        let state = farm.dir().join("coordinator");
        fs::remove_dir_all(&state)?;
        copy(&kept, &state)?;
        fs::copy(state.join("client-token"), farm.dir().join("token"))?;
        let database = state.join("drover.sqlite");
        let bytes_a_nar = sizes(&database, count)?;
        // All of it has been read once, however long ago it was made.
        std::io::copy(&mut fs::File::open(&database)?, &mut std::io::sink())?;
        let keys = herd::keys(&database, CONNECTIONS * (WARM + REQUESTS))?;
        let ((), time) = timed(|| {
            farm.restart();
            Ok(())
        })?;
        println!("{count} items: it starts in {:.2} s", time.as_secs_f64());
        Ok(Self { farm, count, bytes_a_nar, keys })
    }

    /// Asks for narinfos at random over some connections at once; the 99th percentile, in milliseconds.
    fn narinfos(&self) -> Result<f64> {
        let address = self.farm.public;
        let (answers, time) = timed(|| {
            let threads: Vec<_> = self
                .keys
                .chunks(WARM + REQUESTS)
                .map(|keys| {
                    let keys = keys.to_vec();
                    std::thread::spawn(move || ask(address, &keys).map_err(|error| error.to_string()))
                })
                .collect();
            let mut all = Vec::new();
            for thread in threads {
                all.push(thread.join().map_err(|_| "a thread that asks has panicked")??);
            }
            Ok(all)
        })?;
        let mut times: Vec<f64> = answers.into_iter().flatten().collect();
        times.sort_unstable_by(f64::total_cmp);
        let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or_default() * 1000.0;
        println!(
            "{} items: narinfo over {CONNECTIONS} connections: p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms; {:.0} a second",
            self.count,
            at(500),
            at(990),
            at(999),
            self.keys.len() as f64 / time.as_secs_f64()
        );
        Ok(at(990))
    }

    fn resident_mb(&self) -> Result<f64> {
        let bytes = service::resident(self.farm.coordinator.pid()).ok_or("it has ended")?;
        Ok(bytes as f64 / 1e6)
    }

    fn peak_mb(&self) -> Result<f64> {
        let bytes = service::peak(self.farm.coordinator.pid()).ok_or("it has ended")?;
        Ok(bytes as f64 / 1e6)
    }

    /// All that is announced or withdrawn is due, without a day having passed.
    fn all_is_due(&mut self) -> Result<()> {
        self.farm.coordinator.kill();
        herd::all_is_due(&self.farm.dir().join("coordinator/drover.sqlite"))?;
        self.farm.restart();
        Ok(())
    }

    /// Has it look once for what may go; what that came to, and the seconds that it took.
    fn sweep(&mut self, what: impl Fn(&RetentionRun) -> u64) -> Result<(u64, f64)> {
        let token = fs::read_to_string(self.farm.dir().join("token"))?;
        let peer = Peer::stranger(&format!("http://{}", self.farm.clients)).token(token.trim());
        let ask = || -> RetentionStatus { peer.get(&clients::RETENTION.path(&[])).value() };
        let before = ask().runs;
        let _ = peer.post(&clients::RETENTION_RUN.path(&[]), &());
        let status = wait::until_within(LONGEST, "the sweep should end", || {
            // An answer counts all that is going, which must not be what is measured.
            std::thread::sleep(PAUSE);
            Some(ask()).filter(|status| status.runs > before && !status.running)
        });
        let run = status.last.ok_or("no sweep was noted")?;
        if let Some(error) = run.error {
            return Err(format!("the sweep failed: {error}").into());
        }
        Ok((what(&run), Duration::from_millis(run.ended_at.saturating_sub(run.started_at)).as_secs_f64()))
    }
}

/// The seconds that each request took, but for the first ones.
fn ask(address: SocketAddr, keys: &[String]) -> Result<Vec<f64>> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let (mut times, mut line, mut body) = (Vec::with_capacity(REQUESTS), String::new(), Vec::new());
    for (n, key) in keys.iter().enumerate() {
        let start = Instant::now();
        write!(connection, "GET /{key}.narinfo HTTP/1.1\r\nHost: farm\r\n\r\n")?;
        let mut length = None;
        for first in (0..).map(|n| n == 0) {
            line.clear();
            reader.read_line(&mut line)?;
            let text = line.trim_end();
            if first && !text.contains(" 200") {
                return Err(format!("{key}: {text}").into());
            }
            if text.is_empty() {
                break;
            }
            if let Some((name, value)) = text.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = Some(value.trim().parse::<usize>()?);
                }
            }
        }
        body.resize(length.ok_or("an answer without a length")?, 0);
        reader.read_exact(&mut body)?;
        if n >= WARM {
            times.push(start.elapsed().as_secs_f64());
        }
        if !body.starts_with(b"StorePath: ") {
            return Err(format!("{key}: no narinfo").into());
        }
    }
    Ok(times)
}

/// The state folder with so many items, made if it is not there from the last time. It is made from that of a farm that
/// has just been started, so that it has its schema.
fn kept(folder: &Path, count: usize, farm: &Farm) -> Result<PathBuf> {
    let state = farm.dir().join("coordinator");
    let schema = drover_store::Sha256Hash::of(&fs::read(drover_tests::top().join(MIGRATION))?).base32();
    let kept = folder.join(format!("herd-{count}-{}-{}", herd::VERSION, schema.get(..8).unwrap_or_default()));
    if kept.exists() {
        return Ok(kept);
    }
    // Those of other schemas are of no use any more.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&format!("herd-{count}-")) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let unfinished = folder.join(format!("herd-unfinished-{count}"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    copy(&state, &unfinished)?;
    let ((), time) = timed(|| herd::fill(&unfinished.join("drover.sqlite"), count))?;
    println!("{count} items: written in {:.0} s", time.as_secs_f64());
    fs::rename(&unfinished, &kept)?;
    Ok(kept)
}

const MIGRATION: &str = "coordinator/src/database/migrations/3.sql";

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// How many bytes the database has for each nar; prints in which tables and indexes.
fn sizes(database: &Path, count: usize) -> Result<f64> {
    let sizes = herd::sizes(database)?;
    let all: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
    let a_nar = all as f64 / count as f64;
    println!("{count} items: {a_nar:.0} bytes of database for each nar, of these:");
    for (name, bytes) in sizes.iter().filter(|(_, bytes)| bytes * 200 > all) {
        println!("  {name}: {:.1}", *bytes as f64 / count as f64);
    }
    Ok(a_nar)
}
