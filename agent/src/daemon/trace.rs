//! What the daemon prints during a build: its trace, the builders' output, and its own words.

/// The longest line that can be a line of the trace; a longer one is the daemon's own words.
const LINE_LIMIT: usize = 64 * 1024;

/// Something that happened during a build. Everything is bytes as they came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A builder was started.
    Started {
        /// The derivation's path.
        derivation: &'a [u8],
        /// The builder's process, as the daemon numbers it.
        process: Option<u32>,
    },
    /// A piece of a builder's output.
    Output(&'a [u8]),
    /// A piece of the daemon's own words.
    Words(&'a [u8]),
    /// A build succeeded.
    Succeeded {
        /// The derivation's path.
        derivation: &'a [u8],
    },
    /// A build failed.
    Failed {
        /// The derivation's path.
        derivation: &'a [u8],
        /// A word such as `timeout`, or a number with a sentence.
        reason: &'a [u8],
    },
    /// A line of the trace about something else.
    Other(&'a [u8]),
}

/// Reads what comes in any pieces. The builders' output is counted by the daemon, so what looks like a line of the
/// trace in it is output.
#[derive(Debug, Default)]
pub struct TraceParser {
    state: State,
    line: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    LineStart,
    /// In a line that may be one of the trace.
    Trace,
    /// In a line of the daemon's own words.
    Words,
    /// In a builder's output, with so many bytes to come.
    Output(u64),
}

impl TraceParser {
    /// A parser at the start of a build.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a piece, giving each event to `taker` until that fails.
    ///
    /// # Errors
    /// What `taker` says.
    pub fn feed<E>(
        &mut self,
        mut piece: &[u8],
        mut taker: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(&first) = piece.first() {
            match self.state {
                State::LineStart => {
                    self.state = if first == b'@' { State::Trace } else { State::Words };
                }
                State::Output(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    let (output, rest) = piece.split_at(most);
                    let left = left - most as u64;
                    self.state = if left == 0 { State::LineStart } else { State::Output(left) };
                    piece = rest;
                    taker(Event::Output(output))?;
                }
                State::Words => {
                    let end = line_end(piece);
                    let (words, rest) = piece.split_at(end.unwrap_or(piece.len()));
                    if end.is_some() {
                        self.state = State::LineStart;
                    }
                    piece = rest;
                    taker(Event::Words(words))?;
                }
                State::Trace => {
                    let end = line_end(piece);
                    let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
                    piece = rest;
                    self.line.extend_from_slice(part);
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        self.state = State::LineStart;
                        self.whole_line(&line, &mut taker)?;
                    } else if self.line.len() > LINE_LIMIT {
                        let line = std::mem::take(&mut self.line);
                        self.state = State::Words;
                        taker(Event::Words(&line))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn whole_line<E>(
        &mut self,
        line: &[u8],
        taker: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let Some(trace) = text.strip_prefix(b"@ ") else { return taker(Event::Words(line)) };
        let (name, rest) = split_word(trace);
        let (first, rest) = split_word(rest);
        match name {
            b"build-log" => {
                let size = number(rest);
                match (number(first), size) {
                    (Some(_), Some(0)) => Ok(()),
                    (Some(_), Some(size)) => {
                        self.state = State::Output(size);
                        Ok(())
                    }
                    _ => taker(Event::Words(line)),
                }
            }
            b"build-started" => {
                // The last word is the process; the log file's name before it has no spaces, but nobody promised it.
                let process =
                    rest.rsplit(|b| *b == b' ').next().and_then(number).and_then(|n| u32::try_from(n).ok());
                taker(Event::Started { derivation: first, process })
            }
            b"build-succeeded" => taker(Event::Succeeded { derivation: first }),
            b"build-failed" => {
                let reason = rest.strip_prefix(b"- ").unwrap_or(rest);
                taker(Event::Failed { derivation: first, reason })
            }
            _ => taker(Event::Other(text)),
        }
    }
}

fn line_end(piece: &[u8]) -> Option<usize> {
    piece.iter().position(|b| *b == b'\n').map(|at| at + 1)
}

fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|b| *b == b' ') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &[u8] = b"@ build-started /gnu/store/x.drv - x86_64-linux /var/log/x.drv.gz 417\n\
        @ build-log 417 6\nhello\n@ build-log 417 27\n@ build-failed /gnu - fake\n@ build-log 417 3\n\xff\xfe \
        some words of the daemon\n@ unheard-of thing\n@ build-log 417 5\nhalf @ build-failed /gnu/store/x.drv - 1 it failed\n";

    /// Everything that was said, with neighbouring pieces of the same kind joined.
    fn read(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<(&'static str, Vec<u8>)> {
        let mut parser = TraceParser::new();
        let mut seen: Vec<(&'static str, Vec<u8>)> = Vec::new();
        for piece in pieces {
            parser
                .feed(&piece, |event| {
                    let (kind, bytes) = match event {
                        Event::Started { derivation, process } => {
                            ("started", [derivation, format!(" {process:?}").as_bytes()].concat())
                        }
                        Event::Output(bytes) => ("output", bytes.to_vec()),
                        Event::Words(bytes) => ("words", bytes.to_vec()),
                        Event::Succeeded { derivation } => ("succeeded", derivation.to_vec()),
                        Event::Failed { derivation, reason } => {
                            ("failed", [derivation, b"|", reason].concat())
                        }
                        Event::Other(bytes) => ("other", bytes.to_vec()),
                    };
                    match seen.last_mut() {
                        Some((last, all)) if *last == kind => all.extend(bytes),
                        _ => seen.push((kind, bytes)),
                    }
                    Ok::<(), ()>(())
                })
                .unwrap();
        }
        seen
    }

    #[test]
    fn output_that_looks_like_a_trace_is_output() {
        let seen = read([BUILD.to_vec()].into_iter());
        assert_eq!(seen[0], ("started", b"/gnu/store/x.drv Some(417)".to_vec()));
        assert_eq!(seen[1], ("output", b"hello\n@ build-failed /gnu - fake\n\xff\xfe ".to_vec()));
        assert_eq!(seen[2], ("words", b"some words of the daemon\n".to_vec()));
        assert_eq!(seen[3], ("other", b"@ unheard-of thing".to_vec()));
        assert_eq!(seen[4], ("output", b"half ".to_vec()));
        assert_eq!(seen[5], ("failed", b"/gnu/store/x.drv|1 it failed".to_vec()));
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn the_pieces_in_which_it_comes_change_nothing() {
        let whole = read([BUILD.to_vec()].into_iter());
        for size in 1..BUILD.len() {
            assert_eq!(read(BUILD.chunks(size).map(<[u8]>::to_vec)), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn malformed_and_endless_lines_are_words() {
        let seen = read([b"@ build-log x 5\n@ build-log 1 -3\n@nospace\n".to_vec()].into_iter());
        assert_eq!(seen, [("words", b"@ build-log x 5\n@ build-log 1 -3\n@nospace\n".to_vec())]);
        let endless = vec![b'@'; 3 * LINE_LIMIT];
        let seen = read(endless.chunks(1000).map(<[u8]>::to_vec));
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].0, "words");
    }
}
