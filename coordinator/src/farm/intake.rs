//! Derivations come in.

use drover_store::derivation::{Derivation, Input};
use drover_store::{Sha256Hash, StorePath};
use rusqlite::{Connection, OptionalExtension};

use super::error::Error;
use super::paths;
use super::press::Press;

/// A derivation whose text is the one of its name, and whose outputs are those that it makes.
#[derive(Debug)]
pub(super) struct NewDerivation {
    pub(super) path: StorePath,
    pub(super) inputs: Vec<Input>,
    pub(super) sources: Vec<StorePath>,
    /// Names and paths.
    pub(super) outputs: Vec<(String, StorePath)>,
    pub(super) system: String,
    /// What the daemon does by itself for it.
    pub(super) builtin: Option<String>,
    /// Its hash as an input of others.
    pub(super) modulo: Sha256Hash,
    /// Its text, compressed.
    pub(super) text: Vec<u8>,
}

impl NewDerivation {
    /// Reads the text of the derivation at `path`. `hashes` gives those of its inputs, in their order.
    ///
    /// # Errors
    /// When it is no derivation, or not the one of that name, or its outputs are not those that it must have; and
    /// those of `hashes`.
    pub(super) fn read(
        path: StorePath,
        text: &[u8],
        press: &mut Press,
        hashes: impl FnOnce(&StorePath, &[Input]) -> Result<Vec<Sha256Hash>, Error>,
    ) -> Result<Self, Error> {
        let bad = |reason: String| Error::BadDerivation { path: path.clone(), reason };
        if !path.is_derivation() {
            return Err(bad("its name does not end in .drv".to_owned()));
        }
        let derivation = Derivation::parse(text).map_err(|error| bad(error.to_string()))?;
        let own = derivation.path_of_text(path.name(), text).map_err(|error| bad(error.to_string()))?;
        if own != path {
            return Err(bad(format!("its name does not belong to its bytes, which are those of {own}")));
        }
        let hashes = hashes(&path, &derivation.inputs)?;
        check_outputs(&path, &derivation, &hashes)?;
        let modulo = derivation.hash_with(&hashes);
        let text = press
            .press(text)
            .map_err(|error| Error::io(format!("compress the derivation {path}"), error))?
            .to_vec();
        let builtin = derivation.builtin().map(str::to_owned);
        let Derivation { outputs, inputs, sources, system, .. } = derivation;
        let outputs = outputs.into_iter().map(|output| (output.name, output.path)).collect();
        Ok(Self { path, inputs, sources, outputs, system, builtin, modulo, text })
    }

    /// The bytes that it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        const NAME: usize = 200;
        self.text.len() + (self.inputs.len() + self.sources.len() + self.outputs.len() + 1) * NAME
    }
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

/// The hash of a derivation that is here, as an input of others.
pub(super) fn modulo(sql: &Connection, path: &StorePath) -> Result<Option<Sha256Hash>, Error> {
    let mut select = sql
        .prepare_cached("SELECT modulo FROM derivations WHERE id = (SELECT id FROM paths WHERE base = ?1)")?;
    Ok(select.query_row([path.base_name()], |row| paths::hash(row, 0)).optional()?)
}

/// Whether a derivation is here.
pub(super) fn is_kept(sql: &Connection, id: i64) -> Result<bool, Error> {
    Ok(sql.prepare_cached("SELECT 1 FROM derivations WHERE id = ?1")?.exists([id])?)
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
