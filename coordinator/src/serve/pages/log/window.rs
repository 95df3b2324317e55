//! Which part of a log a page shows: its end, or a page of about a megabyte.

use std::io::{self, Read};

use super::document::{Document, Made};
use super::html::Numbers;
use crate::farm::LogPlace;
use crate::storage::LogReader;

/// How much of the end of a log is shown beside other things, in bytes and in lines.
const END: u64 = 64 << 10;
const END_LINES: usize = 1000;
/// A page of a log, in bytes and in lines.
pub(super) const PAGE: u64 = 1 << 20;
const PAGE_LINES: usize = 20_000;
/// The lines before a part are counted if there are no more bytes before it.
const COUNTED: u64 = if cfg!(test) { 4 << 20 } else { 16 << 20 };
/// Where a line begins is looked for so far.
const LINE: usize = 64 << 10;

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it begins.
    pub(super) from: u64,
    /// What is in it, and where it ends.
    pub(super) made: Made,
    /// Whether more follows that is there already.
    pub(super) more: bool,
}

/// The part of a log that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The end.
    End,
    /// About a megabyte from the first line on that begins at this byte or after it.
    Page(u64),
}

/// Reads a part of a log of so many bytes; none if there is no log. Blocks.
///
/// # Errors
/// What the system reports.
pub(super) fn read(place: &LogPlace, length: u64, wanted: Wanted) -> io::Result<Option<Part>> {
    let (from, most) = match wanted {
        Wanted::End => (length.saturating_sub(END), END),
        Wanted::Page(from) => (from.min(length), PAGE),
    };
    // What lies behind its length is not whole yet. One byte more before, to see whether a line begins there.
    let (start, most) = (from.saturating_sub(1), most.min(length - from));
    let Some((before, bytes)) = bytes(place, start, most + (from - start))? else {
        // One that grows may come yet.
        let nothing = || Document::from(0, Numbers::Lines(1)).finish(true);
        return Ok(place.growing.is_some().then(|| Part { from: 0, made: nothing(), more: false }));
    };
    let skipped = match (from - start, bytes.iter().take(LINE).position(|byte| *byte == b'\n')) {
        (0, _) => 0,
        (_, Some(end)) => end + 1,
        // No line begins in the next bytes.
        (_, None) => 1.min(bytes.len()),
    };
    let (skipped, mut shown) = bytes.split_at(skipped);
    let mut from = start + skipped.len() as u64;
    let mut lines_before = before.map(|lines| lines + count(skipped));
    let mut more = from + (shown.len() as u64) < length;
    match wanted {
        Wanted::End => {
            if let Some(begin) = nth_from_end(shown, END_LINES) {
                let (left, rest) = shown.split_at(begin);
                from += left.len() as u64;
                lines_before = lines_before.map(|lines| lines + count(left));
                shown = rest;
            }
        }
        Wanted::Page(_) => {
            if let Some(end) = nth(shown, PAGE_LINES) {
                more |= end < shown.len();
                shown = shown.split_at(end).0;
            }
        }
    }
    let numbers = lines_before.map_or(Numbers::Bytes, |lines| Numbers::Lines(lines + 1));
    let mut document = Document::from(from, numbers);
    document.push(shown);
    let made = document.finish(more || place.growing.is_some());
    Ok(Some(Part { from, made, more }))
}

