//! Programs that are ended together with everything that they started.
//!
//! A program runs below a small supervisor, a fork of ours that inherits every descendant whose own parent ends
//! (on Linux; elsewhere the process group is what there is, and what leaves that is lost). So nothing escapes by forking
//! twice or by making a session of its own: as long as a descendant lives, it is found below the supervisor. And when we are
//! killed, so that nobody hears its reports any more, the supervisor ends what is below it.
//!
//! In a sandbox there is a keeper between the two, so that the end of the supervisor is that of the program, too, whatever
//! that is up to.

#[cfg(all(target_os = "linux", not(drover_portable)))]
mod keeper;
mod program;
mod supervisor;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::poll::{self, Interest};
use crate::{Deadline, sys};
pub use program::Program;
use supervisor::{RECORD, Record};

/// How long a dropped tree is given to die; SIGKILL needs no cooperation, but a busy machine needs a moment.
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// How long one that does not come to run is given to die before its supervisor is killed, too.
const GIVE_UP_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at a tree that dies.
const LOOK: Duration = Duration::from_millis(2);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it left with code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A running program with all of its descendants. Dropping it kills them, and so does the end of this process, whatever
/// ended it.
#[derive(Debug)]
pub struct Tree {
    supervisor: Child,
    reports: OwnedFd,
    pid: u32,
    exit: Option<Exit>,
    gone: bool,
    /// Whether its end is that of all that it started.
    ends_all: bool,
    /// Writes to the program, if asked for by [`Program::pipes`].
    pub stdin: Option<ChildStdin>,
    /// Reads what the program prints, if asked for by [`Program::pipes`].
    pub stdout: Option<ChildStdout>,
    /// Reads what the program complains, if asked for by [`Program::pipes`].
    pub stderr: Option<ChildStderr>,
    /// Reads what the program prints and complains, in this order, if asked for by [`Program::one_output`].
    pub output: Option<File>,
}

impl Tree {
    /// The program's process id, which is also that of its session and process group.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits until the program itself ends; `None` when the deadline came first. Descendants may live on: see
    /// [`Tree::kill`].
    ///
    /// # Errors
    /// When its supervisor was killed, so that nobody knows how it ended.
    pub fn wait(&mut self, deadline: Deadline) -> io::Result<Option<Exit>> {
        while self.exit.is_none() {
            match self.next_report(deadline) {
                Ok(Some(Record::Ended(exit))) => self.exit = Some(exit),
                Ok(Some(Record::Started(_))) => {}
                Ok(None) => return Err(io::Error::other("the program's supervisor was killed")),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.exit)
    }

    /// A descriptor that becomes readable when the program has ended, for [`crate::poll::wait`]; ask
    /// [`Tree::wait`] then. Never read from it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }

    /// Whether its process group is its own: before it is known to be started there is none, and 0 would be ours.
    fn has_program(&self) -> bool {
        self.pid != 0 && self.exit.is_none()
    }

    /// Sends SIGTERM to the program's process group: what lets well-behaved programs tidy up.
    pub fn terminate(&self) {
        if self.has_program() && !self.gone {
            // It may be gone already.
            let _ = killpg(pid(self.pid), Signal::SIGTERM);
        }
    }

    /// Kills the program and everything that it started, and waits until nothing of it is left.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when something still lives at the deadline (a process that hangs in the kernel).
    pub fn kill(&mut self, deadline: Deadline) -> io::Result<()> {
        if self.gone || self.has_left(deadline)? {
            return Ok(());
        }
        if self.has_program() {
            let _ = killpg(pid(self.pid), Signal::SIGKILL);
        }
        loop {
            sys::kill_below(self.supervisor.id(), self.pid)?;
            if self.is_gone()? {
                return Ok(());
            }
            if deadline.is_over() {
                let message = format!("a process started by {} survives SIGKILL so far", self.pid);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            // The supervisor leaves once it has no children, which closes this pipe.
            self.wait_for_end(Deadline::after(LOOK).min(deadline))?;
        }
    }

    /// Whether nothing is left of a program that ended, as is the rule. Then nothing has to be looked for among all that
    /// runs on the machine.
    fn has_left(&mut self, deadline: Deadline) -> io::Result<bool> {
        let soon = Deadline::after(if self.ends_all { DROP_PATIENCE } else { LOOK }).min(deadline);
        if self.exit.is_none() || !self.wait_for_end(soon)? {
            return Ok(false);
        }
        while !self.is_gone()? && !soon.is_over() {
            std::thread::yield_now();
        }
        Ok(self.gone)
    }

    /// Whether the supervisor, and with it all that it looked after, is no more.
    fn is_gone(&mut self) -> io::Result<bool> {
        self.gone = self.gone || self.supervisor.try_wait()?.is_some();
        Ok(self.gone)
    }

    /// Waits for the end of the reports, noting those that still come; whether it came.
    fn wait_for_end(&mut self, deadline: Deadline) -> io::Result<bool> {
        loop {
            match self.next_report(deadline) {
                // The first report counts, should its keeper be killed after it.
                Ok(Some(Record::Ended(exit))) => self.exit = self.exit.or(Some(exit)),
                Ok(Some(Record::Started(_))) => {}
                // The end of the pipe precedes the end of the process by a moment.
                Ok(None) => {
                    std::thread::yield_now();
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends what does not come to run, and its supervisor, which may be what hangs; this error, in words of its own if it is
    /// that it took too long.
    fn give_up(&mut self, error: io::Error) -> io::Error {
        if self.kill(Deadline::after(GIVE_UP_PATIENCE)).is_err() {
            // It has no children then, or such as end with it as soon as they leave the kernel.
            let _ = self.supervisor.kill();
        }
        match error.kind() {
            kind @ io::ErrorKind::TimedOut => {
                io::Error::new(kind, "it did not come to run in time: a disk or a mount may hang")
            }
            _ => error,
        }
    }

    /// The supervisor's next record; `None` when it has left.
    fn next_report(&mut self, deadline: Deadline) -> io::Result<Option<Record>> {
        next_record(&self.reports, deadline)?.map(Record::parse).transpose()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Nobody is left to tell; whatever hangs in the kernel dies when it leaves it.
        let _ = self.kill(Deadline::after(DROP_PATIENCE));
    }
}

/// The next record of a pipe; `None` when nobody is left to write one.
fn next_record(reports: &OwnedFd, deadline: Deadline) -> io::Result<Option<[u8; RECORD]>> {
    let mut bytes = [0; RECORD];
    loop {
        // Records are written and read as a whole: they are far shorter than what pipes keep together.
        match nix::unistd::read(reports, &mut bytes) {
            Ok(0) => return Ok(None),
            Ok(RECORD) => return Ok(Some(bytes)),
            Ok(_) => return Err(io::Error::other("the supervisor sent half a report")),
            Err(nix::errno::Errno::EAGAIN) => {
                if !poll::wait_one(reports.as_fd(), Interest::Readable, deadline)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reads a stream to its end, at most `limit` bytes of it: for the output of programs that print little.
///
/// # Errors
/// What the stream reports; [`io::ErrorKind::FileTooLarge`] beyond the limit.
pub fn read_all(stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes of output"),
        ));
    }
    Ok(bytes)
}

/// Process ids are positive and fit, or they did not come from the system.
fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests;
