//! Points of time in certificates and in sentences about them.

use std::time::Duration;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970 as UTC: `2026-11-23 18:30 UTC`.
#[must_use]
pub fn utc(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// A time since 1970 as logs have it, in UTC: `2026-11-23T18:30:05.000250Z`.
#[must_use]
pub fn timestamp(since: Duration) -> String {
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The Gregorian date of a day counted from 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    // All that DER can write ends with the year 9999; what is later is no better known than its end.
    let mut year = 1970;
    while year < 9999 && days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    (year, month, days.min(30) + 1)
}

/// Seconds since 1970 of a date and a time; none before 1970, and none that no calendar has.
pub(crate) fn seconds(
    (year, month, day): (u64, u64, u64),
    (hour, minute, second): (u64, u64, u64),
) -> Option<u64> {
    let known = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days = || {
        (1970..year).map(days_of).sum::<u64>() + (1..month).map(|m| days_in(year, m)).sum::<u64>() + day - 1
    };
    known.then(|| days() * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Seconds since 1970 as HTTP has dates: `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn http_date(seconds: u64) -> String {
    // The first day was a Thursday.
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let (year, month, day) = date(seconds / 86_400);
    let name = DAYS.get((seconds / 86_400 % 7) as usize).copied().unwrap_or_default();
    let month = MONTHS.get(month.saturating_sub(1) as usize).copied().unwrap_or_default();
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{name}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// That of an HTTP date, as servers write it today: `Sun, 06 Nov 1994 08:49:37 GMT`; none if it is none.
#[must_use]
pub fn of_http(text: &str) -> Option<u64> {
    let (_, text) = text.split_once(", ")?;
    let mut words = text.strip_suffix(" GMT")?.split(' ');
    let number = |word: Option<&str>| word?.parse::<u64>().ok();
    let day = number(words.next())?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year = number(words.next())?;
    let mut time = words.next()?.split(':');
    let time = (number(time.next())?, number(time.next())?, number(time.next())?);
    seconds((year, month, day), time)
}

fn days_of(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_both_ways() {
        for (at, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_793_491_200, "2026-11-01 00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
        ] {
            assert_eq!(utc(at), text);
        }
        assert_eq!(seconds((2000, 2, 29), (0, 0, 0)), Some(951_782_400));
        assert_eq!(seconds((2100, 2, 28), (23, 59, 59)), Some(4_107_542_399));
        assert!(utc(u64::MAX).starts_with("9999-12-31"));
    }

    #[test]
    fn a_log_has_times_to_the_microsecond() {
        assert_eq!(timestamp(Duration::new(1_793_491_265, 250_999)), "2026-11-01T00:01:05.000250Z");
        assert!(timestamp(Duration::MAX).starts_with("9999-12-31T"));
    }

    #[test]
    fn http_dates_go_both_ways() {
        // By `date -u`.
        for (at, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_793_491_200, "Sun, 01 Nov 2026 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(at), text);
            assert_eq!(of_http(text), Some(at));
        }
        for none in ["", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 25:00:00 GMT", "Sun, 6 X 1994 08:49:37 GMT"] {
            assert_eq!(of_http(none), None, "{none}");
        }
    }

    #[test]
    fn a_date_that_is_none_is_refused() {
        for date in [(2026, 2, 29), (2026, 13, 1), (2026, 0, 1), (2026, 1, 0), (1969, 12, 31)] {
            assert_eq!(seconds(date, (0, 0, 0)), None, "{date:?}");
        }
        assert_eq!(seconds((2026, 1, 1), (24, 0, 0)), None);
    }
}
