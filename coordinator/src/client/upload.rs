//! Uploading what the coordinator lacks: asked about in a few rounds, sent as one stream.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use drover_store::nar;
use drover_store::path::StorePath;
use drover_wire::bundle::{self, Kind};
use drover_wire::client::{MissingAnswer, MissingQuestion, Uploaded};
use drover_wire::route::clients;

use super::closure::{Contents, Graph, Index, Places, asked_for, read_into};
use super::lacks::Lacks;
use super::pipe::{PipeWriter, pipe};
use super::retry::Patience;
use super::{ClientError, Coordinator, Unit, Watch};

/// The most paths in one question.
const QUESTION: usize = 50_000;
/// Sources up to this size are packed once and sent from memory; larger ones are packed once to know their size and
/// once to send them.
const IN_MEMORY: usize = 1 << 20;
/// How hard the bundle is compressed: texts are small, so this costs little and halves what travels.
const LEVEL: i32 = 3;

/// What became of an upload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// What the coordinator says of it.
    pub uploaded: Uploaded,
    /// Sources that the coordinator lacks and that are not on this machine either.
    pub nowhere: Vec<StorePath>,
}

/// An entry of the bundle.
#[derive(Debug)]
enum Item<'a> {
    Derivation(&'a StorePath, &'a Path),
    Source(&'a StorePath, PathBuf),
}

/// What became of derivations that were named by their files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Brought {
    /// Their paths in the store, in that order, each once.
    pub wanted: Vec<StorePath>,
    /// What was sent.
    pub sent: Sent,
}

/// Sees to it that the coordinator has the derivations in these files, and all that they need. Items are looked for
/// beside the files, and then in `places`, which are folders with items by their base names. A file that is not there
/// counts as the derivation of its name, which the coordinator may have. A connection that breaks is made again, and
/// only what still lacks is sent.
///
/// # Errors
/// A file that cannot be read, is not a derivation, or has a name that does not belong to its bytes; a derivation that
/// is nowhere; a refusal; a coordinator that stays away.
pub fn bring(
    coordinator: &Coordinator,
    wanted: &[PathBuf],
    places: &[PathBuf],
    watch: &dyn Watch,
) -> Result<Brought, ClientError> {
    let mut all = Places::default();
    let mut named = Vec::with_capacity(wanted.len());
    for file in wanted {
        let (path, file) = asked_for(file)?;
        if let Some(folder) = file.parent() {
            all.add(folder);
        }
        named.push((path, file.symlink_metadata().is_ok().then_some(file)));
    }
    places.iter().for_each(|folder| all.add(folder));
    let mut graph = Graph::new(&all);
    let mut indices = Vec::with_capacity(named.len());
    let mut seen = HashSet::new();
    for (path, file) in named {
        let index = graph.add(path, file, None);
        if seen.insert(index) {
            indices.push(index);
        }
    }
    // What was named as a file is checked, even if the coordinator has something of that name.
    graph.read(&indices, watch)?;
    let mut sent = upload(coordinator, &mut graph, &indices, watch)?;
    let mut others = others(coordinator, &graph, watch)?;
    others.retain(|source| !sent.nowhere.contains(source));
    sent.nowhere.extend(needed(&mut graph, &indices, others, watch));
    let wanted = indices.iter().map(|index| graph.nodes[*index].path.clone()).collect();
    Ok(Brought { wanted, sent })
}

/// As [`bring`], for derivations that are named by their paths in the store. Those that the coordinator has need not
/// be on this machine, and nothing below them is read: sources that they lack count as nowhere only when they belong
/// to something that is sent.
///
/// # Errors
/// As [`bring`].
pub fn bring_paths(
    coordinator: &Coordinator,
    wanted: &[StorePath],
    places: &[PathBuf],
    watch: &dyn Watch,
) -> Result<Sent, ClientError> {
    let mut all = Places::default();
    places.iter().for_each(|folder| all.add(folder));
    let mut graph = Graph::new(&all);
    let mut seen = HashSet::new();
    let indices = wanted.iter().map(|path| graph.add(path.clone(), None, None));
    let indices: Vec<Index> = indices.filter(|index| seen.insert(*index)).collect();
    let sent = upload(coordinator, &mut graph, &indices, watch)?;
    others(coordinator, &graph, watch)?;
    Ok(sent)
}

