//! Words for people: what comes from outside made harmless, sizes, spans and points of time.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_wire::Timestamp;

/// Text from outside with everything escaped that a terminal would act upon.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => clean.push_str("\\n"),
            '\t' => clean.push_str("\\t"),
            '\r' => clean.push_str("\\r"),
            c if is_harmful(c) => {
                let _ = write!(clean, "\\u{{{:x}}}", u32::from(c));
            }
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// Control characters, and those that turn the direction of what follows.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text of several lines from outside: the lines stay, everything else is as in [`clean`].
pub(crate) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// A number of bytes: `831 B`, `1.3 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A span of time in its two largest units: `45 s`, `3 min 5 s`, `2 h 0 min`, `9 d 4 h`.
pub(crate) fn span(milliseconds: u64) -> String {
    let s = milliseconds / 1000;
    match s {
        0 if milliseconds > 0 => format!("{milliseconds} ms"),
        0..=59 => format!("{s} s"),
        60..=3599 => format!("{} min {} s", s / 60, s % 60),
        3600..=86_399 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// How long ago, in its largest unit: `now`, `45 s`, `3 min`, `2 h`, `9 d`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let s = now.saturating_sub(then) / 1000;
    match s {
        0 => "now".to_owned(),
        1..=59 => format!("{s} s"),
        60..=3599 => format!("{} min", s / 60),
        3600..=86_399 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

/// [`age`] in a sentence: `now`, `3 min ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    match age(then, now).as_str() {
        "now" => "now".to_owned(),
        age => format!("{age} ago"),
    }
}

/// A point of time as UTC: `2026-11-23 18:30:13 UTC`.
pub(crate) fn time(at: Timestamp) -> String {
    let seconds = at / 1000;
    let (year, month, day) = date(seconds / 86_400);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02} UTC")
}

/// The Gregorian date of a day counted from 1970-01-01. Years are counted from March, so that the leap day ends one.
fn date(day: u64) -> (u64, u64, u64) {
    const FROM_YEAR_0: u64 = 719_468;
    const OF_400_YEARS: u64 = 146_097;
    let day = day.saturating_add(FROM_YEAR_0);
    let (era, day) = (day / OF_400_YEARS, day % OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day - (153 * from_march + 2) / 5 + 1)
}

/// Now, by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a span of time: seconds without a unit, or units `s`, `min` or `m`, `h`, `d`, one after the other.
pub(crate) fn parse_span(text: &str) -> Result<u64, String> {
    let bad = || format!("“{text}” is not a span of time: it looks like 90, 45min, 1h30m or 2d");
    let mut total = 0_u64;
    let mut rest = text.trim();
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "" if !any && rest.is_empty() => 1,
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        rest = rest[letters..].trim_start();
        total = number.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
        any = true;
    }
    if total == 0 { Err(bad()) } else { Ok(total) }
}

/// `1 build`, `2 builds`, `30,571 builds`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(number), if number == 1 { one } else { many })
}

/// A number in groups of three digits: `831`, `30,571`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_escaped() {
        assert_eq!(
            clean("\u{1b}[31mred\u{7}\r\n\u{9b}2J\u{202e}x"),
            "\\u{1b}[31mred\\u{7}\\r\\n\\u{9b}2J\\u{202e}x"
        );
        assert!(matches!(clean("gcc-14.3.0 größer ✓"), Cow::Borrowed(_)));
        assert_eq!(clean_lines("a\u{1b}\nb"), "a\\u{1b}\nb");
    }

    #[test]
    fn sizes_change_their_unit_where_they_must() {
        let pairs =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (3 << 30, "3.0 GiB")];
        for (bytes, words) in pairs {
            assert_eq!(size(bytes), words);
        }
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn large_numbers_are_grouped() {
        let pairs = [(0, "0"), (999, "999"), (1000, "1,000"), (30_571, "30,571"), (1_234_567, "1,234,567")];
        for (number, words) in pairs {
            assert_eq!(thousands(number), words);
        }
        assert_eq!(
            (count(1, "row", "rows"), count(2000, "row", "rows")),
            ("1 row".into(), "2,000 rows".into())
        );
    }

    #[test]
    fn points_of_time_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(time(1_795_458_613_000), "2026-11-23 18:30:13 UTC");
        assert_eq!(time(4_107_542_399_999), "2100-02-28 23:59:59 UTC");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn spans_are_read_with_and_without_units() {
        let pairs = [("90", 90), ("45min", 2700), ("1h30m", 5400), ("2d", 172_800), ("1 h 5 s", 3605)];
        for (text, seconds) in pairs {
            assert_eq!(parse_span(text), Ok(seconds), "{text}");
        }
        for text in ["", "0", "h", "5x", "1h30", "-5", "99999999999999999999", "999999999999999999d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_and_ages_are_short() {
        assert_eq!(
            (span(5), span(45_000), span(185_000)),
            ("5 ms".into(), "45 s".into(), "3 min 5 s".into())
        );
        assert_eq!((span(7_200_000), span(792_000_000)), ("2 h 0 min".into(), "9 d 4 h".into()));
        assert_eq!((age(5, 6), age(0, 61_000), age(9, 0)), ("now".into(), "1 min".into(), "now".into()));
        assert_eq!((ago(5, 6), ago(0, 61_000)), ("now".into(), "1 min ago".into()));
    }

    proptest! {
        #[test]
        fn no_control_character_is_left(text in any::<String>()) {
            prop_assert!(!clean(&text).chars().any(is_harmful));
        }

        #[test]
        fn no_point_of_time_panics(at in any::<u64>()) {
            time(at);
        }
    }
}
