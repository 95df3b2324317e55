//! What is done by the same calls on Linux and on the Hurd: both have descriptors that are closed on exec from their first
//! moment on, so that no program that another thread starts just then gets them.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// An unconnected stream socket of this family: non-blocking, closed on exec.
pub(crate) fn stream_socket(family: c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers.
    let socket = unsafe { libc::socket(family, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it is open, fresh and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Two Unix stream sockets that are connected to one another: closed on exec, and more with these flags of their kind.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn socket_pair(flags: c_int) -> io::Result<[RawFd; 2]> {
    let mut ends: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: `ends` has room for the two descriptors that the call writes.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    if result == 0 { Ok(ends) } else { Err(io::Error::last_os_error()) }
}

/// A pipe, its reading end first: non-blocking at both ends, closed on exec.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    raw_pipe(libc::O_NONBLOCK).map(owned)
}

/// A pipe that blocks, its reading end first: closed on exec.
pub(crate) fn blocking_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    raw_pipe(0).map(owned)
}

/// A pipe, its reading end first: closed on exec, and more with these flags.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn raw_pipe(flags: c_int) -> io::Result<[RawFd; 2]> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors that the call writes.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | flags) };
    if result == 0 { Ok(ends) } else { Err(io::Error::last_os_error()) }
}

/// Two descriptors that a call of this module has just made, and nobody owns.
pub(crate) fn owned(ends: [RawFd; 2]) -> (OwnedFd, OwnedFd) {
    // SAFETY: they are open, fresh and owned by nobody else.
    unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) }
}

/// Closes a descriptor that its owner gave up; none if it is negative.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn close(descriptor: RawFd) {
    // SAFETY: takes no memory, and the caller says that nobody uses it any more.
    unsafe { libc::close(descriptor) };
}

/// Closes every descriptor of the calling process but these, one by one.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    for descriptor in 0..end_of_descriptors() {
        if !keep.contains(&descriptor) {
            // A number that is not open is refused without effect.
            close(descriptor);
        }
    }
}

/// The number from which on there are no descriptors here.
fn end_of_descriptors() -> c_int {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours and of the type that the call fills.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let end = if known { limit.rlim_cur.min(1 << 20) } else { 1024 };
    c_int::try_from(end).unwrap_or(1024)
}

/// Sets a number that a socket has.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation)] // four
    let size = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value lives on the stack during the call and `size` is its size; nothing is kept.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the process group that a program began has members, which need not be the program.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn has_members(program: libc::pid_t) -> bool {
    if program <= 1 {
        return false;
    }
    // SAFETY: takes numbers; signal 0 is sent to nobody. As long as the group has a member, no other gets its number.
    let found = unsafe { libc::kill(-program, 0) } == 0;
    // What has become another user may be sent nothing, and is there all the same.
    found || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Sends SIGKILL to the process group that a program began.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn kill_group(program: libc::pid_t) {
    // 0 would be our own, and 1 everything.
    if program > 1 {
        // SAFETY: takes numbers. There may be nobody.
        unsafe { libc::kill(-program, libc::SIGKILL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;
    use std::fs::File;
    use std::os::fd::IntoRawFd;

    /// For [`all_descriptors_but_some_are_closed`], which runs this as a process of its own.
    #[test]
    fn closes_all_but_some() {
        let close_all_but: fn([RawFd; 7]) = match std::env::var("DROVER_TEST_CLOSE").as_deref() {
            Ok("system") => sys::close_all_but,
            Ok(_) => |keep| close_all_but(&keep),
            Err(_) => return,
        };
        let files = [(); 4].map(|()| File::open("/").unwrap().into_raw_fd());
        // SAFETY: takes numbers, and gives one that is not open.
        let far = unsafe { libc::fcntl(files[0], libc::F_DUPFD, 100) };
        close_all_but([2, files[2], -1, 1, far, 0, files[1]]);
        // SAFETY: as above; what is not open is refused.
        let open = |file: RawFd| unsafe { libc::fcntl(file, libc::F_GETFD) } >= 0;
        assert!([0, 1, 2, files[1], files[2], far].into_iter().all(open));
        assert!((0..200).filter(|file| open(*file)).count() == 6);
        std::process::exit(7);
    }

    #[test]
    fn all_descriptors_but_some_are_closed() {
        for way in ["system", "one by one"] {
            let status = crate::testing::tests()
                .args(["--exact", "posix::tests::closes_all_but_some", "--nocapture"])
                .env("DROVER_TEST_CLOSE", way)
                .status();
            assert_eq!(status.unwrap().code(), Some(7), "{way}");
        }
    }

    #[test]
    fn a_group_that_has_no_members_is_gone() {
        let mut child = std::process::Command::new("/bin/sh");
        std::os::unix::process::CommandExt::process_group(&mut child, 0);
        let mut child = child.args(["-c", "read word"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let id = libc::pid_t::try_from(child.id()).unwrap();
        assert!(has_members(id));
        kill_group(id);
        assert!(!child.wait().unwrap().success());
        assert!(!has_members(id));
    }
}
