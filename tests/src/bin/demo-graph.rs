//! Writes the demonstration graph into a folder: `demo-graph FOLDER [--salt TEXT] [--work N] [--size BYTES]
//! [--failing N] [--slow N] [--noisy N] [--most N]`. Prints the files of all its derivations, inputs first.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use drover_tests::demo::{self, Options};
use drover_tests::graph::Graph;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "demo-graph: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::default();
    let mut folder = None;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--salt" => options.salt = value()?,
            "--work" => options.work = value()?.parse()?,
            "--size" => options.size = value()?.parse()?,
            "--failing" => options.failing = value()?.parse()?,
            "--slow" => options.slow = value()?.parse()?,
            "--noisy" => options.noisy = value()?.parse()?,
            "--most" => options.most = value()?.parse()?,
            _ if !word.starts_with('-') && folder.is_none() => folder = Some(PathBuf::from(word)),
            _ => return Err(format!("“{word}” is not understood: see the head of demo-graph.rs").into()),
        }
    }
    let folder = folder.ok_or("into which folder?")?;
    let mut graph = Graph::new(options.salt.clone())?;
    let made = demo::add(&mut graph, &options)?;
    graph.write(&folder)?;
    let mut out = io::stdout().lock();
    for made in made {
        writeln!(out, "{}", Graph::file(&folder, &made).display())?;
    }
    Ok(())
}
