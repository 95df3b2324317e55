//! A log as it grows, in pieces that a page's script adds to what is there.
//!
//! Each piece is one line of text: an element with where the log goes on after it (`data-at`, `data-line`), in which are
//! elements of three kinds: lines that go on in the section that is the last one in the page (`data-more`); new sections,
//! as in [`super::document`]; and how the phase that is the last one in the page ended (`data-end`).

use std::fmt::Write as _;

use super::document;
use super::html::Numbers;
use super::lines::{Line, Lines};
use super::phases::Mark;

/// Makes pieces from bytes.
#[derive(Debug)]
pub(super) struct Pieces {
    lines: Lines,
    rest: Inside,
}

#[derive(Debug)]
struct Inside {
    numbers: Numbers,
    html: String,
    open: Open,
    /// Whether the next lines begin a section.
    fresh: bool,
}

/// What is open at the end of the piece that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Lines,
    Phase,
}

impl Pieces {
    /// Pieces of a log from this byte on.
    pub(super) fn from(at: u64, numbers: Numbers) -> Self {
        let rest = Inside { numbers, html: String::new(), open: Open::Nothing, fresh: false };
        Self { lines: Lines::from(at), rest }
    }

    /// Takes the next bytes; what ended in them is a piece.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<String> {
        let Self { lines, rest } = self;
        lines.push(bytes, |line| rest.line(&line));
        self.piece()
    }

    /// The last piece: a line without its end.
    pub(super) fn finish(&mut self) -> Option<String> {
        let Self { lines, rest } = self;
        lines.finish(|line| rest.line(&line));
        self.piece()
    }

    fn piece(&mut self) -> Option<String> {
        self.rest.close();
        if self.rest.html.is_empty() {
            return None;
        }
        let mut piece = String::with_capacity(self.rest.html.len() + 64);
        // Writing to a string does not fail.
        let _ = write!(piece, "<div data-at=\"{}\"", self.lines.at());
        if let Numbers::Lines(number) = self.rest.numbers {
            let _ = write!(piece, " data-line=\"{number}\"");
        }
        piece.push('>');
        piece.push_str(&self.rest.html);
        piece.push_str("</div>\n");
        self.rest.html.clear();
        Some(piece)
    }
}

impl Inside {
    fn line(&mut self, line: &Line<'_>) {
        let mark = Mark::of(line);
        if let Some(Mark::Starts(name)) = &mark {
            self.close();
            document::head(name, None, true, true, &mut self.html);
            self.open = Open::Phase;
        } else if self.open == Open::Nothing {
            let more = if self.fresh { "" } else { " data-more=\"\"" };
            let _ = write!(self.html, "<div class=\"lines\"{more}>");
            self.open = Open::Lines;
        }
        self.fresh = false;
        self.numbers.write(line, &mut self.html);
        if let Some(Mark::Ends(ended)) = mark {
            self.close();
            let state = if ended.succeeded { "succeeded" } else { "failed" };
            let _ = write!(self.html, "<div data-end=\"{state}\">");
            document::end(&ended, &mut self.html);
            self.html.push_str("</div>");
            self.fresh = true;
        }
    }

    fn close(&mut self) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::Lines => self.html.push_str("</div>"),
            Open::Phase => self.html.push_str("</div></details>"),
        }
    }
}
