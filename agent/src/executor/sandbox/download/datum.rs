//! The few Scheme data that derivations of downloads have: strings, symbols and lists, as Guile's `write` prints them.

/// The most bytes of a text that are read. Guix's table of mirrors has some 10 KiB.
pub(super) const SIZE_MAX: usize = 1024 * 1024;
/// The deepest nesting.
const DEPTH_MAX: usize = 32;

/// A datum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Datum {
    /// In quotes.
    Text(String),
    /// A bare word: symbols, and also numbers and `#t`, which mean nothing here.
    Symbol(String),
    /// In parentheses.
    List(Vec<Datum>),
}

/// Why a text is no datum that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}, expected {expected}")]
pub(super) struct Error {
    /// Bytes from the start of the text.
    pub(super) offset: usize,
    /// What should have been there.
    pub(super) expected: &'static str,
}

impl Datum {
    /// Reads the one datum of a text.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > SIZE_MAX {
            return Err(Error { offset: SIZE_MAX, expected: "the end of the text" });
        }
        let text = std::str::from_utf8(text)
            .map_err(|error| Error { offset: error.valid_up_to(), expected: "UTF-8" })?;
        let mut reader = Reader { text, at: 0 };
        let datum = reader.datum(0)?;
        reader.space();
        match reader.peek() {
            None => Ok(datum),
            Some(_) => reader.fail("the end of the text"),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, expected: &'static str) -> Result<T, Error> {
        Err(Error { offset: self.at, expected })
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// Passes over white space and comments.
    fn space(&mut self) {
        while let Some(next) = self.peek() {
            if next == ';' {
                while self.next().is_some_and(|c| c != '\n') {}
            } else if next.is_whitespace() {
                self.next();
            } else {
                return;
            }
        }
    }

    fn datum(&mut self, depth: usize) -> Result<Datum, Error> {
        self.space();
        match self.peek() {
            Some('(') if depth >= DEPTH_MAX => self.fail("less nesting"),
            Some('(') => {
                self.next();
                self.list(depth)
            }
            Some('"') => {
                self.next();
                self.string().map(Datum::Text)
            }
            Some(c) if is_of_word(c) => Ok(Datum::Symbol(self.word())),
            _ => self.fail("a string, a symbol or a list"),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Datum, Error> {
        let mut items = Vec::new();
        loop {
            self.space();
            if self.peek() == Some(')') {
                self.next();
                return Ok(Datum::List(items));
            }
            items.push(self.datum(depth + 1)?);
        }
    }

    fn word(&mut self) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let word = &rest[..rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word.to_owned()
    }

    fn string(&mut self) -> Result<String, Error> {
        let mut string = String::new();
        loop {
            let before = self.at;
            match self.next() {
                Some('"') => return Ok(string),
                Some('\\') => {
                    let Some(c) = self.escaped() else {
                        return Err(Error { offset: before, expected: "an escape of a string" });
                    };
                    string.push(c);
                }
                Some(c) => string.push(c),
                None => return self.fail("the end of a string"),
            }
        }
    }

    /// What an escape stands for, after its backslash.
    fn escaped(&mut self) -> Option<char> {
        Some(match self.next()? {
            c @ ('"' | '\\' | '/' | '(') => c,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'v' => '\x0b',
            'f' => '\x0c',
            '0' => '\0',
            'x' => self.hex(2)?,
            'u' => self.hex(4)?,
            'U' => self.hex(6)?,
            _ => return None,
        })
    }

    fn hex(&mut self, digits: usize) -> Option<char> {
        let mut value = 0;
        for _ in 0..digits {
            value = value * 16 + self.next()?.to_digit(16)?;
        }
        char::from_u32(value)
    }
}

fn is_of_word(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !matches!(c, '(' | ')' | '"' | ';' | '\'' | '`' | ',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Datum {
        Datum::Text(text.into())
    }

    #[test]
    fn strings_lists_and_symbols_are_read() {
        let table =
            Datum::parse(b"((gnu \"https://a/\" \"ftp://b/\") ; why\n (netfilter.org \"c\")) ").unwrap();
        let symbol = |name: &str| Datum::Symbol(name.into());
        let gnu = Datum::List(vec![symbol("gnu"), text("https://a/"), text("ftp://b/")]);
        let other = Datum::List(vec![symbol("netfilter.org"), text("c")]);
        assert_eq!(table, Datum::List(vec![gnu, other]));
        assert_eq!(Datum::parse(b"()"), Ok(Datum::List(Vec::new())));
    }

    #[test]
    fn escapes_stand_for_what_guile_wrote_by_them() {
        let written = br#""a\"b\\c\n\x7f\u00e9\U01f600(\t""#;
        assert_eq!(Datum::parse(written), Ok(text("a\"b\\c\n\x7f\u{e9}\u{1f600}(\t")));
    }

    #[test]
    fn what_is_no_datum_is_said_with_its_place() {
        for (bad, offset) in [
            (&b""[..], 0),
            (b"\"a", 2),
            (b"(a", 2),
            (b")", 0),
            (b"a b", 2),
            (b"\"\\q\"", 1),
            (b"\"\\xg0\"", 1),
            (b"'a", 0),
            (b"\xff", 0),
            (b"\"\\ud800\"", 1),
        ] {
            assert_eq!(Datum::parse(bad).unwrap_err().offset, offset, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn nesting_has_an_end() {
        assert!(Datum::parse(&b"(".repeat(SIZE_MAX)).is_err());
        assert!(Datum::parse(&b"(".repeat(SIZE_MAX + 1)).is_err());
        let deep = [b"(".repeat(DEPTH_MAX), b")".repeat(DEPTH_MAX)].concat();
        assert!(Datum::parse(&deep).is_ok());
    }
}
