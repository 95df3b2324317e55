//! The bench `submit`: all packages of a Guix for one system submitted as a set to an empty coordinator, with their
//! sources, by the operators' command line over HTTP, against inserting the same texts and edges with the `sqlite3`
//! shell in one transaction; and the most memory that the coordinator takes.
//!
//! `bench-submit FOLDER`: see `whole_guix` for what is in it. DROVER_BIN_DIR names the folder with the programs as they
//! are to be measured.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use drover_tests::bench::{self, Result, Side, Verdict};
use drover_tests::farm::{Farm, Setup};
use drover_tests::sqlite;
use drover_tests::whole_guix::{self, WholeGuix};
use drover_wire::route::clients;
use drover_wire::set::SetDetails;

const RUNS: usize = 3;
const MEMORY_LIMIT_KIB: u64 = 400_000_000 / 1024;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [folder] => bench::main(|| compare(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-submit FOLDER");
            ExitCode::from(2)
        }
    }
}

/// What a coordinator has after a submission.
#[derive(Debug, Default)]
struct After {
    peak_kib: u64,
    bytes: u64,
    said: String,
    counted: Vec<(&'static str, u64)>,
}

/// What is counted in the coordinator's database.
const COUNTED: &[(&str, &str)] = &[
    ("derivations", "SELECT count(*) FROM derivations"),
    ("outputs that derivations need", "SELECT count(*) FROM derivation_inputs"),
    ("sources", "SELECT count(*) FROM items WHERE kind = 'source'"),
    ("rows", "SELECT count(*) FROM set_rows"),
    ("builds", "SELECT count(*) FROM builds"),
];

fn compare(folder: &Path) -> Result<Verdict> {
    let guix = WholeGuix::read(folder, &["x86_64-linux"])?;
    println!(
        "{} rows, {} derivations with {} edges and {} sources below them",
        guix.rows.len(),
        guix.nodes.len(),
        guix.edges(),
        guix.sources
    );
    // Everything that is written is on the same disk.
    let scratch = tempfile::Builder::new().prefix("submit-").tempdir_in(folder)?;
    let in_scratch = |name: &str| scratch.path().join(name);
    let (rows, dump, database) = (in_scratch("rows"), in_scratch("dump.sql"), in_scratch("plain.sqlite"));
    whole_guix::write_rows(&guix.rows, &rows)?;
    sqlite::write_dump(&guix, &dump)?;

    let mut theirs = || {
        nix::unistd::sync();
        sqlite::load(&dump, &database)
    };
    let mut after = After::default();
    let mut ours = || {
        let farm = Farm::with(&Setup { parent: Some(scratch.path().to_owned()), ..Setup::default() });
        nix::unistd::sync();
        let (time, said) = whole_guix::submit(&farm, "guix", "1.5.0", &rows, &guix.store)?;
        let now = look(&farm, said)?;
        after = After { peak_kib: now.peak_kib.max(after.peak_kib), ..now };
        Ok(time)
    };
    let mut figure = bench::ratio(
        RUNS,
        Side { name: "sqlite3", run: &mut theirs },
        Side { name: "drover", run: &mut ours },
    )?;
    print!("{}", after.said);
    for (what, number) in &after.counted {
        println!("{number} {what} in the coordinator's database");
    }
    for (whose, bytes) in [("plain", sqlite::size(&database)?), ("coordinator's", after.bytes)] {
        let each = bytes as f64 / guix.nodes.len() as f64;
        println!("the {whose} database: {:.1} MB, {each:.0} bytes per derivation", bytes as f64 / 1e6);
    }
    same(&guix, &after, &database)?;
    println!(
        "coordinator's peak memory: {:.1} MB (limit {} MB)",
        after.peak_kib as f64 * 1024.0 / 1e6,
        MEMORY_LIMIT_KIB * 1024 / 1_000_000
    );
    if after.peak_kib > MEMORY_LIMIT_KIB {
        println!("the limit of memory is missed, so no time is good enough");
        figure = f64::INFINITY;
    }
    Ok(Verdict { name: "submit", figure, limit: 3.0, unit: "" })
}

/// Looks at a coordinator after the submission.
fn look(farm: &Farm, said: String) -> Result<After> {
    let database = farm.state().join("drover.sqlite");
    let bytes = sqlite::size(&database)?;
    let details: SetDetails = farm.client.peer.get(&clients::SET.path(&[&"guix"])).value();
    let mut counted = vec![("wanted", details.total.wanted)];
    for (what, question) in COUNTED {
        counted.push((what, sqlite::number(&database, question)?));
    }
    let peak_kib = bench::peak_kib(&format!("/proc/{}/status", farm.coordinator.pid()))?;
    Ok(After { peak_kib, bytes, said, counted })
}

/// Both sides must have all of it.
fn same(guix: &WholeGuix, after: &After, plain: &Path) -> Result<()> {
    let all = [
        ("wanted", guix.rows.len()),
        ("rows", guix.rows.len()),
        ("derivations", guix.nodes.len()),
        ("outputs that derivations need", guix.outputs_taken()),
        ("sources", guix.sources),
    ];
    for (what, number) in all {
        if !after.counted.contains(&(what, number as u64)) {
            return Err(format!("the coordinator should have {number} {what}: {:?}", after.counted).into());
        }
    }
    let texts = sqlite::number(plain, "SELECT count(text) FROM derivations")?;
    let edges = sqlite::number(plain, "SELECT count(*) FROM inputs")?;
    if (texts, edges) == (guix.nodes.len() as u64, guix.edges() as u64) {
        return Ok(());
    }
    Err(format!("the plain database has {texts} derivations and {edges} edges").into())
}
