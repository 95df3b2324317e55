//! The rows of a revision as they are written and sent: lines of JSON, read one by one, with no two that disagree.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead, Read};

use drover_store::Sha256;

use crate::set::{ROW_LIMIT, ROWS_LIMIT, Row, RowWanted};

/// Half of the SHA-256 of something that a row says.
pub type Digest = [u8; 16];

/// Why rows could not be read to their end.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// One of them is none, or is one too many, or disagrees with one before.
    #[error("row {row}: {why}")]
    Row {
        /// Which line, from 1.
        row: u64,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// What they are read from.
    #[error("the rows could not be read to their end, row {row} was the last: {source}")]
    Io {
        /// The last line that was read, from 1.
        row: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// A row that was read.
#[derive(Debug, Clone)]
pub struct Line {
    /// Which line it is, from 1.
    pub number: u64,
    /// The row.
    pub row: Row,
    /// It as JSON, in the one way that all programs write it, without the end of the line.
    pub text: Vec<u8>,
    /// Of all that it says.
    pub digest: Digest,
    /// Whether the same row came before.
    pub double: bool,
}

/// Reads rows. Lines are counted from 1; those that are empty are counted and passed over.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    limit: u64,
    number: u64,
    rows: u64,
    /// By what no two rows may have in common: the first row with it, and all that this says.
    seen: HashMap<Digest, (u64, Digest)>,
}

impl<R: BufRead> Reader<R> {
    /// Reads at most as many rows as a revision may have.
    pub fn new(input: R) -> Self {
        Self::within(ROWS_LIMIT, input)
    }

    /// Reads at most so many rows.
    pub fn within(limit: u64, input: R) -> Self {
        Self { input, limit, number: 0, rows: 0, seen: HashMap::new() }
    }

    /// How many rows came; one that came twice counts twice.
    pub fn count(&self) -> u64 {
        self.rows
    }

    /// The next row; none at the end.
    ///
    /// # Errors
    /// When there is something that is no row, or disagrees with one before; then nothing more should be read.
    pub fn next_row(&mut self) -> Result<Option<Line>, RowsError> {
        let Some((bytes, ended)) = self.next_line()? else { return Ok(None) };
        if self.rows == self.limit {
            let why = format!("a revision has at most {} rows; submit them as several sets", self.limit);
            return Err(self.bad(why));
        }
        let row = parse(&bytes, ended).map_err(|why| self.bad(why))?;
        self.rows += 1;
        let (text, digest) = written(&row).map_err(|error| self.bad(error.to_string()))?;
        let number = self.number;
        let first = match self.seen.entry(subject(&row)) {
            Entry::Vacant(entry) => {
                entry.insert((number, digest));
                return Ok(Some(Line { number, row, text, digest, double: false }));
            }
            Entry::Occupied(entry) => *entry.get(),
        };
        if first.1 == digest {
            return Ok(Some(Line { number, row, text, digest, double: true }));
        }
        Err(self.bad(disagreement(&row, first.0)))
    }

    /// A line that is not empty, and whether its end is there.
    fn next_line(&mut self) -> Result<Option<(Vec<u8>, bool)>, RowsError> {
        loop {
            let mut bytes = Vec::new();
            // One byte for the end of the line.
            let mut bounded = (&mut self.input).take(ROW_LIMIT as u64 + 1);
            let read = bounded.read_until(b'\n', &mut bytes);
            read.map_err(|source| RowsError::Io { row: self.number, source })?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            let ended = bytes.last() == Some(&b'\n');
            if !ended && bytes.len() > ROW_LIMIT {
                let why = format!("it has more than {ROW_LIMIT} bytes, the most that a row may have");
                return Err(self.bad(why));
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some((bytes, ended)));
            }
        }
    }

    fn bad(&self, why: String) -> RowsError {
        RowsError::Row { row: self.number, why }
    }
}

