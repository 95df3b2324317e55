//! What a derivation needs, as far as it is on this machine: the derivations below it and their sources.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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

/// A derivation of the closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its path in the store.
    pub path: StorePath,
    /// The file.
    pub file: PathBuf,
    /// The file's bytes.
    pub size: u64,
    /// Indices into [`Closure::sources`].
    pub sources: Vec<usize>,
}

/// A derivation that is not on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Its path in the store.
    pub path: StorePath,
    /// Who needs it; none: it was asked for itself.
    pub needed_by: Option<StorePath>,
}

/// Everything that some derivations need.
#[derive(Debug, Clone, Default)]
pub struct Closure {
    /// The derivations that were asked for, in that order, each once.
    pub wanted: Vec<StorePath>,
    /// Those that are on this machine, with all below them; what is referred to comes first.
    pub derivations: Vec<Local>,
    /// Their sources, each once.
    pub sources: Vec<StorePath>,
    /// The derivations that are not on this machine. The coordinator may have them.
    pub absent: Vec<Absent>,
}

impl Closure {
    /// Reads these derivations and all below them. One without a file is looked for in the places; one that is nowhere
    /// is noted in [`Closure::absent`].
    ///
    /// # Errors
    /// A file that cannot be read, is not a derivation, or has a name that does not belong to its bytes.
    pub(crate) fn of(
        wanted: Vec<(StorePath, Option<PathBuf>)>,
        places: &Places,
        watch: &dyn Watch,
    ) -> Result<Self, ClientError> {
        let mut walk =
            Walk { places, watch, closure: Self::default(), seen: HashSet::new(), sources: HashMap::new() };
        let mut asked = HashSet::new();
        for (path, file) in wanted {
            walk.from(&path, file)?;
            if asked.insert(path.clone()) {
                walk.closure.wanted.push(path);
            }
        }
        Ok(walk.closure)
    }
}

struct Walk<'a> {
    places: &'a Places,
    watch: &'a dyn Watch,
    closure: Closure,
    seen: HashSet<StorePath>,
    sources: HashMap<StorePath, usize>,
}

/// A derivation whose inputs are being walked.
struct Open {
    local: Local,
    inputs: std::vec::IntoIter<StorePath>,
}

impl Walk<'_> {
    /// Walks what one derivation needs. Graphs are deep, so the stack is a list and not the thread's.
    fn from(&mut self, path: &StorePath, file: Option<PathBuf>) -> Result<(), ClientError> {
        let mut stack = Vec::new();
        stack.extend(self.enter(path, file, None)?);
        while let Some(open) = stack.last_mut() {
            let Some(input) = open.inputs.next() else {
                self.closure.derivations.extend(stack.pop().map(|done| done.local));
                self.watch.advance(1);
                continue;
            };
            let needed_by = open.local.path.clone();
            let opened = self.enter(&input, None, Some(&needed_by))?;
            stack.extend(opened);
        }
        Ok(())
    }

    /// Reads a derivation that has not been seen before.
    fn enter(
        &mut self,
        path: &StorePath,
        file: Option<PathBuf>,
        needed_by: Option<&StorePath>,
    ) -> Result<Option<Open>, ClientError> {
        if !self.seen.insert(path.clone()) {
            return Ok(None);
        }
        let Some(file) = file.or_else(|| self.places.find(path)) else {
            self.closure.absent.push(Absent { path: path.clone(), needed_by: needed_by.cloned() });
            return Ok(None);
        };
        let (size, derivation) = read(path, &file)?;
        let mut sources = Vec::with_capacity(derivation.sources.len());
        for source in derivation.sources {
            let next = self.closure.sources.len();
            let index = *self.sources.entry(source).or_insert_with_key(|source| {
                self.closure.sources.push(source.clone());
                next
            });
            sources.push(index);
        }
        let inputs: Vec<_> = derivation.inputs.into_iter().map(|input| input.derivation).collect();
        let local = Local { path: path.clone(), file, size, sources };
        Ok(Some(Open { local, inputs: inputs.into_iter() }))
    }
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
fn read(path: &StorePath, file: &Path) -> Result<(u64, Derivation), ClientError> {
    let bad = |why: String| ClientError::BadDerivation { file: file.to_owned(), why };
    let text = read_bounded(file).map_err(|e| bad(e.to_string()))?;
    let derivation = Derivation::parse(&text).map_err(|e| bad(e.to_string()))?;
    match derivation.path_of_text(path.name(), &text) {
        Ok(own) if own == *path => Ok((text.len() as u64, derivation)),
        Ok(own) => Err(bad(format!("its bytes belong to the name {}", own.base_name()))),
        Err(error) => Err(bad(error.to_string())),
    }
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
