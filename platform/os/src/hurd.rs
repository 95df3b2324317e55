//! What is the Hurd's own, by what POSIX has and nothing else: it has no /proc, no process ids of other kinds, and servers that
//! may not know what a socket is asked for. The same runs on Linux in the tests of a program that is compiled with
//! `--cfg drover_portable`.
//!
//! What a program started is found by its process group. What leaves that, by a session of its own, is not found any more:
//! what builds here is a guix-daemon, which sees to its builders itself.
//!
//! The Hurd's `poll` tells little more of a descriptor than what it was asked for, and nothing if it was asked for nothing; a
//! connection that was refused is just writable. So where the end of another process is waited for, it is that of a socket
//! that is read from. Its servers measure the time by the clock of the date (glibc: hurd/hurdselect.c).

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use crate::machine::Memory;
use crate::posix;

/// Guix's name for the kernel: the second half of a system's name.
pub(crate) const KERNEL: &str = if cfg!(target_os = "hurd") { "gnu" } else { "linux" };

/// A program that does not read from a local socket hears of its other side's end when it next writes: nobody sends it
/// signals (pflocal has no owners of sockets), and guix-daemon waits for one alone.
pub(crate) const IS_HANG_UP_HEARD: bool = false;

/// How often who waits at a local socket looks whether it was cancelled: its shutdown wakes nobody who waits for it already
/// (pflocal: `sock_shutdown`), only the other side's does.
pub(crate) const LOOK_WHETHER_CANCELLED: Option<Duration> = Some(Duration::from_millis(500));

/// Probes a silent TCP peer, as often as the system sees fit, if it does.
pub(crate) fn set_keepalive(socket: BorrowedFd<'_>, _idle: Duration) -> io::Result<()> {
    match posix::set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1) {
        // It is one more way to notice; the waits have their deadlines without it.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Nobody tells how it is mounted.
pub(crate) fn is_noexec(_path: &Path) -> Option<bool> {
    None
}

/// Nobody tells what is in memory.
pub(crate) fn read_from_memory(
    _file: BorrowedFd<'_>,
    _buffer: &mut [u8],
    offset: u64,
) -> io::Result<Option<usize>> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(None)
}

/// No start has a name.
pub(crate) fn boot_id() -> Option<String> {
    None
}

/// Nobody tells it: the clock that never goes back may be that of the date.
pub(crate) fn uptime() -> Option<Duration> {
    None
}

/// Memory in pages; what is free of it, for what else could be had is not known.
pub(crate) fn memory() -> Option<Memory> {
    let number = |name: c_int| {
        // SAFETY: takes a number. -1 for what the system does not tell.
        u64::try_from(unsafe { libc::sysconf(name) }).ok().filter(|number| *number > 0)
    };
    let page = number(libc::_SC_PAGESIZE)?;
    let pages = |name| number(name)?.checked_mul(page);
    Some(Memory { total: pages(libc::_SC_PHYS_PAGES)?, available: pages(libc::_SC_AVPHYS_PAGES)? })
}

/// Nobody tells it without asking servers of the Hurd by their own ways.
pub(crate) fn own_memory() -> Option<u64> {
    None
}

/// Nor this.
pub(crate) fn own_open_files() -> Option<u64> {
    None
}

/// By what a supervisor reports, the end of who reads it first: non-blocking, closed on exec.
pub(crate) fn report_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    posix::socket_pair(libc::SOCK_NONBLOCK).map(posix::owned)
}

/// Orphans go to the system's first process here.
pub(crate) fn adopt_orphans() {}

/// A process is called as its program is.
pub(crate) fn call_process(_name: &CStr) {}

/// Closes every descriptor of the calling process but these; negative ones count for nothing.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn close_all_but<const COUNT: usize>(keep: [RawFd; COUNT]) {
    posix::close_all_but(&keep);
}

/// Both ends of the pipe by which the end of a child wakes the calling process; -1 without one.
static WAKER: AtomicI32 = AtomicI32::new(-1);
static WOKEN: AtomicI32 = AtomicI32::new(-1);

