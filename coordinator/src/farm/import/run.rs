//! An import goes through its roots.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drover_store::StorePath;
use drover_store::key::{Acl, PublicKey};
use drover_tls::Trust;
use drover_wire::import::{ImportState, PublishedQuestion};
use rusqlite::Connection;

use super::flight::{Flight, Item};
use super::folder::{Closed, Folder, Narinfos};
use super::halt::Halt;
use super::keep::{self, Here, New};
use super::room::{self, Taker};
use super::roots::Roots;
use super::rows::{self, Cursor, Job};
use super::said::{Said, Terms, Wanted};
use super::server::Server;
use super::source::{Source, SourceError};
use crate::farm::error::Error;
use crate::farm::{Farm, Tx};

/// After so many items in a row that the source did not give, it is down.
const FAILURES: u32 = 5;
/// The most items below one root, and the most bytes of narinfos that are held while what they refer to is taken.
const BELOW: usize = 1_000_000;
const HELD: usize = 64 << 20;
/// After how many roots it is noted how far it came, where nothing is taken.
const NOTE_EVERY: u64 = 200;

/// Why an import cannot go on, or an item is not taken.
#[derive(Debug)]
pub(super) enum Trouble {
    /// What the source gave, or did not.
    Source(SourceError),
    /// The coordinator itself.
    Farm(Error),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Farm(error)
    }
}

/// Does all of an import, on a thread of its own, and notes how it ended.
pub(super) fn whole(farm: &Arc<Farm>, job: &Job, halt: &Halt) {
    let (id, source) = (job.id, &job.options.source);
    let mut cursor = job.cursor;
    tracing::info!(import = id, source, "an import begins, or goes on");
    loop {
        let passed = Run::new(farm, job, halt, cursor).and_then(Run::pass);
        let (state, error) = match passed {
            Ok(reached) => {
                cursor = reached;
                (ImportState::Done, None)
            }
            Err(Trouble::Source(SourceError::Stopped) | Trouble::Farm(Error::Stopping))
                if !halt.by_order() =>
            {
                // The coordinator stops: it goes on at the next start.
                return;
            }
            Err(Trouble::Source(SourceError::Stopped)) => (ImportState::Stopped, None),
            Err(Trouble::Source(SourceError::Refused(why) | SourceError::Failed(why))) => {
                (ImportState::Failed, Some(why))
            }
            Err(Trouble::Farm(error)) => (ImportState::Failed, Some(error.to_string())),
        };
        let again = job.options.every_minutes.filter(|_| state != ImportState::Stopped);
        let noted = if again.is_some() { ImportState::Running } else { state };
        let why = error.clone();
        let written =
            farm.database.write_blocking::<_, Error>(move |tx| rows::end(tx, id, noted, why.as_deref()));
        if let Err(error) = written {
            tracing::error!(import = id, %error, "how an import ended could not be noted");
        }
        match &error {
            Some(why) => tracing::warn!(import = id, source, why, "an import could not go on"),
            None => tracing::info!(import = id, source, %state, "an import ended, for now or for good"),
        }
        let Some(minutes) = again else { return };
        if halt.rest(Duration::from_secs(minutes.saturating_mul(60))).is_err() {
            return;
        }
        // Where it stopped in the middle, that is noted.
        if error.is_some() {
            cursor = farm.database.read_blocking(|sql| rows::cursor(sql, id)).unwrap_or(cursor);
        }
    }
}

/// One pass through the roots.
struct Run<'a> {
    farm: &'a Arc<Farm>,
    job: &'a Job,
    halt: Halt,
    source: Arc<Source>,
    terms: Terms,
    /// After which root the import goes on if it ends now.
    cursor: Cursor,
    roots: Roots,
    /// The root that is looked at.
    root: u64,
    flight: Flight,
    /// The place whose files are used where they lie.
    adopted: Option<i64>,
    /// Roots that are here already and were not noted yet.
    known: u64,
    unnoted: u64,
    failures: u32,
    /// Items that are used where they lie, and are to be noted together.
    waiting: Vec<New>,
}

/// Where a root comes from.
enum Root {
    /// It was told: that it is not there is to be said.
    Told(StorePath),
    /// It may be there, or may have been there a moment ago.
    Likely(StorePath),
    /// It is a narinfo's file.
    Narinfo(PathBuf),
}

