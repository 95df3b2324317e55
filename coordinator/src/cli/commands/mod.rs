//! One module for each command.

pub(super) mod agent;
pub(super) mod build;
pub(super) mod builds;
pub(super) mod cancel;
pub(super) mod check;
pub(super) mod estimate;
pub(super) mod events;
pub(super) mod fetch;
pub(super) mod hooks;
pub(super) mod import;
pub(super) mod key;
pub(super) mod log;
pub(super) mod retention;
pub(super) mod set;
pub(super) mod show;
pub(super) mod sources;
pub(super) mod storage;

use std::io::BufRead;
use std::path::PathBuf;

use drover_store::path::StorePath;

use super::progress::Progress;
use super::text::count;
use crate::client::{ClientError, Watch};

/// How many sources that are nowhere are named.
const NAMED: usize = 10;

/// Says which sources lack: what needs them will not be built before somebody uploads them.
fn warn_of_sources(nowhere: &[StorePath], watch: &Progress) {
    for source in nowhere.iter().take(NAMED) {
        watch.warn(&format!(
            "the source {source} is neither here nor at the coordinator: what needs it will wait for it"
        ));
    }
    if nowhere.len() > NAMED {
        watch.warn(&format!(
            "so are {}",
            count((nowhere.len() - NAMED) as u64, "more source", "more sources")
        ));
    }
}

/// Paths as they were given, with `-` replaced by the lines of standard input.
fn with_standard_input(given: &[PathBuf]) -> Result<Vec<PathBuf>, ClientError> {
    let mut paths = Vec::with_capacity(given.len());
    let mut read = false;
    for path in given {
        if path.as_os_str() != "-" {
            paths.push(path.clone());
        } else if !std::mem::replace(&mut read, true) {
            paths_of_lines(std::io::stdin().lock(), &mut paths)?;
        }
    }
    Ok(paths)
}

/// Every line that is not empty is a path, whatever bytes it has.
fn paths_of_lines(mut lines: impl BufRead, paths: &mut Vec<PathBuf>) -> Result<(), ClientError> {
    use std::os::unix::ffi::OsStringExt;

    loop {
        let mut line = Vec::new();
        let n = lines
            .read_until(b'\n', &mut line)
            .map_err(|e| ClientError::local("reading paths from standard input", e))?;
        if n == 0 {
            return Ok(());
        }
        let end = line.iter().rposition(|b| !b.is_ascii_whitespace()).map_or(0, |last| last + 1);
        line.truncate(end);
        if !line.is_empty() {
            paths.push(std::ffi::OsString::from_vec(line).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_paths_and_empty_ones_are_not() {
        let mut paths = Vec::new();
        paths_of_lines(&b"/a/b.drv\r\n\n  \n./c d.drv\n\xff.drv"[..], &mut paths).unwrap();
        assert_eq!(paths.len(), 3);
        assert_eq!(paths[0], PathBuf::from("/a/b.drv"));
        assert_eq!(paths[1], PathBuf::from("./c d.drv"));
    }
}
