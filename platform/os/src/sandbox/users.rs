//! Who is whom in the user namespace of a program: root's own, and of the machine's users one. Only somebody outside of it may
//! say so, which is the program's supervisor: it is asked over a socket as soon as the namespace is there.
//!
//! Everything here runs between fork and exec, as in [`super::enter`].

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::RawFd;

use super::enter::done;

/// Writes all of a text into a file that is there, at once.
pub(super) fn write_file(path: &CStr, text: &[u8]) -> io::Result<()> {
    // SAFETY: the path ends with a zero; the descriptor is closed once.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        done(file)?;
        let result = write(file, text);
        libc::close(file);
        result
    }
}

/// Writes all at once, as the files of the kernel's want it.
pub(super) fn write(to: RawFd, text: &[u8]) -> io::Result<()> {
    // SAFETY: the text is as long as said.
    let written = unsafe { libc::write(to, text.as_ptr().cast::<c_void>(), text.len()) };
    match usize::try_from(written) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(written) if written == text.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}

/// Reads exactly so much; `None` at the end, or when it cannot be read.
fn read<const COUNT: usize>(from: RawFd) -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    loop {
        // SAFETY: the bytes are ours and as many as said.
        let count = unsafe { libc::read(from, bytes.as_mut_ptr().cast::<c_void>(), COUNT) };
        if count >= 0 {
            return (usize::try_from(count) == Ok(COUNT)).then_some(bytes);
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
}

/// Asks the supervisor to say who is whom in the namespace that we just entered, and waits until it is said.
pub(super) fn ask(helper: RawFd) -> io::Result<()> {
    write(helper, b"?")?;
    match read(helper).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::from_raw_os_error(libc::EPIPE)),
    }
}

/// The other side of [`ask`].
pub(super) fn help(program: libc::pid_t, socket: RawFd, users: &[u8], groups: &[u8]) {
    let Some([_]) = read::<1>(socket) else { return };
    let map = |name: &[u8], text: &[u8]| {
        let mut path = [0; 32];
        match file_of(program, name, &mut path) {
            Some(path) => write_file(path, text),
            None => Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG)),
        }
    };
    let result = map(b"/uid_map\0", users).and_then(|()| map(b"/gid_map\0", groups));
    let errno = result.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
    // Nobody listens when the process has ended since.
    let _ = write(socket, &errno.to_ne_bytes());
}

/// The path of a file in the folder of a process in /proc; the name begins with a slash and ends with a zero.
fn file_of<'path>(process: libc::pid_t, name: &[u8], path: &'path mut [u8; 32]) -> Option<&'path CStr> {
    let mut digits = [0; 10];
    let mut first = digits.len();
    let mut rest = u32::try_from(process).ok()?;
    while rest > 0 {
        first = first.checked_sub(1)?;
        *digits.get_mut(first)? = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
    }
    let mut at = 0;
    for part in [b"/proc/", digits.get(first..)?, name] {
        path.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    CStr::from_bytes_with_nul(path.get(..at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_files_of_a_process_are_found_by_its_number() {
        let mut path = [0; 32];
        assert_eq!(file_of(4_194_304, b"/uid_map\0", &mut path), Some(c"/proc/4194304/uid_map"));
        assert_eq!(file_of(7, b"/gid_map\0", &mut path), Some(c"/proc/7/gid_map"));
        assert_eq!(file_of(-1, b"/gid_map\0", &mut path), None);
        assert_eq!(file_of(7, b"/a_name_that_is_too_long_for_it\0", &mut path), None);
    }

    #[test]
    fn the_answer_reaches_who_asks_and_an_end_is_none() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        // No such process, so what it is told is an error.
        let helper = std::thread::spawn(move || help(-1, theirs.as_raw_fd(), b"", b""));
        assert_eq!(ask(ours.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        helper.join().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(ours);
        help(1, theirs.as_raw_fd(), b"", b"");
    }
}
