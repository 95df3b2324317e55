//! A part of a log as it is shown in a page: its lines, folded by the phases of the build.

use super::html::{Numbers, escape};
use super::lines::{Line, Lines};
use super::phases::{Ended, Mark};

/// A part of a log, made from its bytes as they come. Its size is some times that of the bytes.
#[derive(Debug)]
pub(super) struct Document {
    lines: Lines,
    rest: Inside,
}

#[derive(Debug)]
struct Inside {
    numbers: Numbers,
    sections: Vec<Section>,
    /// Whether the next line belongs to no section that is there.
    fresh: bool,
}

/// Lines that belong together.
#[derive(Debug, Default)]
struct Section {
    phase: Option<Phase>,
    html: String,
}

#[derive(Debug)]
struct Phase {
    name: String,
    ended: Option<Ended>,
}

/// What was made of a part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Made {
    /// Its HTML.
    pub(super) html: String,
    /// How lines that follow are numbered.
    pub(super) numbers: Numbers,
    /// Where they begin. Lines that have not ended are in the HTML only if nothing follows.
    pub(super) at: u64,
}

impl Document {
    /// A part of a log that begins at this byte.
    pub(super) fn from(at: u64, numbers: Numbers) -> Self {
        Self { lines: Lines::from(at), rest: Inside { numbers, sections: Vec::new(), fresh: true } }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let Self { lines, rest } = self;
        lines.push(bytes, |line| rest.line(&line));
    }

    /// All of it. Does the log go on, the last phase has not ended, and a line that has not ended is left for those
    /// that follow.
    pub(super) fn finish(mut self, goes_on: bool) -> Made {
        let at = self.lines.at();
        if !goes_on {
            let Self { lines, rest } = &mut self;
            lines.finish(|line| rest.line(&line));
        }
        let mut html = String::new();
        let last = self.rest.sections.iter().rposition(|section| section.phase.is_some());
        for (number, section) in self.rest.sections.iter().enumerate() {
            section.write(last == Some(number), goes_on, &mut html);
        }
        Made { html, numbers: self.rest.numbers, at }
    }
}

impl Inside {
    fn line(&mut self, line: &Line<'_>) {
        let mark = Mark::of(line);
        if let Some(Mark::Starts(name)) = &mark {
            let phase = Phase { name: name.clone(), ended: None };
            self.sections.push(Section { phase: Some(phase), html: String::new() });
        } else if self.fresh {
            self.sections.push(Section::default());
        }
        self.fresh = false;
        let first = self.sections.len() == 1;
        let Some(section) = self.sections.last_mut() else { return };
        self.numbers.write(line, &mut section.html);
        if let Some(Mark::Ends(ended)) = mark {
            self.fresh = section.end(ended, first);
        }
    }
}

impl Section {
    /// The phase of these lines has ended. Where the first lines of a part say so, they are the last ones of that phase.
    fn end(&mut self, ended: Ended, first: bool) -> bool {
        match &mut self.phase {
            Some(phase) if phase.name == ended.name => phase.ended = Some(ended),
            None if first => self.phase = Some(Phase { name: ended.name.clone(), ended: Some(ended) }),
            _ => return false,
        }
        true
    }

    fn write(&self, last: bool, goes_on: bool, out: &mut String) {
        let Some(phase) = &self.phase else {
            out.push_str("<div class=\"lines\">");
            out.push_str(&self.html);
            out.push_str("</div>");
            return;
        };
        let failed = phase.ended.as_ref().is_some_and(|ended| !ended.succeeded);
        head(&phase.name, phase.ended.as_ref(), last || failed, last && goes_on, out);
        out.push_str(&self.html);
        out.push_str("</div></details>");
    }
}

/// The beginning of the element of a phase.
pub(super) fn head(name: &str, ended: Option<&Ended>, open: bool, goes_on: bool, out: &mut String) {
    let state = match ended {
        Some(ended) if ended.succeeded => "succeeded",
        Some(_) => "failed",
        None if goes_on => "running",
        None => "left",
    };
    out.push_str("<details class=\"phase\" data-state=\"");
    out.push_str(state);
    out.push_str(if open { "\" open><summary><b>" } else { "\"><summary><b>" });
    escape(name, out);
    out.push_str("</b> <span class=\"end\">");
    match ended {
        Some(ended) => end(ended, out),
        None => out.push_str(if goes_on { "goes on" } else { "no end of it is here" }),
    }
    out.push_str("</span></summary><div class=\"lines\">");
}

/// How a phase ended, in words.
pub(super) fn end(ended: &Ended, out: &mut String) {
    out.push_str(if ended.succeeded { "✓ succeeded after " } else { "✗ failed after " });
    escape(&ended.seconds, out);
    out.push_str(" s");
}
