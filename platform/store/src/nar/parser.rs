//! The one reader of nars: a state machine that takes bytes as they come.

use std::io::BufRead;

use super::{Error, Limits, Visitor, shown};
use crate::framing::padding;

/// Reads one nar from bytes that are pushed into it. Holds the names on the way down and at most one name or
/// target more; contents pass through.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    /// Bytes taken.
    offset: u64,
    state: State,
    /// Which string comes next.
    expect: Expect,
    /// The part of a length or string that came with earlier pieces.
    partial: Vec<u8>,
    /// For each directory on the way down, the name of its last entry.
    stack: Vec<Vec<u8>>,
    executable: bool,
    contents: u64,
    entries: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The 8 bytes of a length.
    Length,
    /// A string of that length, and its padding.
    String(usize),
    /// That many more bytes of contents; then that many zeros.
    Contents(u64, usize),
    Padding(usize),
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Magic,
    Open,
    TypeKey,
    Type,
    ExecutableOrContents,
    ExecutableValue,
    ContentsKey,
    Contents,
    TargetKey,
    Target,
    Close,
    EntryOrClose,
    EntryOpen,
    NameKey,
    Name,
    NodeKey,
    EntryClose,
}

/// The longest string that is a keyword.
const KEYWORD_MAX: u64 = 13;

impl Parser {
    /// Starts before the first byte of a nar.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            offset: 0,
            state: State::Length,
            expect: Expect::Magic,
            partial: Vec::new(),
            stack: Vec::new(),
            executable: false,
            contents: 0,
            entries: 0,
        }
    }

    /// Takes the next bytes and tells `visitor` what they mean. Answers how many belong to the nar: all of them,
    /// until the nar is complete.
    ///
    /// # Errors
    /// At the first byte that cannot be part of a canonical nar within the limits, and those of the visitor.
    /// After an error the parser must not be used further.
    pub fn push(&mut self, bytes: &[u8], visitor: &mut impl Visitor) -> Result<usize, Error> {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != State::Done {
            let taken = match self.state {
                State::Length => self.length(rest, visitor)?,
                State::String(len) => self.string(len, rest, visitor)?,
                State::Contents(left, zeros) => self.pass(left, zeros, rest, visitor)?,
                State::Padding(left) => self.zeros(left, rest, visitor)?,
                State::Done => 0,
            };
            self.offset += taken as u64;
            rest = &rest[taken..];
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether the nar is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Entries seen so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of contents announced so far.
    pub fn contents(&self) -> u64 {
        self.contents
    }

    /// The nar is complete, or this is the error of a stream that ends here.
    ///
    /// # Errors
    /// [`Error::Truncated`] when the nar is not complete.
    pub fn finish(&self) -> Result<(), Error> {
        if self.is_done() {
            return Ok(());
        }
        let expected = match self.state {
            State::Contents(..) => "more contents of a file",
            State::Padding(_) => "padding",
            _ => self.expect.described(),
        };
        Err(Error::Truncated { offset: self.offset, expected })
    }

    fn syntax<T>(&self) -> Result<T, Error> {
        Err(Error::Syntax { offset: self.offset, expected: self.expect.described() })
    }

    fn limit(&self, what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
        if found > limit {
            return Err(Error::Limit { offset: self.offset, what, found, limit });
        }
        Ok(())
    }

    fn length(&mut self, rest: &[u8], visitor: &mut impl Visitor) -> Result<usize, Error> {
        let (taken, bytes) = match (self.partial.is_empty(), rest.first_chunk::<8>()) {
            (true, Some(bytes)) => (8, *bytes),
            _ => {
                let taken = rest.len().min(8 - self.partial.len());
                self.partial.extend_from_slice(&rest[..taken]);
                match self.partial.first_chunk::<8>() {
                    Some(bytes) => (taken, *bytes),
                    None => return Ok(taken),
                }
            }
        };
        self.partial.clear();
        let len = u64::from_le_bytes(bytes);
        match self.expect {
            Expect::Contents => {
                let total = self.contents.saturating_add(len);
                self.limit("contents", total, self.limits.contents)?;
                self.contents = total;
                visitor.regular(self.executable, len)?;
                self.after_contents(len, padding(len), visitor)?;
                return Ok(taken);
            }
            Expect::Name => self.limit("a name", len, self.limits.name as u64)?,
            Expect::Target => self.limit("a link's target", len, self.limits.target as u64)?,
            _ if len > KEYWORD_MAX => return self.syntax(),
            _ => {}
        }
        if len == 0 {
            self.token(&[], visitor)?;
        } else {
            // Within one of the limits above, so it fits.
            self.state = State::String(len as usize);
        }
        Ok(taken)
    }

    fn string(&mut self, len: usize, rest: &[u8], visitor: &mut impl Visitor) -> Result<usize, Error> {
        let whole = len + padding(len as u64);
        if self.partial.is_empty() && rest.len() >= whole {
            self.padded(&rest[..whole], len, visitor)?;
            return Ok(whole);
        }
        let taken = rest.len().min(whole - self.partial.len());
        self.partial.extend_from_slice(&rest[..taken]);
        if self.partial.len() == whole {
            let bytes = std::mem::take(&mut self.partial);
            self.padded(&bytes, len, visitor)?;
            self.partial = bytes;
            self.partial.clear();
        }
        Ok(taken)
    }

    fn padded(&mut self, bytes: &[u8], len: usize, visitor: &mut impl Visitor) -> Result<(), Error> {
        let (token, zeros) = bytes.split_at(len);
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(Error::Syntax { offset: self.offset, expected: "padding of zeros" });
        }
        self.state = State::Length;
        self.token(token, visitor)
    }

    fn pass(
        &mut self,
        left: u64,
        zeros: usize,
        rest: &[u8],
        visitor: &mut impl Visitor,
    ) -> Result<usize, Error> {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        visitor.contents(&rest[..taken])?;
        self.after_contents(left - taken as u64, zeros, visitor)?;
        Ok(taken)
    }

    fn zeros(&mut self, left: usize, rest: &[u8], visitor: &mut impl Visitor) -> Result<usize, Error> {
        let taken = left.min(rest.len());
        if rest[..taken].iter().any(|byte| *byte != 0) {
            return Err(Error::Syntax { offset: self.offset, expected: "padding of zeros" });
        }
        self.after_contents(0, left - taken, visitor)?;
        Ok(taken)
    }

    /// Sets the state for what is left of a file's contents and padding.
    fn after_contents(&mut self, left: u64, zeros: usize, visitor: &mut impl Visitor) -> Result<(), Error> {
        self.state = match (left, zeros) {
            (0, 0) => {
                self.expect = Expect::Close;
                visitor.end_regular()?;
                State::Length
            }
            (0, zeros) => State::Padding(zeros),
            (left, zeros) => State::Contents(left, zeros),
        };
        Ok(())
    }

    /// A whole string has come: the grammar.
    fn token(&mut self, token: &[u8], visitor: &mut impl Visitor) -> Result<(), Error> {
        self.expect = match (self.expect, token) {
            (Expect::Magic, b"nix-archive-1") => Expect::Open,
            (Expect::Open, b"(") => Expect::TypeKey,
            (Expect::TypeKey, b"type") => Expect::Type,
            (Expect::Type, b"regular") => {
                self.executable = false;
                Expect::ExecutableOrContents
            }
            (Expect::Type, b"symlink") => Expect::TargetKey,
            (Expect::Type, b"directory") => {
                self.limit("a depth", self.stack.len() as u64 + 1, self.limits.depth as u64)?;
                self.stack.push(Vec::new());
                visitor.directory()?;
                Expect::EntryOrClose
            }
            (Expect::ExecutableOrContents, b"executable") => {
                self.executable = true;
                Expect::ExecutableValue
            }
            (Expect::ExecutableValue, b"") => Expect::ContentsKey,
            (Expect::ExecutableOrContents | Expect::ContentsKey, b"contents") => Expect::Contents,
            (Expect::TargetKey, b"target") => Expect::Target,
            (Expect::Target, target) if !target.is_empty() && !target.contains(&0) => {
                visitor.symlink(target)?;
                Expect::Close
            }
            (Expect::Close, b")") => self.node_ended(),
            (Expect::EntryOrClose, b"entry") => Expect::EntryOpen,
            (Expect::EntryOrClose, b")") => {
                self.stack.pop();
                visitor.leave()?;
                self.node_ended()
            }
            (Expect::EntryOpen, b"(") => Expect::NameKey,
            (Expect::NameKey, b"name") => Expect::Name,
            (Expect::Name, name) => {
                self.check_name(name)?;
                self.entries += 1;
                self.limit("a number of entries", self.entries, self.limits.entries)?;
                visitor.entry(name)?;
                Expect::NodeKey
            }
            (Expect::NodeKey, b"node") => Expect::Open,
            (Expect::EntryClose, b")") => Expect::EntryOrClose,
            _ => return self.syntax(),
        };
        Ok(())
    }

    fn node_ended(&mut self) -> Expect {
        if self.stack.is_empty() {
            self.state = State::Done;
        }
        Expect::EntryClose
    }

    fn check_name(&mut self, name: &[u8]) -> Result<(), Error> {
        let previous = self.stack.last_mut();
        let problem = if name.is_empty() {
            "has no name"
        } else if name == b"." || name == b".." {
            "would lead out of its directory"
        } else if name.contains(&b'/') || name.contains(&0) {
            "has a slash or a NUL in its name"
        } else {
            match previous {
                Some(previous) if name > previous.as_slice() => {
                    previous.clear();
                    previous.extend_from_slice(name);
                    return Ok(());
                }
                _ => "is not after the entry before it in the order of bytes",
            }
        };
        Err(Error::Name { offset: self.offset, name: shown(name), problem })
    }
}

