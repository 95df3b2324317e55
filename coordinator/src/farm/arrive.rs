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
        let task = tokio::task::spawn_blocking(move || {
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
        if !self.farm.storage.has_room(size) {
            return Err(Error::StorageFull(path.to_string()));
        }
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
