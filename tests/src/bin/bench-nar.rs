//! The bench `nar`: a tree of 1 GiB as a nar, hashed and compressed with zstd level 3, against
//! `tar -c | zstd -3 -T1`; and the most memory that ours takes.
//!
//! `bench-nar FOLDER` makes the tree in FOLDER (unless it is there) and compares; `bench-nar --once TREE` packs
//! a tree once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use drover_agent::nar_stream::compress;
use drover_store::nar::Packer;
use drover_tests::bench::{self, Result, Side, Verdict, timed};
use drover_tests::tree;

const RUNS: usize = 5;
const LEVEL: i32 = 3;
const SEED: u64 = 20_261_123;
const SIZE: u64 = 1 << 30;
const MEMORY_LIMIT_KIB: u64 = 32 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [once, tree] if once == "--once" => match pack_once(Path::new(tree)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot pack {}: {error}", Path::new(tree).display());
                ExitCode::FAILURE
            }
        },
        [folder] => bench::main(|| compare(Path::new(folder))),
        _ => {
            eprintln!("usage: bench-nar FOLDER | bench-nar --once TREE");
            ExitCode::from(2)
        }
    }
}

fn compare(folder: &Path) -> Result<Verdict> {
    let tree = folder.join(format!("tree-{SEED}-{SIZE}"));
    println!("tree: {SIZE} bytes, seed {SEED}, in {}", tree.display());
    tree::make(&tree, SEED, SIZE)?;
    let this = std::env::current_exe()?;
    let mut peaks = Vec::new();
    let mut tar = || run_tar(&tree);
    let mut ours = || {
        let mut command = Command::new(&this);
        command.arg("--once").arg(&tree).stderr(Stdio::inherit());
        let (output, time) = timed(|| Ok(command.output()?))?;
        let text = String::from_utf8(output.stdout)?;
        let peak = text.lines().find_map(|line| line.strip_prefix("peak KiB: "));
        match (output.status.success(), peak) {
            (true, Some(peak)) => peaks.push(peak.parse::<u64>()?),
            _ => return Err("packing has failed".into()),
        }
        Ok(time)
    };
    let tar = Side { name: "tar | zstd", run: &mut tar };
    let mut figure = bench::ratio(RUNS, tar, Side { name: "drover", run: &mut ours })?;
    let peak = peaks.into_iter().max().unwrap_or(u64::MAX);
    println!("nar peak memory: {:.1} MiB (limit {} MiB)", peak as f64 / 1024.0, MEMORY_LIMIT_KIB / 1024);
    if peak > MEMORY_LIMIT_KIB {
        println!("the limit of memory is missed, so no time is good enough");
        figure = f64::INFINITY;
    }
    Ok(Verdict { name: "nar", figure, limit: 1.15, unit: "" })
}

fn run_tar(tree: &Path) -> Result<Duration> {
    let ((), time) = timed(|| {
        let mut tar =
            Command::new("tar").arg("-C").arg(tree).args(["-c", "."]).stdout(Stdio::piped()).spawn()?;
        let pipe = tar.stdout.take().ok_or("tar has no standard output")?;
        let null = File::create("/dev/null")?;
        let zstd = Command::new("zstd").args(["-q", "-3", "-T1", "-c"]).stdin(pipe).stdout(null).status()?;
        if tar.wait()?.success() && zstd.success() { Ok(()) } else { Err("tar or zstd has failed".into()) }
    })?;
    Ok(time)
}

fn pack_once(tree: &Path) -> Result<()> {
    fs::symlink_metadata(tree)?;
    let summary = compress(Packer::new(tree), File::create("/dev/null")?, LEVEL)?;
    println!("nar: {} bytes, sha256 {}", summary.nar_size, summary.nar_hash);
    println!("file: {} bytes, sha256 {}", summary.file_size, summary.file_hash);
    println!("peak KiB: {}", bench::peak_kib("/proc/self/status")?);
    Ok(())
}
