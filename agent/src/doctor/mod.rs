//! `drover-agent doctor`: what works on this machine and what does not, one line each.
//!
//! Each examination does the thing itself, by the same code as the agent, in a program of its own, which is this one again,
//! so that what it dies of is told, too; and who waits for that does so in a thread of its own: where a deadline is no
//! deadline, the doctor says so and goes on. Where this program cannot be run again, it is the thread that examines; where
//! there are no threads, the doctor itself. Nothing is needed for it but the program; what is configured is looked at, too.

mod apart;
mod codecs;
mod executor;
mod files;
mod machine;
mod outside;
mod processes;
mod random;
mod report;
mod sockets;
mod threads;
mod time;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use drover_os::process::Program;

use crate::config::{self, EXIT_REFUSED, Glance, Surroundings};
use report::{Form, Report};

/// The word on the command line.
const COMMAND: &str = "doctor";
/// The longest that an examination may take on a machine that is very busy: a daemon that collects garbage answers late.
const LONGEST: Duration = Duration::from_secs(90);
/// Until it is plain that one which must have ended did not even begin.
const GRACE: Duration = Duration::from_secs(10);

const HELP: &str = "\
Usage: drover-agent doctor [--json] [OPTION]...
Says what works on this machine and what does not, one line each. It takes the
options and the file of the agent, and needs none of them.

A line is a name, “works”, “fails” or “unknown”, and what was seen. Unknown is what
this system does not tell, or what was not asked for; it is no failure.
--json prints one object: version, system, works (true or false), and checks, each
with name, state and detail.

Exit codes: 0 nothing fails, 1 something does, 2 configuration refused.
";

/// What an examination found that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// It works; what was seen.
    Works(String),
    /// It is not known whether it does, and why.
    Unknown(String),
}

/// What came out, or what failed.
type Outcome = Result<Finding, String>;

/// A name of one word, and what is done.
type Examination = (&'static str, fn(&Glance) -> Outcome);

/// In the order in which they are told: from what everything else needs.
const EXAMINATIONS: &[Examination] = &[
    ("threads", threads::examine),
    ("random", random::examine),
    ("clock", time::clock),
    ("deadlines", time::deadlines),
    ("tcp-sockets", sockets::tcp),
    ("unix-sockets", sockets::unix),
    ("names", outside::names),
    ("processes", processes::examine),
    ("files", files::temporary),
    ("state-dir", files::state),
    ("codecs", codecs::examine),
    ("tls-roots", outside::tls),
    ("load", machine::load),
    ("memory", machine::memory),
    ("executor", executor::examine),
    ("identity", outside::identity),
    ("coordinator", outside::coordinator),
];

/// Does what the command line asks of the doctor; none if it asks for something else.
#[must_use]
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    let word = arguments.next()?;
    if word == processes::COMMAND {
        let role = arguments.next();
        return Some(if role.as_deref().is_some_and(|role| role == apart::EXAMINE) {
            let name = arguments.next();
            apart::run(name.as_deref(), arguments)
        } else {
            processes::run(role.as_deref())
        });
    }
    (word == COMMAND).then(|| run(arguments.collect()))
}

fn run(mut arguments: Vec<OsString>) -> ExitCode {
    if arguments.iter().any(|argument| argument == "--help") {
        // A reader that has seen enough is no failure.
        let _ = io::stdout().write_all(HELP.as_bytes());
        return ExitCode::SUCCESS;
    }
    let before = arguments.len();
    arguments.retain(|argument| argument != "--json");
    let form = if arguments.len() < before { Form::Json } else { Form::Lines };
    match config::glance(arguments.clone(), &Surroundings::here()) {
        Ok(glance) => {
            let mut report = Report::new(form);
            let mut room = Room { threads: threads_run(), apart: Arc::new(AtomicBool::new(true)) };
            let (glance, arguments) = (Arc::new(glance), Arc::new(arguments));
            for (name, examine) in EXAMINATIONS {
                report.begin(name);
                let (glance, arguments) = (Arc::clone(&glance), Arc::clone(&arguments));
                let outcome =
                    room.examined(name, move || apart::program(name, &arguments), move || examine(&glance));
                report.end(name, &outcome);
            }
            ExitCode::from(u8::from(!report.finish()))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "drover-agent: {error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

/// Where examinations can be done.
struct Room {
    /// In threads.
    threads: bool,
    /// In programs of their own, as far as it is known.
    apart: Arc<AtomicBool>,
}

impl Room {
    /// What comes of an examination that may never end, and may be the end of who does it.
    fn examined(
        &mut self,
        name: &str,
        program: impl Fn() -> Program + Send + 'static,
        examine: impl Fn() -> Outcome + Send + 'static,
    ) -> Outcome {
        let apart = Arc::clone(&self.apart);
        let look = move || {
            if apart.load(Ordering::SeqCst) {
                if let Some(outcome) = apart::examined(program()) {
                    return outcome;
                }
                apart.store(false, Ordering::SeqCst);
            }
            examine()
        };
        if !self.threads {
            return look();
        }
        let (outcome, outcomes) = mpsc::channel();
        let started = thread::Builder::new().name(name.into()).spawn(move || {
            // Nobody may be waiting any more.
            let _ = outcome.send(look());
        });
        if let Err(error) = started {
            return Err(failed("start a thread")(error));
        }
        outcomes.recv_timeout(LONGEST + GRACE).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => {
                // What hangs may be the start of the program.
                self.apart.store(false, Ordering::SeqCst);
                format!("it hangs: no end within {} s", LONGEST.as_secs())
            }
            mpsc::RecvTimeoutError::Disconnected => "it broke off".to_owned(),
        })?
    }
}

/// Whether threads start, and do something.
fn threads_run() -> bool {
    let (alive, lives) = mpsc::channel();
    let started = thread::Builder::new().spawn(move || alive.send(()));
    started.is_ok() && lives.recv_timeout(GRACE).is_ok()
}

/// What failed, in words.
fn failed<E: Display>(attempt: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{attempt}: {error}")
}

/// Fails with these words unless it is so.
fn expect(it_is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if it_is_so { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests;
