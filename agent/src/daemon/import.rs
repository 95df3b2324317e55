//! Importing signed store items.

use std::io::{self, Read};

use drover_store::export;
use drover_store::framing;
use drover_store::path::StorePath;

use super::channel::Message;
use super::connection::{Connection, unexpected};
use super::error::{Error, Fault};

const IMPORT_PATHS: u64 = 27;
/// The most bytes of one answer to the daemon's “more”.
const PIECE: usize = 32 * 1024;

/// A store item to import.
pub struct ImportItem<'a> {
    /// Its path.
    pub path: StorePath,
    /// What it refers to, sorted.
    pub references: Vec<StorePath>,
    /// The derivation that it came from.
    pub deriver: Option<StorePath>,
    /// The signature over nar and trailer, an s-expression.
    pub signature: String,
    /// Its nar, exactly.
    pub nar: Box<dyn Read + 'a>,
}

/// Where the items of an import come from, each after what it refers to.
pub trait Import {
    /// The next item, or none after the last.
    ///
    /// # Errors
    /// When it cannot be had, which ends the import.
    fn next(&mut self) -> io::Result<Option<ImportItem<'_>>>;
}

impl Connection {
    /// Imports items whose signatures are by a key in the daemon's ACL.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Refused`] when the daemon does not take a signature; [`Error::Ours`] when
    /// `items` fails. After an error the connection is of no use any more.
    pub fn import(&mut self, items: &mut dyn Import) -> Result<(), Error> {
        let mut current = None;
        self.send_items(items, &mut current).map_err(|fault| match current {
            Some(path) => fault.during(format!("import {path}")),
            None => fault.during("import store items"),
        })
    }

    fn send_items(&mut self, items: &mut dyn Import, current: &mut Option<StorePath>) -> Result<(), Fault> {
        self.channel.write_u64(IMPORT_PATHS)?;
        self.channel.flush()?;
        while let Some(mut item) = items.next().map_err(Fault::Ours)? {
            *current = Some(item.path.clone());
            let mut tail = export::trailer(&item.path, &item.references, item.deriver.as_ref());
            let has_signature = 1;
            framing::write_u64(&mut tail, has_signature)?;
            framing::write_bytes(&mut tail, item.signature.as_bytes())?;
            self.answer(&mut (&1_u64.to_le_bytes()[..]).chain(&mut item.nar).chain(&tail[..]))?;
        }
        self.answer(&mut &0_u64.to_le_bytes()[..])?;
        self.channel.finish()?;
        self.read_paths().map(drop)
    }

    /// Gives all of `bytes` to the daemon, as it asks for them.
    fn answer(&mut self, bytes: &mut dyn Read) -> Result<(), Fault> {
        let mut buffer = vec![0; PIECE];
        loop {
            // Look first: a request is answered with one byte string, and an empty one is an end that never was.
            let size = fill(bytes, &mut buffer).map_err(Fault::Ours)?;
            let mut rest = &buffer[..size];
            while !rest.is_empty() {
                let wanted = self.wanted()?;
                let (piece, later) = rest.split_at(rest.len().min(wanted));
                self.channel.write_bytes(piece)?;
                self.channel.flush()?;
                rest = later;
            }
            if size < buffer.len() {
                return Ok(());
            }
        }
    }

    fn wanted(&mut self) -> Result<usize, Fault> {
        loop {
            match self.channel.message()? {
                Message::Wanted(0) => return Err(unexpected("a request for no data")),
                Message::Wanted(most) => return Ok(usize::try_from(most).unwrap_or(usize::MAX)),
                Message::Text => {}
                Message::Last => return Err(unexpected("the end of an import before its last item")),
                Message::Data => return Err(unexpected("data in the middle of an import")),
            }
        }
    }
}

/// Reads until the buffer is full or the stream ends.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
