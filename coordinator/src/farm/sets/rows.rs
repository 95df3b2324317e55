//! The rows of a revision, as lines and as they wait for their place in the database.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead, Read, Write};

use drover_store::{Sha256, StorePath};
use drover_wire::set::{ROW_LIMIT, ROWS_LIMIT, Row, RowWanted};

use crate::farm::error::Error;

/// Rows travel compressed and wait compressed: quick, and about a tenth of their size.
const LEVEL: i32 = 1;

/// What stands for all that a row says.
pub(super) type Digest = [u8; 16];

/// The digest of a row.
pub(super) fn digest(row: &Row) -> Result<(Digest, Vec<u8>), Error> {
    let line =
        serde_json::to_vec(row).map_err(|error| Error::Damaged(format!("a row is not JSON: {error}")))?;
    Ok((shortened(|hash| hash.update(&line)), line))
}

/// The digest of what a row is about: the derivation or else the package, the system and the cross target. Two rows
/// about the same must say the same.
fn subject(row: &Row) -> Digest {
    shortened(|hash| {
        match &row.wanted {
            RowWanted::Derivation(path) => hash.update(path.base_name().as_bytes()),
            RowWanted::NotEvaluated(_) => {
                hash.update(row.package.as_bytes());
                hash.update(b"\0");
                hash.update(row.version.as_bytes());
            }
        }
        // No word has such a character.
        hash.update(b"\0");
        hash.update(row.system.as_bytes());
        hash.update(b"\0");
        hash.update(row.target.as_deref().unwrap_or_default().as_bytes());
    })
}

fn shortened(update: impl FnOnce(&mut Sha256)) -> Digest {
    let mut hash = Sha256::new();
    update(&mut hash);
    let hash = hash.finish();
    let mut digest = Digest::default();
    digest.copy_from_slice(&hash.as_bytes()[..16]);
    digest
}

/// A row that came.
pub(super) struct Line {
    /// The first has 1.
    pub(super) number: u64,
    pub(super) row: Row,
    pub(super) digest: Digest,
    /// It as JSON.
    pub(super) line: Vec<u8>,
}

/// Reads rows, and sees that no two of them disagree.
pub(super) struct Lines<R> {
    from: R,
    line: Vec<u8>,
    /// The number of the row that came last.
    number: u64,
    seen: HashMap<Digest, (u32, Digest)>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, line: Vec::new(), number: 0, seen: HashMap::new() }
    }

    /// How many rows came, doubles among them.
    pub(super) fn count(&self) -> u64 {
        self.number
    }

    /// The next row that did not come before; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Error> {
        while let Some(row) = self.next_line()? {
            let (digest, line) = digest(&row)?;
            let number = u32::try_from(self.number).unwrap_or(u32::MAX);
            match self.seen.entry(subject(&row)) {
                Entry::Vacant(entry) => {
                    entry.insert((number, digest));
                    return Ok(Some(Line { number: self.number, row, digest, line }));
                }
                Entry::Occupied(entry) if entry.get().1 == digest => {}
                Entry::Occupied(entry) => {
                    let reason = format!(
                        "it is about the same as row {}, and says something else; leave one of them out",
                        entry.get().0
                    );
                    return Err(self.bad(reason));
                }
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<Row>, Error> {
        self.line.clear();
        let most = ROW_LIMIT as u64 + 1;
        let number = self.number;
        let cut = |error: io::Error| {
            Error::BadRequest(format!(
                "the rows could not be read to their end, row {number} was the last: {error}; send them again"
            ))
        };
        let read = (&mut self.from).take(most).read_until(b'\n', &mut self.line).map_err(cut)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.number > ROWS_LIMIT {
            return Err(
                self.bad(format!("a revision has at most {ROWS_LIMIT} rows; make several sets of them"))
            );
        }
        let whole = self.line.last() == Some(&b'\n');
        if !whole && read as u64 == most {
            return Err(self.bad(format!("it has more than the {ROW_LIMIT} bytes that a row may have")));
        }
        match serde_json::from_slice::<Row>(&self.line) {
            Ok(row) => Ok(Some(row)),
            Err(_) if !whole => Err(self.bad("the rows end in the middle of it; feed them again".to_owned())),
            Err(error) => Err(self.bad(error.to_string())),
        }
    }

    fn bad(&self, reason: String) -> Error {
        Error::BadRow { row: self.number, reason }
    }
}

/// Rows that wait for their place, compressed.
pub(super) struct Spool {
    to: zstd::Encoder<'static, Vec<u8>>,
    count: u64,
}

impl Spool {
    pub(super) fn new() -> Result<Self, Error> {
        let to = zstd::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
        Ok(Self { to, count: 0 })
    }

    pub(super) fn push(&mut self, number: u64, line: &[u8]) -> Result<(), Error> {
        self.count += 1;
        self.to.write_all(&number.to_le_bytes()).map_err(failed)?;
        self.to.write_all(&(line.len() as u64).to_le_bytes()).map_err(failed)?;
        self.to.write_all(line).map_err(failed)
    }

    pub(super) fn close(self) -> Result<Spooled, Error> {
        Ok(Spooled { bytes: self.to.finish().map_err(failed)?, count: self.count })
    }
}

/// The rows of a [`Spool`], which can be read again and again.
#[derive(Debug)]
pub(super) struct Spooled {
    bytes: Vec<u8>,
    count: u64,
}

impl Spooled {
    /// How many rows there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Every row with its number, in their order.
    pub(super) fn each(&self, mut take: impl FnMut(u64, Row) -> Result<(), Error>) -> Result<(), Error> {
        let mut from = zstd::Decoder::new(&self.bytes[..]).map_err(failed)?;
        let mut line = Vec::new();
        for _ in 0..self.count {
            let (mut number, mut length) = ([0; 8], [0; 8]);
            from.read_exact(&mut number).map_err(failed)?;
            from.read_exact(&mut length).map_err(failed)?;
            line.resize(usize::try_from(u64::from_le_bytes(length)).unwrap_or(ROW_LIMIT), 0);
            from.read_exact(&mut line).map_err(failed)?;
            let row = serde_json::from_slice(&line).map_err(|error| failed(error.into()))?;
            take(u64::from_le_bytes(number), row)?;
        }
        Ok(())
    }

    /// The derivations of all rows.
    pub(super) fn derivations(&self) -> Result<Vec<StorePath>, Error> {
        let mut derivations = Vec::new();
        self.each(|_, row| {
            if let RowWanted::Derivation(path) = row.wanted {
                derivations.push(path);
            }
            Ok(())
        })?;
        Ok(derivations)
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("keep the rows of a revision in memory", error)
}
