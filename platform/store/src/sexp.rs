//! S-expressions as libgcrypt writes and reads them: keys, signatures and access lists are such.

use std::fmt;

/// The most bytes of text that are read.
pub const SIZE_MAX: usize = 1024 * 1024;

/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 32;

/// Why a text is no s-expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse the s-expression: at byte {offset}, expected {expected}")]
pub struct Error {
    /// Bytes from the start of the text.
    pub offset: usize,
    /// What should have been there.
    pub expected: &'static str,
}

/// Bytes, or a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sexp {
    /// Bytes, in whatever form they were written.
    Atom(Vec<u8>),
    /// A list.
    List(Vec<Sexp>),
}

impl Sexp {
    /// Reads one s-expression, which must be all of the text but for white space. Atoms may be tokens, strings
    /// in quotes, `#HEX#`, or `LENGTH:BYTES`.
    ///
    /// # Errors
    /// When the text is something else, longer than [`SIZE_MAX`] or nested deeper than [`DEPTH_MAX`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > SIZE_MAX {
            return Err(Error { offset: SIZE_MAX, expected: "the end of the text" });
        }
        let mut parser = Parser { text, at: 0 };
        let sexp = parser.sexp(0)?;
        parser.space();
        if parser.at < text.len() {
            return parser.fail("the end of the text");
        }
        Ok(sexp)
    }

    /// Reads any number of s-expressions, one after another; otherwise as [`Sexp::parse`].
    ///
    /// # Errors
    /// As [`Sexp::parse`]; the offset is from the start of the whole text.
    pub fn parse_all(text: &[u8]) -> Result<Vec<Self>, Error> {
        if text.len() > SIZE_MAX {
            return Err(Error { offset: SIZE_MAX, expected: "the end of the text" });
        }
        let mut parser = Parser { text, at: 0 };
        let mut all = Vec::new();
        loop {
            parser.space();
            if parser.at == text.len() {
                return Ok(all);
            }
            all.push(parser.sexp(0)?);
        }
    }

    /// An atom of the bytes of a word.
    pub fn word(word: &str) -> Self {
        Self::Atom(word.as_bytes().to_vec())
    }

    /// A list whose first item is a word.
    pub fn tagged(tag: &str, rest: impl IntoIterator<Item = Sexp>) -> Self {
        Self::List(std::iter::once(Self::word(tag)).chain(rest).collect())
    }

    /// The bytes of an atom.
    pub fn atom(&self) -> Option<&[u8]> {
        match self {
            Self::Atom(bytes) => Some(bytes),
            Self::List(_) => None,
        }
    }

    /// What follows `tag` in a list that starts with it.
    pub fn after(&self, tag: &str) -> Option<&[Sexp]> {
        match self {
            Self::List(items) => match items.split_first() {
                Some((Self::Atom(first), rest)) if first == tag.as_bytes() => Some(rest),
                _ => None,
            },
            Self::Atom(_) => None,
        }
    }

    /// What follows `tag` in the first item of this list that is a list starting with it.
    pub fn find(&self, tag: &str) -> Option<&[Sexp]> {
        match self {
            Self::List(items) => items.iter().find_map(|item| item.after(tag)),
            Self::Atom(_) => None,
        }
    }

    /// The bytes of `(tag BYTES)` within this list.
    pub fn value(&self, tag: &str) -> Option<&[u8]> {
        match self.find(tag)? {
            [Self::Atom(bytes)] => Some(bytes),
            _ => None,
        }
    }
}

