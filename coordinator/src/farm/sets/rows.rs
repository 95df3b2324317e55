//! The rows of a revision, as they wait for their place in the database.

use std::io::{self, Read, Write};

use drover_store::StorePath;
use drover_wire::set::{ROW_LIMIT, Row, RowWanted};

use crate::farm::error::Error;

/// Rows travel compressed and wait compressed: quick, and about a tenth of their size.
const LEVEL: i32 = 1;
/// The most bytes of all of them together, as lines. A million rows of a real Guix have half of it.
const LIMIT: u64 = 512 << 20;

/// Rows that wait for their place, compressed.
pub(super) struct Spool {
    to: zstd::Encoder<'static, Vec<u8>>,
    count: u64,
    /// How many bytes may still come.
    room: u64,
}

impl Spool {
    pub(super) fn new() -> Result<Self, Error> {
        let to = zstd::Encoder::new(Vec::new(), LEVEL).map_err(failed)?;
        Ok(Self { to, count: 0, room: LIMIT })
    }

    /// # Errors
    /// When all of them together are too large.
    pub(super) fn push(&mut self, number: u64, line: &[u8]) -> Result<(), Error> {
        let room = self.room.checked_sub(line.len() as u64);
        self.room = room.ok_or_else(|| Error::BadRow {
            row: number,
            reason: format!(
                "with it the new rows have more than {LIMIT} bytes; shorten their tags and errors, or submit them as \
                 several sets"
            ),
        })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_than_fit_into_memory_are_refused_by_the_first_that_does_not() {
        let mut spool = Spool { room: 10, ..Spool::new().unwrap() };
        spool.push(1, b"0123456789").unwrap();
        let error = spool.push(7, b"0").unwrap_err().to_string();
        assert!(error.contains("row 7") && error.contains("several sets"), "{error}");
        assert_eq!(spool.close().unwrap().count(), 1);
    }
}
