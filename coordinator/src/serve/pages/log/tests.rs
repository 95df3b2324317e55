//! Whatever a log has in it, its HTML is only what was meant.

use proptest::prelude::*;

use super::document::{Document, Made};
use super::html::Numbers;
use super::lines::{Lines, PIECE};
use super::pieces::Pieces;

/// The text of each line.
fn lines(log: &[u8]) -> Vec<String> {
    let (mut lines, mut all) = (Lines::from(0), Vec::new());
    lines.push(log, |line| all.push(line.text.to_owned()));
    lines.finish(|line| all.push(line.text.to_owned()));
    all
}

fn made(chunks: &[&[u8]], goes_on: bool) -> Made {
    let mut document = Document::from(0, Numbers::Lines(1));
    chunks.iter().for_each(|chunk| document.push(chunk));
    document.finish(goes_on)
}

fn html(log: &[u8]) -> String {
    made(&[log], false).html
}

/// All elements of it that are open at a time, if every tag is one of ours and closes what was opened last.
fn check(html: &str) -> Result<(), String> {
    let mut open = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find(['<', '>']) {
        if !rest[at..].starts_with('<') {
            return Err(format!("a lone >: {rest:.80}"));
        }
        let end = rest[at..].find('>').ok_or("a tag without its end")? + at;
        let tag = &rest[at + 1..end];
        match tag.strip_prefix('/') {
            Some(name) if open.pop() == Some(name) => {}
            Some(name) => return Err(format!("</{name}> closes something else")),
            None => {
                let name = tag.split(' ').next().unwrap_or_default();
                if !["div", "a", "span", "details", "summary", "b"].contains(&name) {
                    return Err(format!("<{tag}> is none of ours"));
                }
                let attributes = [
                    "class",
                    "id",
                    "href",
                    "tabindex",
                    "data-state",
                    "data-more",
                    "data-end",
                    "data-at",
                    "data-line",
                ];
                for attribute in tag.split(' ').skip(1).filter(|word| word.contains('=')) {
                    let (name, value) = attribute.split_once('=').unwrap();
                    if !attributes.contains(&name) || !value.starts_with('"') {
                        // A class list has spaces within its quotes, but no equals sign.
                        return Err(format!("the attribute {attribute} is none of ours"));
                    }
                }
                if tag.matches('"').count() % 2 != 0 {
                    return Err(format!("<{tag}> has a quote too many"));
                }
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
    }
    if open.is_empty() { Ok(()) } else { Err(format!("{open:?} are not closed")) }
}

/// Bytes of which many mean something.
fn log() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        &b"starting phase `unpack'\n"[..],
        b"starting phase `<script>alert(1)</script>'\n",
        b"phase `unpack' succeeded after 0.1 seconds\n",
        b"phase `unpack' failed after 3.2 seconds\n",
        b"\n",
        b"\r",
        b"\r\n",
        b"\x08",
        b"\x1b",
        b"\x1b[",
        b"\x1b[31m",
        b"\x1b[0m",
        b"\x1b[38;5;",
        b"\x1b]8;;http://example.org/\x1b\\",
        b"\x1b]0;title\x07",
        b"\x1b]",
        b"\x1b(B",
        b"1;2:3",
        b"m",
        b"</details></div>",
        b"<script>alert(1)</script>",
        b"&lt;\"'",
        b"\xff\xfe",
        b"\xc3",
        b"\xa4",
        b"\xe2\x82",
        b"\xf0\x9f\x90",
        "ä€🐑\u{202e}\u{9b}1m".as_bytes(),
    ]);
    let piece = prop_oneof![
        4 => words.prop_map(<[u8]>::to_vec),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (any::<u8>(), 0..3 * PIECE).prop_map(|(byte, count)| vec![byte; count]),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// The log in chunks that end at these places.
fn chunks<'l>(log: &'l [u8], cuts: &[prop::sample::Index]) -> Vec<&'l [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
    ends.push(log.len());
    ends.sort_unstable();
    let mut from = 0;
    ends.into_iter().map(|to| &log[std::mem::replace(&mut from, to)..to]).collect()
}

