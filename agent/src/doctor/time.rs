//! The clock, and whether waits end when they should.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use drover_os::machine;
use drover_os::net::{Deadline, Listener, Stream};

use super::{Finding, Glance, Outcome, expect, failed};

/// How long is waited for nothing.
const WAIT: Duration = Duration::from_millis(50);
/// More than a connection keeps for a peer that does not read.
const LOT: usize = 16 << 20;
/// The year 2025, in seconds since 1970: no clock that is right shows less.
const LEAST: u64 = 1_735_689_600;

pub(super) fn clock(_: &Glance) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date = drover_tls::utc(now);
    expect(now >= LEAST, || {
        format!("it says {date}: certificates are not valid yet; set it, or have it set from the network")
    })?;
    let steady = if machine::has_steady_clock() {
        "deadlines have a clock of their own"
    } else {
        "deadlines go by the same clock: do not set it back while builds run"
    };
    Ok(Finding::Works(format!("{date}; {steady}")))
}

pub(super) fn deadlines(_: &Glance) -> Outcome {
    let (mut here, _there) = Stream::pair().map_err(failed("make a pair of sockets"))?;
    here.set_timeout(Some(WAIT));
    let read = ends("a read of what nobody sends", || here.read(&mut [0; 8]).map(|_| ()))?;
    let lot = vec![0; LOT];
    let write = ends("a write to who does not read", || here.write_all(&lot))?;
    let listener = Listener::bind_tcp("127.0.0.1:0").map_err(failed("listen on 127.0.0.1"))?;
    let accept =
        ends("a wait for who does not connect", || listener.accept(Deadline::after(WAIT)).map(|_| ()))?;
    let milliseconds = |time: Duration| time.as_millis();
    Ok(Finding::Works(format!(
        "a read, a write and a wait for connections of {} ms ended after {}, {} and {}",
        milliseconds(WAIT),
        milliseconds(read),
        milliseconds(write),
        milliseconds(accept)
    )))
}

/// How long it took until its time was over.
fn ends(what: &str, wait: impl FnOnce() -> io::Result<()>) -> Result<Duration, String> {
    let begin = Instant::now();
    match wait() {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
        Err(error) => return Err(format!("{what}: {error}")),
        Ok(()) => return Err(format!("{what} ends as if there were something")),
    }
    let took = begin.elapsed();
    expect(took >= WAIT, || format!("{what} ends too soon, after {took:?} of {WAIT:?}"))?;
    Ok(took)
}
