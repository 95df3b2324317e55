//! Writing to who has room, but not for all of it.

use std::io;
use std::time::Duration;

/// Between two tries at a socket that says that it has room and takes nothing.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes as many of the bytes as are taken at once. `wait` pauses for so long, and then waits until the socket says that
/// it has room; it fails when the time is over.
///
/// The Hurd's local sockets say so for a single byte, and of what has no more than 16 KiB they take all or nothing (pflocal:
/// `write_atomic` in its libpipe). What is not taken in spite of room is offered by halves, and to be told so of a room that
/// has not even one byte would have us ask without an end.
pub(super) fn write_some(
    bytes: &[u8],
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    mut wait: impl FnMut(Duration) -> io::Result<()>,
) -> io::Result<usize> {
    let mut piece = bytes;
    let mut has_room = false;
    loop {
        match write(piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if has_room && piece.len() > 1 {
                    piece = piece.split_at(piece.len() / 2).0;
                } else {
                    wait(if has_room { PAUSE } else { Duration::ZERO })?;
                    has_room = true;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const LIMIT: usize = 16 * 1024;

    /// Such a socket, with so many bytes in it.
    fn write(held: &Cell<usize>, bytes: &[u8]) -> io::Result<usize> {
        let room = LIMIT - held.get();
        if room < 2 || bytes.len() > room && bytes.len() <= LIMIT {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(room);
        held.set(held.get() + taken);
        Ok(taken)
    }

    #[test]
    fn what_is_too_large_for_the_room_there_is_goes_in_pieces() {
        for (held, offered, at_least) in
            [(0, 100, 100), (10_000, 10_000, 5_000), (LIMIT - 2, 16_384, 1), (10_000, 20_000, 6_384)]
        {
            let held = Cell::new(held);
            let taken = write_some(&vec![0; offered], |piece| write(&held, piece), |_| Ok(())).unwrap();
            assert!((at_least..=offered).contains(&taken), "{taken} of {offered}");
        }
    }

    #[test]
    fn who_has_room_for_nothing_is_asked_with_pauses_until_the_time_is_over() {
        let held = Cell::new(LIMIT - 1);
        let waits = Cell::new(Vec::new());
        let wait = |pause| {
            let mut so_far = waits.take();
            so_far.push(pause);
            let is_over = so_far.len() > 3;
            waits.set(so_far);
            if is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
        };
        let error = write_some(&[0; 100], |piece| write(&held, piece), wait).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(waits.take(), [Duration::ZERO, PAUSE, PAUSE, PAUSE]);
    }

    #[test]
    fn room_that_comes_while_somebody_waits_is_used() {
        let held = Cell::new(LIMIT - 1);
        let wait = |pause: Duration| {
            if !pause.is_zero() {
                held.set(0);
            }
            Ok(())
        };
        assert!(write_some(&[0; 100], |piece| write(&held, piece), wait).unwrap() > 0);
    }
}
