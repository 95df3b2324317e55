//! The way of a program into its sandbox, and the process between the supervisor and the program.
//!
//! As in the supervisor, everything here is system calls on its own stack.

use std::io;
use std::os::fd::RawFd;

use super::supervisor::{Child, NAME, begin, report, report_end, supervise};
use crate::sandbox::plan::Plan;
use crate::{posix, sys};

/// Runs in the forked child as [`super::supervisor::split`] does, for a program in a sandbox; never returns. Between the
/// supervisor and the program there is a keeper, and the program is made by that. Who cannot go on writes the number of the
/// step that failed, or -1, and what the system said, to the second pipe, which closes when the program runs.
pub(super) fn split_into(sandbox: &Plan, report_to: RawFd, fail_to: RawFd) -> ! {
    // At once: on its way the program holds nothing open that others of our threads are writing, such as another
    // program, which could not be run meanwhile. Whoever forked us waits for nothing more.
    sys::close_all_but([0, 1, 2, report_to, fail_to, sandbox.descriptor()]);
    begin();
    if let Err((number, error)) = sandbox.enter_outer() {
        fail(fail_to, number, &error);
    }
    let pair = posix::socket_pair(0).and_then(|pair| sys::ask_for_senders(pair[0]).map(|()| pair));
    let [ours, theirs] = match pair {
        Ok(pair) => pair,
        Err(error) => fail(fail_to, -1, &error),
    };
    // SAFETY: as in `supervisor::split`.
    let keeper = unsafe { libc::fork() };
    match keeper {
        -1 => fail(fail_to, -1, &io::Error::last_os_error()),
        0 => {
            posix::close(ours);
            keep(sandbox, report_to, fail_to, theirs)
        }
        _ => {
            posix::close(theirs);
            // None when there will be no program, of which it says more to the second pipe.
            let program = sys::sender(ours);
            let help = || {
                let Some(program) = program else { return };
                sys::tell(ours);
                sandbox.help(program, ours);
            };
            supervise(Child::Keeper(program), report_to, ours, help)
        }
    }
}

/// Becomes the keeper, the first process of a pid namespace, and with its end that of all in there: the program and the
/// namespace of which that is the first. It ends with the supervisor, whatever ended that, and unlike the program, which may run
/// others in its place, it never goes back on that.
fn keep(sandbox: &Plan, report_to: RawFd, fail_to: RawFd, socket: RawFd) -> ! {
    match sys::end_with_parent(socket) {
        Ok(true) => {}
        Ok(false) => fail(fail_to, -1, &io::Error::from_raw_os_error(libc::EPIPE)),
        Err(error) => fail(fail_to, -1, &error),
    }
    if let Err((number, error)) = sandbox.enter_middle() {
        fail(fail_to, number, &error);
    }
    // SAFETY: as in `supervisor::split`.
    let program = unsafe { libc::fork() };
    match program {
        -1 => fail(fail_to, -1, &io::Error::last_os_error()),
        0 => {
            posix::close(report_to);
            // SAFETY: as in `supervisor::split`.
            unsafe { libc::setsid() };
            // Its start is reported before anything of it can be, even its end.
            if !(sys::be_known(socket) && sys::is_told(socket)) {
                fail(fail_to, -1, &io::Error::from_raw_os_error(libc::EPIPE));
            }
            let (number, error) = sandbox.enter(socket);
            fail(fail_to, number, &error)
        }
        _ => {
            sys::call_process(NAME);
            sys::close_all_but([report_to]);
            loop {
                let mut status = 0;
                // SAFETY: `status` is ours. There is one child, and none is adopted: orphans are those of the program.
                let ended = unsafe { libc::waitpid(program, &raw mut status, 0) };
                if ended == program {
                    report_end(report_to, status);
                }
                if ended >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    // SAFETY: ends this process without running anything that was registered for its end.
                    unsafe { libc::_exit(0) }
                }
            }
        }
    }
}

/// Reports a step into a sandbox that failed, and ends.
fn fail(to: RawFd, number: i32, error: &io::Error) -> ! {
    report(to, number, error.raw_os_error().unwrap_or(libc::EIO));
    // SAFETY: ends this process without running anything that was registered for its end.
    unsafe { libc::_exit(1) }
}
