//! Derivations come in.

use drover_store::derivation::Derivation;
use drover_store::{Sha256Hash, StorePath};
use rusqlite::{Connection, OptionalExtension};

use super::error::Error;
use super::paths::{self, Numbers};
use super::{Tx, sources, sql};
use crate::database::makers;

/// The level at which texts are compressed. Higher ones gain little on so small things.
const LEVEL: i32 = 9;

/// A derivation whose text is the one of its name.
#[derive(Debug)]
pub(super) struct NewDerivation {
    path: StorePath,
    derivation: Derivation,
    /// Its text, compressed.
    text: Vec<u8>,
}

impl NewDerivation {
    /// Reads the text of the derivation at `path`.
    ///
    /// # Errors
    /// When it is no derivation, or not the one of that name.
    pub(super) fn read(path: StorePath, text: &[u8]) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadDerivation { path: path.clone(), reason };
        if !path.is_derivation() {
            return Err(bad("its name does not end in .drv".to_owned()));
        }
        let derivation = Derivation::parse(text).map_err(|error| bad(error.to_string()))?;
        let own = derivation.path_of_text(path.name(), text).map_err(|error| bad(error.to_string()))?;
        if own != path {
            return Err(bad(format!("its name does not belong to its bytes, which are those of {own}")));
        }
        let text = zstd::bulk::compress(text, LEVEL)
            .map_err(|error| Error::io(format!("compress the derivation {path}"), error))?;
        Ok(Self { path, derivation, text })
    }

    /// The bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        // The text shrinks to about a third, and its parts are about as large as it is.
        self.text.len() * 4
    }
}

/// Keeps a derivation; false if it is here already.
///
/// # Errors
/// When an input of it is not here, or its outputs are not those that it must have.
pub(super) fn keep(tx: &mut Tx<'_>, numbers: &mut Numbers, new: &NewDerivation) -> Result<bool, Error> {
    let NewDerivation { path, derivation, text } = new;
    let id = numbers.of(tx, path)?;
    if is_kept(tx, id)? {
        return Ok(false);
    }
    let inputs = find_inputs(tx, numbers, path, derivation)?;
    let hashes: Vec<Sha256Hash> = inputs.iter().map(|input| input.modulo).collect();
    check_outputs(path, derivation, &hashes)?;

    let mut lacking = inputs.iter().filter(|input| input.lacking).count();
    let own = derivation.sources.iter().map(|source| numbers.of(tx, source));
    for source in sources::with_references(tx, own.collect::<Result<_, _>>()?)? {
        tx.prepare_cached("INSERT INTO derivation_sources VALUES (?1, ?2)")?.execute([id, source])?;
        if !sources::is_held(tx, source)? {
            lacking += 1;
            tx.prepare_cached("INSERT OR IGNORE INTO missing_sources VALUES (?1)")?.execute([source])?;
        }
    }
    let mut target = None;
    for output in &derivation.outputs {
        let output_id = numbers.of(tx, &output.path)?;
        tx.prepare_cached("INSERT INTO derivation_outputs VALUES (?1, ?2, ?3)")?.execute((
            id,
            &output.name,
            output_id,
        ))?;
        target = target.or(Some(output_id));
    }
    for (input, wanted) in inputs.iter().zip(&derivation.inputs) {
        for output in &wanted.outputs {
            add_edge(tx, path, id, input, output)?;
        }
    }
    let system = paths::platform(tx, &derivation.system)?;
    let platform = match derivation.builtin() {
        Some(builtin) => paths::platform(tx, &format!("builtin:{builtin}"))?,
        None => system,
    };
    tx.prepare_cached("INSERT INTO derivations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute((
        id,
        system,
        platform,
        target,
        derivation.hash_with(&hashes).as_bytes(),
        sql(lacking as u64),
        makers::encode(inputs.iter().map(|input| input.id).collect()),
    ))?;
    tx.prepare_cached("INSERT INTO contents VALUES (?1, ?2)")?.execute((id, text))?;
    Ok(true)
}

