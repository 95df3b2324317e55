//! What the agent says about itself: lines on standard error.
//!
//! Each fact is one line, whatever is in it. Logging never stops the agent, whoever reads or does not ([`lines`]).

use std::fmt::{self, Debug, Write as _};
use std::io;
use std::time::UNIX_EPOCH;

use drover_os::lines;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::{LogLevel, LogSettings};

/// Sends the lines of this process to standard error from now on. A second call changes nothing.
pub fn start(settings: LogSettings) {
    // A subscriber that is there already stays.
    let _ = tracing::subscriber::set_global_default(Lines { settings });
    tell_of_panics();
}

/// A mistake of this program is a fact like others, and where it was made is all in its line.
fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!("a mistake of this program: {panic}")));
}

/// Makes a line of each event. Of spans it knows nothing: the agent has none, and what would keep track of them has a
/// share in the agent's size that can be seen.
struct Lines {
    settings: LogSettings,
}

impl Lines {
    /// `2026-11-23T18:30:05.000250Z  INFO what there is to be said name=value`, or
    /// `{"timestamp":"…","level":"INFO","target":"…","fields":{"message":"what there is to be said","name":"value"}}`.
    fn line(&self, level: Level, target: &str, fill: impl FnOnce(&mut Text)) -> String {
        let json = self.settings.json;
        let mut line = String::new();
        if json || self.settings.timestamps {
            // A clock before 1970 shows 1970.
            line = drover_tls::timestamp(UNIX_EPOCH.elapsed().unwrap_or_default());
            line.push(' ');
        }
        if json {
            // A target is a path of modules.
            let time = line.trim_end();
            line = [
                r#"{"timestamp":""#,
                time,
                r#"","level":""#,
                level.as_str(),
                r#"","target":""#,
                target,
                r#"","fields":{"#,
            ]
            .concat();
        } else {
            let _ = write!(line, "{:>5}", level.as_str());
        }
        let mut text = Text { line, json };
        fill(&mut text);
        text.line.push_str(if json { "}}\n" } else { "\n" });
        text.line
    }
}

fn level(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= level(self.settings.levels.of(metadata.target()))
    }

    fn event(&self, event: &Event<'_>) {
        static READER: lines::Reader = lines::Reader::new();
        let metadata = event.metadata();
        let line = self.line(*metadata.level(), metadata.target(), |text| event.record(text));
        READER.tell(&mut io::stderr().lock(), line.as_bytes());
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
    json: bool,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.json {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.json {
            // Each is a text, whatever it was.
            self.line.push_str(if self.line.ends_with('{') { "\"" } else { ",\"" });
            self.line.push_str(field.name());
            self.line.push_str("\":\"");
        } else {
            self.line.push(' ');
            if field.name() != "message" {
                self.line.push_str(field.name());
                self.line.push('=');
            }
        }
        let _ = write!(self, "{value:?}");
        if self.json {
            self.line.push('"');
        }
    }
}

/// What comes from elsewhere does not command a terminal, begins no line, and ends no text of JSON.
impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' if self.json => self.line.extend(['\\', character]),
                control if control.is_control() && self.json => {
                    // There is none beyond U+009F.
                    let digit = |n| char::from_digit(n, 16).unwrap_or('0');
                    let code = u32::from(control);
                    self.line.push_str("\\u00");
                    self.line.extend([digit(code / 16), digit(code % 16)]);
                }
                '\t' => self.line.push(character),
                control if control.is_control() => self.line.extend(control.escape_default()),
                other => self.line.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::LogLevels;

    /// The line of the first event.
    pub(crate) fn printed(timestamps: bool, json: bool, tell: impl FnOnce()) -> String {
        struct Seen(Lines, std::sync::mpsc::Sender<String>);
        impl Subscriber for Seen {
            fn enabled(&self, _: &Metadata<'_>) -> bool {
                true
            }
            fn event(&self, event: &Event<'_>) {
                let metadata = event.metadata();
                let fill = |text: &mut Text| event.record(text);
                self.1.send(self.0.line(*metadata.level(), metadata.target(), fill)).unwrap();
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
        let settings = LogSettings { levels: LogLevels::default(), timestamps, json };
        tracing::subscriber::with_default(Seen(Lines { settings }, send), tell);
        seen.recv().unwrap()
    }

    #[test]
    fn a_line_has_its_time_its_level_and_nothing_that_commands_a_terminal() {
        let tell = || tracing::warn!("what \x1b[31mthey\u{9b}0m\tsay\r\n WARN is one line");
        let line = printed(false, false, tell);
        assert_eq!(line, " WARN what \\u{1b}[31mthey\\u{9b}0m\tsay\\r\\n WARN is one line\n");
        let timed = printed(true, false, tell);
        let (time, rest) = timed.split_at("2026-11-23T18:30:05.000250Z ".len());
        assert_eq!(rest, line);
        assert!(time.starts_with("20") && time.ends_with("Z "), "{time}");
    }

    #[test]
    fn an_event_is_recorded_with_its_fields() {
        let line = printed(false, false, || tracing::error!(code = 7, name = %"x", "it {}", "broke"));
        assert_eq!(line, "ERROR it broke code=7 name=x\n");
    }

    #[test]
    fn an_event_is_an_object_whatever_is_in_it() {
        let name = "a\"b\\c\u{1}\u{9b}\nä";
        let line = printed(false, true, || tracing::error!(code = 7, name, "it\nbroke"));
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["fields"], serde_json::json!({"message": "it\nbroke", "code": "7", "name": name}));
        assert_eq!((&read["level"], &read["target"]), (&"ERROR".into(), &module_path!().into()));
        assert!(read["timestamp"].as_str().unwrap().starts_with("20"), "{line}");
    }

    #[test]
    fn a_mistake_of_this_program_is_one_line_too() {
        let line = printed(false, false, || {
            let usual = std::panic::take_hook();
            tell_of_panics();
            let _ = std::panic::catch_unwind(|| panic!("of two\nlines"));
            std::panic::set_hook(usual);
        });
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(line.contains("of two\\nlines") && line.contains("logging.rs:"), "{line}");
    }

    #[test]
    fn a_part_has_the_level_that_is_said_of_it() {
        let levels: LogLevels =
            "warn,drover_agent::store=trace,drover_agent::store::clean=error".parse().unwrap();
        assert_eq!(levels.of("drover_agent::store::place"), LogLevel::Trace);
        assert_eq!(levels.of("drover_agent::store::clean"), LogLevel::Error);
        assert_eq!(levels.of("drover_agent::storeroom"), LogLevel::Warn);
        assert!("info,x=loud".parse::<LogLevels>().is_err());
    }
}
