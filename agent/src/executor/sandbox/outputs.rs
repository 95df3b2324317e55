//! What a builder made: checked, brought into its canonical form, described, and put into the store.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use drover_store::base32;
use drover_store::derivation::Fixed;
use drover_store::hash::{Sha256, Sha256Hash};
use drover_store::nar;
use drover_store::path::StorePath;
use drover_store::references::Scanner;

use super::copy::{CopyError, copy};
use super::plan::Plan;
use super::restrictions::{Restrictions, requisites};
use super::stopping::{Heeding, Stopping};
use crate::executor::Error;
use crate::store::{CanonicalError, Item, OutputLimits, Store, canonicalize_while};

/// Why outputs are not put into the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The builder did not do what it should: the build failed.
    #[error("{0}")]
    Build(String),
    /// Something else than what it made is in the store.
    #[error("{0}")]
    NotBuiltHere(String),
    /// The machine's fault.
    #[error(transparent)]
    Step(#[from] Error),
}

/// An output that passed, on its way into the store.
#[derive(Debug)]
struct Checked {
    tree: PathBuf,
    item: Item,
}

/// Where the outputs are and what they must be.
#[derive(Debug)]
pub(super) struct Outputs<'a> {
    pub(super) store: &'a Store,
    pub(super) plan: &'a Plan,
    /// The items that they can refer to besides each other.
    pub(super) inputs: &'a [StorePath],
    /// The folder that has them, each under its base name; nothing of the builder lives any more.
    pub(super) folder: &'a Path,
    /// A folder for copies, of the same file system, where somebody else may still hold what the builder made.
    pub(super) copies: Option<&'a Path>,
    /// Who owns what is in the store, where we can decide that.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) limits: OutputLimits,
    pub(super) stop: &'a Stopping,
}

