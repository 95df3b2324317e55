//! Checking .drv files on this machine: that they are what their names say and make what they say.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use drover_store::check::{Problem, Report, check};
use drover_store::derivation::Derivation;
use drover_store::path::StorePath;

use super::closure::{Places, read_bounded, read_into};
use super::{ClientError, Unit, Watch};

/// What was checked and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Files that were given, or were in folders that were given.
    pub given: usize,
    /// Files that were checked beside them, since they are inputs of these.
    pub inputs: usize,
    /// The counts and what is not right, of all of them.
    pub report: Report,
}

/// Checks these .drv files, and those in these folders. Inputs that are not among them are looked for beside them and
/// in the store, and are checked, too.
///
/// # Errors
/// A path that does not exist or cannot be listed. What is wrong with a file's contents is no error but is reported.
pub fn run(paths: &[PathBuf], store: &Path, watch: &dyn Watch) -> Result<Checked, ClientError> {
    let threads = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut files = given(paths)?;
    let given = files.len();
    let mut report = pass(&files, threads, "checking derivations", watch);
    let lacking = report.problems.iter().any(|(_, problem)| matches!(problem, Problem::MissingInput(_)));
    if lacking {
        files.extend(inputs(&files, &report, store));
        if files.len() > given {
            report = pass(&files, threads, "checking derivations and their inputs", watch);
        }
    }
    watch.end();
    Ok(Checked { given, inputs: files.len() - given, report })
}

fn pass(files: &[PathBuf], threads: NonZeroUsize, what: &str, watch: &dyn Watch) -> Report {
    watch.begin(what, Some(files.len() as u64), Unit::Things);
    check(files, threads, |file, bytes| {
        watch.advance(1);
        let path = path_of(file)?;
        read_into(file, bytes).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        Ok(path)
    })
}

fn path_of(file: &Path) -> Result<StorePath, String> {
    let name = file.file_name().and_then(OsStr::to_str);
    match name.map(StorePath::parse_base) {
        Some(Ok(path)) if path.is_derivation() => Ok(path),
        _ => Err(format!("{} is not named as a derivation is: HASH-NAME.drv", file.display())),
    }
}

/// The files that are meant, each once: of a folder every .drv file in it.
fn given(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ClientError> {
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        let doing = |error| ClientError::BadDerivation {
            file: path.clone(),
            why: format!("it cannot be looked at: {error}"),
        };
        if !fs::metadata(path).map_err(doing)?.is_dir() {
            if seen.insert(path.clone()) {
                files.push(path.clone());
            }
            continue;
        }
        let mut here = Vec::new();
        for entry in fs::read_dir(path).map_err(doing)? {
            let file = entry.map_err(doing)?.path();
            if file.extension() == Some(OsStr::new("drv")) && seen.insert(file.clone()) {
                here.push(file);
            }
        }
        // The order of a folder is chance; that of names gives the same report each time.
        here.sort_unstable();
        files.append(&mut here);
    }
    Ok(files)
}

/// The files of everything below those derivations whose inputs were not all given, as far as they can be found.
fn inputs(files: &[PathBuf], report: &Report, store: &Path) -> Vec<PathBuf> {
    let mut places = Places::default();
    for folder in files.iter().filter_map(|file| file.parent()) {
        places.add(folder);
    }
    places.add(store);
    let mut seen = HashSet::new();
    let mut open = Vec::new();
    let lacking: HashSet<&str> = report
        .problems
        .iter()
        .filter(|(_, problem)| matches!(problem, Problem::MissingInput(_)))
        .map(|(path, _)| path.as_str())
        .collect();
    for file in files {
        if let Ok(path) = path_of(file) {
            if lacking.contains(path.as_str()) {
                open.push(file.clone());
            }
            seen.insert(path);
        }
    }
    let mut found = Vec::new();
    while let Some(file) = open.pop() {
        // What cannot be read or parsed is reported by the check itself.
        let Ok(text) = read_bounded(&file) else { continue };
        let Ok(derivation) = Derivation::parse(&text) else { continue };
        for input in derivation.inputs {
            if seen.insert(input.derivation.clone()) {
                if let Some(file) = places.find(&input.derivation) {
                    open.push(file.clone());
                    found.push(file);
                }
            }
        }
    }
    found
}
