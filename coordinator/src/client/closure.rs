//! What derivations need, as far as it is on this machine: the derivations below them and their sources.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use drover_store::derivation::Derivation;
use drover_store::path::StorePath;
use drover_wire::bundle::DERIVATION_LIMIT;

use super::{ClientError, Watch};

/// The folders in which store items are looked for, by base name.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<PathBuf>);

impl Places {
    /// One more folder, after those that are there.
    pub fn add(&mut self, folder: impl Into<PathBuf>) {
        let folder = folder.into();
        if !self.0.contains(&folder) {
            self.0.push(folder);
        }
    }

    /// Where this item is, if it is in one of the folders: a symbolic link counts as itself.
    #[must_use]
    pub fn find(&self, path: &StorePath) -> Option<PathBuf> {
        self.0.iter().map(|folder| folder.join(path.base_name())).find(|file| file.symlink_metadata().is_ok())
    }
}

/// A derivation, by its index in the graph that it belongs to.
pub(crate) type Index = usize;

/// A derivation of the graph.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its path in the store.
    pub(crate) path: StorePath,
    /// Who needs it; none: it was asked for itself.
    pub(crate) needed_by: Option<Index>,
    /// What is known of it.
    pub(crate) file: Contents,
}

/// What is known of a derivation's file.
#[derive(Debug)]
pub(crate) enum Contents {
    /// Nothing yet, but where it is, if that was said.
    Unread(Option<PathBuf>),
    /// It is in none of the places.
    Absent,
    /// Where it is and what it needs: derivations, and indices into [`Graph::sources`].
    Read { file: PathBuf, inputs: Vec<Index>, sources: Vec<usize> },
}

/// Derivations and what they need, as far as it was read.
#[derive(Debug)]
pub(crate) struct Graph<'p> {
    /// Where items are looked for.
    pub(crate) places: &'p Places,
    /// Each once.
    pub(crate) nodes: Vec<Node>,
    indices: HashMap<StorePath, Index>,
    /// The sources of those that were read, each once.
    pub(crate) sources: Vec<StorePath>,
    source_indices: HashMap<StorePath, usize>,
}

/// How many files are read before what they say is put into the graph.
const READ_AT_ONCE: usize = 2000;
/// Fewer than these are not worth threads.
const FEW: usize = 64;
/// Reading is mostly hashing, but a coordinator on the same machine wants something, too.
const THREADS: usize = 4;

impl<'p> Graph<'p> {
    pub(crate) fn new(places: &'p Places) -> Self {
        let (indices, source_indices) = (HashMap::new(), HashMap::new());
        Self { places, nodes: Vec::new(), indices, sources: Vec::new(), source_indices }
    }

    /// The index of a derivation, which may be in this file.
    pub(crate) fn add(&mut self, path: StorePath, file: Option<PathBuf>, needed_by: Option<Index>) -> Index {
        let next = self.nodes.len();
        *self.indices.entry(path).or_insert_with_key(|path| {
            self.nodes.push(Node { path: path.clone(), needed_by, file: Contents::Unread(file) });
            next
        })
    }

    /// The derivations that one needs, if it was read.
    pub(crate) fn inputs(&self, of: Index) -> &[Index] {
        match &self.nodes[of].file {
            Contents::Read { inputs, .. } => inputs,
            Contents::Unread(_) | Contents::Absent => &[],
        }
    }

    /// The sources that a derivation names, if it was read.
    pub(crate) fn sources_of(&self, of: Index) -> &[usize] {
        match &self.nodes[of].file {
            Contents::Read { sources, .. } => sources,
            Contents::Unread(_) | Contents::Absent => &[],
        }
    }

    /// Reads those of these that were not read yet.
    ///
    /// # Errors
    /// A file that cannot be read, is not a derivation, or has a name that does not belong to its bytes.
    pub(crate) fn read(&mut self, which: &[Index], watch: &dyn Watch) -> Result<(), ClientError> {
        let is_unread = |index: &Index| matches!(self.nodes[*index].file, Contents::Unread(_));
        let unread: Vec<Index> = which.iter().copied().filter(is_unread).collect();
        for some in unread.chunks(READ_AT_ONCE) {
            for (index, text) in some.iter().zip(self.read_files(some)) {
                self.put(*index, text?);
            }
            watch.advance(some.len() as u64);
        }
        Ok(())
    }

