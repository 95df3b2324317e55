//! The process between us and a program: it outlives the program until nothing of it is left, and reports. When nobody
//! is left to report to, it ends the program: whoever started that was killed.
//!
//! It is a fork of ours that never runs a program of its own. Another thread may have held any lock at the fork,
//! so everything here is system calls on its own stack, up to and including its end.

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use super::Exit;
use crate::{posix, sys};

/// The bytes of a report.
pub(super) const RECORD: usize = 8;
const STARTED: i32 = 1;
const CODE: i32 = 2;
const SIGNAL: i32 = 3;
/// Between two looks at a program that dies with those who started it.
const LOOK: Duration = Duration::from_millis(20);
/// What we call ourselves: who ends all processes of the name of those who started us means those, whose end is seen here.
pub(super) const NAME: &CStr = c"drover-watcher";

/// Whom a supervisor looks after.
#[derive(Debug, Clone, Copy)]
pub(super) enum Child {
    /// The program.
    Program(libc::pid_t),
    /// Its keeper, who reports its end. The program's process id, if there is a program.
    #[cfg_attr(any(not(target_os = "linux"), drover_portable), allow(dead_code))]
    Keeper(Option<libc::pid_t>),
}

impl Child {
    /// The program's process id; 0 if there is no program.
    fn program(self) -> libc::pid_t {
        match self {
            Self::Program(program) => program,
            Self::Keeper(program) => program.unwrap_or(0),
        }
    }
}

/// What the supervisor reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// The program's process id.
    Started(u32),
    /// How the program ended.
    Ended(Exit),
}

impl Record {
    pub(super) fn parse(bytes: [u8; RECORD]) -> io::Result<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let value = i32::from_ne_bytes([e, f, g, h]);
        match (i32::from_ne_bytes([a, b, c, d]), u32::try_from(value)) {
            (STARTED, Ok(pid)) => Ok(Self::Started(pid)),
            (CODE, _) => Ok(Self::Ended(Exit::Code(value))),
            (SIGNAL, _) => Ok(Self::Ended(Exit::Signal(value))),
            _ => Err(io::Error::other("the supervisor sent something that is no report")),
        }
    }
}

/// Runs in the forked child: forks again, returns in the grandchild, which goes on to become the program, and
/// never returns in the child, which becomes the supervisor.
pub(super) fn split(report_to: RawFd) -> io::Result<()> {
    begin();
    // SAFETY: this process has one thread, itself a fresh fork; neither side needs a lock from before.
    let program = unsafe { libc::fork() };
    match program {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above: a session and process group of the program's own, apart from the supervisor.
            unsafe { libc::setsid() };
            Ok(())
        }
        _ => supervise(Child::Program(program), report_to, -1, || ()),
    }
}

pub(super) fn begin() {
    // SAFETY: changes this process' session only; cannot fail in a process just forked.
    unsafe { libc::setsid() };
    sys::adopt_orphans();
}

/// Reads a report of who could not enter a sandbox: the number of the step, and what the system said.
pub(super) fn parse_failure(bytes: [u8; RECORD]) -> (i32, io::Error) {
    let [a, b, c, d, e, f, g, h] = bytes;
    let error = io::Error::from_raw_os_error(i32::from_ne_bytes([e, f, g, h]));
    (i32::from_ne_bytes([a, b, c, d]), error)
}

/// Becomes the supervisor; `help` is done for the program first, with the descriptor `helper`.
pub(super) fn supervise(child: Child, report_to: RawFd, helper: RawFd, help: impl FnOnce()) -> ! {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: installs no code of ours. Requests to stop are for those who started us: they end the tree. That they
        // are gone is seen where it is looked for.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    sys::call_process(NAME);
    // Reported first: once the program runs, the spawning side asks.
    if let Child::Program(program) | Child::Keeper(Some(program)) = child {
        report(report_to, STARTED, program);
    }
    // What we hold open here would never end for those who read from the program, nor for the spawning side, which
    // waits for the closing of a pipe of its own until the program runs.
    sys::close_all_but([report_to, helper]);
    help();
    posix::close(helper);
    sys::wake_for_children();
    loop {
        // What is left is looked at from time to time where it is not heard of.
        let is_heard_of = reap(child, report_to);
        if sys::wait_for_child_or_reader_gone(report_to, (!is_heard_of).then_some(LOOK)) {
            break;
        }
    }
    loop {
        // One that forks while we look leaves us its child, which the next look finds.
        sys::kill_what_is_left(child.program());
        reap(child, report_to);
        sys::wait_for_child(LOOK);
    }
}

/// Takes note of those that ended; does not come back when none are left. Whether the end of those that are will wake us.
fn reap(child: Child, report_to: RawFd) -> bool {
    loop {
        let mut status = 0;
        // SAFETY: `status` is ours; the call looks at any child.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if ended > 0 {
            match child {
                Child::Program(program) if ended != program => {}
                Child::Program(_) => report_end(report_to, status),
                // A keeper that was killed takes the program with it, and says nothing.
                Child::Keeper(_) if libc::WIFSIGNALED(status) => report_end(report_to, status),
                Child::Keeper(_) => {}
            }
        } else if ended == 0 {
            return true;
        } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            // No children are left: no program, and where orphans become ours none of those.
            if sys::is_something_left(child.program()) {
                return false;
            }
            // SAFETY: ends this process without running anything that was registered for its end.
            unsafe { libc::_exit(0) };
        }
    }
}

/// Reports how the program ended, from the status that the system gave.
pub(super) fn report_end(to: RawFd, status: libc::c_int) {
    if libc::WIFSIGNALED(status) {
        report(to, SIGNAL, libc::WTERMSIG(status));
    } else {
        report(to, CODE, libc::WEXITSTATUS(status));
    }
}

/// Writes two numbers.
pub(super) fn report(to: RawFd, kind: i32, value: i32) {
    let (kind, value) = (kind.to_ne_bytes(), value.to_ne_bytes());
    let bytes = [kind[0], kind[1], kind[2], kind[3], value[0], value[1], value[2], value[3]];
    // SAFETY: the bytes are on our stack for the call. The pipe has room for our few records, and if nobody reads
    // it any more there is nobody to tell.
    unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_were_meant() {
        let bytes = |kind: i32, value: i32| {
            let mut bytes = [0; RECORD];
            bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            bytes[4..].copy_from_slice(&value.to_ne_bytes());
            bytes
        };
        assert_eq!(Record::parse(bytes(STARTED, 12)).unwrap(), Record::Started(12));
        assert_eq!(Record::parse(bytes(CODE, 3)).unwrap(), Record::Ended(Exit::Code(3)));
        assert_eq!(Record::parse(bytes(SIGNAL, 9)).unwrap(), Record::Ended(Exit::Signal(9)));
        assert!(Record::parse(bytes(9, 9)).is_err());
        assert!(Record::parse(bytes(STARTED, -1)).is_err());
    }
}