/// What is to be done on the way through what is below a root.
enum Step {
    /// Find out about an item; the file is that of a narinfo that refers to it.
    Open(StorePath, Option<PathBuf>),
    /// All below it was seen to: take it.
    Close(Box<Said>, Option<PathBuf>),
}

impl<'a> Run<'a> {
    fn new(farm: &'a Arc<Farm>, job: &'a Job, halt: &Halt, cursor: Cursor) -> Result<Self, Trouble> {
        let options = &job.options;
        let halt = halt.of_pass();
        let source = if super::is_address(&options.source) {
            let trust = match super::pins(options).map_err(Error::BadRequest)? {
                pins if pins.is_empty() => Trust::System,
                pins => Trust::Keys(pins),
            };
            let silence = Duration::from_secs(farm.config.import_silence_seconds);
            Source::Server(Server::new(&options.source, trust, silence, halt.clone()))
        } else {
            Source::Folder(Folder::at(Path::new(&options.source))?)
        };
        let adopted = match &source {
            Source::Folder(folder) if options.in_place => Some(keep::adopted_place(farm, folder.root())?),
            _ => None,
        };
        let own = farm.database.read_blocking(own_keys)?;
        let given = options.keys.iter().filter_map(|key| PublicKey::parse(key).ok());
        let keys: Acl = own.into_iter().chain(given).collect();
        let terms = Terms {
            keys,
            unsigned: options.unsigned,
            sign: options.sign,
            nar_limit: farm.config.max_nar_mib.saturating_mul(1 << 20),
        };
        Ok(Self {
            farm,
            job,
            halt,
            source: Arc::new(source),
            terms,
            cursor,
            roots: Roots::default(),
            root: 0,
            flight: Flight::new(farm.config.import_parallel),
            adopted,
            known: 0,
            unnoted: 0,
            failures: 0,
            waiting: Vec::new(),
        })
    }

    /// Goes through all roots. The answer: where the next pass is to begin.
    fn pass(mut self) -> Result<Cursor, Trouble> {
        let passed = self.all_roots();
        if passed.is_err() {
            self.halt.give_up();
        }
        // What is here stays, however it ended; what was given up is met again, and its root is not over.
        while let Some(landed) = self.flight.landed(true) {
            if landed.outcome.is_ok() {
                self.end(&landed.path);
            }
        }
        // Why it could not go on comes before what followed from that.
        let flushed = self.flush();
        passed.and_then(|reached| flushed.map(|()| reached))
    }

    fn all_roots(&mut self) -> Result<Cursor, Trouble> {
        let id = self.job.id;
        if self.farm.database.read_blocking(|sql| rows::was_told(sql, id))? {
            self.numbered(Root::Told, move |run, after| {
                Ok(run.farm.database.read_blocking(|sql| rows::told(sql, id, after))?)
            })?;
            return Ok(Cursor::default());
        }
        let source = Arc::clone(&self.source);
        if let Source::Folder(folder) = &*source {
            let mut narinfos = Narinfos::new(folder)?;
            loop {
                match narinfos.next() {
                    Ok(Some(file)) => self.root(Root::Narinfo(file), self.cursor)?,
                    Ok(None) => break,
                    Err(Closed { folder, why }) => {
                        // One that is not for everybody is at the top of many disks.
                        self.refuse(&folder.display().to_string(), SourceError::Refused(why).into())?;
                    }
                }
            }
            self.go_on(true)?;
            return Ok(Cursor::default());
        }
        if self.is_drover()? {
            self.numbered(Root::Likely, Self::published)?;
            // A mirror goes on from here.
            return Ok(self.cursor);
        }
        self.cursor = Cursor::default();
        self.numbered(Root::Likely, |run, after| {
            Ok(run.farm.database.read_blocking(|sql| rows::wanted(sql, after))?)
        })?;
        Ok(Cursor::default())
    }

