//! Bundles from clients, on their way into the database.
//!
//! One thread reads, checks, hashes and compresses; meanwhile the database writes the batch before. What is in memory
//! is at most these two.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use drover_store::derivation::Input;
use drover_store::{Sha256Hash, StorePath};
use drover_wire::bundle::{BundleError, DERIVATION_LIMIT, Entry, Kind, Reader};
use drover_wire::client::Uploaded;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::error::Error;
use super::intake::{self, NewDerivation};
use super::keeper::{Keeper, Kept, New};
use super::press::Press;
use super::recent::Recent;
use super::sources::{self, NewSource, ReadError};
use super::{Farm, Tx};
use crate::database;

/// Entries that are written in one transaction, for which everybody else waits, and the bytes that they may take in
/// memory meanwhile.
const BATCH: usize = 8000;
const BATCH_WEIGHT: usize = 32 << 20;
/// How many hashes of derivations are remembered: about 200 bytes for each.
const MEMORY: usize = 200_000;
/// Heads of entries are a few bytes each.
const BUFFER: usize = 64 * 1024;

impl Farm {
    /// Keeps the derivations and sources of a bundle, which is read as it comes, decompressed already. What is
    /// referred to must come first.
    ///
    /// # Errors
    /// At the first entry that is refused, or when the bundle is cut off; what came before is kept. When the database
    /// cannot be written, some of what came before is not.
    pub async fn upload_bundle(
        self: &Arc<Self>,
        body: impl Read + Send + 'static,
    ) -> Result<Uploaded, Error> {
        let farm = Arc::clone(self);
        let task = crate::traced::spawn_blocking(move || {
            let mut press = Press::new().map_err(|error| Error::io("prepare for a bundle", error))?;
            let mut arrival = Arrival {
                farm,
                runtime: Handle::current(),
                text: Vec::new(),
                hashes: Recent::new(MEMORY),
                batch: Vec::new(),
                weight: 0,
                keeper: None,
                writing: None,
                uploaded: Uploaded::default(),
            };
            let read = arrival.read(&mut press, &mut Reader::new(BufReader::with_capacity(BUFFER, body)));
            // What was whole before an error stays; the error of an earlier entry counts more.
            let kept = arrival.write_all();
            let Uploaded { derivations, sources, known } = arrival.uploaded;
            tracing::info!(derivations, sources, known, "bundle taken");
            kept.and(read).map(|()| arrival.uploaded)
        });
        task.await.unwrap_or_else(|_| Err(database::Error::Panicked.into()))
    }
}

/// A bundle that is being read, and written.
struct Arrival {
    farm: Arc<Farm>,
    runtime: Handle,
    /// The text of the derivation before, to be written over.
    text: Vec<u8>,
    /// Those of derivations, as inputs of others.
    hashes: Recent<Sha256Hash>,
    batch: Vec<New>,
    weight: usize,
    /// None: it is with the batch that is being written, or there is none yet.
    keeper: Option<Keeper>,
    writing: Option<JoinHandle<Result<(Keeper, Kept), Error>>>,
    uploaded: Uploaded,
}

