//! Host names to addresses, with a deadline.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use crate::Deadline;

/// Lookups that may be under way at once. The system's resolver cannot be interrupted: a lookup that nobody
/// waits for any more still holds its thread, and a broken name server must not pile them up.
const LOOKUPS: usize = 8;
/// The system's resolver reads its configuration and plug-ins on the stack.
const STACK: usize = 256 * 1024;

/// The addresses of a host, in the order in which the system prefers them.
///
/// A numeric address is taken as it is, without a lookup; brackets around an IPv6 address are allowed.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when no answer came before the deadline, [`io::ErrorKind::NotFound`] when the
/// name has no address or the lookup failed.
pub fn resolve(host: &str, port: u16, deadline: Deadline) -> io::Result<Vec<SocketAddr>> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);

    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let late = || {
        let message = format!("look up {host}: no answer within the time limit");
        io::Error::new(io::ErrorKind::TimedOut, message)
    };
    if deadline.is_over() {
        return Err(late());
    }
    let Some(slot) = Slot::take(&RUNNING) else {
        let message =
            format!("look up {host}: {LOOKUPS} lookups hang already; is the name server reachable?");
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    };
    let (answer, answers) = mpsc::channel();
    let name = Arc::<str>::from(bare);
    let lookup = move || {
        let found = (&*name, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        drop(slot);
        // Nobody may be waiting any more.
        let _ = answer.send(found);
    };
    thread::Builder::new().name("resolve".into()).stack_size(STACK).spawn(lookup).map_err(|error| {
        io::Error::new(error.kind(), format!("look up {host}: start a thread for it: {error}"))
    })?;
    let found = match deadline.remaining() {
        Some(left) => answers.recv_timeout(left).map_err(|_| ()),
        None => answers.recv().map_err(|_| ()),
    };
    match found {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(_)) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
        Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::NotFound, format!("look up {host}: {error}"))),
        Err(()) => Err(late()),
    }
}

/// One of the lookups that may run at once.
struct Slot(&'static AtomicUsize);

impl Slot {
    fn take(running: &'static AtomicUsize) -> Option<Self> {
        running
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| (count < LOOKUPS).then_some(count + 1))
            .ok()
            .map(|_| Self(running))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numeric_addresses_need_no_lookup() {
        let over = Deadline::after(Duration::ZERO);
        assert_eq!(resolve("127.0.0.1", 80, over).unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(resolve("[::1]", 80, over).unwrap(), ["[::1]:80".parse().unwrap()]);
        assert_eq!(resolve("::1", 80, over).unwrap(), ["[::1]:80".parse().unwrap()]);
    }

    #[test]
    fn localhost_is_found() {
        let found = resolve("localhost", 80, Deadline::after(Duration::from_secs(60))).unwrap();
        assert!(found.iter().any(|address| address.ip().is_loopback()));
    }

    #[test]
    fn a_lookup_without_time_times_out() {
        let error = resolve("localhost", 80, Deadline::after(Duration::ZERO)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn hanging_lookups_are_limited() {
        static HANGING: AtomicUsize = AtomicUsize::new(0);
        let slots: Vec<_> = (0..LOOKUPS).map(|_| Slot::take(&HANGING).unwrap()).collect();
        assert!(Slot::take(&HANGING).is_none());
        drop(slots);
        assert!(Slot::take(&HANGING).is_some());
    }
}
