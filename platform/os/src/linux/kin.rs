//! What processes of different pid namespaces, which do not see each other's numbers, have to know of one another.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

/// Has the kernel say who sends by the other end of this socket, for [`sender`].
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn ask_for_senders(socket: RawFd) -> io::Result<()> {
    let yes: c_int = 1;
    // SAFETY: the value is ours, and of the size that is said.
    let result = unsafe {
        let size = size_of::<c_int>() as libc::socklen_t;
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, (&raw const yes).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a byte from a socket: the process id, as it is seen from here, of who sent it. `None` at the end.
///
/// Safe to call between fork and exec: system calls on its own stack.
pub(crate) fn sender(socket: RawFd) -> Option<libc::pid_t> {
    let (mut byte, mut control) = ([0_u8; 1], [0_u64; 8]);
    // SAFETY: the message is plain numbers and pointers to our two buffers with their sizes, which live during the call. What
    // it says that it received lies in the second one, and is copied from there as far as it is of the kind asked for.
    unsafe {
        let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        loop {
            match libc::recvmsg(socket, &raw mut message, 0) {
                1 => break,
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return None,
            }
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_CREDENTIALS
        {
            return None;
        }
        let who: libc::ucred = libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned();
        (who.pid > 0).then_some(who.pid)
    }
}

/// Sends a byte to who asks for its [`sender`]; whether somebody is there to take it.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn be_known(socket: RawFd) -> bool {
    // SAFETY: the byte is ours. Without a reader there is an error, and no signal.
    unsafe { libc::send(socket, b"!".as_ptr().cast(), 1, libc::MSG_NOSIGNAL) == 1 }
}

/// Tells who waits in [`is_told`] that he may go on.
///
/// Safe to call between fork and exec: one system call.
pub(crate) fn tell(socket: RawFd) {
    // Where nobody waits any more there is nobody to tell.
    be_known(socket);
}

/// Waits for a [`tell`]; whether there was one.
///
/// Safe to call between fork and exec: system calls on its own stack.
pub(crate) fn is_told(socket: RawFd) -> bool {
    let mut byte = [0_u8; 1];
    loop {
        // SAFETY: the byte is ours.
        match unsafe { libc::recv(socket, byte.as_mut_ptr().cast(), 1, 0) } {
            1 => return true,
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

/// Has the calling process be killed with its parent, the owner of the other end of this socket; whether that lives.
///
/// Safe to call between fork and exec: system calls only.
pub(crate) fn end_with_parent(socket: RawFd) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: socket, events: 0, revents: 0 };
    // SAFETY: takes numbers.
    let mut result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) };
    if result == 0 {
        // SAFETY: the entry is ours, and one.
        result = unsafe { libc::poll(&raw mut entry, 1, 0) };
    }
    // One that ended before does not end again. Its process id may not be seen from here, but its socket is.
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(entry.revents == 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::posix;

    #[test]
    fn who_sends_is_known_and_that_nobody_does_is_too() {
        let [ours, theirs] = posix::socket_pair(0).unwrap();
        ask_for_senders(ours).unwrap();
        assert!(be_known(theirs));
        assert_eq!(sender(ours), i32::try_from(std::process::id()).ok());
        tell(ours);
        assert!(is_told(theirs));
        posix::close(theirs);
        assert_eq!(sender(ours), None);
        assert!(!is_told(ours));
        posix::close(ours);
    }
}