impl Expect {
    fn described(self) -> &'static str {
        match self {
            Self::Magic => "'nix-archive-1'",
            Self::Open | Self::EntryOpen => "'('",
            Self::TypeKey => "'type'",
            Self::Type => "'regular', 'symlink' or 'directory'",
            Self::ExecutableOrContents => "'executable' or 'contents'",
            Self::ExecutableValue => "an empty string after 'executable'",
            Self::ContentsKey => "'contents'",
            Self::Contents => "the contents of a file",
            Self::TargetKey => "'target'",
            Self::Target => "a link's target, not empty and without NUL",
            Self::Close | Self::EntryClose => "')'",
            Self::EntryOrClose => "'entry' or ')'",
            Self::NameKey => "'name'",
            Self::Name => "the name of an entry",
            Self::NodeKey => "'node'",
        }
    }
}

/// Reads exactly one nar from `from` and not a byte further, so that a protocol can go on after it. Answers the
/// size of the nar.
///
/// # Errors
/// When the stream fails or ends, the nar is not canonical or beyond the limits, and those of the visitor.
pub fn parse(from: &mut impl BufRead, limits: Limits, visitor: &mut impl Visitor) -> Result<u64, Error> {
    let mut parser = Parser::new(limits);
    while !parser.is_done() {
        let bytes = match from.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Io { action: "read", error }),
        };
        if bytes.is_empty() {
            parser.finish()?;
        }
        let taken = parser.push(bytes, visitor)?;
        from.consume(taken);
    }
    Ok(parser.offset())
}
