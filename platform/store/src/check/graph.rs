//! A collection of derivations as a graph of numbers, and the walk that computes all their outputs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Problem, on_threads};
use crate::derivation::ReplacedInputs;
use crate::{Derivation, Sha256Hash, StorePath};

/// The derivations that are there, and those that are only named.
#[derive(Debug, Default)]
pub(super) struct Graph {
    numbers: HashMap<StorePath, u32>,
    nodes: Vec<Node>,
    /// The few different lists of outputs that inputs name: nearly all are just `out`.
    lists: Vec<Vec<String>>,
    list_numbers: HashMap<Vec<String>, u32>,
}

#[derive(Debug)]
struct Node {
    path: StorePath,
    given: Option<Given>,
    /// The hash by which it counts as an input, when that is known.
    hash: Option<Sha256Hash>,
}

#[derive(Debug)]
struct Given {
    /// Without its inputs.
    derivation: Derivation,
    /// The numbers of its inputs, and of the lists of their outputs.
    inputs: Vec<(u32, u32)>,
}

/// What the walk finds about a node.
struct Resolved {
    number: u32,
    hash: Sha256Hash,
    problem: Option<Problem>,
}

impl Graph {
    /// Takes a derivation. False when there is one of that path already.
    pub(super) fn insert(&mut self, path: StorePath, mut derivation: Derivation) -> bool {
        let number = self.number(&path);
        if self.nodes[number as usize].given.is_some() {
            return false;
        }
        let inputs = std::mem::take(&mut derivation.inputs);
        let inputs = inputs
            .into_iter()
            .map(|input| (self.number(&input.derivation), self.list_number(input.outputs)))
            .collect();
        // Room that parsing left over would add up.
        derivation.outputs.shrink_to_fit();
        derivation.sources.shrink_to_fit();
        derivation.args.shrink_to_fit();
        derivation.env.shrink_to_fit();
        self.nodes[number as usize].given = Some(Given { derivation, inputs });
        true
    }

    fn number(&mut self, path: &StorePath) -> u32 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        let number = self.nodes.len() as u32;
        self.numbers.insert(path.clone(), number);
        self.nodes.push(Node { path: path.clone(), given: None, hash: None });
        number
    }

    fn list_number(&mut self, outputs: Vec<String>) -> u32 {
        if let Some(number) = self.list_numbers.get(&outputs) {
            return *number;
        }
        let number = self.lists.len() as u32;
        self.lists.push(outputs.clone());
        self.list_numbers.insert(outputs, number);
        number
    }

    /// Computes the outputs of every derivation from the bottom up, and compares. Answers how many are right, and
    /// what is wrong.
    pub(super) fn resolve(mut self, threads: usize) -> (usize, Vec<(StorePath, Problem)>) {
        let (mut right, mut problems) = (0, Vec::new());
        let (mut waiting, users, mut level) = self.edges();
        while !level.is_empty() {
            let resolved = self.resolve_level(&level, threads);
            level.clear();
            for Resolved { number, hash, problem } in resolved {
                let node = &mut self.nodes[number as usize];
                node.hash = Some(hash);
                match problem {
                    Some(problem) => problems.push((node.path.clone(), problem)),
                    None => right += 1,
                }
                // Its text is not needed any more; a whole Guix is large.
                node.given = None;
                for &user in &users[number as usize] {
                    waiting[user as usize] -= 1;
                    if waiting[user as usize] == 0 {
                        level.push(user);
                    }
                }
            }
        }
        problems.extend(self.unresolved());
        (right, problems)
    }

    /// For each node how many inputs it waits for and who waits for it, and the nodes that wait for nothing.
    fn edges(&self) -> (Vec<u32>, Vec<Vec<u32>>, Vec<u32>) {
        let mut waiting = vec![0; self.nodes.len()];
        let mut users = vec![Vec::new(); self.nodes.len()];
        let mut ready = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(given) = &node.given else { continue };
            // The hash of a fixed output needs no inputs.
            if !given.derivation.is_fixed_output() {
                waiting[number] = given.inputs.len() as u32;
                for (input, _) in &given.inputs {
                    users[*input as usize].push(number as u32);
                }
            }
            if waiting[number] == 0 {
                ready.push(number as u32);
            }
        }
        (waiting, users, ready)
    }

    /// Resolves nodes whose inputs all have hashes.
    fn resolve_level(&self, level: &[u32], threads: usize) -> Vec<Resolved> {
        const CHUNK: usize = 64;
        let threads = threads.min(level.len().div_ceil(CHUNK));
        let (all, next) = (Mutex::new(Vec::with_capacity(level.len())), AtomicUsize::new(0));
        on_threads(threads, || {
            let (mut buffer, mut resolved) = (Vec::new(), Vec::new());
            while let Some(chunk) = level.chunks(CHUNK).nth(next.fetch_add(1, Ordering::Relaxed)) {
                resolved.extend(chunk.iter().filter_map(|number| self.resolve_node(*number, &mut buffer)));
            }
            all.lock().unwrap_or_else(PoisonError::into_inner).append(&mut resolved);
        });
        all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// None for a node that has no derivation or waits for an input, which no level has.
    fn resolve_node(&self, number: u32, buffer: &mut Vec<u8>) -> Option<Resolved> {
        let node = &self.nodes[number as usize];
        let given = node.given.as_ref()?;
        let fixed = given.derivation.fixed_hash();
        let mut inputs = Vec::new();
        if fixed.is_none() {
            for (input, list) in &given.inputs {
                let hash = self.nodes[*input as usize].hash?;
                inputs.push((hash, self.lists[*list as usize].as_slice()));
            }
        }
        let mut replaced = ReplacedInputs::new(inputs.into_iter());
        let hash = fixed.unwrap_or_else(|| replaced.hash(&given.derivation, false, buffer));
        let name = node.path.derivation_name();
        let problem = match given.derivation.outputs_with_replaced(name, replaced, buffer) {
            Err(error) => Some(error.into()),
            Ok(computed) => {
                let pairs = given.derivation.outputs.iter().zip(computed);
                let mut wrong = pairs.filter(|(output, (_, computed))| output.path != *computed);
                wrong.next().map(|(output, (name, computed))| Problem::WrongOutput {
                    output: name,
                    written: output.path.clone(),
                    computed,
                })
            }
        };
        Some(Resolved { number, hash, problem })
    }

    /// What still waits when nothing goes on: for each the missing input that is to blame, else a circle.
    fn unresolved(&self) -> Vec<(StorePath, Problem)> {
        let mut problems = Vec::new();
        for node in &self.nodes {
            let Some(given) = &node.given else { continue };
            let inputs = given.inputs.iter().map(|(input, _)| &self.nodes[*input as usize]);
            let mut open = inputs.filter(|input| input.hash.is_none());
            let problem = match open.clone().find(|input| input.given.is_none()).or_else(|| open.next()) {
                Some(input) if input.given.is_none() => Problem::MissingInput(input.path.clone()),
                Some(input) => Problem::UnresolvedInput(input.path.clone()),
                None => Problem::UnresolvedInput(node.path.clone()),
            };
            problems.push((node.path.clone(), problem));
        }
        problems
    }
}
