//! The hash modulo: what of a derivation counts for the paths of its outputs.
//!
//! A fixed output counts by its content only, so an input stands in the text by a hash that does not change
//! when a mirror does. Two hashes belong to a derivation: with the paths of its own outputs, as an input of
//! others; with these blanked, as what its outputs are named after.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::print::PrintedInput;
use super::{Derivation, Input};
use crate::path::{self, StorePath};
use crate::{Sha256, Sha256Hash};

/// Why the hash modulo of a derivation cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModuloError<E> {
    /// An input derivation cannot be had.
    #[error("cannot compute the outputs of {wanted}: its input {input} cannot be had: {error}")]
    Lookup {
        /// The derivation that was asked for.
        wanted: StorePath,
        /// The input, of it or of one of its inputs.
        input: StorePath,
        /// What the lookup said.
        error: E,
    },
    /// A derivation needs itself.
    #[error("{0} is an input of itself: no real derivation can be")]
    Cycle(StorePath),
    /// A name that results is not valid.
    #[error(transparent)]
    Path(#[from] path::Error),
}

impl Derivation {
    /// The hash modulo of a fixed output, which needs no inputs. None for any other derivation.
    pub fn fixed_hash(&self) -> Option<Sha256Hash> {
        let (output, fixed) = self.fixed()?;
        let mut hash = Sha256::new();
        hash.update(if fixed.recursive { b"fixed:out:r:" } else { b"fixed:out:" });
        hash.update(fixed.algorithm.as_bytes());
        hash.update(b":");
        hash.update(data_encoding::HEXLOWER.encode(&fixed.hash).as_bytes());
        hash.update(b":");
        hash.update(output.path.as_str().as_bytes());
        Some(hash.finish())
    }

    /// The hash by which this derivation counts as an input of others, from the hashes of its own inputs, in the
    /// order of `self.inputs`.
    pub fn hash_with(&self, inputs: &[Sha256Hash]) -> Sha256Hash {
        self.fixed_hash().unwrap_or_else(|| {
            let mut replaced = ReplacedInputs::new(pairs(&self.inputs, inputs));
            replaced.hash(self, false, &mut Vec::new())
        })
    }

    /// The paths that its outputs must have, from the hashes of its inputs, in the order of `self.inputs`.
    /// `drv_name` is its name without `.drv`.
    ///
    /// # Errors
    /// When a name that results is not valid.
    pub fn outputs_with(
        &self,
        drv_name: &str,
        inputs: &[Sha256Hash],
    ) -> Result<Vec<(String, StorePath)>, path::Error> {
        let replaced = ReplacedInputs::new(pairs(&self.inputs, inputs));
        self.outputs_with_replaced(drv_name, replaced, &mut Vec::new())
    }

    /// [`Derivation::outputs_with`] for inputs that are already replaced.
    pub(crate) fn outputs_with_replaced(
        &self,
        drv_name: &str,
        mut inputs: ReplacedInputs<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<(String, StorePath)>, path::Error> {
        if let Some((output, fixed)) = self.fixed() {
            let path = path::fixed_output(drv_name, fixed.recursive, &fixed.algorithm, &fixed.hash)?;
            return Ok(vec![(output.name.clone(), path)]);
        }
        let hash = inputs.hash(self, true, buffer);
        let outputs = self.outputs.iter();
        outputs
            .map(|output| Ok((output.name.clone(), path::output(&output.name, &hash, drv_name)?)))
            .collect()
    }
}

/// Inputs with hashes in the place of paths, in the order and the grouping that the text has then.
pub(crate) struct ReplacedInputs<'a>(Vec<([u8; 64], Cow<'a, [String]>)>);

impl<'a> ReplacedInputs<'a> {
    pub(crate) fn new(inputs: impl Iterator<Item = (Sha256Hash, &'a [String])>) -> Self {
        let mut list: Vec<_> =
            inputs.map(|(hash, outputs)| (hash.hex_digits(), Cow::Borrowed(outputs))).collect();
        list.sort_unstable_by_key(|input| input.0);
        // Several inputs with one hash (a file from two mirrors) are one input with all their outputs.
        list.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same && later.1 != kept.1 {
                let all = kept.1.to_mut();
                all.extend_from_slice(&later.1);
                all.sort_unstable();
                all.dedup();
            }
            same
        });
        Self(list)
    }

    /// The hash of the text of `derivation` with these inputs, its own outputs blanked when `mask` says so.
    pub(crate) fn hash(&mut self, derivation: &Derivation, mask: bool, buffer: &mut Vec<u8>) -> Sha256Hash {
        buffer.clear();
        let inputs = self.0.iter().map(|(name, outputs)| PrintedInput { name, outputs });
        derivation.print_with(buffer, inputs, mask);
        Sha256Hash::of(buffer)
    }
}

