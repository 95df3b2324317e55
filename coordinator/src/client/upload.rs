//! Uploading what the coordinator lacks: asked once, sent as one stream.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use drover_store::nar;
use drover_store::path::StorePath;
use drover_wire::bundle::{self, Kind};
use drover_wire::client::{MissingAnswer, MissingQuestion, Uploaded};
use drover_wire::route::clients;

use super::closure::{Absent, Closure, Local, Places, asked_for, read_bounded};
use super::pipe::{PipeWriter, pipe};
use super::retry::Patience;
use super::{ClientError, Coordinator, Unit, Watch};

/// The most paths in one question.
const QUESTION: usize = 50_000;
/// Sources up to this size are packed once and sent from memory; larger ones are packed once to know their size and
/// once to send them.
const IN_MEMORY: usize = 1 << 20;
/// How hard the bundle is compressed: texts are small, so this costs little and halves what travels.
const LEVEL: i32 = 6;

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
    Derivation(&'a Local),
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
    let closure = Closure::of(named, &all, watch)?;
    let sent = upload(coordinator, &closure, &all, watch)?;
    Ok(Brought { wanted: closure.wanted, sent })
}

/// As [`bring`], for derivations that are named by their paths in the store. Those that the coordinator has need not
/// be on this machine.
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
    let closure = Closure::of(wanted.iter().map(|path| (path.clone(), None)).collect(), &all, watch)?;
    upload(coordinator, &closure, &all, watch)
}

fn upload(
    coordinator: &Coordinator,
    closure: &Closure,
    places: &Places,
    watch: &dyn Watch,
) -> Result<Sent, ClientError> {
    let mut patience = Patience::some();
    let mut sent = Sent::default();
    let mut before = usize::MAX;
    loop {
        let missing = missing(coordinator, closure, watch)?;
        refuse_absent(&closure.absent, &missing)?;
        let (items, nowhere) = plan(closure, &missing, places);
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

fn missing(
    coordinator: &Coordinator,
    closure: &Closure,
    watch: &dyn Watch,
) -> Result<HashSet<StorePath>, ClientError> {
    let all: Vec<&StorePath> = closure
        .derivations
        .iter()
        .map(|d| &d.path)
        .chain(closure.absent.iter().map(|a| &a.path))
        .chain(&closure.sources)
        .collect();
    watch.begin("asking what the coordinator lacks", Some(all.len() as u64), Unit::Things);
    let mut missing = HashSet::new();
    for paths in all.chunks(QUESTION) {
        let question = MissingQuestion { paths: paths.iter().map(|p| (*p).clone()).collect() };
        let doing = "asking what the coordinator lacks";
        let answer: MissingAnswer = coordinator.tell(doing, &clients::MISSING, &[], &question)?;
        missing.extend(answer.missing);
        watch.advance(paths.len() as u64);
    }
    Ok(missing)
}

fn refuse_absent(absent: &[Absent], missing: &HashSet<StorePath>) -> Result<(), ClientError> {
    let lacking: Vec<&Absent> = absent.iter().filter(|a| missing.contains(&a.path)).collect();
    match lacking.first() {
        None => Ok(()),
        Some(Absent { path, needed_by: None }) => {
            Err(ClientError::NoSuchDerivation { file: path.as_str().into() })
        }
        Some(Absent { path, needed_by: Some(needed_by) }) => Err(ClientError::MissingDerivations {
            count: lacking.len(),
            first: path.clone(),
            needed_by: needed_by.clone(),
        }),
    }
}

/// What to send, each derivation after its inputs and its own sources; and the sources that are nowhere.
fn plan<'a>(
    closure: &'a Closure,
    missing: &HashSet<StorePath>,
    places: &Places,
) -> (Vec<Item<'a>>, Vec<StorePath>) {
    let (mut items, mut nowhere) = (Vec::new(), Vec::new());
    let mut done = vec![false; closure.sources.len()];
    for derivation in &closure.derivations {
        for &index in &derivation.sources {
            let source = &closure.sources[index];
            if !std::mem::replace(&mut done[index], true) && missing.contains(source) {
                match places.find(source) {
                    Some(file) => items.push(Item::Source(source, file)),
                    None => nowhere.push(source.clone()),
                }
            }
        }
        if missing.contains(&derivation.path) {
            items.push(Item::Derivation(derivation));
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
    for item in items {
        match item {
            Item::Derivation(local) => {
                let doing = || format!("reading {} to upload it", local.file.display());
                let text =
                    read_bounded(&local.file).map_err(|e| Broken::Here(ClientError::local(doing(), e)))?;
                bundle.entry(Kind::Derivation, &local.path, text.len() as u64, &text[..]).map_err(closed)?;
            }
            Item::Source(path, file) => source(&mut bundle, path, file)?,
        }
        watch.advance(1);
    }
    bundle.finish().and_then(zstd::Encoder::finish).and_then(PipeWriter::finish).map_err(closed)
}

fn source<W: Write>(bundle: &mut bundle::Writer<W>, path: &StorePath, file: &Path) -> Result<(), Broken> {
    let local = |e: io::Error| {
        Broken::Here(ClientError::local(format!("packing {} to upload it", file.display()), e))
    };
    let mut first = Beginning::default();
    nar::pack(file, &mut first).map_err(|e| local(io::Error::other(e)))?;
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
