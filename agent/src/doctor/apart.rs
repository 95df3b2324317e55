//! Examinations in a program of their own: what dies in one, or hangs, does so without the doctor.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use drover_os::Deadline;
use drover_os::poll::{self, Interest};
use drover_os::process::{Exit, Program};
use serde_json::{Value, json};

use super::{EXAMINATIONS, Finding, LONGEST, Outcome, failed, processes};
use crate::config::{self, Surroundings};

/// The word on the command line, after that of all patients.
pub(super) const EXAMINE: &str = "examine";
/// What such a program says first, and no other, such as a loader that is taken for ours.
const GREETING: &str = "examined here:\n";
/// How long one that has told everything may take to end.
const LAST_STEPS: Duration = Duration::from_secs(5);
/// The most that one prints.
const LIMIT: usize = 64 * 1024;
/// How much is told of the complaints of one that died: as many characters, for what follows is where it was.
const COMPLAINT: usize = 300;

/// Does one examination; its name and the doctor's own arguments are what follows on the command line.
pub(super) fn run(name: Option<&OsStr>, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut out = io::stdout();
    // Who started us sees at the end that nothing came.
    let _ = out.write_all(GREETING.as_bytes()).and_then(|()| out.flush());
    let examination = EXAMINATIONS.iter().find(|(known, _)| name.is_some_and(|name| name == *known));
    let (Some((_, examine)), Ok(glance)) = (examination, config::glance(arguments, &Surroundings::here()))
    else {
        return ExitCode::FAILURE;
    };
    let (state, detail) = match examine(&glance) {
        Ok(Finding::Works(detail)) => ("works", detail),
        Ok(Finding::Unknown(detail)) => ("unknown", detail),
        Err(detail) => ("fails", detail),
    };
    let _ = writeln!(out, "{}", json!([state, detail])).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// The program that does this examination.
pub(super) fn program(name: &str, arguments: &[OsString]) -> Program {
    let words = [processes::COMMAND, EXAMINE, name].map(OsString::from);
    Program::new(processes::ourselves()).args(words.iter().chain(arguments))
}

/// What came of an examination in this program; none if it is not one of ours, or cannot be started.
pub(super) fn examined(program: Program) -> Option<Outcome> {
    let mut tree = program.pipes().spawn().ok()?;
    drop(tree.stdin.take());
    let (mut stdout, mut stderr) = (tree.stdout.take()?, tree.stderr.take()?);
    let deadline = Deadline::after(LONGEST);
    let mut said = Vec::new();
    let is_told = |said: &[u8]| told(said).is_some_and(|told| parse(told).is_some());
    let heard = read_until(&mut stdout, &mut said, deadline, is_told);
    if let Some(outcome) = parse(told(&said)?) {
        // Its last steps are its own: it is killed only if it does not take them.
        let _ = tree.wait(Deadline::after(LAST_STEPS));
        return Some(outcome);
    }
    if let Err(error) = heard {
        return Some(Err(match error.kind() {
            io::ErrorKind::TimedOut => format!("it hangs: no end within {} s", LONGEST.as_secs()),
            _ => failed("hear of it")(error),
        }));
    }
    let mut complaints = Vec::new();
    // There may be none.
    let _ = read_until(&mut stderr, &mut complaints, deadline, |_| false);
    let end = match tree.wait(deadline) {
        Ok(Some(Exit::Signal(number))) => format!("ended by signal {number}"),
        Ok(Some(Exit::Code(code))) => format!("ended with code {code}"),
        Ok(None) | Err(_) => "and does not end".into(),
    };
    let complaint: String = String::from_utf8_lossy(&complaints).trim().chars().take(COMPLAINT).collect();
    Some(Err(if complaint.is_empty() {
        format!("it broke off, {end}")
    } else {
        format!("it broke off, {end}: {complaint}")
    }))
}

fn parse(told: &[u8]) -> Option<Outcome> {
    let told: Value = serde_json::from_slice(told).ok()?;
    let detail = told.get(1)?.as_str()?.to_owned();
    match told.get(0)?.as_str()? {
        "works" => Some(Ok(Finding::Works(detail))),
        "unknown" => Some(Ok(Finding::Unknown(detail))),
        "fails" => Some(Err(detail)),
        _ => None,
    }
}

/// What comes after the greeting, if there is one.
fn told(said: &[u8]) -> Option<&[u8]> {
    said.strip_prefix(GREETING.as_bytes())
}

/// Reads what a program prints until it is enough or ends, and no more than it may.
fn read_until(
    from: &mut (impl Read + AsFd),
    to: &mut Vec<u8>,
    deadline: Deadline,
    is_enough: impl Fn(&[u8]) -> bool,
) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while to.len() < LIMIT && !is_enough(to) {
        if !poll::wait_one(from.as_fd(), Interest::Readable, deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => to.extend(buffer.iter().take(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn what_is_told_is_what_was_found() {
        let told = |state: &str| {
            examined(shell(&format!("echo 'examined here:'; echo '[\"{state}\",\"so it is\"]'; kill -9 $$")))
        };
        assert_eq!(told("works"), Some(Ok(Finding::Works("so it is".into()))));
        assert_eq!(told("unknown"), Some(Ok(Finding::Unknown("so it is".into()))));
        assert_eq!(told("fails"), Some(Err("so it is".into())));
    }

    #[test]
    fn what_is_told_counts_though_something_keeps_the_pipe_open() {
        let script = "sleep 1000 & echo 'examined here:'; echo '[\"works\",\"so it is\"]'";
        assert_eq!(examined(shell(script)), Some(Ok(Finding::Works("so it is".into()))));
    }

    #[test]
    fn what_dies_is_told_with_how_and_with_its_last_words() {
        let died = examined(shell("echo 'examined here:'; echo 'no\nmemory' >&2; kill -SEGV $$"));
        assert_eq!(died, Some(Err("it broke off, ended by signal 11: no\nmemory".into())));
        let left = examined(shell("echo 'examined here:'; exit 3"));
        assert_eq!(left, Some(Err("it broke off, ended with code 3".into())));
        let verbose = examined(shell("echo 'examined here:'; yes ä | head -n 5000 >&2; exit 3"));
        assert!(verbose.unwrap().unwrap_err().chars().count() < COMPLAINT + 100);
    }

    #[test]
    fn what_is_another_program_is_not_believed() {
        assert_eq!(examined(shell("echo '[\"works\",\"so it is\"]'")), None);
        assert_eq!(examined(Program::new("/no/such/program")), None);
    }
}
