//! What the coordinator lacks of what some derivations need, found out in a few rounds of questions.
//!
//! The coordinator keeps a derivation only when it has all below it. So nothing below one that it has is read or asked
//! about, and a set of which little is new costs little. Each round goes twice as far down as the one before, or, when
//! most of what was asked about is lacking, to the bottom at once.

use std::collections::HashSet;

use drover_store::path::StorePath;

use super::closure::{Contents, Graph, Index};
use super::{ClientError, Watch};

/// Of how many derivations the first round must be to say something about all below them.
const MANY: usize = 1000;

/// What the coordinator lacks of a graph.
#[derive(Debug, Default)]
pub(crate) struct Lacks {
    /// Of each derivation, whether it has it; none: not asked about.
    derivations: Vec<Option<bool>>,
    /// The same of sources.
    sources: Vec<Option<bool>>,
}

impl Lacks {
    /// Finds out what lacks of these derivations and of all that they need. `ask` says which of some paths lack.
    ///
    /// # Errors
    /// Those of `ask`; a derivation that cannot be read.
    pub(crate) fn find(
        graph: &mut Graph<'_>,
        wanted: &[Index],
        mut ask: impl FnMut(Vec<StorePath>) -> Result<HashSet<StorePath>, ClientError>,
        watch: &dyn Watch,
    ) -> Result<Self, ClientError> {
        let mut lacks = Self::default();
        let mut derivations = wanted.to_vec();
        let mut sources = Vec::new();
        let mut depth = 1;
        let mut first = true;
        loop {
            lacks.derivations.resize(graph.nodes.len(), None);
            lacks.sources.resize(graph.sources.len(), None);
            if derivations.is_empty() && sources.is_empty() {
                return Ok(lacks);
            }
            let paths = derivations.iter().map(|index| graph.nodes[*index].path.clone());
            let paths = paths.chain(sources.iter().map(|index: &usize| graph.sources[*index].clone()));
            let missing = ask(paths.collect())?;
            for index in &sources {
                lacks.sources[*index] = Some(!missing.contains(&graph.sources[*index]));
            }
            for index in &derivations {
                lacks.derivations[*index] = Some(!missing.contains(&graph.nodes[*index].path));
            }
            let asked = derivations.len();
            derivations.retain(|index| lacks.lacks(*index));
            // That what was asked for lacks says little: mostly it is new because something small changed.
            let says_much = !first || asked >= MANY;
            let most = says_much && derivations.len() * 2 > asked;
            let below = lacks.below(graph, &derivations, if most { usize::MAX } else { depth }, watch)?;
            sources = lacks.unasked_sources(graph, derivations.iter().chain(&below));
            derivations = below;
            depth = depth.saturating_mul(2);
            first = false;
        }
    }

    /// The derivations that these need and that were not asked about, so many levels down.
    fn below(
        &self,
        graph: &mut Graph<'_>,
        from: &[Index],
        depth: usize,
        watch: &dyn Watch,
    ) -> Result<Vec<Index>, ClientError> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut level = from.to_vec();
        for _ in 0..depth {
            graph.read(&level, watch)?;
            let inputs = level.iter().flat_map(|index| graph.inputs(*index).iter().copied());
            let unasked = inputs.filter(|input| self.derivations.get(*input).copied().flatten().is_none());
            let next: Vec<Index> = unasked.filter(|input| seen.insert(*input)).collect();
            if next.is_empty() {
                break;
            }
            found.extend_from_slice(&next);
            level = next;
        }
        Ok(found)
    }

    /// The sources of these that were not asked about, each once.
    fn unasked_sources<'i>(&self, graph: &Graph<'_>, of: impl Iterator<Item = &'i Index>) -> Vec<usize> {
        let mut seen = HashSet::new();
        of.flat_map(|index| graph.sources_of(*index).iter().copied())
            .filter(|source| self.sources.get(*source).copied().flatten().is_none() && seen.insert(*source))
            .collect()
    }

    /// Whether the coordinator lacks a derivation.
    pub(crate) fn lacks(&self, derivation: Index) -> bool {
        self.derivations.get(derivation).copied().flatten() == Some(false)
    }

    /// Whether the coordinator lacks a source.
    pub(crate) fn lacks_source(&self, source: usize) -> bool {
        self.sources.get(source).copied().flatten() == Some(false)
    }

    /// The derivations that lack and are not on this machine.
    pub(crate) fn nowhere<'s>(&'s self, graph: &'s Graph<'_>) -> impl Iterator<Item = Index> + 's {
        let all = 0..graph.nodes.len();
        all.filter(|index| self.lacks(*index) && matches!(graph.nodes[*index].file, Contents::Absent))
    }

    /// The derivations that lack, each after those that it needs. Graphs are deep, so the stack is a list and not the
    /// thread's.
    pub(crate) fn in_order(&self, graph: &Graph<'_>, wanted: &[Index]) -> Vec<Index> {
        let mut entered = vec![false; graph.nodes.len()];
        let mut order = Vec::new();
        let mut stack: Vec<(Index, usize)> = Vec::new();
        for start in wanted {
            let mut next = Some(*start);
            loop {
                if let Some(index) = next.take() {
                    if self.lacks(index) && !std::mem::replace(&mut entered[index], true) {
                        stack.push((index, 0));
                    }
                }
                let Some((index, done)) = stack.last_mut() else { break };
                next = graph.inputs(*index).get(*done).copied();
                *done += 1;
                if next.is_none() {
                    order.push(*index);
                    stack.pop();
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests;
