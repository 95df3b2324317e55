//! What came in is written: derivations and sources, many of them in one transaction.
//!
//! Each is checked wholly before anything of it is written, so that one that is refused needs no undoing. A write that
//! fails is the database's failure and undoes the whole transaction.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use drover_store::StorePath;
use drover_wire::client::Uploaded;
use rusqlite::OptionalExtension;

use super::depend::Provided;
use super::error::Error;
use super::intake::{self, NewDerivation};
use super::recent::Recent;
use super::sources::{self, NewSource};
use super::{Tx, paths, sql};
use crate::database::{fixed, makers};

/// How many derivations, and how many sources, are remembered: about 500 bytes for each.
const MEMORY: usize = 100_000;

/// Something that came in.
#[derive(Debug)]
pub(super) enum New {
    Derivation(NewDerivation),
    Source(NewSource),
}

impl New {
    /// The bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Derivation(new) => new.weight(),
            Self::Source(new) => new.weight(),
        }
    }
}

/// What was kept of some things, and why the rest was not.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) uploaded: Uploaded,
    pub(super) refused: Option<Error>,
}

/// Keeps what came in, and remembers what it kept, of which what comes next speaks. When something that is here goes by
/// its age, all is forgotten; when a transaction is undone, its keeper must go with it.
#[derive(Debug)]
pub(super) struct Keeper {
    /// What the farm said of things that went, when this was filled.
    forgotten: u64,
    derivations: Recent<Known>,
    /// Sources that are here and refer to nothing.
    plain: Recent<i64>,
    platforms: HashMap<String, i64>,
}

/// A derivation that is here.
#[derive(Debug)]
struct Known {
    id: i64,
    /// It lacks nothing. The other way round it may have changed meanwhile.
    whole: bool,
    outputs: Vec<(String, i64)>,
}