impl Arrival {
    fn read<R: Read>(&mut self, press: &mut Press, reader: &mut Reader<R>) -> Result<(), Error> {
        let mut entries = 0;
        while let Some(entry) = reader.next_entry()? {
            let new = self.read_entry(entry, press, reader, entries)?;
            entries += 1;
            self.weight += new.weight();
            self.batch.push(new);
            if self.batch.len() >= BATCH || self.weight >= BATCH_WEIGHT {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn read_entry<R: Read>(
        &mut self,
        entry: Entry,
        press: &mut Press,
        reader: &mut Reader<R>,
        entries: u64,
    ) -> Result<New, Error> {
        let Entry { kind, path, size } = entry;
        let cut = |source: io::Error| Error::Bundle(BundleError::Io { entries, source });
        // It is taken from those that come at the same time until all of the entry is here.
        let room = self.farm.storage.claim(size).ok_or_else(|| Error::StorageFull(path.to_string()))?;
        match kind {
            Kind::Derivation => {
                let mut text = std::mem::take(&mut self.text);
                text.clear();
                reader.contents().take(DERIVATION_LIMIT).read_to_end(&mut text).map_err(cut)?;
                let inputs = |path: &StorePath, inputs: &[Input]| self.input_hashes(path, inputs);
                let new = NewDerivation::read(path, &text, press, inputs)?;
                self.hashes.put(new.path.clone(), new.modulo);
                if text.capacity() <= BUFFER {
                    self.text = text;
                }
                Ok(New::Derivation(new))
            }
            Kind::Source => {
                let farm = Arc::clone(&self.farm);
                let guesses = |named| {
                    // Those that came just now count, too.
                    self.write_all()?;
                    farm.database.read_blocking(|sql| sources::guesses(sql, named))
                };
                match NewSource::read(&farm.storage, press, path, size, reader.contents(), guesses) {
                    Ok(mut new) => {
                        // Its bytes are on the disk now; its place takes room by itself.
                        drop(room);
                        new.place(&self.farm)?;
                        Ok(New::Source(new))
                    }
                    Err(ReadError::Cut(source)) => Err(cut(source)),
                    Err(ReadError::Refused(error)) => Err(error),
                }
            }
        }
    }

    /// The hashes of a derivation's inputs, which came before it or are here.
    fn input_hashes(&mut self, path: &StorePath, inputs: &[Input]) -> Result<Vec<Sha256Hash>, Error> {
        let mut found = Vec::with_capacity(inputs.len());
        let mut missing = Vec::new();
        for Input { derivation: input, .. } in inputs {
            match self.input_hash(input)? {
                Some(hash) => found.push(hash),
                None => missing.push(input.clone()),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        Err(Error::MissingDerivation { path: path.clone(), inputs: missing })
    }

    fn input_hash(&mut self, path: &StorePath) -> Result<Option<Sha256Hash>, Error> {
        if let Some(hash) = self.hashes.get(path) {
            return Ok(Some(*hash));
        }
        let look = |farm: &Farm| farm.database.read_blocking(|sql| intake::modulo(sql, path));
        let mut found = look(&self.farm)?;
        if found.is_none() {
            // One that came in this bundle and was forgotten may be about to be written.
            self.write_all()?;
            found = look(&self.farm)?;
        }
        if let Some(hash) = found {
            self.hashes.put(path.clone(), hash);
        }
        Ok(found)
    }

    /// Writes all that came so far, up to the first that is refused.
    fn write_all(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.settle()
    }

    /// Has the batch written, when the one before is.
    fn flush(&mut self) -> Result<(), Error> {
        self.settle()?;
        if self.batch.is_empty() {
            return Ok(());
        }
        self.weight = 0;
        let batch = std::mem::take(&mut self.batch);
        let forgotten = Arc::clone(&self.farm.forgotten);
        let mut keeper = self.keeper.take().unwrap_or_else(Keeper::new);
        let farm = Arc::clone(&self.farm);
        let job = move |tx: &mut Tx<'_>| {
            let kept = keeper.keep(&forgotten, tx, batch)?;
            Ok::<_, Error>((keeper, kept))
        };
        self.writing = Some(self.runtime.spawn(async move { farm.database.write_alone(job).await }));
        Ok(())
    }

    /// Waits for the batch that is being written.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = self.runtime.block_on(writing).map_err(|_| database::Error::Closed)?;
        let (keeper, Kept { uploaded, refused }) = written?;
        self.keeper = Some(keeper);
        self.uploaded.derivations += uploaded.derivations;
        self.uploaded.sources += uploaded.sources;
        self.uploaded.known += uploaded.known;
        refused.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use drover_wire::bundle::{SOURCE_LIMIT, Writer};

    use super::*;
    use crate::config::Config;

    /// A bundle of which only the head of a source comes; when more is asked for it is looked what room is left.
    struct Head {
        head: io::Cursor<Vec<u8>>,
        look: Box<dyn Fn() + Send>,
    }

    impl Read for Head {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.head.read(buffer)?;
            if n == 0 {
                (self.look)();
            }
            Ok(n)
        }
    }

    #[test]
    fn a_source_that_comes_has_its_room_from_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        // There is room for one such, and not for two, whatever others do on the disk meanwhile.
        let size = SOURCE_LIMIT.min(drover_os::machine::disk(folder.path()).unwrap().free / 2);
        let reserve = drover_os::machine::disk(folder.path()).unwrap().free.saturating_sub(size / 2 * 3);
        let config =
            Config { state: folder.path().to_owned(), disk_reserve_mib: reserve >> 20, ..Config::default() };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let farm = {
            let _within = runtime.enter();
            Farm::open(config).unwrap()
        };
        assert!(farm.storage.has_room(size));
        let mut bundle = Writer::new(Vec::new());
        let path = drover_store::path::text("large", b"", &[]).unwrap();
        bundle.entry(Kind::Source, &path, size, io::empty()).unwrap_err();
        let mut head = bundle.finish().unwrap();
        head.pop();
        let was_taken = Arc::new(AtomicBool::new(false));
        let (seen, there) = (Arc::clone(&was_taken), Arc::clone(&farm));
        let look = Box::new(move || {
            seen.fetch_or(!there.storage.has_room(size), Ordering::SeqCst);
        });
        let body = Head { head: io::Cursor::new(head), look };
        let error = runtime.block_on(farm.upload_bundle(body)).unwrap_err();
        assert!(was_taken.load(Ordering::SeqCst), "another could have had its room: {error}");
        assert!(farm.storage.has_room(size));
    }
}
