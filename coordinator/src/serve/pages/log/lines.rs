//! From a log's bytes to the lines that a terminal would show in the end.
//!
//! Bytes that are no UTF-8 are U+FFFD. Sequences that select colours are followed, all others are dropped, and so are
//! control characters; what a carriage return goes back over is dropped when something is written there. However it is
//! cut into chunks, the same bytes give the same lines, in memory that has an end.

use super::style::{Parameter, Style};

/// A line that is longer is given in pieces of so many bytes.
pub(super) const PIECE: usize = 8 << 10;
/// Sequences that select how text is shown have a few parameters; more are not looked at.
const PARAMETERS: usize = 32;
/// What begins like an escape sequence and has not ended after so many characters is none.
const SEQUENCE: u32 = 256;
/// The same for those that carry text, such as addresses of links and titles of windows.
const STRING: u32 = 4096;

/// A line, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'l> {
    /// Its text, in which there is no control character but the tab.
    pub(super) text: &'l str,
    /// From which byte of the text on it is shown how; the first is 0, if there is any text.
    pub(super) runs: &'l [(usize, Style)],
    /// Whether a line begins here; else it goes on.
    pub(super) begins: bool,
    /// Whether it is at its end.
    pub(super) ends: bool,
    /// Where it begins in the log.
    pub(super) at: u64,
}

/// Makes lines from bytes.
#[derive(Debug)]
pub(super) struct Lines {
    /// The bytes of a character that is not whole yet.
    cut: Vec<u8>,
    state: State,
    /// Characters of the sequence that is being read.
    read: u32,
    parameters: Vec<Parameter>,
    /// Whether the sequence can be one that selects how text is shown.
    selects: bool,
    style: Style,
    text: String,
    runs: Vec<(usize, Style)>,
    /// Whether the cursor is back at the beginning.
    returned: bool,
    begins: bool,
    /// Where the next character is in the log, and where the line, or the piece of it, began.
    next: u64,
    at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After ESC.
    Escape,
    /// After ESC and characters that another one must follow.
    Charset,
    /// After ESC and `[`.
    Control,
    /// Within a text that is not shown.
    String,
    /// There, after ESC.
    StringEscape,
}

impl Lines {
    /// Lines of a log from this byte on.
    pub(super) fn from(at: u64) -> Self {
        Self {
            cut: Vec::with_capacity(4),
            state: State::Text,
            read: 0,
            parameters: Vec::new(),
            selects: false,
            style: Style::default(),
            text: String::new(),
            runs: Vec::new(),
            returned: false,
            begins: true,
            next: at,
            at,
        }
    }

