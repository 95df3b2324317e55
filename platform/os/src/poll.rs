//! The one way to wait for descriptors.

use std::ffi::c_int;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::Deadline;

/// What a descriptor is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read, or the other side has closed, or an error waits to be read.
    Readable,
    /// Something can be written, or writing would fail at once.
    Writable,
    /// Either.
    Both,
}

/// A descriptor in a [`wait`]: what it is waited for, and after the wait what became of it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Entry<'fd> {
    raw: libc::pollfd,
    // The descriptor must stay open for as long as the entry can be waited on.
    descriptor: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Entry<'fd> {
    /// Waits for `interest` on `descriptor`.
    pub fn new(descriptor: BorrowedFd<'fd>, interest: Interest) -> Self {
        let events = match interest {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
            Interest::Both => libc::POLLIN | libc::POLLOUT,
        };
        let raw = libc::pollfd { fd: descriptor.as_raw_fd(), events, revents: 0 };
        Self { raw, descriptor: PhantomData }
    }

    /// Whether a read would not block: there is data, an end or an error.
    pub fn is_readable(&self) -> bool {
        self.raw.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Whether a write would not block: there is room or an error.
    pub fn is_writable(&self) -> bool {
        self.raw.revents & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// There, what has an error or has hung up is what it was waited for to be, and nothing else is told of it.
    #[cfg(drover_portable)]
    fn forget_what_the_hurd_does_not_tell(&mut self) {
        if self.raw.revents & !(libc::POLLIN | libc::POLLOUT) != 0 {
            self.raw.revents = self.raw.events;
        }
    }

    /// Whether anything at all was reported.
    pub fn is_ready(&self) -> bool {
        self.raw.revents != 0
    }
}

/// Waits until one of the descriptors is ready or the deadline has passed.
///
/// Returns the number of ready entries: 0 when the deadline came first. With a deadline that has passed it only
/// looks. Signals that arrive meanwhile do not end the wait.
///
/// # Errors
/// Whatever `poll` reports but an interruption.
pub fn wait(entries: &mut [Entry<'_>], deadline: Deadline) -> io::Result<usize> {
    let count = libc::nfds_t::try_from(entries.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one poll"))?;
    loop {
        let timeout = milliseconds(deadline);
        // SAFETY: Entry is a transparent wrapper of pollfd, so the slice is an array of `count` of them that
        // is valid and exclusively ours during the call; poll keeps no pointer. The descriptors are borrowed.
        let ready = unsafe { libc::poll(entries.as_mut_ptr().cast::<libc::pollfd>(), count, timeout) };
        match usize::try_from(ready) {
            Ok(0) if deadline.is_over() => return Ok(0),
            // A wait longer than poll can express, or one that woke a little early.
            Ok(0) => {}
            Ok(ready) => {
                #[cfg(drover_portable)]
                entries.iter_mut().for_each(Entry::forget_what_the_hurd_does_not_tell);
                return Ok(ready);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Waits for one descriptor; whether it became ready before the deadline.
///
/// # Errors
/// As [`wait`].
pub fn wait_one(descriptor: BorrowedFd<'_>, interest: Interest, deadline: Deadline) -> io::Result<bool> {
    let mut entries = [Entry::new(descriptor, interest)];
    Ok(wait(&mut entries, deadline)? > 0)
}

/// Has reads and writes of a descriptor fail with [`io::ErrorKind::WouldBlock`] instead of waiting: another process may have
/// taken in between what a wait saw.
///
/// # Errors
/// What the system reports.
pub fn never_block(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// What is left, in poll's unit: rounded up, so that a wait does not end before its deadline; -1 for no end.
fn milliseconds(deadline: Deadline) -> c_int {
    match deadline.remaining() {
        None => -1,
        Some(left) => c_int::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn only_the_descriptor_with_data_is_ready() {
        let (quiet, _keep) = UnixStream::pair().unwrap();
        let (talking, mut other) = UnixStream::pair().unwrap();
        other.write_all(b"x").unwrap();
        let mut entries =
            [Entry::new(quiet.as_fd(), Interest::Readable), Entry::new(talking.as_fd(), Interest::Readable)];
        assert_eq!(wait(&mut entries, Deadline::never()).unwrap(), 1);
        assert!(!entries[0].is_ready());
        assert!(entries[1].is_readable());
    }

    #[test]
    fn a_quiet_descriptor_is_waited_for_until_the_deadline_and_not_shorter() {
        let (quiet, _keep) = UnixStream::pair().unwrap();
        let end = Instant::now() + Duration::from_millis(30);
        assert!(!wait_one(quiet.as_fd(), Interest::Readable, Deadline::at(end)).unwrap());
        assert!(Instant::now() >= end);
    }

    #[test]
    fn a_closed_peer_is_readable() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        assert!(wait_one(here.as_fd(), Interest::Readable, Deadline::never()).unwrap());
    }

    #[test]
    fn waits_are_rounded_up_and_capped() {
        assert_eq!(milliseconds(Deadline::never()), -1);
        assert_eq!(milliseconds(Deadline::at(Instant::now())), 0);
        assert!(milliseconds(Deadline::after(Duration::from_micros(900))) <= 1);
        assert_eq!(milliseconds(Deadline::after(Duration::from_secs(u64::from(u32::MAX)))), c_int::MAX);
    }
}