/// At most so many bytes from `start` on, and how many lines end before, if that was counted.
fn bytes(place: &LogPlace, start: u64, most: u64) -> io::Result<Option<(Option<u64>, Vec<u8>)>> {
    let counted = start <= COUNTED;
    let offset = if counted { 0 } else { start };
    let Some(mut reader) = LogReader::open(&place.raw, &place.packed, offset)? else { return Ok(None) };
    let mut lines = 0;
    if counted {
        let mut before = (&mut reader).take(start);
        let mut buffer = vec![0; usize::try_from(start.min(128 << 10)).unwrap_or(0)];
        loop {
            match before.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => lines += count(buffer.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    let mut bytes = Vec::new();
    reader.take(most).read_to_end(&mut bytes)?;
    Ok(Some((counted.then_some(lines), bytes)))
}

fn count(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Where the first lines end, so many of them; none if there are no more.
fn nth(bytes: &[u8], lines: usize) -> Option<usize> {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.nth(lines.saturating_sub(1)).map(|(at, _)| at + 1)
}

/// Where the last lines begin, so many of them; none if there are no more.
fn nth_from_end(bytes: &[u8], lines: usize) -> Option<usize> {
    let within = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut ends = within.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.nth(lines.saturating_sub(1)).map(|(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn place(folder: &Path, log: &[u8]) -> LogPlace {
        let raw = folder.join("x.log");
        std::fs::write(&raw, log).unwrap();
        LogPlace { raw, packed: folder.join("x.log.zst"), growing: None }
    }

    fn part(place: &LogPlace, length: usize, wanted: Wanted) -> Part {
        read(place, length as u64, wanted).unwrap().unwrap()
    }

    #[test]
    fn pages_follow_each_other_and_leave_no_line_out() {
        let folder = tempfile::tempdir().unwrap();
        // Long lines, many short ones, and a line that is longer than a page.
        let mut log = Vec::new();
        for n in 0..3000 {
            log.extend_from_slice(format!("line {n} {}\n", "x".repeat(n % 900)).as_bytes());
        }
        log.extend(std::iter::repeat_n(b"\n", 45_000).flatten());
        log.extend(std::iter::repeat_n(b'y', (5 << 20) / 2));
        log.extend_from_slice(b"\nthe end");
        let place = place(folder.path(), &log);
        let (mut from, mut pages, mut html) = (0, 0, String::new());
        loop {
            let page = part(&place, log.len(), Wanted::Page(from));
            assert_eq!(page.from, from);
            html.push_str(&page.made.html);
            pages += 1;
            if !page.more {
                break;
            }
            assert!(page.made.at > from);
            from = page.made.at;
        }
        assert!((5..12).contains(&pages), "{pages}");
        for line in [1, 2, 3000, 3001, 48_000, 48_002] {
            assert_eq!(html.matches(&format!("id=\"L{line}\"")).count(), 1, "{line}");
        }
        assert_eq!(html.matches('y').count(), (5 << 20) / 2);
        assert!(html.contains("the end"));
    }

    #[test]
    fn the_end_of_a_log_begins_with_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let log: String = (1..=20_000).map(|n| format!("number {n}\n")).collect();
        let place = place(folder.path(), log.as_bytes());
        let end = part(&place, log.len(), Wanted::End);
        assert!(!end.more && end.made.at == log.len() as u64);
        assert!(
            end.made.html.starts_with("<div class=\"lines\"><div id=\"L19001\">"),
            "{:.200}",
            end.made.html
        );
        assert!(end.made.html.contains("number 20000<"));
        let short = part(&place, 18, Wanted::End);
        assert_eq!(short.from, 0);
    }

    #[test]
    fn what_is_far_behind_the_beginning_is_numbered_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let log = [vec![b'\n'; COUNTED as usize], b"a\nb\n".to_vec()].concat();
        let place = place(folder.path(), &log);
        let at = COUNTED;
        let html = part(&place, log.len(), Wanted::Page(at + 2)).made.html;
        assert!(html.contains(&format!("id=\"B{}\"", at + 2)) && !html.contains(">a<"), "{html}");
        let html = part(&place, log.len(), Wanted::Page(at)).made.html;
        assert!(
            html.contains(&format!("id=\"L{}\"", at + 1)) && html.contains(&format!("id=\"L{}\"", at + 2)),
            "{html}"
        );
    }

    #[test]
    fn a_place_within_a_line_or_behind_the_end_is_no_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let log = b"first\nsecond\nthird";
        let place = place(folder.path(), log);
        for (from, begins, shows) in
            [(1, 6, "second"), (6, 6, "second"), (7, 13, "third"), (14, 14, "hird"), (500, 18, "")]
        {
            let page = part(&place, log.len(), Wanted::Page(from));
            assert_eq!(page.from, begins, "{from}");
            assert!(page.made.html.contains(shows), "{}", page.made.html);
        }
        let nothing = LogPlace { raw: folder.path().join("none"), ..place };
        assert_eq!(read(&nothing, 18, Wanted::End).unwrap(), None);
    }
}