fn is_kept(sql: &Connection, id: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM derivations WHERE id = ?1")?.exists([id])?)
}

struct FoundInput {
    id: i64,
    modulo: Sha256Hash,
    lacking: bool,
}

fn find_inputs(
    tx: &Tx<'_>,
    numbers: &mut Numbers,
    path: &StorePath,
    derivation: &Derivation,
) -> Result<Vec<FoundInput>, Error> {
    let mut found = Vec::with_capacity(derivation.inputs.len());
    let mut missing = Vec::new();
    let mut select = tx.prepare_cached("SELECT modulo, lacking > 0 FROM derivations WHERE id = ?1")?;
    for input in &derivation.inputs {
        let id = numbers.of(tx, &input.derivation)?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(FoundInput { id, modulo: paths::hash(row, 0)?, lacking: row.get(1)? })
        };
        match select.query_row([id], read).optional()? {
            Some(input) => found.push(input),
            None => missing.push(input.derivation.clone()),
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    Err(Error::MissingDerivation { path: path.clone(), inputs: missing })
}

fn check_outputs(path: &StorePath, derivation: &Derivation, hashes: &[Sha256Hash]) -> Result<(), Error> {
    let bad = |reason: String| Error::BadDerivation { path: path.clone(), reason };
    if derivation.outputs.iter().any(|output| output.fixed.is_some()) && !derivation.is_fixed_output() {
        return Err(bad("it has a fixed output that is not its only one, named “out”".to_owned()));
    }
    let computed =
        derivation.outputs_with(path.derivation_name(), hashes).map_err(|error| bad(error.to_string()))?;
    for (output, (name, right)) in derivation.outputs.iter().zip(computed) {
        if output.path != right {
            return Err(bad(format!(
                "its output “{name}” is written as {}, and must be {right}",
                output.path
            )));
        }
    }
    Ok(())
}

fn add_edge(
    tx: &Tx<'_>,
    path: &StorePath,
    derivation: i64,
    input: &FoundInput,
    output: &str,
) -> Result<(), Error> {
    let select = "SELECT path FROM derivation_outputs WHERE derivation = ?1 AND name = ?2";
    let output_id: Option<i64> =
        tx.prepare_cached(select)?.query_row((input.id, output), |row| row.get(0)).optional()?;
    let Some(output_id) = output_id else {
        let maker = paths::path(tx, input.id)?;
        let reason = format!("it wants the output “{output}” of {maker}, which has none of that name");
        return Err(Error::BadDerivation { path: path.clone(), reason });
    };
    tx.prepare_cached("INSERT INTO derivation_inputs VALUES (?1, ?2, ?3)")?
        .execute([derivation, output_id, input.id])?;
    Ok(())
}

/// The text of a derivation.
///
/// # Errors
/// When it is not here.
pub(super) fn text(sql: &Connection, path: &StorePath) -> Result<Vec<u8>, Error> {
    let unknown = || Error::UnknownDerivation(path.clone());
    let id = paths::find(sql, path)?.ok_or_else(unknown)?;
    if !is_kept(sql, id)? {
        return Err(unknown());
    }
    contents(sql, id)?.ok_or_else(|| Error::Damaged(format!("the text of {path} is not there")))
}

/// The decompressed contents that the database keeps of an item.
pub(super) fn contents(sql: &Connection, id: i64) -> Result<Option<Vec<u8>>, Error> {
    let mut select = sql.prepare_cached("SELECT bytes FROM contents WHERE path = ?1")?;
    let bytes: Option<Vec<u8>> = select.query_row([id], |row| row.get(0)).optional()?;
    let Some(bytes) = bytes else { return Ok(None) };
    let plain = zstd::stream::decode_all(&bytes[..]).map_err(|error| {
        Error::Damaged(format!("what the database has of a path does not decompress: {error}"))
    })?;
    Ok(Some(plain))
}