/// Uploads what the coordinator lacks of these and of all that they need.
fn upload(
    coordinator: &Coordinator,
    graph: &mut Graph<'_>,
    wanted: &[Index],
    watch: &dyn Watch,
) -> Result<Sent, ClientError> {
    let mut patience = Patience::some();
    let mut sent = Sent::default();
    let mut before = usize::MAX;
    loop {
        watch.begin("asking what the coordinator lacks", None, Unit::Things);
        let lacks = Lacks::find(graph, wanted, |paths| missing(coordinator, &paths), watch)?;
        refuse_absent(graph, &lacks)?;
        let (items, nowhere) = plan(graph, &lacks, wanted);
        sent.nowhere = nowhere;
        if items.is_empty() {
            return Ok(sent);
        }
        if items.len() < before {
            patience = Patience::some();
        }
        before = items.len();
        match send(coordinator, &items, watch) {
            Ok(uploaded) => {
                sent.uploaded.derivations += uploaded.derivations;
                sent.uploaded.sources += uploaded.sources;
                sent.uploaded.known += uploaded.known;
                return Ok(sent);
            }
            Err(error) if error.is_temporary() => patience.wait_after(error, watch)?,
            Err(error) => return Err(error),
        }
    }
}

/// Sends what is here of the sources that derivations lack which the coordinator had before; gives the others. These
/// may be somebody else's, so that what goes wrong with them is no reason to fail.
fn others(
    coordinator: &Coordinator,
    graph: &Graph<'_>,
    watch: &dyn Watch,
) -> Result<HashSet<StorePath>, ClientError> {
    let doing = "asking which sources the coordinator lacks";
    let lacking: MissingAnswer = coordinator.ask(doing, &clients::MISSING_SOURCES, &[])?;
    let mut nowhere = HashSet::new();
    let mut items = Vec::new();
    for source in &lacking.missing {
        match graph.places.find(source) {
            Some(file) => items.push(Item::Source(source, file)),
            None => {
                nowhere.insert(source.clone());
            }
        }
    }
    if !items.is_empty() {
        if let Err(error) = send(coordinator, &items, watch) {
            watch.warn(&format!("sources that earlier submissions lack were not all uploaded: {error}"));
        }
    }
    Ok(nowhere)
}

/// Those of these sources that belong to derivations which were asked for, or are below them, as far as these can be
/// read here.
fn needed(
    graph: &mut Graph<'_>,
    wanted: &[Index],
    mut sources: HashSet<StorePath>,
    watch: &dyn Watch,
) -> Vec<StorePath> {
    let mut found = Vec::new();
    let mut seen: HashSet<Index> = wanted.iter().copied().collect();
    let mut level = wanted.to_vec();
    while !sources.is_empty() && !level.is_empty() && graph.read(&level, watch).is_ok() {
        let named = level.iter().flat_map(|index| graph.sources_of(*index));
        found.extend(named.filter_map(|source| sources.take(&graph.sources[*source])));
        let inputs = level.iter().flat_map(|index| graph.inputs(*index).iter().copied());
        level = inputs.filter(|input| seen.insert(*input)).collect();
    }
    found
}

fn missing(coordinator: &Coordinator, all: &[StorePath]) -> Result<HashSet<StorePath>, ClientError> {
    let mut missing = HashSet::new();
    for paths in all.chunks(QUESTION) {
        let question = MissingQuestion { paths: paths.to_vec() };
        let doing = "asking what the coordinator lacks";
        let answer: MissingAnswer = coordinator.tell(doing, &clients::MISSING, &[], &question)?;
        missing.extend(answer.missing);
    }
    Ok(missing)
}

fn refuse_absent(graph: &Graph<'_>, lacks: &Lacks) -> Result<(), ClientError> {
    let Some(first) = lacks.nowhere(graph).next() else { return Ok(()) };
    let node = &graph.nodes[first];
    match node.needed_by {
        None => Err(ClientError::NoSuchDerivation { file: node.path.as_str().into() }),
        Some(needed_by) => Err(ClientError::MissingDerivations {
            count: lacks.nowhere(graph).count(),
            first: node.path.clone(),
            needed_by: graph.nodes[needed_by].path.clone(),
        }),
    }
}

/// What to send, each derivation after its inputs and its own sources; and the sources that are nowhere.
fn plan<'g>(graph: &'g Graph<'_>, lacks: &Lacks, wanted: &[Index]) -> (Vec<Item<'g>>, Vec<StorePath>) {
    let (mut items, mut nowhere) = (Vec::new(), Vec::new());
    let mut done = vec![false; graph.sources.len()];
    for index in lacks.in_order(graph, wanted) {
        for source in graph.sources_of(index) {
            if !std::mem::replace(&mut done[*source], true) && lacks.lacks_source(*source) {
                let source = &graph.sources[*source];
                match graph.places.find(source) {
                    Some(file) => items.push(Item::Source(source, file)),
                    None => nowhere.push(source.clone()),
                }
            }
        }
        if let Contents::Read { file, .. } = &graph.nodes[index].file {
            items.push(Item::Derivation(&graph.nodes[index].path, file));
        }
    }
    (items, nowhere)
}

