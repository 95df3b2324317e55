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
/// What a pipe holds at most, unless root made it larger.
const PIPE: usize = 1 << 20;

/// Why nothing of a build runs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The builder ended.
    Exit(Exit),
    /// It was killed for this limit.
    Limit(Limit),
}

/// What was heard of a builder.
enum Heard {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now, or the end.
    Nothing,
    /// More than it may say.
    TooMuch(Limit),
}

/// Waits for the end of a builder, and passes on what it prints. Afterwards nothing of it runs any more, even if this fails.
///
/// # Errors
/// [`Error::Away`] when it was stopped, [`Error::Stream`] when the log cannot be kept, [`Error::Refused`] when the system does
/// not let us see its end.
pub(super) fn watch(tree: &mut Tree, limits: &mut Limits<'_>, stop: &Stopping) -> Result<End, Error> {
    let output = tree.output.take();
    // A builder may open its end anew to read from it, and be faster than we are.
    let ready = output.as_ref().map_or(Ok(()), |output| poll::never_block(output.as_fd()));
    let end = ready
        .map_err(|source| failed("prepare to read what a builder prints", source))
        .and_then(|()| Watch { tree, output, buffer: vec![0; PIECE], limits, stop }.until_end());
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
                if let Heard::TooMuch(limit) = self.listen()? {
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
        match self.drain()? {
            Some(limit) => Ok(End::Limit(limit)),
            None => Ok(End::Exit(exit)),
        }
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

    /// Takes what is left in the pipe of a builder that is dead. An end of it may be held, and written to, by somebody outside
    /// of the sandbox whom the builder handed it to, so its end is not waited for.
    fn drain(&mut self) -> Result<Option<Limit>, Error> {
        let mut left = PIPE;
        while left > 0 {
            match self.listen()? {
                Heard::Bytes(count) => left = left.saturating_sub(count),
                Heard::Nothing => break,
                Heard::TooMuch(limit) => return Ok(Some(limit)),
            }
        }
        Ok(None)
    }

    /// Takes a piece of the log, if there is one.
    fn listen(&mut self) -> Result<Heard, Error> {
        let Some(output) = &mut self.output else { return Ok(Heard::Nothing) };
        let read = loop {
            match output.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {
                self.output = None;
                Ok(Heard::Nothing)
            }
            Ok(count) => {
                let limit = self.limits.take(self.buffer.get(..count).unwrap_or_default())?;
                Ok(limit.map_or(Heard::Bytes(count), Heard::TooMuch))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Nothing),
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
    use std::io::Write;
    use std::sync::mpsc;

    use drover_os::process::Program;
    use drover_store::path::StorePath;

    use super::*;
    use crate::executor::{Job, Sink};

    struct Keep(Vec<u8>);

    impl Sink for Keep {
        fn started(&mut self) {}

        fn log(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    #[test]
    fn a_log_ends_with_its_builder_whoever_else_holds_the_pipe() {
        // A pipe whose both ends are ours stands for one that was handed to somebody outside.
        let mut tree = Program::new("/bin/sh")
            .args(["-c", "echo hello; read word; echo $word"])
            .pipes()
            .one_output()
            .spawn()
            .unwrap();
        let pipe = format!("/proc/{}/fd/1", tree.id());
        let outside = File::options().read(true).write(true).open(pipe).unwrap();
        tree.stdin.take().unwrap().write_all(b"bye\n").unwrap();
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let derivation = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv").unwrap();
            let mut keep = Keep(Vec::new());
            let job = Job { derivation, timeout: None, max_silent_time: None };
            let end = watch(&mut tree, &mut Limits::new(&job, None, &mut keep), &Stopping::new().unwrap());
            done.send((end.unwrap(), keep.0)).unwrap();
        });
        let (end, log) = ended.recv_timeout(Duration::from_secs(60)).expect("it should end with the builder");
        assert_eq!((end, log.as_slice()), (End::Exit(Exit::Code(0)), &b"hello\nbye\n"[..]));
        drop(outside);
    }

    #[test]
    fn ends_are_told_in_the_daemons_words() {
        assert_eq!(how(Exit::Code(9)), "failed with exit code 9");
        assert_eq!(how(Exit::Signal(9)), "failed due to signal 9 (Killed)");
        assert_eq!(how(Exit::Signal(64)), "failed due to signal 64");
    }
}
