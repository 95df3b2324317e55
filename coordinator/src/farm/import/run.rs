//! An import goes through its roots.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drover_store::StorePath;
use drover_store::key::{Acl, PublicKey};
use drover_tls::Trust;
use drover_wire::import::ImportState;
use rusqlite::Connection;

use super::flight::{Flight, Item};
use super::folder::Folder;
use super::halt::Halt;
use super::keep::{self, Elsewhere, Here, New};
use super::pass::Root;
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
    let mut again = String::new();
    tracing::info!(import = id, source, "an import begins, or goes on");
    loop {
        let begun = farm.database.write_blocking::<_, Error>(move |tx| rows::begin(tx, id));
        if let Err(error) = begun {
            tracing::error!(import = id, %error, "that an import begins could not be noted");
        }
        let passed = Run::new(farm, job, halt, cursor, &mut again).and_then(Run::pass);
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
pub(super) struct Run<'a> {
    pub(super) farm: &'a Arc<Farm>,
    pub(super) job: &'a Job,
    halt: Halt,
    pub(super) source: Arc<Source>,
    terms: Terms,
    /// After which root the import goes on if it ends now.
    pub(super) cursor: Cursor,
    /// After which of those that were refused before the next chances are given.
    pub(super) again: &'a mut String,
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
    /// How often each server of the configuration did not say in a row whether it has something.
    unsaid: Vec<u32>,
    /// Of the items that this pass is done with, a number each: millions of them fit memory.
    finished: HashSet<u64>,
    /// The same of those that the source does not have, and of those that no server of the configuration has.
    absent: HashSet<u64>,
    nowhere: HashSet<u64>,
    numbers: RandomState,
    /// Items that are used where they lie, and are to be noted together.
    waiting: Vec<New>,
    /// Whether some of that could not be kept.
    is_behind: bool,
}

/// What is to be done on the way through what is below a root.
enum Step {
    /// Find out about an item; the file is that of a narinfo that refers to it.
    Open(StorePath, Option<PathBuf>),
    /// All below it was seen to: take it.
    Close(Box<Said>, Option<PathBuf>),
}

