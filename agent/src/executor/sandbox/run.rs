//! A builder that runs: its log, its limits, its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use drover_os::Deadline;
use drover_os::poll::{self, Entry, Interest};
use drover_os::process::{Exit, Tree};

use super::limits::{Limit, Limits};
use super::stopping::Stopping;
use crate::executor::Error;

/// How long what was killed may take to be gone.
const DYING: Duration = Duration::from_secs(60);
/// The most of a log that is taken at a time.
const PIECE: usize = 16 * 1024;

/// Why nothing of a build runs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The builder ended.
    Exit(Exit),
    /// It was killed for this limit.
    Limit(Limit),
}

/// Waits for the end of a builder, and passes on what it prints. Afterwards nothing of it runs any more, even if this fails.
///
/// # Errors
/// [`Error::Away`] when it was stopped, [`Error::Stream`] when the log cannot be kept, [`Error::Refused`] when the system does
/// not let us see its end.
pub(super) fn watch(tree: &mut Tree, limits: &mut Limits<'_>, stop: &Stopping) -> Result<End, Error> {
    let output = tree.output.take();
    let end = Watch { tree, output, buffer: vec![0; PIECE], limits, stop }.until_end();
    let killed = tree.kill(Deadline::after(DYING)).map_err(|source| failed("end a build", source));
    let end = end?;
    killed?;
    Ok(end)
}

struct Watch<'a, 'b> {
    tree: &'a mut Tree,
    /// Until it is at its end.
    output: Option<File>,
    buffer: Vec<u8>,
    limits: &'a mut Limits<'b>,
    stop: &'a Stopping,
}

impl Watch<'_, '_> {
    fn until_end(&mut self) -> Result<End, Error> {
        let exit = loop {
            let (speaks, ends) = self.wait(self.limits.clock.deadline())?;
            self.stop.check()?;
            if speaks {
                if let Some(limit) = self.listen()? {
                    return Ok(End::Limit(limit));
                }
            }
            // In this order: what was printed in time was in time.
            if let Some(limit) = self.limits.clock.reached() {
                return Ok(End::Limit(limit));
            }
            if ends {
                let exit = self.tree.wait(Deadline::after(Duration::ZERO));
                if let Some(exit) = exit.map_err(|source| failed("see how a builder ended", source))? {
                    break exit;
                }
            }
        };
        // What it left behind may hold the pipe open, and is not waited for.
        self.tree.kill(Deadline::after(DYING)).map_err(|source| failed("end what a builder left", source))?;
        while self.output.is_some() {
            if let Some(limit) = self.listen()? {
                return Ok(End::Limit(limit));
            }
        }
        Ok(End::Exit(exit))
    }

    /// Waits until something is printed, the builder ends, or the deadline or the stop come.
    fn wait(&self, deadline: Deadline) -> Result<(bool, bool), Error> {
        let mut entries = vec![
            Entry::new(self.stop.as_fd(), Interest::Readable),
            Entry::new(self.tree.descriptor(), Interest::Readable),
        ];
        entries.extend(self.output.as_ref().map(|output| Entry::new(output.as_fd(), Interest::Readable)));
        poll::wait(&mut entries, deadline).map_err(|source| failed("wait for a builder", source))?;
        let is_readable = |n: usize| entries.get(n).is_some_and(Entry::is_readable);
        Ok((is_readable(2), is_readable(1)))
    }

    /// Takes a piece of the log, for which there is no wait.
    fn listen(&mut self) -> Result<Option<Limit>, Error> {
        let Some(output) = &mut self.output else { return Ok(None) };
        match output.read(&mut self.buffer) {
            Ok(0) => {
                self.output = None;
                Ok(None)
            }
            Ok(count) => self.limits.take(self.buffer.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                Ok(None)
            }
            Err(source) => Err(failed("read what a builder prints", source)),
        }
    }
}

fn failed(attempted: &str, source: io::Error) -> Error {
    Error::Refused(format!("{attempted}: {source}"))
}

/// How a builder ended, in the daemon's words.
pub(super) fn how(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("failed with exit code {code}"),
        Exit::Signal(signal) => match name(signal) {
            Some(name) => format!("failed due to signal {signal} ({name})"),
            None => format!("failed due to signal {signal}"),
        },
    }
}

/// What the C library calls the signals that end builders; these have one number everywhere on Linux.
fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "Hangup",
        2 => "Interrupt",
        3 => "Quit",
        4 => "Illegal instruction",
        5 => "Trace/breakpoint trap",
        6 => "Aborted",
        7 => "Bus error",
        8 => "Floating point exception",
        9 => "Killed",
        11 => "Segmentation fault",
        13 => "Broken pipe",
        14 => "Alarm clock",
        15 => "Terminated",
        24 => "CPU time limit exceeded",
        25 => "File size limit exceeded",
        31 => "Bad system call",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_the_daemons_words() {
        assert_eq!(how(Exit::Code(9)), "failed with exit code 9");
        assert_eq!(how(Exit::Signal(9)), "failed due to signal 9 (Killed)");
        assert_eq!(how(Exit::Signal(64)), "failed due to signal 64");
    }
}
