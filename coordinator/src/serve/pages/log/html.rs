//! Lines as HTML, numbered.

use std::fmt::Write as _;

use super::lines::Line;

/// What the lines of a part of a log are numbered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    /// By their number in the log, of which this is the next.
    Lines(u64),
    /// By where they begin: how many lines are before them is not known.
    Bytes,
}

impl Numbers {
    /// Writes a line, or a piece of it, as an element of its own.
    pub(super) fn write(&mut self, line: &Line<'_>, out: &mut String) {
        // Writing to a string does not fail.
        let _ = match self {
            _ if !line.begins => write!(out, "<div class=\"on\">"),
            Self::Lines(number) => {
                write!(out, "<div id=\"L{number}\"><a href=\"#L{number}\" tabindex=\"-1\">{number}</a>")
            }
            Self::Bytes => {
                let at = line.at;
                write!(out, "<div id=\"B{at}\"><a href=\"#B{at}\" tabindex=\"-1\">{at}</a>")
            }
        };
        text(line, out);
        out.push_str("</div>");
        if let Self::Lines(number) = self {
            *number += u64::from(line.begins);
        }
    }
}

fn text(line: &Line<'_>, out: &mut String) {
    let ends = line.runs.iter().skip(1).map(|(from, _)| *from).chain([line.text.len()]);
    for ((from, style), to) in line.runs.iter().zip(ends) {
        let text = line.text.get(*from..to).unwrap_or_default();
        if style.is_plain() {
            escape(text, out);
        } else if !text.is_empty() {
            out.push_str("<span class=\"");
            style.classes(out);
            out.push_str("\">");
            escape(text, out);
            out.push_str("</span>");
        }
    }
}

/// Text as HTML, for the inside of elements and of attributes in double quotes.
pub(super) fn escape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let mut characters = from.chars();
        out.push_str(match characters.next() {
            Some('&') => "&amp;",
            Some('<') => "&lt;",
            Some('>') => "&gt;",
            Some('"') => "&quot;",
            _ => "&#39;",
        });
        rest = characters.as_str();
    }
    out.push_str(rest);
}
