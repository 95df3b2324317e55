//! An item is taken: its nar comes into a file of its own, in whatever form it has, and is checked while it does.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use drover_store::export::export_hash;
use drover_store::source::{self, Method};
use drover_store::{Sha256Hash, StorePath};

use super::halt::Halt;
use super::run::Trouble;
use super::said::{Form, Said};
use super::source::{Source, SourceError};
use crate::farm::error::Error;
use crate::farm::places::Placed;
use crate::farm::sources::{TemporaryFile, references_of};
use crate::farm::{Farm, intake, paths, upload};
use crate::storage::{Expected, Judge, Plain, packed_limit};
use crate::web;

const BUFFER: usize = 256 * 1024;

/// A nar that is here and is what was said of it, and is no item yet.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) placed: Placed,
    pub(super) export_hash: Sha256Hash,
    /// How it gets into a store, if it is a source.
    pub(super) method: Option<Method>,
}

/// What is needed to take an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taking<'a> {
    pub(super) farm: &'a Farm,
    pub(super) source: &'a Source,
    pub(super) halt: &'a Halt,
}

/// A nar in a file on its way.
struct Brought {
    file: TemporaryFile,
    export_hash: Sha256Hash,
}

impl Taking<'_> {
    /// Takes the form of a nar that is liked best.
    ///
    /// # Errors
    /// When it is not what was said, the source does not give it, or there is no room for it.
    pub(super) fn take(&self, said: &Said, narinfo: Option<&Path>) -> Result<Taken, Trouble> {
        let path = &said.info.store_path;
        let mut offered = self.source.offered(said, narinfo)?;
        if offered.is_empty() {
            return Err(SourceError::Refused("its nar is not there".to_owned()).into());
        }
        let (form, file) = offered.swap_remove(0);
        let limit = packed_limit(said.info.nar_size);
        if form.size.is_some_and(|size| size > limit) {
            let why = "its nar is said to be much larger compressed than it is plain".to_owned();
            return Err(SourceError::Refused(why).into());
        }
        let bytes = form.size.unwrap_or(said.info.nar_size);
        let full = || Error::StorageFull(format!("the nar of {path}, {bytes} bytes"));
        if !self.farm.room_for(bytes)? {
            return Err(full().into());
        }
        // For those that come at the same time.
        let room = self.farm.storage.claim(bytes).ok_or_else(full)?;
        let mut tried = 0;
        let brought = loop {
            tried += 1;
            match (self.bring(said, &form, file.as_deref(), limit), self.source) {
                (Err(Trouble::Source(error)), Source::Server(server)) => server.again(tried, error)?,
                (brought, _) => break brought?,
            }
        };
        let method = self.method(said, &form, &brought)?;
        drop(room);
        let placed = self.farm.put(&brought.file.path, path, form.compression)?;
        Ok(Taken { placed, export_hash: brought.export_hash, method })
    }

    fn bring(&self, said: &Said, form: &Form, file: Option<&Path>, limit: u64) -> Result<Brought, Trouble> {
        let from = self.source.nar(form, file)?;
        let path = self.farm.storage.fresh_upload();
        let failed = |error| Error::io(format!("write {}", path.display()), error);
        let to = File::create_new(&path).map_err(failed)?;
        let file = TemporaryFile { path: path.clone() };
        let mut tee = Tee { from, to, count: 0, limit, halt: self.halt, is_over: false, end: None };
        let info = &said.info;
        let judge = Judge::new(expected(
            self.farm,
            (&info.store_path, info.nar_hash, info.nar_size),
            (&info.references, info.deriver.as_ref()),
        )?);
        let judged = {
            // Without a length the end may never come.
            let plain = match form.size {
                Some(_) => Plain::new(form.compression, &mut tee),
                None => Plain::one(form.compression, &mut tee),
            };
            judge_all(plain, judge)
        };
        let judged = match tee.end {
            Some(End::Written(error)) => return Err(failed(error).into()),
            Some(End::Cut(error)) => {
                let why = format!("its nar broke off after {} bytes: {}", tee.count, web::io_words(&error));
                return Err(SourceError::Failed(why).into());
            }
            Some(End::TooLong) => {
                let why = format!("its nar has more than the {limit} bytes that it may have compressed");
                return Err(SourceError::Refused(why).into());
            }
            Some(End::Stopped) => return Err(SourceError::Stopped.into()),
            None => judged,
        };
        if let Some(size) = form.size.filter(|size| *size != tee.count) {
            let why = format!("{} bytes of its nar came, and {size} were said", tee.count);
            if tee.count > size {
                return Err(SourceError::Refused(why).into());
            }
            // A server that cut it off may do better the next time. What was refused before its end was not cut off.
            if tee.is_over {
                return Err(SourceError::Failed(why).into());
            }
        }
        let after_nar = judged.map_err(SourceError::Refused)?;
        tee.to.sync_all().map_err(failed)?;
        let export_hash = export_hash(after_nar, &info.store_path, &info.references, info.deriver.as_ref());
        Ok(Brought { file, export_hash })
    }

    /// By what a source that nothing built gets into a store; none for what is the output of something.
    fn method(&self, said: &Said, form: &Form, brought: &Brought) -> Result<Option<Method>, Trouble> {
        let info = &said.info;
        if info.deriver.is_some() {
            return Ok(None);
        }
        let path = &info.store_path;
        let again = |error| Error::io(format!("read the nar of {path} again"), error);
        let file = File::open(&brought.file.path).map_err(again)?;
        let plain = Plain::new(form.compression, file).map_err(again)?;
        let found = source::method_of(path, plain, &info.references)
            .map_err(|error| again(io::Error::other(error)))?;
        // A text that is said to refer to other things than it was made with is none of a source.
        Ok(found.filter(|method| references_of(method) == info.references))
    }
}