fn parse(line: &[u8], ended: bool) -> Result<Row, String> {
    serde_json::from_slice(line.trim_ascii()).map_err(|error| {
        if error.is_eof() && !ended {
            return "the rows end in the middle of it; what wrote them did not finish: write them again"
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

/// A row as JSON, and the digest of that.
///
/// # Errors
/// None that a row could cause.
pub fn written(row: &Row) -> Result<(Vec<u8>, Digest), serde_json::Error> {
    let text = serde_json::to_vec(row)?;
    let digest = digest(&[&text]);
    Ok((text, digest))
}

/// What a row is about: no two rows of a revision may say different things about the same.
fn subject(row: &Row) -> Digest {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRV: &str = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-hello-2.12.2.drv";

    fn line(package: &str, target: Option<&str>) -> String {
        let target = target.map(|target| format!(r#","target":"{target}""#)).unwrap_or_default();
        format!(r#"{{"derivation":"{DRV}","package":"{package}","version":"1","system":"s"{target}}}"#)
    }

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Line>, RowsError> {
        let mut reader = Reader::new(text.as_ref());
        std::iter::from_fn(|| reader.next_row().transpose()).collect()
    }

    #[track_caller]
    fn refused(text: impl AsRef<[u8]>) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn one_row_too_many_is_refused_by_its_number_and_not_before() {
        let rows: String = ["a", "b", "c"].map(|target| line("x", Some(target)) + "\n").concat();
        let mut reader = Reader::within(2, rows.as_bytes());
        assert_eq!(reader.next_row().unwrap().unwrap().number, 1);
        assert_eq!(reader.next_row().unwrap().unwrap().number, 2);
        let error = reader.next_row().unwrap_err().to_string();
        assert!(error.contains("row 3: a revision has at most 2 rows"), "{error}");
    }

    #[test]
    fn a_line_may_be_as_long_as_a_row_may_be_and_not_longer() {
        let padded = |length: usize| {
            let bare = line("", None);
            line(&"x".repeat(1000), None) + &" ".repeat(length - bare.len() - 1000)
        };
        for end in ["\n", ""] {
            assert_eq!(read(padded(ROW_LIMIT) + end).unwrap().len(), 1);
            let error = refused(padded(ROW_LIMIT + 1) + end);
            assert!(error.contains("row 1: it has more than 65536 bytes"), "{error}");
        }
    }

    #[test]
    fn a_row_that_is_cut_off_anywhere_is_said_to_be() {
        let whole = format!("{}\n{}", line("a", None), line("größer", Some("t")));
        let first = line("a", None).len() + 1;
        for end in first + 1..whole.len() {
            let error = refused(&whole.as_bytes()[..end]);
            assert!(error.contains("row 2") && error.contains("end in the middle of it"), "{end}: {error}");
        }
        assert_eq!(read(&whole).unwrap().len(), 2);
        assert_eq!(read(&whole[..first]).unwrap().len(), 1);
    }

    #[test]
    fn rows_for_another_system_or_target_are_about_something_else() {
        let other = line("b", None).replace(r#""system":"s""#, r#""system":"t""#);
        let rows = format!("{}\n\n{}\n{other}\n", line("a", None), line("b", Some("t")));
        assert_eq!(read(rows).unwrap().iter().map(|line| line.number).collect::<Vec<_>>(), [1, 3, 4]);
        let error = refused(format!("{}\n{}\n", line("a", Some("t")), line("b", Some("t"))));
        assert!(error.contains("disagrees with row 1") && error.contains("the target t"), "{error}");
    }

    #[test]
    fn a_row_that_comes_twice_is_known_again_however_it_is_written() {
        let rows = format!("{}\n {} \n", line("a", None), line("a", None).replace(':', ": "));
        let doubles: Vec<bool> = read(rows).unwrap().iter().map(|line| line.double).collect();
        assert_eq!(doubles, [false, true]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }
    }
}
