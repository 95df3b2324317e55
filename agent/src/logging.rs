//! What the agent says about itself: lines on standard error.
//!
//! Logging never stops the agent. A closed standard error swallows the lines; one that nobody reads any more is
//! waited for once and then left alone until it moves again.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use drover_os::Deadline;
use drover_os::poll::{self, Interest};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::{LogLevel, LogSettings};

/// How long a line waits for a reader that was quick enough before.
const WAIT: Duration = Duration::from_secs(1);
/// What a pipe that is writable takes without blocking: POSIX's least `PIPE_BUF` that systems really have.
const PIECE: usize = 512;

/// Sends the lines of this process to standard error from now on. A second call changes nothing.
pub fn start(settings: LogSettings) {
    // A subscriber that is there already stays.
    let _ = tracing::subscriber::set_global_default(Lines { settings });
}

/// Makes a line of each event. Of spans it knows nothing: the agent has none, and what would keep track of them has a
/// share in the agent's size that can be seen.
struct Lines {
    settings: LogSettings,
}

impl Lines {
    fn level(&self) -> Level {
        match self.settings.level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        }
    }

    /// `2026-11-23T18:30:05.000250Z  INFO what there is to be said name=value`
    fn line(&self, level: Level, fill: impl FnOnce(&mut Text)) -> String {
        let mut line = String::new();
        if self.settings.timestamps {
            // A clock before 1970 shows 1970.
            line = drover_tls::timestamp(UNIX_EPOCH.elapsed().unwrap_or_default());
            line.push(' ');
        }
        let _ = write!(line, "{:>5}", level.as_str());
        let mut text = Text { line };
        fill(&mut text);
        text.line.push('\n');
        text.line
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level()))
    }

    fn event(&self, event: &Event<'_>) {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let line = self.line(*event.metadata().level(), |text| event.record(text));
        let _ = Patient { to: io::stderr(), stalled: &STALLED }.write(line.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A line that grows.
struct Text {
    line: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self, " {value:?}"),
            name => write!(self, " {name}={value:?}"),
        };
    }
}

/// What comes from elsewhere does not command a terminal.
impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '\n' | '\t' => self.line.push(character),
                control if control.is_control() => self.line.extend(control.escape_default()),
                other => self.line.push(other),
            }
        }
        Ok(())
    }
}

/// Writes what can be written and drops the rest.
struct Patient<W> {
    to: W,
    stalled: &'static AtomicBool,
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(PIECE) {
            let patience = if self.stalled.load(Ordering::Relaxed) { Duration::ZERO } else { WAIT };
            let ready = poll::wait_one(self.to.as_fd(), Interest::Writable, Deadline::after(patience));
            let stalled = !matches!(ready, Ok(true));
            self.stalled.store(stalled, Ordering::Relaxed);
            if stalled || self.to.write_all(piece).is_err() {
                break;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_line_has_its_time_its_level_and_nothing_that_commands_a_terminal() {
        let lines = |timestamps| Lines { settings: LogSettings { level: LogLevel::Info, timestamps } };
        let fill = |text: &mut Text| write!(text, " what \x1b[31mthey\u{9b}0m\tsay\r").unwrap();
        let line = lines(false).line(Level::WARN, fill);
        assert_eq!(line, " WARN what \\u{1b}[31mthey\\u{9b}0m\tsay\\r\n");
        let timed = lines(true).line(Level::WARN, fill);
        let (time, rest) = timed.split_at("2026-11-23T18:30:05.000250Z ".len());
        assert_eq!(rest, line);
        assert!(time.starts_with("20") && time.ends_with("Z "), "{time}");
    }

    #[test]
    fn an_event_is_recorded_with_its_fields() {
        struct Seen(std::sync::mpsc::Sender<String>);
        impl Subscriber for Seen {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                true
            }
            fn event(&self, event: &Event<'_>) {
                let lines = Lines { settings: LogSettings { level: LogLevel::Info, timestamps: false } };
                self.0.send(lines.line(*event.metadata().level(), |text| event.record(text))).unwrap();
            }
            fn new_span(&self, _: &Attributes<'_>) -> Id {
                Id::from_u64(1)
            }
            fn record(&self, _: &Id, _: &Record<'_>) {}
            fn record_follows_from(&self, _: &Id, _: &Id) {}
            fn enter(&self, _: &Id) {}
            fn exit(&self, _: &Id) {}
        }
        let (send, seen) = std::sync::mpsc::channel();
        tracing::subscriber::with_default(
            Seen(send),
            || tracing::error!(code = 7, name = %"x", "it {}", "broke"),
        );
        assert_eq!(seen.recv().unwrap(), "ERROR it broke code=7 name=x\n");
    }

    #[test]
    fn lines_arrive_whole() {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let (here, mut there) = UnixStream::pair().unwrap();
        let line = [b'x'; 2 * PIECE + 1];
        Patient { to: here, stalled: &STALLED }.write_all(&line).unwrap();
        let mut read = Vec::new();
        there.read_to_end(&mut read).unwrap();
        assert_eq!(read, line);
    }

    #[test]
    fn a_closed_reader_is_no_error() {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        Patient { to: here, stalled: &STALLED }.write_all(b"line\n").unwrap();
    }

    #[test]
    fn a_reader_that_stalls_does_not_stop_the_writer() {
        static STALLED: AtomicBool = AtomicBool::new(true);
        let (here, _there) = UnixStream::pair().unwrap();
        let mut writer = Patient { to: here, stalled: &STALLED };
        for _ in 0..10_000 {
            writer.write_all(&[b'x'; PIECE]).unwrap();
        }
        assert!(STALLED.load(Ordering::Relaxed));
    }
}