/// What a derivation's inputs are in the database.
#[derive(Debug, Default)]
struct Inputs {
    /// Numbers of outputs and of the derivations that make them.
    edges: Vec<(i64, i64)>,
    makers: Vec<i64>,
    lacking: u64,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self {
            forgotten: 0,
            derivations: Recent::new(MEMORY),
            plain: Recent::new(MEMORY),
            platforms: HashMap::new(),
        }
    }

    /// Keeps all up to the first that is refused, which leaves nothing behind. `forgotten` is that of the farm.
    ///
    /// # Errors
    /// When the database cannot be written: then nothing of it is kept.
    pub(super) fn keep(
        &mut self,
        forgotten: &AtomicU64,
        tx: &mut Tx<'_>,
        all: Vec<New>,
    ) -> Result<Kept, Error> {
        let forgotten = forgotten.load(Ordering::Relaxed);
        if self.forgotten != forgotten {
            *self = Self { forgotten, ..Self::new() };
        }
        let mut kept = Kept::default();
        for new in all {
            let (is_new, count) = match new {
                New::Derivation(new) => match self.inputs(tx, &new) {
                    Ok(inputs) => (self.derivation(tx, new, inputs)?, &mut kept.uploaded.derivations),
                    Err(error) => return Ok(Kept { refused: Some(error), ..kept }),
                },
                New::Source(new) => (self.source(tx, &new)?, &mut kept.uploaded.sources),
            };
            *(if is_new { count } else { &mut kept.uploaded.known }) += 1;
        }
        Ok(kept)
    }

    fn source(&mut self, tx: &mut Tx<'_>, new: &NewSource) -> Result<bool, Error> {
        let (id, is_new) = sources::keep(tx, new)?;
        not_idle(tx, id)?;
        if new.is_plain() {
            self.plain.put(new.path().clone(), id);
        }
        Ok(is_new)
    }

    /// Looks up the inputs of a derivation. Only reads.
    fn inputs(&mut self, tx: &Tx<'_>, new: &NewDerivation) -> Result<Inputs, Error> {
        let mut found = Inputs::default();
        let mut missing = Vec::new();
        for input in &new.inputs {
            let Some(known) = self.known(tx, &input.derivation)? else {
                missing.push(input.derivation.clone());
                continue;
            };
            found.makers.push(known.id);
            for name in &input.outputs {
                let output = known.outputs.iter().find(|(own, _)| own == name).map(|(_, id)| *id);
                let output = output.ok_or_else(|| Error::BadDerivation {
                    path: new.path.clone(),
                    reason: format!(
                        "it wants the output “{name}” of {}, which has none of that name",
                        input.derivation
                    ),
                })?;
                found.edges.push((output, known.id));
            }
            if !known.whole && is_lacking(tx, known.id)? {
                found.lacking += 1;
            }
        }
        if !missing.is_empty() {
            return Err(Error::MissingDerivation { path: new.path.clone(), inputs: missing });
        }
        // In the order of the table, which is then written from one end to the other.
        found.edges.sort_unstable();
        Ok(found)
    }

    /// A derivation that is here, from memory or from the database.
    fn known(&mut self, tx: &Tx<'_>, path: &StorePath) -> Result<Option<&Known>, Error> {
        if self.derivations.get(path).is_none() {
            let mut select = tx.prepare_cached(
                "SELECT id, lacking = 0 FROM derivations WHERE id = (SELECT id FROM paths WHERE base = ?1)",
            )?;
            let found =
                select.query_row([path.base_name()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((id, whole)) = found else { return Ok(None) };
            let mut select =
                tx.prepare_cached("SELECT name, path FROM derivation_outputs WHERE derivation = ?1")?;
            let outputs = select.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let outputs = outputs.collect::<rusqlite::Result<_>>()?;
            self.derivations.put(path.clone(), Known { id, whole, outputs });
        }
        Ok(self.derivations.get(path))
    }

    /// Keeps a derivation whose inputs are here; false if it is here already.
    fn derivation(&mut self, tx: &Tx<'_>, new: NewDerivation, inputs: Inputs) -> Result<bool, Error> {
        let (id, unnamed) = paths::new_number(tx, &new.path, Provided::No)?;
        if !unnamed && intake::is_kept(tx, id)? {
            not_idle(tx, id)?;
            return Ok(false);
        }
        let lacking = inputs.lacking + self.sources(tx, id, &new.sources)?;
        let (outputs, held) = add_outputs(tx, id, new.outputs)?;
        let mut insert = tx.prepare_cached("INSERT INTO derivation_inputs VALUES (?1, ?2, ?3)")?;
        for (output, maker) in inputs.edges {
            insert.execute([id, output, maker])?;
        }
        let system = self.platform(tx, &new.system)?;
        let platform = match &new.builtin {
            Some(builtin) => self.platform(tx, &format!("builtin:{builtin}"))?,
            None => system,
        };
        tx.prepare_cached("INSERT INTO derivations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute((
            id,
            system,
            platform,
            outputs.first().map(|(_, path)| *path),
            new.modulo.as_bytes(),
            sql(lacking),
            makers::encode(inputs.makers),
        ))?;
        tx.prepare_cached("INSERT INTO contents VALUES (?1, ?2)")?.execute((id, new.text))?;
        for output in held {
            // From elsewhere, or by another derivation.
            fixed::note(tx, output)?;
        }
        self.derivations.put(new.path, Known { id, whole: lacking == 0, outputs });
        Ok(true)
    }

    /// Writes the sources of a derivation, with what texts among them refer to; how many of them are not here.
    fn sources(&mut self, tx: &Tx<'_>, derivation: i64, named: &[StorePath]) -> Result<u64, Error> {
        let (mut held, mut others) = (HashSet::new(), Vec::new());
        for source in named {
            match self.plain.get(source) {
                Some(id) => {
                    held.insert(*id);
                }
                None => others.push(paths::number(tx, source)?),
            }
        }
        let mut missing = Vec::new();
        for source in sources::with_references(tx, others)? {
            if sources::is_held(tx, source)? {
                held.insert(source);
            } else {
                missing.push(source);
            }
        }
        let mut insert = tx.prepare_cached("INSERT INTO derivation_sources VALUES (?1, ?2)")?;
        for source in held.iter().chain(&missing) {
            insert.execute([derivation, *source])?;
        }
        for source in &missing {
            tx.prepare_cached("INSERT OR IGNORE INTO missing_sources VALUES (?1)")?.execute([source])?;
        }
        Ok(missing.len() as u64)
    }

    fn platform(&mut self, tx: &Tx<'_>, name: &str) -> Result<i64, Error> {
        if let Some(id) = self.platforms.get(name) {
            return Ok(*id);
        }
        let id = paths::platform(tx, name)?;
        // There are few; a stranger's may be many.
        if self.platforms.len() < 1000 {
            self.platforms.insert(name.to_owned(), id);
        }
        Ok(id)
    }
}

/// Outputs by name, with the numbers of their paths.
type Numbered = Vec<(String, i64)>;

/// Writes the outputs of a derivation; which paths they are, and which of these are held.
fn add_outputs(
    tx: &Tx<'_>,
    derivation: i64,
    outputs: Vec<(String, StorePath)>,
) -> Result<(Numbered, Vec<i64>), Error> {
    let mut insert = tx.prepare_cached("INSERT INTO derivation_outputs VALUES (?1, ?2, ?3)")?;
    let (mut numbered, mut held) = (Vec::with_capacity(outputs.len()), Vec::new());
    for (name, path) in outputs {
        let (id, unnamed) = paths::new_number(tx, &path, Provided::No)?;
        insert.execute((derivation, &name, id))?;
        if !unnamed && is_held(tx, id)? {
            held.push(id);
        }
        numbered.push((name, id));
    }
    Ok((numbered, held))
}

fn is_held(tx: &Tx<'_>, path: i64) -> Result<bool, Error> {
    Ok(tx.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([path])?)
}

/// What is uploaded again has its whole time before it goes.
fn not_idle(tx: &Tx<'_>, path: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM idle WHERE path = ?1")?.execute([path])?;
    Ok(())
}

fn is_lacking(tx: &Tx<'_>, derivation: i64) -> Result<bool, Error> {
    let mut select = tx.prepare_cached("SELECT lacking > 0 FROM derivations WHERE id = ?1")?;
    Ok(select.query_row([derivation], |row| row.get(0))?)
}