/// Between two looks where nothing wakes us.
const LOOK: Duration = Duration::from_millis(20);

extern "C" fn wake(_signal: c_int) {
    // SAFETY: errno is the interrupted code's, so it is put back; write is safe within a handler, reads one byte of a
    // constant, and does not block. A full pipe has woken its reader already.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WAKER.load(Ordering::SeqCst), b"!".as_ptr().cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// Has the end of a child wake the calling process in [`wait_for_child_or_reader_gone`] and [`wait_for_child`].
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn wake_for_children() {
    // Without it there is a look from time to time.
    let Ok([reader, writer]) = posix::raw_pipe(libc::O_NONBLOCK) else { return };
    WAKER.store(writer, Ordering::SeqCst);
    WOKEN.store(reader, Ordering::SeqCst);
    // SAFETY: the handler does only what handlers may.
    unsafe { libc::signal(libc::SIGCHLD, wake as extern "C" fn(c_int) as libc::sighandler_t) };
}

/// Waits until a child ends, or nobody is left at the other end of this channel, but no longer than this; whether it is
/// that nobody is left.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn wait_for_child_or_reader_gone(channel: RawFd, longest: Option<Duration>) -> bool {
    wait_for_children(channel, longest)
}

/// Waits until a child ends, but no longer than this.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn wait_for_child(longest: Duration) {
    wait_for_children(-1, Some(longest));
}

fn wait_for_children(channel: RawFd, longest: Option<Duration>) -> bool {
    let woken = WOKEN.load(Ordering::SeqCst);
    let longest = if woken < 0 { Some(longest.unwrap_or(LOOK).min(LOOK)) } else { longest };
    let time = longest.map_or(-1, |time| c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX));
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries = [entry(woken), entry(channel)];
    // With nothing but such as are skipped, the Hurd's does not wait.
    let count = if woken < 0 && channel < 0 { 0 } else { 2 };
    // SAFETY: the entries are ours, and two; those of negative numbers are skipped.
    if unsafe { libc::poll(entries.as_mut_ptr(), count, time) } <= 0 {
        return false;
    }
    if entries[0].revents != 0 {
        let mut bytes = [0_u8; 64];
        // SAFETY: the buffer is ours, and as long as said; what does not block is read to its end.
        while unsafe { libc::read(woken, bytes.as_mut_ptr().cast(), bytes.len()) } > 0 {}
    }
    // Nobody sends anything to who reports: what there is to read is the end.
    entries[1].revents != 0
}

/// Sends SIGKILL to what a program of the calling process started and is left of it.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn kill_what_is_left(program: libc::pid_t) {
    posix::kill_group(program);
}

/// Whether something is left of a program that has ended, and whose end no signal will tell.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn is_something_left(program: libc::pid_t) -> bool {
    posix::has_members(program) && lives(program)
}

/// Whether one of a group has not ended. Signals may be sent to those, too, that have, and that the system's first process
/// has not asked for yet, if it ever does; the Hurd knows no priority of such (proc: `S_proc_getprocinfo`).
fn lives(group: libc::pid_t) -> bool {
    // SAFETY: errno is the calling thread's own, and tells a failure from a priority of -1; the call takes numbers, whose
    // types differ between systems, and which are small.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, clippy::unnecessary_cast)]
    unsafe {
        *libc::__errno_location() = 0;
        libc::getpriority(libc::PRIO_PGRP as _, group as libc::id_t);
        *libc::__errno_location() != libc::ESRCH
    }
}

/// Kills what runs below a supervisor: the group of its program.
pub(crate) fn kill_below(_supervisor: u32, program: u32) -> io::Result<()> {
    if let Ok(program) = libc::pid_t::try_from(program) {
        posix::kill_group(program);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_socket_is_not_asked_for_does_not_end_a_connection() {
        let (one, _other) = report_channel().unwrap();
        set_keepalive(std::os::fd::AsFd::as_fd(&one), Duration::from_secs(30)).unwrap();
    }
}
