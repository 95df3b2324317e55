//! The `sqlite3` shell: what the submission of a set is compared with, and who counts what is in a database.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bench::{Result, timed};
use crate::whole_guix::WholeGuix;

/// The plainest tables that can have it: no index beside the numbers themselves.
const TABLES: &str = "PRAGMA journal_mode=WAL;
BEGIN;
CREATE TABLE derivations (id INTEGER PRIMARY KEY, name TEXT, text TEXT);
CREATE TABLE inputs (derivation INTEGER, input INTEGER, outputs TEXT);
";

/// Writes the texts of all derivations and all edges of the graph as SQL for the shell, an `INSERT` for each row, as
/// `.dump` would: one transaction, texts as they are, derivations by their numbers.
///
/// # Errors
/// When a derivation cannot be read, is not UTF-8, or the disk refuses.
pub fn write_dump(guix: &WholeGuix, file: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    out.write_all(TABLES.as_bytes())?;
    for (id, node) in guix.nodes.iter().enumerate() {
        let (name, text) = (node.path.base_name(), String::from_utf8(guix.text(&node.path)?)?);
        writeln!(out, "INSERT INTO derivations VALUES({id},'{name}','{}');", text.replace('\'', "''"))?;
    }
    for (id, node) in guix.nodes.iter().enumerate() {
        for (input, outputs) in &node.inputs {
            writeln!(out, "INSERT INTO inputs VALUES({id},{input},'{}');", outputs.join(","))?;
        }
    }
    out.write_all(b"COMMIT;\n")?;
    Ok(out.flush()?)
}

/// Has the shell make this database anew from what [`write_dump`] wrote; says how long that took.
///
/// # Errors
/// When the shell fails.
pub fn load(dump: &Path, database: &Path) -> Result<Duration> {
    for file in [database.to_owned(), beside(database, "-wal"), beside(database, "-shm")] {
        if file.exists() {
            fs::remove_file(file)?;
        }
    }
    let mut command = Command::new("sqlite3");
    command.arg("-batch").arg("-bail").arg(database).stdin(File::open(dump)?).stdout(Stdio::null());
    let (status, time) = timed(|| Ok(command.status()?))?;
    if status.success() { Ok(time) } else { Err("the sqlite3 shell has failed".into()) }
}

/// The number that a question to a database answers.
///
/// # Errors
/// When the shell cannot be run, or answers something else.
pub fn number(database: &Path, question: &str) -> Result<u64> {
    let output =
        Command::new("sqlite3").arg("-batch").arg("-readonly").arg(database).arg(question).output()?;
    let text = String::from_utf8(output.stdout)?;
    let failed =
        || format!("{}: “{question}”: {text}{}", database.display(), String::from_utf8_lossy(&output.stderr));
    Ok(text.trim().parse().map_err(|_| failed())?)
}

/// The bytes of a database, those of its write-ahead log among them.
///
/// # Errors
/// When there is none.
pub fn size(database: &Path) -> Result<u64> {
    let log = fs::metadata(beside(database, "-wal")).map_or(0, |log| log.len());
    Ok(fs::metadata(database)?.len() + log)
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