impl Outputs<'_> {
    /// Checks all outputs, then puts them all into the store, each after what it refers to. What fails after a stop failed
    /// because of it.
    pub(super) fn place(&self) -> Result<(), OutputError> {
        self.check_and_place().map_err(|error| self.stop.check().err().map_or(error, OutputError::Step))
    }

    fn check_and_place(&self) -> Result<(), OutputError> {
        let restrictions = Restrictions::of(&self.plan.derivation).map_err(OutputError::Build)?;
        let outputs = &self.plan.derivation.outputs;
        let candidates: Vec<&StorePath> =
            self.inputs.iter().chain(outputs.iter().map(|output| &output.path)).collect();
        let mut checked = Vec::with_capacity(outputs.len());
        for output in outputs {
            checked.push(self.check(&output.path, output.fixed.as_ref(), &candidates)?);
        }
        self.restrict(&restrictions, &checked)?;
        for Checked { tree, item } in in_order(checked).map_err(OutputError::Build)? {
            self.store.place(&tree, &item).map_err(Error::from)?;
            self.check_built_here(&item)?;
        }
        Ok(())
    }

    /// That what is in the store is what was built here: if it came from elsewhere in the meantime, it was left as it is.
    fn check_built_here(&self, built: &Item) -> Result<(), OutputError> {
        let there = self.store.item(&built.path).map_err(Error::from)?;
        let references = |item: &Item| item.references.iter().cloned().collect::<BTreeSet<_>>();
        match there {
            Some(there) if there.nar_hash == built.nar_hash && references(&there) == references(built) => {
                Ok(())
            }
            _ => Err(OutputError::NotBuiltHere(format!(
                "while the output {} was built, another build of it came into the store, where it stays",
                built.path
            ))),
        }
    }

    fn check(
        &self,
        path: &StorePath,
        fixed: Option<&Fixed>,
        candidates: &[&StorePath],
    ) -> Result<Checked, OutputError> {
        let built = self.folder.join(path.base_name());
        let mut metadata = match fs::symlink_metadata(&built) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let derivation = &self.plan.path;
                return Err(OutputError::Build(format!(
                    "builder for `{derivation}' failed to produce output path `{path}'"
                )));
            }
            Err(source) => return Err(failed("look at", path, source)),
        };
        let mode = metadata.permissions().mode();
        if !metadata.is_symlink() && mode & 0o022 != 0 {
            return Err(OutputError::Build(format!(
                "the output {path} can be written by others (mode {:04o}), so it may be anybody's",
                mode & 0o7777
            )));
        }
        let tree = match self.copies {
            Some(copies) => {
                let copied = self.copy(path, &built, copies)?;
                metadata = fs::symlink_metadata(&copied).map_err(|e| failed("look at", path, e))?;
                copied
            }
            None => built,
        };
        let mode = metadata.permissions().mode();
        let is_flat = fixed.is_some_and(|fixed| !fixed.recursive);
        if is_flat && (!metadata.is_file() || mode & 0o100 != 0) {
            return Err(OutputError::Build(format!(
                "the output {path} must be a file that is not executable, because its hash is fixed as one"
            )));
        }
        let wanted = || !self.stop.is_stopped();
        canonicalize_while(&tree, self.owner, &self.limits, &wanted).map_err(|error| match error {
            CanonicalError::Io { attempted, path: inside, source } => {
                failed(&format!("{attempted} {} in", inside.display()), path, source)
            }
            error => OutputError::Build(format!("the output {path} cannot be kept: {error}")),
        })?;

        let mut look = Look { hash: Sha256::new(), scanner: Scanner::new(candidates.iter().copied()) };
        let packed = nar::pack(&tree, Heeding::new(&mut look, self.stop)).map_err(|error| match error {
            nar::Error::Unfit { .. } => {
                OutputError::Build(format!("the output {path} cannot be kept: {error}"))
            }
            error => failed("read", path, io::Error::other(error)),
        })?;
        let (nar_hash, references) = (look.hash.finish(), look.scanner.found());
        if let Some(fixed) = fixed {
            let got = if fixed.recursive {
                nar_hash
            } else {
                self.hash_of(&tree).map_err(|e| failed("read", path, e))?
            };
            compare(path, fixed, got)?;
        }
        let item = Item {
            path: path.clone(),
            nar_hash,
            nar_size: packed.nar_size,
            references,
            deriver: Some(self.plan.path.clone()),
        };
        Ok(Checked { tree, item })
    }

    fn hash_of(&self, file: &Path) -> io::Result<Sha256Hash> {
        let mut hash = Sha256::new();
        io::copy(&mut Heeding::new(File::open(file)?, self.stop), &mut hash)?;
        Ok(hash.finish())
    }

    fn copy(&self, path: &StorePath, built: &Path, copies: &Path) -> Result<PathBuf, OutputError> {
        let copied = copies.join(path.base_name());
        copy(built, &copied, &self.limits, self.stop).map_err(|error| match error {
            CopyError::Unfit(why) => OutputError::Build(format!("the output {path} cannot be kept: {why}")),
            CopyError::Io(error) => failed("copy", path, error),
        })?;
        Ok(copied)
    }

    fn restrict(&self, restrictions: &Restrictions, checked: &[Checked]) -> Result<(), OutputError> {
        let siblings: HashMap<StorePath, Vec<StorePath>> =
            checked.iter().map(|one| (one.item.path.clone(), one.item.references.clone())).collect();
        for Checked { item, .. } in checked {
            let needed = if restrictions.are_deep() {
                let closure = |paths: &[StorePath]| self.store.closure(paths).map_err(Error::from);
                requisites(&item.path, &siblings, closure)?
            } else {
                BTreeSet::new()
            };
            restrictions.check(&item.path, &item.references, &needed).map_err(OutputError::Build)?;
        }
        Ok(())
    }
}

/// Each after those that it refers to.
fn in_order(mut waiting: Vec<Checked>) -> Result<Vec<Checked>, String> {
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let refers = |one: &Checked, to: &Checked| {
            one.item.path != to.item.path && one.item.references.contains(&to.item.path)
        };
        match waiting.iter().position(|one| !waiting.iter().any(|other| refers(one, other))) {
            Some(next) => ordered.push(waiting.swap_remove(next)),
            None => {
                let names: Vec<&str> = waiting.iter().map(|one| one.item.path.as_str()).collect();
                return Err(format!("these outputs refer to each other in a circle: {}", names.join(" ")));
            }
        }
    }
    Ok(ordered)
}

fn compare(path: &StorePath, fixed: &Fixed, got: Sha256Hash) -> Result<(), OutputError> {
    if fixed.hash == got.as_bytes() {
        return Ok(());
    }
    let (algorithm, expected) = (&fixed.algorithm, base32::encode(&fixed.hash));
    Err(OutputError::Build(format!(
        "hash mismatch for store item '{path}': expected {algorithm}:{expected}, got {algorithm}:{}",
        got.base32()
    )))
}

/// Hashes a nar and looks for references in it, in one go.
struct Look {
    hash: Sha256,
    scanner: Scanner,
}

impl Write for Look {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.scanner.update(bytes);
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(action: &str, path: &StorePath, source: io::Error) -> OutputError {
    OutputError::Step(Error::refused(format!("{action} the output {path}: {source}"), &source))
}

#[cfg(test)]
mod tests;