/// Sends one bundle. It is written by a thread of its own while the connection takes it.
fn send(coordinator: &Coordinator, items: &[Item<'_>], watch: &dyn Watch) -> Result<Uploaded, ClientError> {
    watch.begin("uploading derivations and sources", Some(items.len() as u64), Unit::Things);
    let (writer, mut reader) = pipe();
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| produce(writer, items, watch));
        let doing = format!("uploading {} derivations and sources", items.len());
        let answer = coordinator.upload(&doing, &mut reader);
        // When the connection broke, the producer must not wait for a reader.
        drop(reader);
        match producer.join() {
            Ok(Err(Broken::Here(error))) => Err(error),
            Ok(Ok(()) | Err(Broken::Connection)) => answer,
            Err(_) => Err(ClientError::local("writing the bundle", io::Error::other("it broke off"))),
        }
    })
}

/// Why a bundle was not written to its end.
enum Broken {
    /// Nobody takes it: the connection has the reason.
    Connection,
    /// It could not be read here.
    Here(ClientError),
}

fn produce(writer: PipeWriter, items: &[Item<'_>], watch: &dyn Watch) -> Result<(), Broken> {
    let closed = |_: io::Error| Broken::Connection;
    let compressor = zstd::Encoder::new(writer, LEVEL).map_err(closed)?;
    let mut bundle = bundle::Writer::new(compressor);
    let (mut text, mut nar) = (Vec::new(), Beginning::default());
    for item in items {
        match item {
            Item::Derivation(path, file) => {
                let doing = || format!("reading {} to upload it", file.display());
                read_into(file, &mut text).map_err(|e| Broken::Here(ClientError::local(doing(), e)))?;
                bundle.entry(Kind::Derivation, path, text.len() as u64, &text[..]).map_err(closed)?;
            }
            Item::Source(path, file) => source(&mut bundle, path, file, &mut nar)?,
        }
        watch.advance(1);
    }
    bundle.finish().and_then(zstd::Encoder::finish).and_then(PipeWriter::finish).map_err(closed)
}

fn source<W: Write>(
    bundle: &mut bundle::Writer<W>,
    path: &StorePath,
    file: &Path,
    first: &mut Beginning,
) -> Result<(), Broken> {
    let local = |e: io::Error| {
        Broken::Here(ClientError::local(format!("packing {} to upload it", file.display()), e))
    };
    first.size = 0;
    first.bytes.clear();
    nar::pack(file, &mut *first).map_err(|e| local(io::Error::other(e)))?;
    if first.size == first.bytes.len() as u64 {
        return bundle
            .entry(Kind::Source, path, first.size, &first.bytes[..])
            .map_err(|_| Broken::Connection);
    }
    // Too large to keep: packed again, into the bundle. A tree that changes meanwhile spoils the whole bundle, whose
    // end is then never sent.
    let mut failed = None;
    let mut packer = Noting { inner: nar::Packer::new(file), failed: &mut failed };
    let written = bundle.entry(Kind::Source, path, first.size, &mut packer);
    let more = written.is_ok() && packer.read(&mut [0]).is_ok_and(|n| n > 0);
    match (written, failed) {
        (_, Some(error)) => Err(local(error)),
        _ if more => Err(local(io::Error::other("it grew while it was read"))),
        (Ok(()), None) => Ok(()),
        (Err(error), None) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(local(io::Error::other("it shrank while it was read")))
        }
        (Err(_), None) => Err(Broken::Connection),
    }
}

/// Notes what went wrong in reading, so that it is told from what goes wrong in sending.
struct Noting<'a, R> {
    inner: R,
    failed: &'a mut Option<io::Error>,
}

impl<R: Read> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            *self.failed = Some(error);
            kind.into()
        })
    }
}

/// Counts what is written and keeps it as long as it is small.
#[derive(Debug, Default)]
struct Beginning {
    size: u64,
    bytes: Vec<u8>,
}

impl Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size == self.bytes.len() as u64 && self.bytes.len() + bytes.len() <= IN_MEMORY {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.bytes = Vec::new();
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
