//! The rows of a revision, read once: checked against each other, and kept compressed until they are sent.
//!
//! Standard input cannot be read twice, and a file may change between two readings. So what is kept is the body of the
//! request itself, a few dozen bytes for a row; and of each row a digest, to know it again.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read, Write};

use drover_store::Sha256;
use drover_store::path::StorePath;
use drover_wire::set::{ROW_LIMIT, ROWS_LIMIT, Row, RowWanted};

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

/// Half of a SHA-256.
type Digest = [u8; 16];

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
        let mut lines = Lines { input: BufReader::with_capacity(1 << 16, input), from, number: 0 };
        let mut reading = Reading::new(from, limits)?;
        while let Some(line) = lines.next()? {
            reading.add(&line)?;
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

/// A line that is not empty.
struct Line {
    number: u64,
    bytes: Vec<u8>,
    /// Whether the end of the line is there.
    ended: bool,
}

struct Lines<'a, R> {
    input: R,
    from: &'a str,
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<Option<Line>, ClientError> {
        loop {
            let mut bytes = Vec::new();
            // One byte for the end of the line.
            let mut bounded = (&mut self.input).take(ROW_LIMIT as u64 + 1);
            bounded.read_until(b'\n', &mut bytes).map_err(|error| self.failed(error))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let ended = bytes.last() == Some(&b'\n');
            if !ended && bytes.len() > ROW_LIMIT {
                let why = format!("it has more than {ROW_LIMIT} bytes, the most that a row may have");
                return Err(ClientError::BadRow { from: self.from.to_owned(), row: self.number, why });
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(Line { number: self.number, bytes, ended }));
            }
        }
    }

    fn failed(&self, error: io::Error) -> ClientError {
        if error.kind() == io::ErrorKind::IsADirectory {
            return ClientError::Usage(format!("{} is a folder: name the file with the rows", self.from));
        }
        ClientError::local(format!("reading rows from {}", self.from), error)
    }
}

/// Rows as they come in.
struct Reading {
    from: String,
    limits: Limits,
    body: zstd::Encoder<'static, Bounded>,
    count: u64,
    wanted: Vec<(StorePath, u64)>,
    derivations: HashSet<Digest>,
    /// By what no two rows may have in common: the first row with it, and all that this says.
    seen: HashMap<Digest, (u64, Digest)>,
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
            count: 0,
            wanted: Vec::new(),
            derivations: HashSet::new(),
            seen: HashMap::new(),
        })
    }

    fn add(&mut self, line: &Line) -> Result<(), ClientError> {
        let number = line.number;
        if self.count == self.limits.rows {
            let why =
                format!("a revision has at most {} rows; submit them as several sets", self.limits.rows);
            return Err(self.bad(number, why));
        }
        let row = parse(line).map_err(|why| self.bad(number, why))?;
        let mut text =
            serde_json::to_vec(&row).map_err(|error| ClientError::local("writing a row", error.into()))?;
        let all = digest(&[&text]);
        match self.seen.entry(identity(&row)) {
            Entry::Vacant(entry) => {
                entry.insert((number, all));
            }
            Entry::Occupied(entry) => {
                let (first, before) = *entry.get();
                if all != before {
                    return Err(self.bad(number, disagreement(&row, first)));
                }
            }
        }
        text.push(b'\n');
        self.body.write_all(&text).map_err(|error| self.unkept(error))?;
        self.count += 1;
        if let RowWanted::Derivation(path) = row.wanted {
            if self.derivations.insert(digest(&[path.as_str().as_bytes()])) {
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

    fn bad(&self, row: u64, why: String) -> ClientError {
        ClientError::BadRow { from: self.from.clone(), row, why }
    }

    fn unkept(&self, error: io::Error) -> ClientError {
        unkept(&self.from, self.limits, error)
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

fn parse(line: &Line) -> Result<Row, String> {
    let text = line.bytes.trim_ascii();
    serde_json::from_slice(text).map_err(|error| {
        if error.is_eof() && !line.ended {
            return "the file ends in the middle of it; what wrote the rows did not finish: write them again"
                .to_owned();
        }
        // Every row is a line, so serde's line is always the first; where it names one, it names a column, too.
        let words = error.to_string();
        let column = error.column();
        match words.strip_suffix(&format!(" at line 1 column {column}")) {
            Some(words) if error.is_data() => format!("it is no row: {words}"),
            Some(words) => format!("it is not JSON: {words} at byte {column}"),
            None => format!("it is no row: {words}"),
        }
    })
}

/// What a row is about: no two rows of a revision may say different things about the same.
fn identity(row: &Row) -> Digest {
    let target = row.target.as_deref().unwrap_or_default().as_bytes();
    match &row.wanted {
        RowWanted::Derivation(path) => digest(&[path.as_str().as_bytes(), row.system.as_bytes(), target]),
        RowWanted::NotEvaluated(_) => {
            digest(&[row.package.as_bytes(), row.version.as_bytes(), row.system.as_bytes(), target])
        }
    }
}

fn disagreement(row: &Row, first: u64) -> String {
    let target = row.target.as_deref().map(|target| format!(" and the target {target}")).unwrap_or_default();
    let what = match &row.wanted {
        RowWanted::Derivation(path) => path.to_string(),
        RowWanted::NotEvaluated(_) => format!("{} {}, not evaluated,", row.package, row.version),
    };
    format!(
        "it disagrees with row {first}: both are {what} for {}{target}, but the rest of them differs; leave out one",
        row.system
    )
}

/// Of these parts, each set off from the next.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut digest = Digest::default();
    digest.copy_from_slice(&hash.finish().as_bytes()[..16]);
    digest
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