    fn is_drover(&self) -> Result<bool, Trouble> {
        let Source::Server(server) = &*self.source else { return Ok(false) };
        let question = PublishedQuestion { after: self.cursor.0, limit: Some(1) };
        match server.published(question) {
            Ok(page) => Ok(page.is_some()),
            // It knows no such address, in words of its own.
            Err(SourceError::Refused(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn published(&mut self, after: Cursor) -> Result<Vec<(u64, StorePath)>, Trouble> {
        let Source::Server(server) = &*self.source else { return Ok(Vec::new()) };
        let question = PublishedQuestion { after: after.0, limit: None };
        let page = server.published(question)?.unwrap_or_default();
        Ok(page.items.into_iter().map(|item| (item.number, item.path)).collect())
    }

    /// Goes through roots that have numbers, some at a time.
    fn numbered(
        &mut self,
        root: impl Fn(StorePath) -> Root,
        next: impl Fn(&mut Self, Cursor) -> Result<Vec<(u64, StorePath)>, Trouble>,
    ) -> Result<(), Trouble> {
        let mut reached = self.cursor;
        loop {
            let some = next(self, reached)?;
            let Some((last, _)) = some.last() else { break };
            if *last <= reached.0 {
                return Err(
                    SourceError::Failed("its list of what was published goes in circles".to_owned()).into()
                );
            }
            for (number, path) in some {
                reached = Cursor(number);
                self.root(root(path), reached)?;
            }
        }
        self.go_on(true)?;
        self.note()
    }

    /// Takes a root and what is below it, after which it goes on there. An error: the import cannot go on.
    fn root(&mut self, root: Root, cursor: Cursor) -> Result<(), Trouble> {
        self.halt.check()?;
        self.unnoted += 1;
        if self.unnoted >= NOTE_EVERY {
            self.flush()?;
        }
        let name = match &root {
            Root::Told(path) | Root::Likely(path) => path.base_name().to_owned(),
            Root::Narinfo(file) => file.display().to_string(),
        };
        self.root = self.roots.begin(cursor);
        if let Err(trouble) = self.below(root) {
            self.refuse(&name, trouble)?;
        }
        self.roots.less(self.root);
        self.go_on(false)
    }

    fn below(&mut self, root: Root) -> Result<(), Trouble> {
        let mut seen = HashSet::new();
        let mut held = 0;
        // The first that is looked for, and not being there is a refusal.
        let mut is_told = matches!(root, Root::Told(_));
        let mut steps = match root {
            Root::Told(path) | Root::Likely(path) => {
                if self.is_settled(&path)? {
                    self.known += 1;
                    return Ok(());
                }
                vec![Step::Open(path, None)]
            }
            Root::Narinfo(file) => {
                let source = Arc::clone(&self.source);
                let Source::Folder(folder) = &*source else { return Ok(()) };
                if let Some(path) = keep::named_by(self.farm, &file)? {
                    if self.is_settled(&path)? {
                        self.known += 1;
                        return Ok(());
                    }
                }
                let Some(text) = folder.read(&file)? else { return Ok(()) };
                let said = Said::read(&text, &Wanted::Any, &self.terms)?;
                if self.is_settled(&said.info.store_path)? {
                    self.known += 1;
                    return Ok(());
                }
                seen.insert(said.info.store_path.clone());
                self.open(said, Some(file))
            }
        };
        while let Some(step) = steps.pop() {
            self.halt.check()?;
            match step {
                Step::Open(path, near) => {
                    let is_told = std::mem::take(&mut is_told);
                    if !seen.insert(path.clone()) || self.is_settled(&path)? {
                        continue;
                    }
                    if seen.len() > BELOW {
                        let why = format!("more than {BELOW} items are below it");
                        return Err(SourceError::Refused(why).into());
                    }
                    match self.find(&path, near.as_deref()) {
                        Ok(Some((said, file))) => {
                            held += weight(&said);
                            if held > HELD {
                                let why = "the narinfos of what is below it do not fit in memory".to_owned();
                                return Err(SourceError::Refused(why).into());
                            }
                            steps.extend(self.open(said, file));
                        }
                        Ok(None) if is_told => {
                            let why = format!("{} does not have it", self.job.options.source);
                            return Err(SourceError::Refused(why).into());
                        }
                        // What refers to it may still find it elsewhere.
                        Ok(None) => {}
                        Err(trouble) => self.refuse(path.base_name(), trouble)?,
                    }
                }
                Step::Close(said, file) => {
                    held = held.saturating_sub(weight(&said));
                    if self.adopted.is_some() {
                        let path = said.info.store_path.clone();
                        match self.adopt(*said, file.as_deref()) {
                            Ok(()) => self.failures = 0,
                            Err(trouble) => self.refuse(path.base_name(), trouble)?,
                        }
                        continue;
                    }
                    self.roots.more(self.root);
                    self.flight.add(Item { said: *said, file, root: self.root });
                    self.go_on(false)?;
                }
            }
        }
        Ok(())
    }

    /// The steps for an item whose narinfo is here.
    fn open(&self, said: Said, file: Option<PathBuf>) -> Vec<Step> {
        let below: Vec<Step> = said.others().map(|path| Step::Open(path.clone(), file.clone())).collect();
        let mut steps = vec![Step::Close(Box::new(said), file)];
        steps.extend(below);
        steps
    }

    fn find(
        &self,
        path: &StorePath,
        near: Option<&Path>,
    ) -> Result<Option<(Said, Option<PathBuf>)>, Trouble> {
        let Some(found) = self.source.narinfo(path, near)? else { return Ok(None) };
        let said = Said::read(&found.text, &Wanted::Item(path.clone()), &self.terms)?;
        Ok(Some((said, found.file)))
    }

    /// Whether nothing is to be done about an item.
    fn is_settled(&self, path: &StorePath) -> Result<bool, Trouble> {
        let is_waiting = self.waiting.iter().any(|new| new.said.info.store_path == *path);
        if is_waiting || self.flight.has(path) {
            return Ok(true);
        }
        let here = self.farm.database.read_blocking(|sql| keep::here(sql, path))?;
        // What is held and not published may get the signature that came now.
        Ok(here.is_some_and(|here| here.is_settled))
    }

    /// Has items taken whose turn it is, and sees to those that were taken; waits for them while there are many, or for
    /// all of them.
    fn go_on(&mut self, to_the_end: bool) -> Result<(), Trouble> {
        loop {
            while let Some(item) = self.flight.next() {
                self.begin(item)?;
            }
            let patience = to_the_end || self.flight.is_full() || self.roots.are_many();
            let Some(landed) = self.flight.landed(patience) else { return Ok(()) };
            match landed.outcome {
                Ok(()) => self.failures = 0,
                Err(trouble) => self.refuse(landed.path.base_name(), trouble)?,
            }
            self.end(&landed.path);
        }
    }

    /// Takes an item, all of whose references were seen to, on a thread of its own.
    fn begin(&mut self, item: Item) -> Result<(), Trouble> {
        let path = item.said.info.store_path.clone();
        match self.is_to_be_taken(&item.said) {
            Ok(true) => {}
            Ok(false) => {
                self.end(&path);
                return Ok(());
            }
            Err(trouble) => {
                self.refuse(path.base_name(), trouble)?;
                self.end(&path);
                return Ok(());
            }
        }
        let taker = Taker {
            farm: Arc::clone(self.farm),
            source: Arc::clone(&self.source),
            halt: self.halt.clone(),
            import: self.job.id,
            sign: self.terms.sign,
        };
        let launched = self.flight.launch(path, move || taker.take(&item));
        Ok(launched.map_err(|error| Error::io("start a thread for an item of an import", error))?)
    }

    /// An item is on its way no more.
    fn end(&mut self, path: &StorePath) {
        if let Some(root) = self.flight.done(path) {
            self.roots.less(root);
        }
    }

    /// Uses an item where it lies, below which everything was seen to.
    fn adopt(&mut self, said: Said, file: Option<&Path>) -> Result<(), Trouble> {
        let Some(place) = self.adopted else { return Ok(()) };
        if !self.is_to_be_taken(&said)? {
            return Ok(());
        }
        let files = keep::as_they_lie(&self.source, &said, file, place)?;
        self.waiting.push(New::in_place(said, files));
        if self.waiting.len() >= keep::AT_ONCE {
            self.flush()?;
        }
        Ok(())
    }

    /// Whether an item is not here and can be taken, with all that it refers to; one that is here is published.
    fn is_to_be_taken(&mut self, said: &Said) -> Result<bool, Trouble> {
        let here = self.farm.database.read_blocking(|sql| keep::here(sql, &said.info.store_path))?;
        if let Some(here) = here {
            self.flush()?;
            self.known += 1;
            self.publish_held(&here, said.clone())?;
            return Ok(false);
        }
        for other in said.others() {
            if !self.can_be_had(other)? {
                let why = format!(
                    "it refers to {other}, which is nowhere: neither here, nor taken from {}, nor on a server that the \
                     configuration names",
                    self.job.options.source
                );
                return Err(SourceError::Refused(why).into());
            }
        }
        Ok(true)
    }

    /// It is held already: as it is said now, or not.
    fn publish_held(&self, here: &Here, said: Said) -> Result<(), Trouble> {
        if here.nar_hash != said.info.nar_hash {
            let why = format!(
                "another nar of it is here, with the SHA-256 {}, and not {}",
                here.nar_hash, said.info.nar_hash
            );
            return Err(SourceError::Refused(why).into());
        }
        if here.references != said.info.references {
            let why = "it is here, and does not refer to what it is said to refer to".to_owned();
            return Err(SourceError::Refused(why).into());
        }
        self.patiently(|| keep::publish(self.farm, here.id, said.clone(), self.terms.sign))
    }

    fn can_be_had(&self, path: &StorePath) -> Result<bool, Trouble> {
        if self.waiting.iter().any(|new| new.said.info.store_path == *path) {
            return Ok(true);
        }
        if self.farm.database.read_blocking(|sql| keep::can_be_had(sql, path))? {
            return Ok(true);
        }
        Ok(keep::ask_elsewhere(self.farm, path)?)
    }

    /// Notes why something is not taken. An error: the import cannot go on.
    fn refuse(&mut self, item: &str, trouble: Trouble) -> Result<(), Trouble> {
        let why = match trouble {
            Trouble::Source(SourceError::Refused(why)) => why,
            Trouble::Source(SourceError::Failed(why)) => {
                self.failures += 1;
                // A mirror comes back to it.
                if self.failures >= FAILURES || self.job.options.every_minutes.is_some() {
                    return Err(SourceError::Failed(why).into());
                }
                why
            }
            Trouble::Farm(Error::BadRequest(why) | Error::Conflict(why)) => why,
            trouble => return Err(trouble),
        };
        tracing::debug!(import = self.job.id, item, why, "not imported");
        let id = self.job.id;
        self.patiently(|| {
            let (item, why) = (item.to_owned(), why.clone());
            self.farm.database.write_blocking(move |tx| rows::refused(tx, id, &item, &why))
        })
    }

    /// Notes what is used where it lies, and how far it came.
    fn flush(&mut self) -> Result<(), Trouble> {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            let waiting = Arc::new(waiting);
            self.patiently(|| keep::all(self.farm, self.job.id, &waiting, self.terms.sign))?;
        }
        self.note()
    }

    fn note(&mut self) -> Result<(), Trouble> {
        self.unnoted = 0;
        self.cursor = self.roots.passed().unwrap_or(self.cursor);
        let (id, cursor, known) = (self.job.id, self.cursor, std::mem::take(&mut self.known));
        let advance = move |tx: &mut Tx<'_>| rows::advance(tx, id, cursor, known);
        self.patiently(|| self.farm.database.write_blocking(advance))
    }

    /// Does something that needs room, as soon as there is some.
    fn patiently<T>(&self, work: impl FnMut() -> Result<T, Error>) -> Result<T, Trouble> {
        room::patiently(self.farm, &self.halt, self.job.id, work)
    }
}

/// The bytes that a narinfo takes in memory, about.
pub(super) fn weight(said: &Said) -> usize {
    let signed = said.info.signature.as_ref().map_or(0, |signed| signed.text.len());
    500 + signed + 100 * said.info.references.len()
}

/// The coordinator's own keys.
fn own_keys(sql: &Connection) -> Result<Vec<PublicKey>, Error> {
    let mut select = sql.prepare_cached("SELECT public FROM keys WHERE retired_at IS NULL")?;
    let keys = select.query_map([], |row| row.get::<_, String>(0))?;
    let texts = keys.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(texts.iter().filter_map(|text| PublicKey::parse(text).ok()).collect())
}
