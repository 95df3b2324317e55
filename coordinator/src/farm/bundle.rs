//! Bundles of derivations and sources: from clients, and to agents.

use std::io::{self, Read, Write};
use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::agent::{BUNDLE_PATHS_LIMIT, BundleRequest};
use drover_wire::bundle::{BundleError, DERIVATION_LIMIT, Entry, Kind, Reader, Writer};
use drover_wire::client::{MissingAnswer, MissingQuestion, Uploaded};
use rusqlite::{Connection, OptionalExtension};

use super::error::Error;
use super::intake::{self, NewDerivation};
use super::paths::{self, Numbers};
use super::sources::{self, NewSource, ReadError};
use super::{Farm, Tx, unsql};
use crate::database;

/// Entries that are kept in one step, and the bytes that they may take in memory meanwhile.
const BATCH: usize = 1000;
const BATCH_WEIGHT: usize = 16 << 20;

impl Farm {
    /// Which of these derivations and sources are not here.
    ///
    /// # Errors
    /// When the database cannot be asked, or there are too many.
    pub async fn missing(&self, question: MissingQuestion) -> Result<MissingAnswer, Error> {
        check_count(question.paths.len())?;
        self.database
            .read(move |sql| {
                let mut missing = Vec::new();
                for path in question.paths {
                    if place(sql, &path)?.is_none() {
                        missing.push(path);
                    }
                }
                Ok(MissingAnswer { missing })
            })
            .await
    }

    /// The sources that derivations which are here name, and nobody has uploaded; as many as a bundle may have.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn missing_sources(&self) -> Result<MissingAnswer, Error> {
        self.database
            .read(|sql| {
                let select = "SELECT p.base FROM missing_sources m JOIN paths p ON p.id = m.path LIMIT ?1";
                let most = i64::try_from(BUNDLE_PATHS_LIMIT).unwrap_or(i64::MAX);
                Ok(MissingAnswer { missing: paths::bases(sql, select, most)? })
            })
            .await
    }

    /// Keeps the derivations and sources of a bundle, which is read as it comes, decompressed already. What is
    /// referred to must come first.
    ///
    /// # Errors
    /// At the first entry that is refused, or when the bundle is cut off; what came before is kept.
    pub async fn upload_bundle(
        self: &Arc<Self>,
        body: impl Read + Send + 'static,
    ) -> Result<Uploaded, Error> {
        let farm = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let mut intake = Intake { farm, waiting: Vec::new(), weight: 0, uploaded: Uploaded::default() };
            let read = intake.read(&mut Reader::new(body));
            // What was whole before an error stays; the error of an earlier entry counts more.
            let kept = intake.flush();
            let Uploaded { derivations, sources, known } = intake.uploaded;
            tracing::info!(derivations, sources, known, "bundle taken");
            kept.and(read).map(|()| intake.uploaded)
        });
        task.await.unwrap_or_else(|_| Err(database::Error::Panicked.into()))
    }

    /// Checks that a bundle of these can be made: for an answer before its first byte.
    ///
    /// # Errors
    /// When there are too many, or one is not here.
    pub async fn check_bundle(&self, request: &BundleRequest) -> Result<(), Error> {
        check_count(request.paths.len())?;
        let paths = request.paths.clone();
        self.database
            .read(move |sql| {
                for path in &paths {
                    place(sql, path)?.ok_or_else(|| absent(path))?;
                }
                Ok(())
            })
            .await
    }

    /// Writes a bundle of these derivations and sources, in their order; whoever asks compresses it. Blocks.
    ///
    /// # Errors
    /// When one is not here, or cannot be read or written.
    pub fn bundle(&self, request: &BundleRequest, out: impl Write) -> Result<(), Error> {
        check_count(request.paths.len())?;
        let mut writer = Writer::new(out);
        for path in &request.paths {
            let failed = |error| Error::io(format!("send {path} in a bundle"), error);
            let found = self.database.read_blocking(|sql| {
                let place = place(sql, path)?.ok_or_else(|| absent(path))?;
                let contents = intake::contents(sql, place.id())?;
                Ok::<_, Error>((place, contents))
            })?;
            match found {
                (Place::Derivation(_), Some(text)) => {
                    writer.entry(Kind::Derivation, path, text.len() as u64, &text[..]).map_err(failed)?;
                }
                (Place::Derivation(_), None) => {
                    return Err(Error::Damaged(format!("the text of {path} is not there")));
                }
                (Place::Source(_, size), small) => {
                    let nar = sources::open(self, path, small)?;
                    writer.entry(Kind::Source, path, size, nar).map_err(failed)?;
                }
            }
        }
        writer.finish().and_then(|mut out| out.flush()).map_err(|error| Error::io("end a bundle", error))
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if count <= BUNDLE_PATHS_LIMIT {
        return Ok(());
    }
    Err(Error::BadRequest(format!(
        "{count} store paths are too many for one question; ask for {BUNDLE_PATHS_LIMIT} at most"
    )))
}

