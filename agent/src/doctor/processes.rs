//! Programs: started, talked to, asked to end, and ended with what they left behind.
//!
//! The program is this one, for on a board there may be no other; where it cannot be run again, such as by a loader that
//! somebody named, the shell does the same.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use drover_os::Deadline;
use drover_os::process::{self, Exit, Program, Tree};
use drover_os::signal::{Stage, Stop};

use super::{Finding, Glance, Outcome, expect, failed};

/// The word on the command line by which the program is a patient of its own doctor.
pub(super) const COMMAND: &str = "doctor-patient";

const SHELL: &str = "/bin/sh";
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that a patient prints.
const LIMIT: u64 = 1000;
const ECHOED: u8 = 7;
const ASKED: u8 = 5;

/// What a program is to do.
#[derive(Clone, Copy)]
enum Role {
    /// To say what it is told, and leave with [`ECHOED`].
    Echo,
    /// To wait for SIGTERM, and leave with [`ASKED`].
    Wait,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Wait => "wait",
        }
    }

    const fn script(self) -> &'static str {
        match self {
            Self::Echo => "read -r line; echo \"$line\"; exit 7",
            Self::Wait => "trap 'exit 5' TERM; echo ready; while :; do sleep 1; done",
        }
    }

    fn start(self, program: &OsStr) -> io::Result<Tree> {
        let arguments = if program == SHELL { ["-c", self.script()] } else { [COMMAND, self.name()] };
        Program::new(program).args(arguments).pipes().spawn()
    }
}

/// Plays a patient.
pub(super) fn run(role: Option<&OsStr>) -> ExitCode {
    let played = match role.and_then(OsStr::to_str) {
        Some("echo") => echo(),
        Some("wait") => wait(),
        _ => Err(io::Error::other("there is no such patient")),
    };
    played.unwrap_or(ExitCode::FAILURE)
}

fn echo() -> io::Result<ExitCode> {
    let mut line = String::new();
    io::stdin().lock().take(LIMIT).read_line(&mut line)?;
    io::stdout().lock().write_all(line.as_bytes())?;
    Ok(ExitCode::from(ECHOED))
}

fn wait() -> io::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let mut out = io::stdout();
    out.write_all(b"ready\n").and_then(|()| out.flush())?;
    let asked = stop.wait(Stage::Drain, Deadline::after(PATIENCE));
    Ok(if asked { ExitCode::from(ASKED) } else { ExitCode::FAILURE })
}

pub(super) fn examine(_: &Glance) -> Outcome {
    let ourselves = ourselves();
    // What is taken for this program may be the loader that runs it, which starts and does something else.
    let program = match starts_and_talks(&ourselves) {
        Ok(()) => ourselves,
        Err(error) => match starts_and_talks(SHELL.as_ref()) {
            Ok(()) => SHELL.into(),
            Err(other) => return Err(format!("{error}; {other}")),
        },
    };
    listens(&program)?;
    let left = if Path::new(SHELL).exists() {
        leaves_nothing_behind()?;
        "what it leaves behind ends with it".to_owned()
    } else {
        format!("there is no {SHELL} to leave something behind")
    };
    let program = Path::new(&program).display();
    Ok(Finding::Works(format!("{program} talks, and ends when it is asked to; {left}")))
}

/// This program, by its own path where the system tells it, or as it was called.
pub(super) fn ourselves() -> OsString {
    match std::env::current_exe() {
        Ok(path) => path.into(),
        Err(_) => std::env::args_os().next().unwrap_or_else(|| SHELL.into()),
    }
}

fn starts_and_talks(program: &OsStr) -> Result<(), String> {
    let mut tree = Role::Echo.start(program).map_err(|error| error.to_string())?;
    let (Some(mut stdin), Some(stdout)) = (tree.stdin.take(), tree.stdout.take()) else {
        return Err("a program has no pipes".into());
    };
    let told = stdin.write_all(b"Is it well?\n");
    drop(stdin);
    let said = process::read_all(stdout, LIMIT).map_err(failed("read from a program"))?;
    let end = tree.wait(Deadline::after(PATIENCE)).map_err(failed("wait for a program"))?;
    told.map_err(failed("write to a program"))?;
    expect(said == b"Is it well?\n", || {
        format!("a program was to say what it was told, and said “{}”", String::from_utf8_lossy(&said))
    })?;
    expect(end == Some(Exit::Code(ECHOED.into())), || {
        format!("a program was to end with code {ECHOED}, and this is what came of it: {end:?}")
    })
}

fn listens(program: &OsStr) -> Result<(), String> {
    let mut tree = Role::Wait.start(program).map_err(|error| error.to_string())?;
    let Some(stdout) = &mut tree.stdout else { return Err("a program has no pipes".into()) };
    let mut said = [0; 6];
    stdout.read_exact(&mut said).map_err(failed("read from a program that waits"))?;
    tree.terminate();
    let end = tree.wait(Deadline::after(PATIENCE)).map_err(failed("wait for a program"))?;
    expect(end == Some(Exit::Code(ASKED.into())), || {
        format!("a program was asked to end, and this is what came of it: {end:?}")
    })
}

/// Has a program leave another one, which keeps a pipe open, and sees that it is closed.
fn leaves_nothing_behind() -> Result<(), String> {
    let script = "sleep 1000 & echo left";
    let mut tree = Program::new(SHELL).args(["-c", script]).pipes().spawn().map_err(|e| e.to_string())?;
    let Some(mut stdout) = tree.stdout.take() else { return Err("a program has no pipes".into()) };
    let mut said = [0; 5];
    stdout.read_exact(&mut said).map_err(failed("read from a program that leaves another"))?;
    let end =
        tree.wait(Deadline::after(PATIENCE)).map_err(failed("wait for a program that leaves another"))?;
    expect(end == Some(Exit::Code(0)), || format!("a program that leaves another: {end:?}"))?;
    tree.kill(Deadline::after(PATIENCE)).map_err(failed("end what a program left behind"))?;
    process::read_all(stdout, LIMIT).map_err(failed("see the end of what a program left behind"))?;
    Ok(())
}
