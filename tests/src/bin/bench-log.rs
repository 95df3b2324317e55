//! The bench `log`: a log of 1 GiB is packed; then its last 64 KiB, and as many from its middle, are read as whoever opens
//! it does.
//!
//! `bench-log FOLDER` works in FOLDER.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use drover::storage::{Effort, LogReader, log_length, pack_log};
use drover_tests::bench::{self, Figure, Limit, Result, median, peak_kib, timed};

const SIZE: u64 = 1 << 30;
const TAIL: u64 = 64 * 1024;
const RUNS: usize = 21;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder] = arguments.as_slice() else {
        eprintln!("usage: bench-log FOLDER");
        return ExitCode::from(2);
    };
    bench::main_of_several("log", || measure(Path::new(folder)))
}

fn measure(folder: &Path) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir_in(folder)?;
    let (raw, packed) = (folder.path().join("1.log"), folder.path().join("1.log.zst"));
    write(&raw)?;
    let (_, packing) = timed(|| Ok(pack_log(&raw, &packed)?))?;
    let size = packed.metadata()?.len();
    println!("packed in {:.1} s to {size} bytes of {SIZE}", packing.as_secs_f64());
    let mut end = Vec::new();
    let mut middle = Vec::new();
    for run in 0..RUNS as u64 {
        end.push(milliseconds(timed(|| read(&raw, &packed, None))?.1));
        middle.push(milliseconds(timed(|| read(&raw, &packed, Some(SIZE / 2 + run * 1_000_003)))?.1));
    }
    let most = Limit::Most;
    Ok(vec![
        Figure { of: "ms to the last 64 KiB of 1 GiB", figure: median(&mut end), limit: most(10.0) },
        Figure { of: "ms to 64 KiB of its middle", figure: median(&mut middle), limit: most(10.0) },
        Figure {
            of: "MiB of memory at most, packing included",
            figure: peak_kib("/proc/self/status")? as f64 / 1024.0,
            limit: most(64.0),
        },
    ])
}

/// Lines as builders print them, no two the same.
fn write(raw: &Path) -> Result<()> {
    let mut to = BufWriter::new(File::create(raw)?);
    let mut written = 0;
    let mut number = 0_u64;
    while written < SIZE {
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = format!("  CC       src/module-{}/file-{noise:016x}.o ({number} of many)\n", noise % 97);
        let line = &line.as_bytes()[..line.len().min(usize::try_from(SIZE - written)?)];
        to.write_all(line)?;
        written += line.len() as u64;
        number += 1;
    }
    Ok(to.into_inner()?.sync_all()?)
}

/// So much of it from an offset on, or the end.
fn read(raw: &Path, packed: &Path, offset: Option<u64>) -> Result<()> {
    let length = log_length(raw, packed, Effort::Any)?.ok_or("the log is gone")?;
    let offset = offset.unwrap_or(length - TAIL);
    let reader = LogReader::open(raw, packed, offset)?.ok_or("the log is gone")?;
    let mut bytes = Vec::new();
    reader.take(TAIL).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == TAIL { Ok(()) } else { Err("the log is shorter than it was".into()) }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