fn absent(path: &StorePath) -> Error {
    if path.is_derivation() {
        return Error::UnknownDerivation(path.clone());
    }
    Error::NotFound { what: "source", name: path.to_string() }
}

/// What something that is here is.
enum Place {
    Derivation(i64),
    /// With the bytes of its nar.
    Source(i64, u64),
}

impl Place {
    fn id(&self) -> i64 {
        match self {
            Self::Derivation(id) | Self::Source(id, _) => *id,
        }
    }
}

/// A derivation or source, if it is here.
fn place(sql: &Connection, path: &StorePath) -> Result<Option<Place>, Error> {
    let Some(id) = paths::find(sql, path)? else { return Ok(None) };
    if path.is_derivation() {
        let kept = sql.prepare_cached("SELECT 1 FROM derivations WHERE id = ?1")?.exists([id])?;
        return Ok(kept.then_some(Place::Derivation(id)));
    }
    let mut select = sql.prepare_cached("SELECT nar_size FROM items WHERE path = ?1 AND kind = 'source'")?;
    let size = select.query_row([id], |row| row.get(0)).optional()?;
    Ok(size.map(|size| Place::Source(id, unsql(size))))
}

#[derive(Debug)]
enum New {
    Derivation(NewDerivation),
    Source(NewSource),
}

/// A bundle on its way into the database.
struct Intake {
    farm: Arc<Farm>,
    waiting: Vec<New>,
    weight: usize,
    uploaded: Uploaded,
}

impl Intake {
    fn read<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<(), Error> {
        let mut entries = 0;
        while let Some(entry) = reader.next_entry()? {
            let new = self.read_entry(entry, reader, entries)?;
            entries += 1;
            self.weight += match &new {
                New::Derivation(new) => new.weight(),
                New::Source(new) => new.weight(),
            };
            self.waiting.push(new);
            if self.waiting.len() >= BATCH || self.weight >= BATCH_WEIGHT {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn read_entry<R: Read>(
        &mut self,
        entry: Entry,
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
                let mut text = Vec::new();
                reader.contents().take(DERIVATION_LIMIT).read_to_end(&mut text).map_err(cut)?;
                NewDerivation::read(path, &text).map(New::Derivation)
            }
            Kind::Source => {
                let farm = Arc::clone(&self.farm);
                let guesses = |named| {
                    // Those that came just now count, too.
                    self.flush()?;
                    farm.database.read_blocking(|sql| sources::guesses(sql, named))
                };
                match NewSource::read(&farm.storage, path, size, reader.contents(), guesses) {
                    Ok(new) => Ok(New::Source(new)),
                    Err(ReadError::Cut(source)) => Err(cut(source)),
                    Err(ReadError::Refused(error)) => Err(error),
                }
            }
        }
    }

    /// Keeps what waits, up to the first that is refused.
    fn flush(&mut self) -> Result<(), Error> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.weight = 0;
        let new = std::mem::take(&mut self.waiting);
        let farm = Arc::clone(&self.farm);
        let (uploaded, refused) = self.farm.database.write_blocking(move |tx| keep_all(&farm, tx, new))?;
        self.uploaded.derivations += uploaded.derivations;
        self.uploaded.sources += uploaded.sources;
        self.uploaded.known += uploaded.known;
        refused.map_or(Ok(()), Err)
    }
}

/// Keeps all up to the first that is refused, which leaves nothing behind.
fn keep_all(farm: &Farm, tx: &mut Tx<'_>, all: Vec<New>) -> Result<(Uploaded, Option<Error>), Error> {
    let mut numbers = Numbers::default();
    let mut uploaded = Uploaded::default();
    for mut new in all {
        tx.prepare_cached("SAVEPOINT entry")?.execute([])?;
        let (kept, count) = match &mut new {
            New::Derivation(new) => (intake::keep(tx, &mut numbers, new), &mut uploaded.derivations),
            New::Source(new) => (sources::keep(farm, tx, &mut numbers, new), &mut uploaded.sources),
        };
        match kept {
            Ok(true) => *count += 1,
            Ok(false) => uploaded.known += 1,
            // The transaction is lost with everything in it.
            Err(error) if tx.is_autocommit() => return Err(error),
            Err(error) => {
                tx.execute_batch("ROLLBACK TO entry; RELEASE entry")?;
                return Ok((uploaded, Some(error)));
            }
        }
        tx.prepare_cached("RELEASE entry")?.execute([])?;
    }
    Ok((uploaded, None))
}