    /// What the files of these derivations say, in their order; none where there is no file.
    fn read_files(&self, which: &[Index]) -> Vec<Result<Option<(PathBuf, Needs)>, ClientError>> {
        let read = |index: &Index| self.read_file(&self.nodes[*index]);
        if which.len() < FEW {
            return which.iter().map(read).collect();
        }
        let threads = available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS);
        std::thread::scope(|scope| {
            let share = which.len().div_ceil(threads);
            let started: Vec<_> = which
                .chunks(share)
                .map(|part| (part, scope.spawn(move || part.iter().map(read).collect::<Vec<_>>())))
                .collect();
            let broken = || ClientError::local("reading derivations", io::Error::other("it broke off"));
            let all = started.into_iter().flat_map(|(part, thread)| {
                thread.join().unwrap_or_else(|_| part.iter().map(|_| Err(broken())).collect())
            });
            all.collect()
        })
    }

    fn read_file(&self, node: &Node) -> Result<Option<(PathBuf, Needs)>, ClientError> {
        let said = match &node.file {
            Contents::Unread(file) => file.clone(),
            Contents::Read { .. } | Contents::Absent => None,
        };
        let Some(file) = said.or_else(|| self.places.find(&node.path)) else { return Ok(None) };
        let needs = read(&node.path, &file)?;
        Ok(Some((file, needs)))
    }

    fn put(&mut self, index: Index, text: Option<(PathBuf, Needs)>) {
        let Some((file, needs)) = text else {
            self.nodes[index].file = Contents::Absent;
            return;
        };
        let inputs = needs.inputs.into_iter().map(|path| self.add(path, None, Some(index))).collect();
        let mut sources = Vec::with_capacity(needs.sources.len());
        for source in needs.sources {
            let next = self.sources.len();
            sources.push(*self.source_indices.entry(source).or_insert_with_key(|source| {
                self.sources.push(source.clone());
                next
            }));
        }
        self.nodes[index].file = Contents::Read { file, inputs, sources };
    }
}

/// What a derivation names.
#[derive(Debug)]
struct Needs {
    inputs: Vec<StorePath>,
    sources: Vec<StorePath>,
}

/// The store path that is meant by a file's name, and the file. A link such as a garbage collector's root counts as
/// the derivation that it leads to.
pub(crate) fn asked_for(file: &Path) -> Result<(StorePath, PathBuf), ClientError> {
    let bad = |why: String| ClientError::BadDerivation { file: file.to_owned(), why };
    let path_of = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str())?;
        StorePath::parse_base(name).ok()
    };
    let (path, file) = match path_of(file) {
        Some(path) => (path, file.to_owned()),
        None => match file.canonicalize() {
            Ok(target) => match path_of(&target) {
                Some(path) => (path, target),
                None => return Err(bad("its name is not that of a store item, HASH-NAME.drv".into())),
            },
            Err(error) => return Err(bad(error.to_string())),
        },
    };
    if !path.is_derivation() {
        return Err(bad("its name does not end in .drv".into()));
    }
    Ok((path, file))
}

/// Reads a derivation and sees that its name belongs to its bytes.
fn read(path: &StorePath, file: &Path) -> Result<Needs, ClientError> {
    let bad = |why: String| ClientError::BadDerivation { file: file.to_owned(), why };
    let text = read_bounded(file).map_err(|e| bad(e.to_string()))?;
    let derivation = Derivation::parse(&text).map_err(|e| bad(e.to_string()))?;
    match derivation.path_of_text(path.name(), &text) {
        Ok(own) if own == *path => {}
        Ok(own) => return Err(bad(format!("its bytes belong to the name {}", own.base_name()))),
        Err(error) => return Err(bad(error.to_string())),
    }
    let Derivation { inputs, sources, .. } = derivation;
    Ok(Needs { inputs: inputs.into_iter().map(|input| input.derivation).collect(), sources })
}

/// All bytes of a file, as far as a derivation may have them.
pub(crate) fn read_bounded(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    read_into(file, &mut text)?;
    Ok(text)
}

/// [`read_bounded`] into a buffer that is used again.
pub(crate) fn read_into(file: &Path, text: &mut Vec<u8>) -> io::Result<()> {
    let opened = File::open(file)?;
    let size = opened.metadata()?.len().min(DERIVATION_LIMIT);
    text.clear();
    // One byte more, so that the end is seen without growing.
    text.reserve(usize::try_from(size).unwrap_or(0) + 1);
    opened.take(DERIVATION_LIMIT + 1).read_to_end(text)?;
    if text.len() as u64 > DERIVATION_LIMIT {
        return Err(io::Error::other(format!("it has more than {DERIVATION_LIMIT} bytes")));
    }
    Ok(())
}
