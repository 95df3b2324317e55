//! What the coordinator says of itself: lines on standard error, as text or JSON.
//!
//! Each fact is one line, whatever is in it. Logging never stops the coordinator, whoever reads or does not ([`lines`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write};

use drover_os::lines;
use tracing::Dispatch;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::cli::text::{clean, is_harmful};

/// Sends the lines of this process to standard error from now on; a second call changes nothing. `levels` is as the option
/// `log` says it.
///
/// # Errors
/// What is wrong with the levels.
pub(crate) fn start(levels: &str, json: bool) -> Result<(), String> {
    let filter = filter(levels)?;
    let log = dispatch(filter, json, || Patient);
    // A log that is there already, as in a test, stays.
    let _ = tracing::dispatcher::set_global_default(log);
    tell_of_panics();
    Ok(())
}

/// A mistake of this program is a fact like others, and where it was made is all in its line.
fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(thread = thread.name(), backtrace, "a mistake of this program: {panic}");
    }));
}

/// Levels, one for all and others for parts. A word that is no level would be a part that everything is logged of, and nothing
/// of the others; so that a typing error would be silence.
fn filter(levels: &str) -> Result<EnvFilter, String> {
    let words: Vec<&str> = levels.split(',').map(str::trim).collect();
    for word in &words {
        let level = word.rsplit_once('=').map_or(*word, |(_, level)| level);
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "“{word}” has no level, which is one of error, warn, info, debug, trace and off"
            ));
        }
    }
    EnvFilter::try_new(words.join(",")).map_err(|error| error.to_string())
}

fn dispatch<W>(filter: EnvFilter, json: bool, to: impl Fn() -> W + Send + Sync + 'static) -> Dispatch
where
    W: Write + 'static,
{
    let to = move || Lines { to: to(), json };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to);
    if json { log.json().into() } else { log.fmt_fields(Fields).into() }
}

/// The fields of an event or a span, as text: nothing in them commands a terminal or begins a line.
struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = Text { writer, written: Ok(()), first: true };
        fields.record(&mut text);
        text.written
    }
}

struct Text<'w> {
    writer: Writer<'w>,
    written: fmt::Result,
    first: bool,
}

impl Text<'_> {
    fn write(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.writer.write_char(' ')?;
        }
        let name = field.name();
        if name != "message" {
            write!(self.writer, "{}=", name.trim_start_matches("r#"))?;
        }
        write!(Cleaned(&mut self.writer), "{value:?}")
    }
}

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.written.is_ok() {
            self.written = self.write(field, value);
        }
    }
}

struct Cleaned<'t, 'w>(&'t mut Writer<'w>);

impl fmt::Write for Cleaned<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&clean(text))
    }
}

/// What gets a line at a time, and passes it on.
struct Lines<W> {
    to: W,
    json: bool,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.json {
            // Of what a terminal would act upon JSON only has to escape a part. None of the rest is outside of a text.
            self.to.write_all(escaped(&String::from_utf8_lossy(line)).as_bytes())?;
        } else {
            self.to.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of JSON in which nothing commands a terminal.
fn escaped(line: &str) -> Cow<'_, str> {
    let commands = |c: char| c != '\n' && is_harmful(c);
    if !line.chars().any(commands) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if commands(c) {
            // There is none beyond U+FFFF.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Standard error, for lines.
struct Patient;

impl Write for Patient {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        static READER: lines::Reader = lines::Reader::new();
        READER.tell(&mut io::stderr().lock(), line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged.
    fn printed(levels: &str, json: bool, tell: impl FnOnce()) -> String {
        let memory = Memory::default();
        let to = memory.clone();
        let log = dispatch(filter(levels).unwrap(), json, move || to.clone());
        tracing::dispatcher::with_default(&log, tell);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    const HOSTILE: &str = "a\nERROR b \x1b[31mred\u{9b}0m\r\u{202e}\u{2028}\"\\ä";

    fn tell_all() {
        let _within = tracing::error_span!("request", id = %HOSTILE).entered();
        tracing::warn!(text = HOSTILE, shown = %HOSTILE, r#type = ?[HOSTILE], "it says {HOSTILE}");
    }

    #[test]
    fn a_fact_is_one_line_of_text_whatever_is_in_it() {
        let line = printed("info", false, tell_all);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end_matches('\n').chars().any(is_harmful), "{line:?}");
        assert!(line.contains(" WARN ") && line.contains("it says a\\nERROR b \\u{1b}[31mred"), "{line:?}");
        let plain =
            printed("info", false, || tracing::info!(code = 7, name = %"x", text = "y", "it {}", "broke"));
        assert!(plain.ends_with(": it broke code=7 name=x text=\"y\"\n"), "{plain:?}");
    }

    #[test]
    fn a_fact_is_one_object_of_json_whatever_is_in_it() {
        let line = printed("info", true, tell_all);
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(!line.trim_end_matches('\n').chars().any(is_harmful), "{line:?}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&read["level"], &read["fields"]["text"]), (&json!("WARN"), &json!(HOSTILE)));
        assert_eq!(read["span"]["id"], json!(HOSTILE));
    }

    #[test]
    fn a_mistake_of_this_program_is_one_line_too() {
        let line = printed("info", true, || {
            let usual = std::panic::take_hook();
            tell_of_panics();
            let _ = std::panic::catch_unwind(|| panic!("of two\nlines"));
            std::panic::set_hook(usual);
        });
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        let read: Value = serde_json::from_str(&line).unwrap();
        let said = read["fields"]["message"].as_str().unwrap();
        assert!(said.contains("of two\nlines") && said.contains("logging.rs:"), "{said}");
    }

    #[test]
    fn parts_have_levels_of_their_own() {
        let tell = || {
            tracing::info!(target: "drover::farm", "of the farm");
            tracing::debug!(target: "drover::serve::observe", "of a request");
            tracing::warn!(target: "h2", "of others");
        };
        let printed = printed("warn, drover::serve=debug", false, tell);
        assert!(printed.contains("of a request") && printed.contains("of others"), "{printed}");
        assert!(!printed.contains("of the farm"), "{printed}");
    }

    #[test]
    fn what_is_no_level_is_refused_and_named() {
        for (levels, named) in [
            ("", "“”"),
            ("inof", "“inof”"),
            ("info,drover::farm", "“drover::farm”"),
            ("info,drover=loud", "“drover=loud”"),
            ("info,drover=", "“drover=”"),
            ("info,", "“”"),
            ("foo bar", "“foo bar”"),
        ] {
            let refused = filter(levels).expect_err(levels);
            assert!(refused.contains(named) && refused.contains("trace"), "{levels}: {refused}");
        }
        for levels in
            ["off", "INFO", "info,drover=debug", "info , drover::farm=trace", "info,[request{id=a}]=trace"]
        {
            filter(levels).expect(levels);
        }
    }
}
