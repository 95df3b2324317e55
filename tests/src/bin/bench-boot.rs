//! The bench `boot`: from power-on to the enrolment of a riscv64 board that starts for the first time, over the time from
//! power-on to the first program of its image. Its disk is empty, and QEMU plays its processor.
//!
//! `bench-boot FOLDER`: in it the board's disks are made; `ci/image` has made the image, and DROVER_BIN_DIR names the folder with
//! the programs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use drover_tests::bench::{self, Result, Verdict};
use drover_tests::emulated::{Emulated, RISCV64, Setup};
use drover_tests::farm::Farm;

const LIMIT: f64 = 2.0;

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<Verdict> {
    let folder =
        PathBuf::from(std::env::args_os().nth(1).ok_or("the folder for the board's disks is missing")?);
    let folder = tempfile::Builder::new().prefix("drover-").tempdir_in(folder)?;
    let farm = Farm::start();
    let setup = Setup {
        before: Vec::new(),
        processors: 2,
        ..Setup::new("52:54:00:00:00:05").lines("name = board\n")
    };
    let mut board = Emulated::start(RISCV64, &farm, folder.path(), &setup);
    let mut figure = 0.0;
    for (boot, last) in [("the first", "enrolled as board"), ("another", " of coordinator ")] {
        let start = Instant::now();
        if figure > 0.0 {
            board.restore_power();
        }
        let mark = board.console.mark();
        let mut times = Vec::new();
        for (what, part) in [
            ("its first program", "the image's first program"),
            ("its network", " has the address "),
            ("its store", "the store is on "),
            ("its agent's place", last),
        ] {
            board.says(mark, part);
            times.push((what, start.elapsed().as_secs_f64()));
        }
        let shown: Vec<String> = times.iter().map(|(what, time)| format!("{what} {time:.2} s")).collect();
        println!("{boot} start: {}", shown.join(", "));
        let (first, end) = (times[0].1, times[3].1);
        if figure == 0.0 {
            figure = end / first;
        } else {
            println!("of that one: {:.2}", end / first);
        }
        board.power_off();
    }
    Ok(Verdict { name: "boot", figure, limit: LIMIT, unit: "" })
}