    /// Where the line that has not ended begins in the log, or the piece of it that was not given yet.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes, and gives the lines that end in them.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut give: impl FnMut(Line<'_>)) {
        let give = &mut give;
        while !self.cut.is_empty() {
            let Some((first, rest)) = bytes.split_first() else { return };
            self.cut.push(*first);
            let whole = std::str::from_utf8(&self.cut).map(|text| text.chars().next());
            match whole {
                Ok(character) => {
                    self.cut.clear();
                    bytes = rest;
                    if let Some(character) = character {
                        self.character(character, character.len_utf8(), give);
                    }
                }
                Err(error) if error.error_len().is_none() => bytes = rest,
                // The byte belongs to what follows.
                Err(_) => {
                    self.cut.pop();
                    self.broken(give);
                }
            }
        }
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.take(chunk.valid(), give);
            self.cut.extend_from_slice(chunk.invalid());
            let may_go_on = chunks.peek().is_none()
                && std::str::from_utf8(&self.cut).is_err_and(|error| error.error_len().is_none());
            if !self.cut.is_empty() && !may_go_on {
                self.broken(give);
            }
        }
    }

    /// Gives what is left: a line without its end.
    pub(super) fn finish(&mut self, mut give: impl FnMut(Line<'_>)) {
        if !self.cut.is_empty() {
            self.broken(&mut give);
        }
        if !self.text.is_empty() {
            self.give(false, &mut give);
        }
    }

    /// Bytes that are no character.
    fn broken(&mut self, give: &mut impl FnMut(Line<'_>)) {
        let length = self.cut.len();
        self.cut.clear();
        self.character(char::REPLACEMENT_CHARACTER, length, give);
    }

    fn take(&mut self, text: &str, give: &mut impl FnMut(Line<'_>)) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let plain = match self.state {
                State::Text => {
                    let room = PIECE.saturating_sub(if self.returned { 0 } else { self.text.len() });
                    rest.bytes().take(room).take_while(|byte| matches!(byte, b' '..=b'~')).count()
                }
                _ => 0,
            };
            if plain > 0 {
                let (plain, after) = rest.split_at(plain);
                rest = after;
                self.next += plain.len() as u64;
                self.put(plain, give);
            } else {
                rest = rest.get(character.len_utf8()..).unwrap_or_default();
                self.character(character, character.len_utf8(), give);
            }
        }
    }

    /// The next character, which is so long in the log.
    fn character(&mut self, character: char, length: usize, give: &mut impl FnMut(Line<'_>)) {
        self.next += length as u64;
        self.read += 1;
        match self.state {
            State::Text => self.shown(character, give),
            State::Escape => match character {
                '[' => {
                    self.parameters.clear();
                    self.selects = true;
                    self.state = State::Control;
                }
                ']' | 'P' | 'X' | '^' | '_' => self.state = State::String,
                ' '..='/' => self.state = State::Charset,
                'c' => {
                    self.style = Style::default();
                    self.state = State::Text;
                }
                '0'..='~' => self.state = State::Text,
                _ => self.broken_off(character, give),
            },
            State::Charset => match character {
                ' '..='/' if self.read < SEQUENCE => {}
                ' '..='~' => self.state = State::Text,
                _ => self.broken_off(character, give),
            },
            State::Control => self.control(character, give),
            State::String => match character {
                '\u{7}' | '\u{18}' | '\u{1a}' => self.state = State::Text,
                '\u{1b}' => self.state = State::StringEscape,
                '\n' => self.broken_off(character, give),
                _ if self.read > STRING => self.state = State::Text,
                _ => {}
            },
            State::StringEscape => {
                if character == '\\' {
                    self.state = State::Text;
                } else {
                    self.state = State::Escape;
                    self.read = 0;
                    self.next -= length as u64;
                    self.character(character, length, give);
                }
            }
        }
    }

    fn control(&mut self, character: char, give: &mut impl FnMut(Line<'_>)) {
        match character {
            _ if self.read > SEQUENCE => {
                self.state = State::Text;
                self.shown(character, give);
            }
            '0'..='9' => {
                let digit = u16::try_from(u32::from(character) - u32::from('0')).unwrap_or_default();
                if self.parameters.is_empty() {
                    self.parameters.push((0, false));
                }
                if let Some((number, _)) = self.parameters.last_mut() {
                    *number = number.saturating_mul(10).saturating_add(digit);
                }
            }
            ';' | ':' => {
                if self.parameters.is_empty() {
                    self.parameters.push((0, false));
                }
                if self.parameters.len() < PARAMETERS {
                    self.parameters.push((0, character == ':'));
                } else {
                    self.selects = false;
                }
            }
            '<'..='?' | ' '..='/' => self.selects = false,
            '@'..='~' => {
                if character == 'm' && self.selects {
                    if self.parameters.is_empty() {
                        self.style = Style::default();
                    } else {
                        self.style.select(&self.parameters);
                    }
                }
                self.state = State::Text;
            }
            _ => self.broken_off(character, give),
        }
    }

    /// What began as a sequence is none.
    fn broken_off(&mut self, character: char, give: &mut impl FnMut(Line<'_>)) {
        self.state = State::Text;
        self.shown(character, give);
    }

    fn shown(&mut self, character: char, give: &mut impl FnMut(Line<'_>)) {
        match character {
            '\n' => self.end(give),
            '\r' => self.returned = true,
            '\u{1b}' => {
                self.state = State::Escape;
                self.read = 0;
            }
            '\u{8}' => self.back(),
            '\t' => self.put("\t", give),
            _ if character.is_control() => {}
            // They would make the text around them look like another one.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.put("\u{fffd}", give),
            _ => self.put(character.encode_utf8(&mut [0; 4]), give),
        }
    }

    fn put(&mut self, text: &str, give: &mut impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.returned) {
            self.text.clear();
            self.runs.clear();
        }
        match self.runs.last_mut() {
            Some((_, style)) if *style == self.style => {}
            Some((from, style)) if *from == self.text.len() => *style = self.style,
            _ => self.runs.push((self.text.len(), self.style)),
        }
        self.text.push_str(text);
        if self.text.len() >= PIECE {
            self.give(false, give);
        }
    }

    /// Goes back over the last character, as who writes bold by writing twice does.
    fn back(&mut self) {
        if !self.returned && self.text.pop().is_some() {
            while self.runs.last().is_some_and(|(from, _)| *from >= self.text.len()) {
                self.runs.pop();
            }
        }
    }

    fn end(&mut self, give: &mut impl FnMut(Line<'_>)) {
        // A line that was cut right before its end needs no empty piece.
        if self.begins || !self.text.is_empty() {
            self.give(true, give);
        }
        self.at = self.next;
        self.begins = true;
        self.returned = false;
    }

    fn give(&mut self, ends: bool, give: &mut impl FnMut(Line<'_>)) {
        give(Line { text: &self.text, runs: &self.runs, begins: self.begins, ends, at: self.at });
        self.text.clear();
        self.runs.clear();
        self.begins = false;
        self.at = self.next;
    }
}
