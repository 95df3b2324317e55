//! The packages of a whole Guix, with all derivations below them: what the benches of sets submit.
//!
//! A folder has `SYSTEM-packages.txt` for each system, the store paths of what is wanted, a line each, and the folder
//! `store` with all derivations and sources, named as in a store. `ci/bench` unpacks it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use drover_store::derivation::Derivation;
use drover_store::path::StorePath;
use drover_wire::set::{Row, RowWanted};

use crate::bench::{Result, timed};
use crate::farm::{Farm, words};

/// A derivation and what it needs.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its path in the store.
    pub path: StorePath,
    /// Its first output: derivations that have the same are one build.
    pub target: StorePath,
    /// Where it can be built: a system, or the builtin builder that makes it.
    pub system: String,
    /// The place of each input in [`WholeGuix::nodes`], with the names of the outputs that it takes.
    pub inputs: Vec<(usize, Vec<String>)>,
}

/// The packages, and all derivations below them.
#[derive(Debug)]
pub struct WholeGuix {
    /// Where derivations and sources lie.
    pub store: PathBuf,
    /// One for each package, in the order of the lists.
    pub rows: Vec<Row>,
    /// All derivations, each after its inputs.
    pub nodes: Vec<Node>,
    /// How many of their sources lie there; the archives lack a few.
    pub sources: usize,
    numbers: HashMap<StorePath, usize>,
}

impl WholeGuix {
    /// Reads the packages of these systems and all derivations below them.
    ///
    /// # Errors
    /// When a file is not there, or is not what it should be.
    pub fn read(folder: &Path, systems: &[&str]) -> Result<Self> {
        let mut guix = Self {
            store: folder.join("store"),
            rows: Vec::new(),
            nodes: Vec::new(),
            sources: 0,
            numbers: HashMap::new(),
        };
        let (mut wanted, mut sources) = (HashSet::new(), HashSet::new());
        for system in systems {
            let list = folder.join(format!("{system}-packages.txt"));
            let text =
                fs::read_to_string(&list).map_err(|e| format!("cannot read {}: {e}", list.display()))?;
            for line in text.lines() {
                let path = StorePath::parse(line)?;
                // The lists name some packages twice.
                if wanted.insert(path.clone()) {
                    guix.walk(&path, &mut sources)?;
                    guix.rows.push(row(&path, system));
                }
            }
        }
        guix.sources = sources.iter().filter(|source| guix.file(source).symlink_metadata().is_ok()).count();
        Ok(guix)
    }

    /// Reads what is below a derivation. Real graphs are deep: the stack is a list.
    fn walk(&mut self, path: &StorePath, sources: &mut HashSet<StorePath>) -> Result<()> {
        let mut stack = Vec::new();
        if !self.numbers.contains_key(path) {
            stack.push((path.clone(), self.derivation(path)?, 0));
        }
        while let Some((path, derivation, next)) = stack.last_mut() {
            if let Some(input) = derivation.inputs.get(*next) {
                *next += 1;
                let input = input.derivation.clone();
                if !self.numbers.contains_key(&input) {
                    let derivation = self.derivation(&input)?;
                    stack.push((input, derivation, 0));
                }
                continue;
            }
            let inputs = derivation.inputs.iter();
            let inputs =
                inputs.map(|input| (self.numbers[&input.derivation], input.outputs.clone())).collect();
            let target = derivation.outputs.first().ok_or("a derivation without outputs")?.path.clone();
            sources.extend(std::mem::take(&mut derivation.sources));
            self.numbers.insert(path.clone(), self.nodes.len());
            let builder = String::from_utf8_lossy(&derivation.builder);
            let builtin = builder.starts_with("builtin:").then(|| builder.into_owned());
            let system = builtin.unwrap_or_else(|| derivation.system.clone());
            self.nodes.push(Node { path: path.clone(), target, system, inputs });
            stack.pop();
        }
        Ok(())
    }

    fn derivation(&self, path: &StorePath) -> Result<Derivation> {
        Ok(Derivation::parse(&self.text(path)?)?)
    }

    fn file(&self, path: &StorePath) -> PathBuf {
        self.store.join(path.base_name())
    }

    /// The bytes of a derivation.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn text(&self, path: &StorePath) -> Result<Vec<u8>> {
        let file = self.file(path);
        Ok(fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?)
    }

    /// How many edges there are: one for each derivation that another one needs, whichever outputs of it.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.nodes.iter().map(|node| node.inputs.len()).sum()
    }

    /// How many outputs go along the edges.
    #[must_use]
    pub fn outputs_taken(&self) -> usize {
        self.nodes.iter().flat_map(|node| &node.inputs).map(|(_, outputs)| outputs.len()).sum()
    }

    /// The place of a row's derivation in [`WholeGuix::nodes`].
    #[must_use]
    pub fn number(&self, row: &Row) -> Option<usize> {
        match &row.wanted {
            RowWanted::Derivation(path) => self.numbers.get(path).copied(),
            RowWanted::NotEvaluated(_) => None,
        }
    }

    /// Who needs each derivation directly.
    #[must_use]
    pub fn users(&self) -> Vec<Vec<usize>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (number, node) in self.nodes.iter().enumerate() {
            for (input, _) in &node.inputs {
                users[*input].push(number);
            }
        }
        users
    }
}

fn row(path: &StorePath, system: &str) -> Row {
    let (package, version) = name_and_version(path.derivation_name());
    Row {
        package: package.to_owned(),
        version: version.to_owned(),
        system: system.to_owned(),
        target: None,
        wanted: RowWanted::Derivation(path.clone()),
        priority: 0,
        timeout: None,
        max_silent_time: None,
        publish: true,
        tags: BTreeMap::new(),
    }
}

/// Splits at the last dash before a digit; a name without one has no version.
fn name_and_version(name: &str) -> (&str, &str) {
    let dashes = name.rmatch_indices('-');
    let mut splits = dashes.map(|(place, _)| (&name[..place], &name[place + 1..]));
    splits.find(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit())).unwrap_or((name, ""))
}

/// Writes rows as `drover set submit` reads them.
///
/// # Errors
/// When the disk refuses.
pub fn write_rows<'a>(rows: impl IntoIterator<Item = &'a Row>, file: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Submits a revision by the operators' command line, and says how long that took from its start to its end, and what
/// it printed.
///
/// # Errors
/// When it fails.
pub fn submit(
    farm: &Farm,
    set: &str,
    revision: &str,
    rows: &Path,
    store: &Path,
) -> Result<(Duration, String)> {
    let mut command = farm.drover_command(["set", "submit", set, "--revision", revision]);
    command.arg("--from").arg(rows).arg("--store").arg(store);
    let (output, time): (Output, _) = timed(|| Ok(command.output()?))?;
    if !output.status.success() {
        return Err(format!("`drover set submit` has failed: {}", words(&output)).into());
    }
    Ok((time, format!("{}{}", String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?)))
}

#[cfg(test)]
mod tests {
    use super::name_and_version;

    #[test]
    fn a_version_begins_with_a_digit() {
        assert_eq!(name_and_version("hello-2.12.2"), ("hello", "2.12.2"));
        assert_eq!(name_and_version("font-misc-100dpi-1.0"), ("font-misc-100dpi", "1.0"));
        assert_eq!(name_and_version("hugs-Sep2006"), ("hugs-Sep2006", ""));
    }
}
