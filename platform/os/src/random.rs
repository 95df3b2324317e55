//! Random numbers.

use std::io;

/// Fills the buffer with random bytes of the system's, such as keys are made of.
///
/// # Errors
/// When the system has none: on the Hurd without `/dev/urandom`.
pub fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        // SAFETY: the buffer is ours, and as long as said.
        let got = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(got) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => buffer = buffer.split_at_mut(got).1,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_buffers_are_the_same() {
        let mut buffers = [[0; 1000]; 2];
        buffers.iter_mut().for_each(|buffer| fill(buffer).unwrap());
        assert_ne!(buffers[0], buffers[1]);
        fill(&mut []).unwrap();
    }
}