/// What a nar is held against: what was said of it, and what is known here of the derivation that it came from.
pub(super) fn expected(
    farm: &Farm,
    (path, nar_hash, nar_size): (&StorePath, Sha256Hash, u64),
    (references, deriver): (&[StorePath], Option<&StorePath>),
) -> Result<Expected, Error> {
    let (fixed, candidates) = match deriver {
        None => (None, HashSet::new()),
        Some(deriver) => farm.database.read_blocking::<_, Error>(|sql| {
            let known = match paths::find(sql, deriver)? {
                Some(id) if intake::is_kept(sql, id)? => id,
                _ => return Ok((None, HashSet::new())),
            };
            upload::judge_by_derivation(sql, known, path)
        })?,
    };
    Ok(Expected {
        nar_hash,
        nar_size,
        references: references.to_vec(),
        candidates,
        // Texts are added with references that need not stand in them.
        unfound: deriver.is_none(),
        fixed,
    })
}

/// Reads all of a compressed nar, and judges it. The answer: the hash's state after it.
pub(super) fn judge_all(
    plain: io::Result<Plain<impl Read>>,
    mut judge: Judge,
) -> Result<drover_store::Sha256, String> {
    let mut plain = plain.map_err(|error| format!("its nar cannot be unpacked: {error}"))?;
    let mut buffer = vec![0; BUFFER];
    let judged = loop {
        match plain.read(&mut buffer) {
            Ok(0) => break judge.finish().map(|verified| verified.after_nar).map_err(|why| why.to_string()),
            Ok(n) => {
                if let Err(why) = judge.update(&buffer[..n]) {
                    break Err(why.to_string());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error.to_string()),
        }
    };
    judged.map_err(|why| format!("its nar {why}"))
}

/// Why the bytes ended before their end.
enum End {
    /// The source broke off.
    Cut(io::Error),
    /// They could not be written.
    Written(io::Error),
    /// There were too many.
    TooLong,
    /// The import was stopped.
    Stopped,
}

/// Writes what is read through it into a file.
struct Tee<'a> {
    from: Box<dyn Read + Send>,
    to: File,
    count: u64,
    limit: u64,
    halt: &'a Halt,
    /// Whether the source said that there is no more.
    is_over: bool,
    end: Option<End>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ended = |this: &mut Self, end| {
            this.end = Some(end);
            Err(io::Error::other("it ended before its end"))
        };
        if self.halt.check().is_err() {
            return ended(self, End::Stopped);
        }
        let n = match self.from.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return ended(self, End::Cut(error)),
            read => read?,
        };
        self.is_over |= n == 0 && !buffer.is_empty();
        self.count += n as u64;
        if self.count > self.limit {
            return ended(self, End::TooLong);
        }
        match self.to.write_all(&buffer[..n]) {
            Ok(()) => Ok(n),
            Err(error) => ended(self, End::Written(error)),
        }
    }
}