impl<'a> Run<'a> {
    fn new(
        farm: &'a Arc<Farm>,
        job: &'a Job,
        halt: &Halt,
        cursor: Cursor,
        again: &'a mut String,
    ) -> Result<Self, Trouble> {
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
            Source::Folder(Folder::at(Path::new(&options.source), options.herder.as_deref().map(Path::new))?)
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
            again,
            roots: Roots::default(),
            root: 0,
            flight: Flight::new(farm.config.import_parallel),
            adopted,
            known: 0,
            unnoted: 0,
            failures: 0,
            unsaid: vec![0; farm.substitutes.servers().len()],
            finished: HashSet::new(),
            absent: HashSet::new(),
            nowhere: HashSet::new(),
            numbers: RandomState::new(),
            waiting: Vec::new(),
            is_behind: false,
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

    /// Takes a root and what is below it, after which it goes on there. An error: the import cannot go on.
    pub(super) fn root(&mut self, root: Root, cursor: Cursor) -> Result<(), Trouble> {
        self.halt.check()?;
        self.unnoted += 1;
        if self.unnoted >= NOTE_EVERY {
            self.flush()?;
        }
        let name = match &root {
            Root::Told(path) | Root::Likely(path) | Root::Again(path) => path.base_name().to_owned(),
            Root::Narinfo(file) => file.display().to_string(),
            Root::Kept(kept) => {
                let path = StorePath::parse(&kept.store_path).ok();
                path.map_or_else(|| format!("row {}", kept.id), |path| path.base_name().to_owned())
            }
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
        let mut is_root = true;
        let mut steps = match root {
            Root::Told(path) | Root::Likely(path) => {
                if self.is_known(&path)? {
                    return Ok(());
                }
                vec![Step::Open(path, None)]
            }
            Root::Again(path) => {
                if self
                    .farm
                    .database
                    .read_blocking(|sql| keep::here(sql, &path))?
                    .is_some_and(|here| here.is_settled)
                {
                    self.mended(&path)?;
                    return Ok(());
                }
                vec![Step::Open(path, None)]
            }
            Root::Narinfo(file) => {
                let source = Arc::clone(&self.source);
                let Source::Folder(folder) = &*source else { return Ok(()) };
                if let Some(path) = keep::named_by(self.farm, &file)? {
                    if self.is_over(&path)? {
                        return Ok(());
                    }
                }
                let Some(text) = folder.read(&file)? else { return Ok(()) };
                let said = Said::read(&text, &Wanted::Any, &self.terms)?;
                if self.is_over(&said.info.store_path)? {
                    return Ok(());
                }
                seen.insert(said.info.store_path.clone());
                self.open(said, Some(file))
            }
            Root::Kept(kept) => {
                let path = StorePath::parse(&kept.store_path)
                    .map_err(|error| SourceError::Refused(format!("“{}”: {error}", kept.store_path)))?;
                if self.is_over(&path)? {
                    return Ok(());
                }
                let said = Said::read(&kept.text, &Wanted::Item(path.clone()), &self.terms)?;
                seen.insert(path);
                self.open(said, None)
            }
        };
        while let Some(step) = steps.pop() {
            self.halt.check()?;
            match step {
                Step::Open(path, near) => {
                    let is_told = std::mem::take(&mut is_told);
                    // A root may have come after it was not there.
                    let is_absent =
                        !std::mem::take(&mut is_root) && self.absent.contains(&self.number(&path));
                    if is_absent || !seen.insert(path.clone()) || self.is_settled(&path)? {
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
                        Ok(None) => {
                            let number = self.number(&path);
                            self.absent.insert(number);
                        }
                        Err(trouble) => {
                            self.refuse(path.base_name(), trouble)?;
                            self.finish(&path);
                        }
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
                        self.finish(&path);
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

    /// Whether nothing is to be done about an item in this pass.
    fn is_settled(&self, path: &StorePath) -> Result<bool, Trouble> {
        if self.is_finished(path) || self.flight.has(path) {
            return Ok(true);
        }
        let here = self.farm.database.read_blocking(|sql| keep::here(sql, path))?;
        // What is held and not published may get the signature that came now.
        Ok(here.is_some_and(|here| here.is_settled))
    }

    /// Whether a root was here already, or is by now; the first is counted.
    fn is_known(&mut self, path: &StorePath) -> Result<bool, Trouble> {
        if self.flight.has(path) || self.waiting.iter().any(|new| new.said.info.store_path == *path) {
            return Ok(true);
        }
        if self.is_finished(path) {
            // What was refused is neither.
            let here = self.farm.database.read_blocking(|sql| keep::here(sql, path))?;
            return Ok(here.is_some_and(|here| here.is_settled));
        }
        let is_known = self.is_settled(path)?;
        if is_known {
            self.known += 1;
            self.finish(path);
        }
        Ok(is_known)
    }

    /// Whether nothing is to be done about a root in a folder. That folder is there, then.
    fn is_over(&mut self, path: &StorePath) -> Result<bool, Trouble> {
        let is_over = self.is_known(path)? || self.is_finished(path);
        if is_over {
            self.failures = 0;
        }
        Ok(is_over)
    }

    /// Something that was refused before is here.
    fn mended(&self, path: &StorePath) -> Result<(), Trouble> {
        let id = self.job.id;
        self.patiently(|| {
            let item = path.base_name().to_owned();
            self.farm.database.write_blocking(move |tx| rows::mended(tx, id, &item))
        })
    }

    fn number(&self, path: &StorePath) -> u64 {
        self.numbers.hash_one(path.base_name())
    }

    fn is_finished(&self, path: &StorePath) -> bool {
        self.finished.contains(&self.number(path))
    }

    /// This pass is done with an item, however that ended.
    fn finish(&mut self, path: &StorePath) {
        let number = self.number(path);
        self.finished.insert(number);
    }

    /// Has items taken whose turn it is, and sees to those that were taken; waits for them while there are many, or for
    /// all of them.
    pub(super) fn go_on(&mut self, to_the_end: bool) -> Result<(), Trouble> {
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
        self.finish(path);
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
            if !self.waiting.is_empty() {
                self.flush()?;
            }
            self.known += 1;
            self.publish_held(&here, said.clone())?;
            return Ok(false);
        }
        for other in said.others() {
            if let Some(where_not) = self.lacks(other)? {
                let source = &self.job.options.source;
                let why = format!(
                    "it refers to {other}, which is neither here, nor taken from {source}, {where_not}"
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

    /// Where else something is not that can be had nowhere.
    fn lacks(&mut self, path: &StorePath) -> Result<Option<String>, Trouble> {
        if self.waiting.iter().any(|new| new.said.info.store_path == *path)
            || self.farm.database.read_blocking(|sql| keep::can_be_had(sql, path))?
        {
            return Ok(None);
        }
        let number = self.number(path);
        if !self.nowhere.contains(&number) {
            match keep::ask_elsewhere(self.farm, path, &mut self.unsaid)? {
                Elsewhere::There => return Ok(None),
                Elsewhere::Nowhere => drop(self.nowhere.insert(number)),
                Elsewhere::Unsaid(why) => return Ok(Some(format!("and may be elsewhere: {why}"))),
            }
        }
        Ok(Some("nor on a server that the configuration names: it is nowhere".to_owned()))
    }

    /// Notes why something is not taken. An error: the import cannot go on.
    pub(super) fn refuse(&mut self, item: &str, trouble: Trouble) -> Result<(), Trouble> {
        // What a mirror fails to get must be met again: the source will not list it another time.
        let must_be_kept = self.job.options.every_minutes.is_some()
            && matches!(trouble, Trouble::Source(SourceError::Failed(_)));
        let why = match trouble {
            Trouble::Source(SourceError::Refused(why)) => why,
            Trouble::Source(SourceError::Failed(why)) => {
                self.failures += 1;
                if self.failures >= FAILURES {
                    // Others have their turn before it the next time.
                    item.clone_into(self.again);
                    return Err(SourceError::Failed(why).into());
                }
                why
            }
            Trouble::Farm(Error::BadRequest(why) | Error::Conflict(why)) => why,
            trouble => return Err(trouble),
        };
        tracing::debug!(import = self.job.id, item, why, "not imported");
        let id = self.job.id;
        let is_kept = self.patiently(|| {
            let (item, why) = (item.to_owned(), why.clone());
            self.farm.database.write_blocking(move |tx| rows::refused(tx, id, &item, &why))
        })?;
        if must_be_kept && !is_kept {
            item.clone_into(self.again);
            return Err(SourceError::Failed(why).into());
        }
        Ok(())
    }

    /// Notes what is used where it lies, and how far it came.
    pub(super) fn flush(&mut self) -> Result<(), Trouble> {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            let waiting = Arc::new(waiting);
            let kept = self.patiently(|| keep::all(self.farm, self.job.id, &waiting, self.terms.sign));
            self.is_behind |= kept.is_err();
            kept?;
        }
        self.note()
    }

    fn note(&mut self) -> Result<(), Trouble> {
        if self.is_behind {
            // What came before was not kept: it is met again where the last note was made.
            return Ok(());
        }
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
