//! The rows of a revision, read once: checked against each other, and kept compressed until they are sent.
//!
//! Standard input cannot be read twice, and a file may change between two readings. So what is kept is the body of the
//! request itself, a few dozen bytes for a row; and of each row a digest, to know it again.

use std::collections::HashSet;
use std::io::{self, BufReader, Read, Write};

use drover_store::path::StorePath;
use drover_wire::rows::{Line, Reader, RowsError};
use drover_wire::set::{ROWS_LIMIT, RowWanted};

use super::{ClientError, Unit, Watch};

/// Quick: rows are alike, so that harder work gains little.
const LEVEL: i32 = 3;

/// How many rows are taken, and how many bytes they may have compressed.
#[derive(Debug, Clone, Copy)]
struct Limits {
    rows: u64,
    bytes: usize,
}

/// A million rows of a real Guix have a quarter of these bytes.
const LIMITS: Limits = Limits { rows: ROWS_LIMIT, bytes: 256 << 20 };

/// The rows of a revision.
pub struct Rows {
    /// What people call the place that they came from.
    from: String,
    /// All of them as lines of JSON, compressed.
    body: Vec<u8>,
    count: u64,
    /// The derivations, each once, with the first row that wants it.
    wanted: Vec<(StorePath, u64)>,
}

impl Rows {
    /// Reads rows: one on a line, as JSON. Rows are counted from 1, as the lines are; empty lines are passed over.
    /// `from` is what people call the place that they come from.
    ///
    /// # Errors
    /// At the first row that is none, or that disagrees with one before; when there are no rows, or too many.
    pub fn read(input: impl Read, from: &str, watch: &dyn Watch) -> Result<Self, ClientError> {
        Self::read_within(LIMITS, input, from, watch)
    }

    fn read_within(
        limits: Limits,
        input: impl Read,
        from: &str,
        watch: &dyn Watch,
    ) -> Result<Self, ClientError> {
        watch.begin("reading rows", None, Unit::Things);
        let mut lines = Reader::within(limits.rows, BufReader::with_capacity(1 << 16, input));
        let mut reading = Reading::new(from, limits)?;
        while let Some(line) = lines.next_row().map_err(|error| refused(from, error))? {
            reading.add(line)?;
            watch.advance(1);
        }
        reading.finish()
    }

    /// How many rows there are; one that came twice counts twice.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The derivations that they want, each once, in the order of the rows.
    #[must_use]
    pub fn wanted(&self) -> Vec<StorePath> {
        self.wanted.iter().map(|(path, _)| path.clone()).collect()
    }

    /// All of them as a request's body ([`drover_wire::set::ROWS_TYPE`]).
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// That the derivation with this base name cannot be had, as the fault of the first row that wants it, if one does.
    pub(super) fn blame(
        &self,
        base_name: &str,
        why: impl FnOnce(&StorePath) -> String,
    ) -> Option<ClientError> {
        let (path, row) = self.wanted.iter().find(|(path, _)| path.base_name() == base_name)?;
        Some(ClientError::BadRow { from: self.from.clone(), row: *row, why: why(path) })
    }
}

/// Rows as they come in.
struct Reading {
    from: String,
    limits: Limits,
    body: zstd::Encoder<'static, Bounded>,
    /// Lines that were written, empty ones among them.
    lines: u64,
    count: u64,
    wanted: Vec<(StorePath, u64)>,
    derivations: HashSet<StorePath>,
}

impl Reading {
    fn new(from: &str, limits: Limits) -> Result<Self, ClientError> {
        let kept = Bounded { bytes: Vec::new(), limit: limits.bytes };
        let body =
            zstd::Encoder::new(kept, LEVEL).map_err(|error| ClientError::local("compressing rows", error))?;
        Ok(Self {
            from: from.to_owned(),
            limits,
            body,
            lines: 0,
            count: 0,
            wanted: Vec::new(),
            derivations: HashSet::new(),
        })
    }

    fn add(&mut self, line: Line) -> Result<(), ClientError> {
        let Line { number, row, mut text, .. } = line;
        text.push(b'\n');
        // Empty lines are sent, too, so that a refusal of the coordinator counts as the reader of the file does.
        let empty = number.saturating_sub(self.lines + 1);
        let written = io::copy(&mut io::repeat(b'\n').take(empty), &mut self.body)
            .and_then(|_| self.body.write_all(&text));
        written.map_err(|error| unkept(&self.from, self.limits, error))?;
        self.lines = number;
        self.count += 1;
        if let RowWanted::Derivation(path) = row.wanted {
            if self.derivations.insert(path.clone()) {
                self.wanted.push((path, number));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Rows, ClientError> {
        if self.count == 0 {
            return Err(ClientError::Usage(format!(
                "there are no rows in {}: nothing was sent, since an empty revision is nearly always a mistake; \
                 to end a set, say drover set drop NAME",
                self.from
            )));
        }
        let Self { from, limits, body, count, wanted, .. } = self;
        let body = body.finish().map_err(|error| unkept(&from, limits, error))?.bytes;
        Ok(Rows { from, body, count, wanted })
    }
}

fn refused(from: &str, error: RowsError) -> ClientError {
    match error {
        RowsError::Row { row, why } => ClientError::BadRow { from: from.to_owned(), row, why },
        RowsError::Io { source, .. } if source.kind() == io::ErrorKind::IsADirectory => {
            ClientError::Usage(format!("{from} is a folder: name the file with the rows"))
        }
        RowsError::Io { source, .. } => ClientError::local(format!("reading rows from {from}"), source),
    }
}

fn unkept(from: &str, limits: Limits, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => ClientError::Usage(format!(
            "the rows in {from} are too large: compressed they have more than {} MiB; shorten their tags and errors, \
             or submit them as several sets",
            limits.bytes >> 20
        )),
        _ => ClientError::local("compressing rows", error),
    }
}

/// Bytes in memory, with an end.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
