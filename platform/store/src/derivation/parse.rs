//! The strict reader of derivations. One pass, no backtracking, no recursion.

use super::{Derivation, Fixed, Input, Output};
use crate::path::{self, StorePath};

/// Why a text is no derivation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot parse the derivation: at byte {offset}, expected {expected}")]
pub struct ParseError {
    /// Where in the text, in bytes from its start.
    pub offset: usize,
    /// What should have been there.
    pub expected: &'static str,
}

pub(super) fn parse(text: &[u8]) -> Result<Derivation, ParseError> {
    let mut parser = Parser { text, at: 0 };
    parser.token(b"Derive(", "'Derive('")?;
    let outputs = parser.list(4, Parser::output)?;
    if outputs.is_empty() {
        return parser.fail("at least one output");
    }
    if outputs.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return parser.fail("outputs in ascending order before this, each name once");
    }
    if outputs.iter().any(|output| output.fixed.is_some()) && (outputs.len() > 1 || outputs[0].name != "out")
    {
        return parser.fail("a fixed output to be the only one and named 'out' before this");
    }
    parser.token(b",", "','")?;
    let inputs = parser.list(32, Parser::input)?;
    if inputs.windows(2).any(|pair| pair[0].derivation >= pair[1].derivation) {
        return parser.fail("input derivations in ascending order before this, each once");
    }
    parser.token(b",", "','")?;
    let sources = parser.list(4, |parser| parser.path())?;
    if sources.windows(2).any(|pair| pair[0] >= pair[1]) {
        return parser.fail("sources in ascending order before this, each once");
    }
    parser.token(b",", "','")?;
    let system = parser.word("a system such as 'x86_64-linux'")?.to_owned();
    parser.token(b",", "','")?;
    let builder = parser.bytes()?;
    parser.token(b",", "','")?;
    let args = parser.list(8, Parser::bytes)?;
    parser.token(b",", "','")?;
    let env = parser.list(16, Parser::variable)?;
    if env.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return parser.fail("variables in ascending order before this, each once");
    }
    parser.token(b")", "')'")?;
    if parser.at != text.len() {
        return parser.fail("the end of the text");
    }
    Ok(Derivation { outputs, inputs, sources, system, builder, args, env })
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, expected: &'static str) -> Result<T, ParseError> {
        Err(ParseError { offset: self.at, expected })
    }

    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    fn token(&mut self, token: &[u8], expected: &'static str) -> Result<(), ParseError> {
        if !self.rest().starts_with(token) {
            return self.fail(expected);
        }
        self.at += token.len();
        Ok(())
    }

    /// `[ITEM,ITEM,…]`. `usual` is how many items such a list has as a rule: room for them is made when there
    /// is a first one, so that the capacity never follows a stranger's number.
    fn list<T>(
        &mut self,
        usual: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        self.token(b"[", "'['")?;
        if self.rest().first() == Some(&b']') {
            self.at += 1;
            return Ok(Vec::new());
        }
        let mut items = Vec::with_capacity(usual);
        loop {
            items.push(item(self)?);
            match self.rest().first() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(items);
                }
                _ => return self.fail("',' or ']'"),
            }
        }
    }

    fn output(&mut self) -> Result<Output, ParseError> {
        self.token(b"(", "'('")?;
        let name = self.output_name()?;
        self.token(b",", "','")?;
        let path = self.path()?;
        self.token(b",", "','")?;
        let algorithm = self.plain("a hash algorithm")?;
        self.token(b",", "','")?;
        let start = self.at;
        let hash = self.plain("a hash")?;
        let fixed = if algorithm.is_empty() && hash.is_empty() {
            None
        } else {
            let (recursive, algorithm) = match algorithm.strip_prefix("r:") {
                Some(algorithm) => (true, algorithm),
                None => (false, algorithm),
            };
            let named = !algorithm.is_empty()
                && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            let hash = data_encoding::HEXLOWER.decode(hash.as_bytes());
            match hash {
                Ok(hash) if named && !hash.is_empty() => {
                    Some(Fixed { recursive, algorithm: algorithm.to_owned(), hash })
                }
                _ => {
                    let expected = "a hash algorithm and lower-case hexadecimal digits, or neither";
                    return Err(ParseError { offset: start, expected });
                }
            }
        };
        self.token(b")", "')'")?;
        Ok(Output { name, path, fixed })
    }

    fn input(&mut self) -> Result<Input, ParseError> {
        self.token(b"(", "'('")?;
        let derivation = self.path()?;
        if !derivation.is_derivation() {
            return self.fail("the path of a derivation (….drv) before this");
        }
        self.token(b",", "','")?;
        let outputs = self.list(1, Self::output_name)?;
        if outputs.is_empty() || outputs.windows(2).any(|pair| pair[0] >= pair[1]) {
            return self.fail("one or more names of outputs in ascending order before this, each once");
        }
        self.token(b")", "')'")?;
        Ok(Input { derivation, outputs })
    }

    fn variable(&mut self) -> Result<(Vec<u8>, Vec<u8>), ParseError> {
        self.token(b"(", "'('")?;
        let name = self.bytes()?;
        self.token(b",", "','")?;
        let value = self.bytes()?;
        self.token(b")", "')'")?;
        Ok((name, value))
    }

    fn output_name(&mut self) -> Result<String, ParseError> {
        const EXPECTED: &str = "the name of an output";
        let start = self.at;
        let name = self.word(EXPECTED)?;
        // It becomes part of a store name.
        match path::check_name(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(_) => Err(ParseError { offset: start, expected: EXPECTED }),
        }
    }

    fn path(&mut self) -> Result<StorePath, ParseError> {
        const EXPECTED: &str = "a store path in quotes";
        let start = self.at;
        let text = self.plain(EXPECTED)?;
        StorePath::parse(text).map_err(|_| ParseError { offset: start, expected: EXPECTED })
    }

    /// A quoted string that is not empty and needs no escapes.
    fn word(&mut self, expected: &'static str) -> Result<&'a str, ParseError> {
        let start = self.at;
        match self.plain(expected)? {
            "" => Err(ParseError { offset: start, expected }),
            text => Ok(text),
        }
    }

    /// A quoted string of printable ASCII without escapes, borrowed from the text.
    fn plain(&mut self, expected: &'static str) -> Result<&'a str, ParseError> {
        let start = self.at;
        self.token(b"\"", expected)?;
        let rest = self.rest();
        let len = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || !(32..127).contains(&byte));
        match len {
            Some(len) if rest[len] == b'"' => {
                self.at += len + 1;
                // ASCII, as checked above.
                std::str::from_utf8(&rest[..len]).map_err(|_| ParseError { offset: start, expected })
            }
            _ => Err(ParseError { offset: start, expected }),
        }
    }

    /// A quoted string of any bytes, with `\" \\ \n \r \t` for those five and for nothing else.
    fn bytes(&mut self) -> Result<Vec<u8>, ParseError> {
        self.token(b"\"", "a quoted string")?;
        let mut bytes = Vec::new();
        loop {
            let rest = self.rest();
            let Some(len) = rest.iter().position(|&byte| needs_escape(byte)) else {
                self.at = self.text.len();
                return self.fail("'\"' at the end of a string");
            };
            bytes.extend_from_slice(&rest[..len]);
            self.at += len;
            match rest[len] {
                b'"' => {
                    self.at += 1;
                    return Ok(bytes);
                }
                b'\\' => {
                    let byte = match rest.get(len + 1) {
                        Some(b'"') => b'"',
                        Some(b'\\') => b'\\',
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        _ => return self.fail("one of the escapes \\\" \\\\ \\n \\r \\t"),
                    };
                    bytes.push(byte);
                    self.at += 2;
                }
                // A second way to write a string would be a second hash for one derivation.
                _ => return self.fail("newline, carriage return or tab as an escape"),
            }
        }
    }
}

/// Whether a byte cannot stand for itself in a string.
pub(super) fn needs_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'\n' | b'\r' | b'\t')
}
