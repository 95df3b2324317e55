//! The bench `formats`: every derivation of a folder parsed, printed, compared and hashed again, outputs
//! computed, against `sha256sum` of the same files.
//!
//! `bench-formats FOLDER` compares; `bench-formats --once FOLDER…` checks once and prints what it found.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use drover_store::StorePath;
use drover_store::check::check;
use drover_tests::bench::{self, Result, Side, Verdict, timed};

const RUNS: usize = 7;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [once, folders @ ..] if once == "--once" => match check_once(folders) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("cannot check the derivations: {error}");
                ExitCode::FAILURE
            }
        },
        [folder] => bench::main(|| compare(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-formats FOLDER | bench-formats --once FOLDER…");
            ExitCode::from(2)
        }
    }
}

fn compare(folder: &Path) -> Result<Verdict> {
    let files = derivations(folder)?;
    let mut names = Vec::new();
    for file in &files {
        names.extend_from_slice(file.as_os_str().as_encoded_bytes());
        names.push(0);
    }
    println!("{} derivations in {}", files.len(), folder.display());
    let this = std::env::current_exe()?;
    let mut sha256sum = || Ok(timed(|| run_sha256sum(&names))?.1);
    let mut ours = || {
        let mut command = Command::new(&this);
        command.arg("--once").arg(folder).stdout(Stdio::null());
        let (status, time) = timed(|| Ok(command.status()?))?;
        if !status.success() {
            return Err("some derivation is not as it should be (bench-formats --once names it)".into());
        }
        Ok(time)
    };
    let figure = bench::ratio(
        RUNS,
        Side { name: "sha256sum", run: &mut sha256sum },
        Side { name: "drover", run: &mut ours },
    )?;
    Ok(Verdict { name: "formats", figure, limit: 2.5, unit: "" })
}

/// As few processes as the length of a command line lets it be.
fn run_sha256sum(names: &[u8]) -> Result<()> {
    let mut child = Command::new("xargs")
        .args(["-0", "sha256sum", "--"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    child.stdin.take().ok_or("xargs has no standard input")?.write_all(names)?;
    if child.wait()?.success() { Ok(()) } else { Err("sha256sum has failed".into()) }
}

fn check_once(folders: &[OsString]) -> Result<bool> {
    let mut files = Vec::new();
    for folder in folders {
        files.extend(derivations(Path::new(folder))?);
    }
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let report = check(&files, threads, load);
    println!(
        "{} derivations: {} parsed, {} byte-exact, {} with their own name, {} with the right outputs",
        report.total, report.parsed, report.exact, report.named, report.outputs
    );
    println!("peak memory: {} KiB", bench::peak_kib("/proc/self/status")?);
    for (name, problem) in report.problems.iter().take(50) {
        println!("{name}: {problem}");
    }
    Ok(report.is_clean())
}

fn load(file: &PathBuf, bytes: &mut Vec<u8>) -> std::result::Result<StorePath, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", file.display());
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let path = StorePath::parse_base(name).map_err(|error| failed(&error))?;
    File::open(file).and_then(|mut file| file.read_to_end(bytes)).map_err(|error| failed(&error))?;
    Ok(path)
}

fn derivations(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("cannot list {}: {error}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "drv") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
