//! The bench `resubmit`: a revision of a set in which 1 % of the rows are new, against the first submission of the set
//! to the same coordinator.
//!
//! `bench-resubmit FOLDER`: see `whole_guix` for what is in it. DROVER_BIN_DIR names the folder with the programs as
//! they are to be measured.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use drover_tests::bench::{self, Result, Side, Verdict};
use drover_tests::farm::{Farm, Setup};
use drover_tests::random::Random;
use drover_tests::whole_guix::{self, WholeGuix};
use drover_wire::route::clients;
use drover_wire::set::{Row, SetDetails};

const RUNS: usize = 3;
const SEED: u64 = 20_261_123;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [folder] => bench::main(|| compare(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-resubmit FOLDER");
            ExitCode::from(2)
        }
    }
}

fn compare(folder: &Path) -> Result<Verdict> {
    let guix = WholeGuix::read(folder, &["x86_64-linux"])?;
    let (first, second, changed) = revisions(&guix);
    println!(
        "first {} rows, then {}: {changed} of them new (seed {SEED}), {changed} gone",
        first.len(),
        second.len()
    );
    let scratch = tempfile::Builder::new().prefix("resubmit-").tempdir_in(folder)?;
    let (before, after) = (scratch.path().join("first"), scratch.path().join("second"));
    whole_guix::write_rows(first.iter().copied(), &before)?;
    whole_guix::write_rows(second.iter().copied(), &after)?;

    // Both go to the same coordinator, the second right after the first; each time a new one.
    let farm = RefCell::new(None);
    let mut said = String::new();
    let mut submit = || {
        let empty = Farm::with(&Setup { parent: Some(scratch.path().to_owned()), ..Setup::default() });
        nix::unistd::sync();
        let (time, _) = whole_guix::submit(&empty, "guix", "first", &before, &guix.store)?;
        farm.replace(Some(empty));
        Ok(time)
    };
    let mut resubmit = || {
        let farm = farm.take().ok_or("there is no coordinator with the first revision")?;
        nix::unistd::sync();
        let (time, words) = whole_guix::submit(&farm, "guix", "second", &after, &guix.store)?;
        said = words;
        let details: SetDetails = farm.client.peer.get(&clients::SET.path(&[&"guix"])).value();
        if details.total.wanted != second.len() as u64 || details.revision.as_str() != "second" {
            return Err(format!("the coordinator should have the second revision: {details:?}").into());
        }
        Ok(time)
    };
    let figure = bench::ratio_in_order(
        RUNS,
        Side { name: "first", run: &mut submit },
        Side { name: "1 % new", run: &mut resubmit },
    )?;
    print!("{said}");
    Ok(Verdict { name: "resubmit", figure, limit: 0.1, unit: "" })
}

/// The rows of two revisions, each with 1 % that the other does not have. Nothing else needs the derivations of these,
/// so the coordinator has none of the new ones before.
fn revisions(guix: &WholeGuix) -> (Vec<&Row>, Vec<&Row>, usize) {
    let users = guix.users();
    let on_top = |row: &usize| guix.number(&guix.rows[*row]).is_some_and(|number| users[number].is_empty());
    let part = guix.rows.len().div_ceil(100);
    let mut new = Random::new(SEED).choose((0..guix.rows.len()).filter(on_top).collect(), 2 * part);
    let gone: HashSet<usize> = new.split_off(new.len() / 2).into_iter().collect();
    let new: HashSet<usize> = new.into_iter().collect();
    let without = |left_out: &HashSet<usize>| {
        guix.rows.iter().enumerate().filter(|(row, _)| !left_out.contains(row)).map(|(_, row)| row).collect()
    };
    (without(&new), without(&gone), new.len())
}