proptest! {
    #[test]
    fn any_log_in_any_chunks_is_the_same_well_formed_html(
        log in log(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        goes_on in any::<bool>(),
    ) {
        let whole = made(&[&log], goes_on);
        prop_assert_eq!(check(&whole.html), Ok(()));
        let control = whole.html.contains(['\u{1b}', '\n', '\r', '\u{0}', '\u{8}', '\u{202e}']);
        prop_assert!(!control);
        prop_assert_eq!(made(&chunks(&log, &cuts), goes_on), whole);
    }

    #[test]
    fn any_log_by_single_bytes_is_the_same(log in log()) {
        let bytes: Vec<&[u8]> = log.chunks(1).collect();
        prop_assert_eq!(made(&bytes, false), made(&[&log], false));
    }

    #[test]
    fn pieces_are_well_formed_lines_with_the_same_lines_in_them(
        log in log(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut pieces = Pieces::from(0, Numbers::Lines(1));
        let mut all: Vec<String> = chunks(&log, &cuts).iter().filter_map(|chunk| pieces.push(chunk)).collect();
        all.extend(pieces.finish());
        for piece in &all {
            prop_assert_eq!(check(piece), Ok(()));
            prop_assert_eq!(piece.find('\n'), Some(piece.len() - 1));
        }
        let rows = |html: &str| -> Vec<String> {
            html.split("<div id=\"").skip(1).map(|row| row.split("</div>").next().unwrap().to_owned()).collect()
        };
        prop_assert_eq!(rows(&all.concat()), rows(&made(&[&log], false).html));
    }

    #[test]
    fn reading_goes_on_where_a_part_of_a_log_ended(log in log(), cut in any::<prop::sample::Index>()) {
        let (before, _) = log.split_at(cut.index(log.len() + 1));
        let part = made(&[before], true);
        let at = usize::try_from(part.at).unwrap();
        prop_assert!(at <= before.len());
        // What was left out is a line that has not ended, or a piece of it.
        prop_assert!(!before[at..].contains(&b'\n'));
    }
}

#[test]
fn text_that_is_not_utf_8_is_shown_as_far_as_it_is() {
    assert_eq!(lines(b"a\xffb\n\xe2\x82\n\xe2\x82"), ["a\u{fffd}b", "\u{fffd}", "\u{fffd}"]);
    assert_eq!(lines(b"\xf0\x9f\x90\x91 \xc0\xaf\n"), ["🐑 \u{fffd}\u{fffd}"]);
}

#[test]
fn a_progress_bar_shows_what_it_showed_last() {
    assert_eq!(lines(b" 10%\r 20%\r100%\ndone\r\n\r\n"), ["100%", "done", ""]);
    assert_eq!(lines(b"fetching\x1b[K\r\x1b[2Kfetched\n"), ["fetched"]);
    assert_eq!(lines(b"N\x08NA\x08A\x08\x08\x08\x08\n"), [""]);
}

#[test]
fn sequences_and_control_characters_are_not_shown() {
    let log = b"\x1b]0;title\x07a\x1b]8;;x\x1b\\b\x1b[2J\x1b[10;10Hc\x1b(B\x1b=d\x07\x00\x7f\xc2\x85e\x1bP1$q\x1b\\f\tg\n";
    assert_eq!(lines(log), ["abcdef\tg"]);
}

#[test]
fn a_sequence_without_its_end_does_not_swallow_the_log() {
    assert_eq!(lines(b"a\x1b]0;never\nb\x1b[12\nc\x1b\n\xc3\xa4"), ["a", "b", "c", "ä"]);
    let endless = [b"\x1b[".to_vec(), b"1;".repeat(100_000), b"\nnext\n".to_vec()].concat();
    let shown = lines(&endless);
    assert!(shown.iter().map(String::len).sum::<usize>() > 199_000);
    assert_eq!(shown.last().unwrap(), "next");
    let hidden = [b"\x1b]".to_vec(), b"x".repeat(10_000), b"\n".to_vec()].concat();
    assert!(lines(&hidden)[0].len() > 5_000);
}

#[test]
fn a_line_without_an_end_comes_in_pieces_and_is_one_line() {
    let log = [vec![b'x'; 3 * PIECE], b"\nnext\n".to_vec()].concat();
    let html = html(&log);
    assert_eq!(html.matches("class=\"on\"").count(), 2);
    assert!(
        html.contains("<div id=\"L2\"><a href=\"#L2\" tabindex=\"-1\">2</a>next</div>"),
        "{}",
        &html[3 * PIECE..]
    );
}

#[test]
fn colours_are_classes_and_go_on_in_the_next_line() {
    let html = html(b"\x1b[1;31merror:\x1b[0m no\n\x1b[4ma\nb\n");
    let row =
        |n: u8, text: &str| format!("<div id=\"L{n}\"><a href=\"#L{n}\" tabindex=\"-1\">{n}</a>{text}</div>");
    let rows = [
        row(1, "<span class=\"c1 sb\">error:</span> no"),
        row(2, "<span class=\"su\">a</span>"),
        row(3, "<span class=\"su\">b</span>"),
    ];
    assert_eq!(html, format!("<div class=\"lines\">{}</div>", rows.concat()));
}

#[test]
fn what_looks_like_html_is_text() {
    let html = html(b"<script>alert('1')</script> \"&amp;\"\n</div></details>\n");
    assert!(html.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot;&amp;amp;&quot;"), "{html}");
    assert!(html.contains("&lt;/div&gt;&lt;/details&gt;"), "{html}");
}

const PHASES: &[u8] = b"@ build-started\n\
starting phase `unpack'\nsource\nphase `unpack' succeeded after 0.1 seconds\n\
starting phase `build'\nmake\nerror: in phase 'build': uncaught exception:\nphase `build' failed after 3.2 seconds\n\
starting phase `check'\nall is well\nphase `check' succeeded after 7.0 seconds\nthe end\n";

#[test]
fn phases_are_folded_but_for_those_that_failed_and_the_last() {
    let html = html(PHASES);
    for (state, open, name, end) in [
        ("succeeded", "", "unpack", "✓ succeeded after 0.1 s"),
        ("failed", " open", "build", "✗ failed after 3.2 s"),
        ("succeeded", " open", "check", "✓ succeeded after 7.0 s"),
    ] {
        let head = format!(
            "<details class=\"phase\" data-state=\"{state}\"{open}><summary><b>{name}</b> <span class=\"end\">{end}</span></summary>"
        );
        assert!(html.contains(&head), "{head} is not in {html}");
    }
    assert_eq!(html.matches("<details").count(), 3);
    assert!(html.ends_with(">the end</div></div>"), "{html}");
}

#[test]
fn a_phase_that_has_not_ended_says_so() {
    let log = &PHASES[..PHASES.windows(4).position(|word| word == b"make").unwrap() + 5];
    assert!(
        made(&[log], true)
            .html
            .contains("data-state=\"running\" open><summary><b>build</b> <span class=\"end\">goes on<")
    );
    assert!(made(&[log], false).html.contains("data-state=\"left\" open"));
}

#[test]
fn a_part_that_begins_within_a_phase_is_that_phase_if_its_end_is_there() {
    let log = &PHASES[PHASES.windows(4).position(|word| word == b"make").unwrap()..];
    let html = html(log);
    assert!(
        html.starts_with("<details class=\"phase\" data-state=\"failed\" open><summary><b>build</b>"),
        "{html}"
    );
}

#[test]
fn a_log_that_grows_goes_on_where_it_was() {
    let mut pieces = Pieces::from(1000, Numbers::Lines(7));
    assert_eq!(pieces.push(b"half a li"), None);
    let row =
        |n: u8, text: &str| format!("<div id=\"L{n}\"><a href=\"#L{n}\" tabindex=\"-1\">{n}</a>{text}</div>");
    let first = format!(
        "<div data-at=\"1012\" data-line=\"8\"><div class=\"lines\" data-more=\"\">{}</div></div>\n",
        row(7, "half a line")
    );
    assert_eq!(pieces.push(b"ne\n"), Some(first));
    let ended = format!(
        "<div data-at=\"1055\" data-line=\"9\"><div class=\"lines\" data-more=\"\">{}</div><div data-end=\"failed\">✗ failed after 3.2 s</div></div>\n",
        row(8, "phase `configure&#39; failed after 3.2 seconds")
    );
    assert_eq!(pieces.push(b"phase `configure' failed after 3.2 seconds\n"), Some(ended));
    let last = format!(
        "<div data-at=\"1062\" data-line=\"10\"><div class=\"lines\">{}</div></div>\n",
        row(9, "the end")
    );
    assert_eq!(pieces.push(b"the end"), None);
    assert_eq!(pieces.finish(), Some(last));
    assert_eq!(pieces.finish(), None);
}

#[test]
fn where_the_number_of_a_line_is_not_known_it_has_its_place() {
    let mut document = Document::from(4096, Numbers::Bytes);
    document.push(b"one\ntwo\nthr");
    let made = document.finish(true);
    assert!(
        made.html.contains("<div id=\"B4100\"><a href=\"#B4100\" tabindex=\"-1\">4100</a>two</div>"),
        "{}",
        made.html
    );
    assert_eq!((made.at, made.numbers), (4104, Numbers::Bytes));
}