/// On one line: atoms as tokens where they can be, in quotes where they are printable, else as `#HEX#`.
impl fmt::Display for Sexp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(items) => {
                f.write_str("(")?;
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        f.write_str(" ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str(")")
            }
            Self::Atom(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if is_token(bytes) => f.write_str(text),
                Ok(text) if is_quotable(bytes) => write!(f, "\"{text}\""),
                _ => write!(f, "#{}#", data_encoding::HEXUPPER.encode(bytes)),
            },
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| !first.is_ascii_digit())
        && bytes.iter().all(|byte| is_token_byte(*byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-./_:*+=".contains(&byte)
}

fn is_quotable(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| (32..127).contains(byte) && !b"\"\\".contains(byte))
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn fail<T>(&self, expected: &'static str) -> Result<T, Error> {
        Err(Error { offset: self.at, expected })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn sexp(&mut self, depth: usize) -> Result<Sexp, Error> {
        self.space();
        match self.peek() {
            Some(b'(') if depth < DEPTH_MAX => {
                self.at += 1;
                let mut items = Vec::new();
                loop {
                    self.space();
                    if self.peek() == Some(b')') {
                        self.at += 1;
                        return Ok(Sexp::List(items));
                    }
                    items.push(self.sexp(depth + 1)?);
                }
            }
            Some(b'(') => self.fail("less nesting"),
            Some(b'#') => self.hex(),
            Some(b'"') => self.quoted(),
            Some(byte) if byte.is_ascii_digit() => self.counted(),
            Some(byte) if is_token_byte(byte) => {
                let rest = &self.text[self.at..];
                let len = rest.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(rest.len());
                self.at += len;
                Ok(Sexp::Atom(rest[..len].to_vec()))
            }
            _ => self.fail("'(', a token, a string, #HEX# or a length"),
        }
    }

    fn hex(&mut self) -> Result<Sexp, Error> {
        self.at += 1;
        let (mut bytes, mut high) = (Vec::new(), None);
        loop {
            self.space();
            let digit = match self.peek() {
                Some(b'#') if high.is_none() => {
                    self.at += 1;
                    return Ok(Sexp::Atom(bytes));
                }
                Some(byte) => char::from(byte).to_digit(16),
                None => None,
            };
            let Some(digit) = digit else { return self.fail("pairs of hexadecimal digits, then '#'") };
            self.at += 1;
            match high.take() {
                None => high = Some(digit as u8),
                Some(high) => bytes.push(high << 4 | digit as u8),
            }
        }
    }

    fn quoted(&mut self) -> Result<Sexp, Error> {
        self.at += 1;
        let mut bytes = Vec::new();
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return Ok(Sexp::Atom(bytes)),
                b'\\' => {
                    let escaped = match self.peek() {
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(b'b') => 8,
                        Some(b'f') => 12,
                        Some(b'v') => 11,
                        Some(byte @ (b'"' | b'\'' | b'\\')) => byte,
                        Some(b'x') => {
                            let digits = self.text.get(self.at + 1..self.at + 3);
                            match digits.and_then(|hex| data_encoding::HEXLOWER_PERMISSIVE.decode(hex).ok()) {
                                Some(byte) => {
                                    self.at += 2;
                                    byte[0]
                                }
                                None => return self.fail("two hexadecimal digits"),
                            }
                        }
                        _ => return self.fail("an escape that is known"),
                    };
                    self.at += 1;
                    bytes.push(escaped);
                }
                byte => bytes.push(byte),
            }
        }
        self.fail("'\"' at the end of a string")
    }

    fn counted(&mut self) -> Result<Sexp, Error> {
        const EXPECTED: &str = "a length, a colon and that many bytes";
        let mut len = 0usize;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            len = len.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
            self.at += 1;
        }
        if self.peek() != Some(b':') {
            return self.fail(EXPECTED);
        }
        let start = self.at + 1;
        match start.checked_add(len).and_then(|end| self.text.get(start..end)) {
            Some(bytes) => {
                self.at = start + len;
                Ok(Sexp::Atom(bytes.to_vec()))
            }
            None => self.fail(EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_forms_of_an_atom_are_the_same_bytes() {
        for text in ["(ecc)", "( \"ecc\"\n )", "(#65 6363#)", "(3:ecc)", "(\"\\x65cc\")"] {
            assert_eq!(Sexp::parse(text.as_bytes()), Ok(Sexp::List(vec![Sexp::word("ecc")])), "{text}");
        }
    }

    #[test]
    fn deep_nesting_and_open_ends_are_refused() {
        assert_eq!(Sexp::parse(&[b'('; 100_000]).unwrap_err().expected, "less nesting");
        for text in ["", "(", ")", "a b", "#a#", "\"a", "99999999999999999999:a", "#", "1", "\"\\x6\""] {
            assert!(Sexp::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn several_are_read_one_after_another() {
        assert_eq!(Sexp::parse_all(b" \n"), Ok(vec![]));
        let two = [Sexp::List(vec![Sexp::word("a")]), Sexp::word("b")];
        assert_eq!(Sexp::parse_all(b"(a)\n\nb\n").as_deref(), Ok(&two[..]));
        assert_eq!(Sexp::parse_all(b"(a)\n(b").unwrap_err().offset, 6);
    }

    fn sexps() -> impl Strategy<Value = Sexp> {
        let atoms = prop_oneof![any::<Vec<u8>>(), "[a-z0-9 \"-]{0,9}".prop_map(String::into_bytes)];
        atoms
            .prop_map(Sexp::Atom)
            .prop_recursive(4, 30, 5, |inner| proptest::collection::vec(inner, 0..5).prop_map(Sexp::List))
    }

    proptest! {
        #[test]
        fn printed_text_reads_back(sexp in sexps()) {
            prop_assert_eq!(Sexp::parse(sexp.to_string().as_bytes()), Ok(sexp));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in "[(#\"\\\\)0-9a-f: ]{0,40}", other in any::<Vec<u8>>()) {
            let _ = Sexp::parse(bytes.as_bytes());
            let _ = Sexp::parse(&other);
        }
    }
}