fn pairs<'a>(
    inputs: &'a [Input],
    hashes: &'a [Sha256Hash],
) -> impl Iterator<Item = (Sha256Hash, &'a [String])> {
    inputs.iter().zip(hashes).map(|(input, hash)| (*hash, input.outputs.as_slice()))
}

/// Hashes modulo, each computed once.
#[derive(Debug, Clone, Default)]
pub struct HashModulo {
    known: HashMap<StorePath, Sha256Hash>,
}

impl HashModulo {
    /// Without any hash yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the hash of a derivation that was computed before.
    pub fn insert(&mut self, path: StorePath, hash: Sha256Hash) {
        self.known.insert(path, hash);
    }

    /// The hash of a derivation, if it was computed or added.
    pub fn known(&self, path: &StorePath) -> Option<Sha256Hash> {
        self.known.get(path).copied()
    }

    /// The hash by which `derivation` at `path` counts as an input of others. `lookup` gives the derivations
    /// among its inputs, at any depth, whose hashes are not known yet; each is asked for once. Depth costs no
    /// stack.
    ///
    /// # Errors
    /// When `lookup` fails, or when a derivation is an input of itself.
    pub fn derivation_hash<E>(
        &mut self,
        path: &StorePath,
        derivation: &Derivation,
        mut lookup: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Sha256Hash, ModuloError<E>> {
        if let Some(hash) = self.known(path) {
            return Ok(hash);
        }
        let hash = match derivation.fixed_hash() {
            Some(hash) => hash,
            None => derivation.hash_with(&self.input_hashes(path, derivation, &mut lookup)?),
        };
        self.known.insert(path.clone(), hash);
        Ok(hash)
    }

    /// The paths that the outputs of `derivation` at `path` must have, in its order of outputs.
    ///
    /// # Errors
    /// As [`HashModulo::derivation_hash`], and when a name that results is not valid.
    pub fn computed_outputs<E>(
        &mut self,
        path: &StorePath,
        derivation: &Derivation,
        mut lookup: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Vec<(String, StorePath)>, ModuloError<E>> {
        let inputs = if derivation.is_fixed_output() {
            Vec::new()
        } else {
            self.input_hashes(path, derivation, &mut lookup)?
        };
        Ok(derivation.outputs_with(path.derivation_name(), &inputs)?)
    }

    /// The hashes of all inputs of `derivation`, in their order.
    fn input_hashes<E>(
        &mut self,
        path: &StorePath,
        derivation: &Derivation,
        lookup: &mut impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Vec<Sha256Hash>, ModuloError<E>> {
        let mut open = HashSet::from([path.clone()]);
        let mut hashes = Vec::with_capacity(derivation.inputs.len());
        for input in &derivation.inputs {
            hashes.push(self.closure_hash(path, &input.derivation, &mut open, lookup)?);
        }
        Ok(hashes)
    }

    /// The hash of `start`, which is below `wanted`, and of all that it needs. `open` holds the paths on the way
    /// down: a stack on the heap, since a stranger's graph may be as deep as it likes.
    fn closure_hash<E>(
        &mut self,
        wanted: &StorePath,
        start: &StorePath,
        open: &mut HashSet<StorePath>,
        lookup: &mut impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Sha256Hash, ModuloError<E>> {
        let mut stack: Vec<Frame> = Vec::new();
        let mut next = Some(start.clone());
        loop {
            if let Some(path) = next.take() {
                if !self.known.contains_key(&path) {
                    if !open.insert(path.clone()) {
                        return Err(ModuloError::Cycle(path));
                    }
                    let derivation = lookup(&path).map_err(|error| ModuloError::Lookup {
                        wanted: wanted.clone(),
                        input: path.clone(),
                        error,
                    })?;
                    stack.push(Frame { path, derivation, hashes: Vec::new() });
                }
            }
            let Some(frame) = stack.last_mut() else { break };
            if !frame.derivation.is_fixed_output() {
                if let Some(input) = frame.derivation.inputs.get(frame.hashes.len()) {
                    match self.known.get(&input.derivation) {
                        Some(hash) => frame.hashes.push(*hash),
                        None => next = Some(input.derivation.clone()),
                    }
                    continue;
                }
            }
            let hash = frame.derivation.hash_with(&frame.hashes);
            open.remove(&frame.path);
            self.known.insert(frame.path.clone(), hash);
            stack.pop();
        }
        self.known(start).ok_or_else(|| ModuloError::Cycle(start.clone()))
    }
}

/// A derivation on the way down, with the hashes of as many of its inputs as are known by now.
struct Frame {
    path: StorePath,
    derivation: Derivation,
    hashes: Vec<Sha256Hash>,
}
