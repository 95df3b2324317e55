//! A build's log: raw bytes, from any offset, followed while it grows.

use std::io::{self, Read, Write};
use std::time::Duration;

use drover_wire::BuildId;
use drover_wire::client::{Attempt, BuildDetails, LogQuery};
use drover_wire::route::clients;

use super::http::is_silence;
use super::retry::Patience;
use super::{ClientError, Coordinator, Watch, builds};

/// How soon a coordinator that answers is asked again for a log that is followed: who follows sees what is written within a
/// second, however long nobody wrote, or built, before.
const SOON: Duration = Duration::from_millis(500);

/// Which part of which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRequest {
    /// The build.
    pub build: BuildId,
    /// The try; the newest without it, and those after it when the log is followed.
    pub attempt: Option<u32>,
    /// The first byte.
    pub offset: u64,
    /// Instead of that: how many bytes at the end of what is there now.
    pub tail: Option<u64>,
    /// Stay until the build has ended, or the try when one is named.
    pub follow: bool,
}

/// Which try is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Newest,
    Number(u32),
    After(u32),
}

impl Which {
    fn of(self, details: &BuildDetails) -> Option<&Attempt> {
        match self {
            Self::Newest => details.attempts.last(),
            Self::Number(number) => details.attempts.iter().find(|a| a.number == number),
            Self::After(number) => details.attempts.iter().find(|a| a.number > number),
        }
    }
}

/// Writes a log. A connection that breaks is made again, and no byte is lost or doubled.
///
/// # Errors
/// No log yet (unless it is followed), a refusal, a coordinator that stays away, a reader that has gone.
pub fn log(
    coordinator: &Coordinator,
    request: &LogRequest,
    out: &mut dyn Write,
    watch: &dyn Watch,
) -> Result<(), ClientError> {
    let mut which = request.attempt.map_or(Which::Newest, Which::Number);
    let (mut offset, mut tail) = (request.offset, request.tail);
    let patience = || if request.follow { Patience::endless() } else { Patience::some() };
    let mut waits = patience();
    let mut first = true;
    loop {
        let details = match builds::details(coordinator, request.build) {
            Ok(details) => details,
            Err(error) if error.is_temporary() && !first => {
                waits.wait_after(error, watch)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        first = false;
        let ended = details.summary.state.is_final();
        let Some(attempt) = which.of(&details) else {
            match which {
                Which::After(_) if ended => return Ok(()),
                Which::Newest | Which::After(_) if request.follow && !ended => {}
                _ => return Err(nothing(&details, which)),
            }
            std::thread::sleep(waits.pause().min(SOON));
            continue;
        };
        if let Some(tail) = tail.take() {
            offset = attempt.log_size.saturating_sub(tail);
        }
        let before = offset;
        let copied = copy(coordinator, request, attempt, &mut offset, out);
        if offset > before {
            waits = patience();
        }
        which = Which::Number(attempt.number);
        match copied {
            Ok(()) if !request.follow => return Ok(()),
            // An answer may be closed early. What it says of the try is only known by asking again, unless the try was
            // over before and all of its log is here, or no more comes.
            Ok(()) if attempt.ended_at.is_some() && (offset >= attempt.log_size || offset == before) => {
                if ended || request.attempt.is_some() {
                    return Ok(());
                }
                watch.warn(&over(attempt));
                which = Which::After(attempt.number);
                offset = 0;
            }
            Ok(()) if offset == before => std::thread::sleep(waits.pause().min(SOON)),
            Ok(()) => {}
            Err(error) if error.is_temporary() => waits.wait_after(error, watch)?,
            Err(error) => return Err(error),
        }
    }
}

/// Writes what one answer brings.
fn copy(
    coordinator: &Coordinator,
    request: &LogRequest,
    attempt: &Attempt,
    offset: &mut u64,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let doing = format!("reading the log of the build {}", request.build);
    let attempt_number = Some(attempt.number);
    let query =
        LogQuery { offset: Some(*offset), attempt: attempt_number, follow: request.follow, tail: None };
    let mut log = coordinator.stream(&doing, &clients::LOG, &[&request.build], &query, None)?;
    let goes_on = request.follow && attempt.ended_at.is_none();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = match log.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A builder may be silent for hours; asking again shows whether the coordinator is still there.
            Err(error) if goes_on && is_silence(&error) => return Ok(()),
            Err(error) => return Err(coordinator.broken(&doing, &error)),
        };
        out.write_all(&buffer[..n]).and_then(|()| out.flush()).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => ClientError::OutputClosed,
            _ => ClientError::local("writing the log to standard output", e),
        })?;
        *offset += n as u64;
    }
}

fn over(attempt: &Attempt) -> String {
    format!(
        "try {} on {} is over ({}); waiting for the next",
        attempt.number,
        attempt.agent,
        attempt.outcome.as_deref().unwrap_or("no outcome")
    )
}

fn nothing(details: &BuildDetails, which: Which) -> ClientError {
    let build = details.summary.build;
    let why = match which {
        Which::Number(number) => {
            format!("it has had {} tries, and none with the number {number}", details.attempts.len())
        }
        _ => format!("no agent has had it yet: {}", details.why),
    };
    ClientError::NoLog { build, why }
}
