//! The operations: one method each, named after what it does.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use drover_store::framing;
use drover_store::hash::Sha256Hash;
use drover_store::path::StorePath;

use super::channel::Message;
use super::connection::{Connection, unexpected};
use super::error::{Error, Fault};
use super::trace::{Event, TraceParser};

const ADD_TO_STORE: u64 = 7;
const ADD_TEXT_TO_STORE: u64 = 8;
const BUILD_THINGS: u64 = 9;
const ENSURE_PATH: u64 = 10;
const ADD_TEMP_ROOT: u64 = 11;
const ADD_INDIRECT_ROOT: u64 = 12;
const SYNC_WITH_GC: u64 = 13;
const COLLECT_GARBAGE: u64 = 20;
const QUERY_DERIVATION_OUTPUTS: u64 = 22;
const QUERY_PATH_INFO: u64 = 26;
const QUERY_VALID_PATHS: u64 = 31;
const QUERY_SUBSTITUTABLE_PATHS: u64 = 32;
const BUILT_IN_BUILDERS: u64 = 80;

/// The action of collect-garbage that deletes what nothing needs.
const DELETE_DEAD: u64 = 2;
/// The action of collect-garbage that deletes what is named, and nothing else.
const DELETE_SPECIFIC: u64 = 3;

/// The most bytes of requests that go out together. While the daemon works on a request, it takes whatever arrives for
/// the end of the connection, and a byte of it is lost: so what goes out together must be read together. A single write
/// of this size to a Unix socket is one piece, and the daemon reads twice as much at a time.
const BATCH_BYTES: usize = 16 * 1024;
/// The most requests that go out together: their replies of some hundred bytes must fit into the socket's buffer.
const BATCH_REQUESTS: usize = 128;

/// What the daemon knows of a valid path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The derivation that it came from, if that is known.
    pub deriver: Option<StorePath>,
    /// The SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// What it refers to, sorted.
    pub references: Vec<StorePath>,
    /// The bytes of its nar.
    pub nar_size: u64,
}

/// A file to add as a text: its name, its bytes, and what it refers to.
#[derive(Debug, Clone, Copy)]
pub struct NewText<'a> {
    /// Where it must end up.
    pub path: &'a StorePath,
    /// Its bytes.
    pub text: &'a [u8],
    /// The store items that it refers to, which are valid already or come earlier.
    pub references: &'a [StorePath],
}

impl Connection {
    /// The builtin builders that the daemon has, such as `download`.
    ///
    /// # Errors
    /// As every operation: when the daemon is away, says no, or does not speak this protocol.
    pub fn builtins(&mut self) -> Result<Vec<String>, Error> {
        let channel = &mut self.channel;
        channel
            .write_u64(BUILT_IN_BUILDERS)
            .and_then(|()| channel.finish())
            .and_then(|()| channel.read_words())
            .map_err(|fault| fault.during("ask for the builtin builders"))
    }

    /// Those of `paths` that are valid in the store.
    ///
    /// # Errors
    /// As [`Connection::builtins`].
    pub fn valid_paths(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        self.subset(QUERY_VALID_PATHS, paths)
            .map_err(|fault| fault.during(format!("ask which of {} paths are valid", paths.len())))
    }

    /// Those of `paths` that the daemon's substitute servers have (see [`super::Options::substitute_urls`]).
    ///
    /// # Errors
    /// As [`Connection::builtins`].
    pub fn substitutable_paths(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        self.subset(QUERY_SUBSTITUTABLE_PATHS, paths)
            .map_err(|fault| fault.during(format!("ask which of {} paths have substitutes", paths.len())))
    }

    fn subset(&mut self, operation: u64, paths: &[StorePath]) -> Result<Vec<StorePath>, Fault> {
        self.channel.write_u64(operation)?;
        self.channel.write_list(paths.iter().map(StorePath::as_str))?;
        self.channel.finish()?;
        self.read_paths()
    }

    /// Makes a path valid, by a substitute if the connection's options allow that.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Refused`] when it cannot be had.
    pub fn ensure_path(&mut self, path: &StorePath) -> Result<(), Error> {
        let channel = &mut self.channel;
        channel
            .write_u64(ENSURE_PATH)
            .and_then(|()| channel.write_bytes(path.as_str().as_bytes()))
            .and_then(|()| channel.finish())
            .and_then(|()| channel.read_u64().map(drop))
            .map_err(|fault| fault.during(format!("get {path}")))
    }

    /// The outputs of a valid derivation.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Refused`] when it is not valid.
    pub fn derivation_outputs(&mut self, derivation: &StorePath) -> Result<Vec<StorePath>, Error> {
        let channel = &mut self.channel;
        channel
            .write_u64(QUERY_DERIVATION_OUTPUTS)
            .and_then(|()| channel.write_bytes(derivation.as_str().as_bytes()))
            .and_then(|()| channel.finish())
            .and_then(|()| self.read_paths())
            .map_err(|fault| fault.during(format!("ask for the outputs of {derivation}")))
    }

    /// What the daemon knows of a valid path.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Refused`] when the path is not valid.
    pub fn path_info(&mut self, path: &StorePath) -> Result<PathInfo, Error> {
        self.read_path_info(path).map_err(|fault| fault.during(format!("ask about {path}")))
    }

    fn read_path_info(&mut self, path: &StorePath) -> Result<PathInfo, Fault> {
        self.channel.write_u64(QUERY_PATH_INFO)?;
        self.channel.write_bytes(path.as_str().as_bytes())?;
        self.channel.finish()?;
        let deriver = match self.channel.read_word()? {
            deriver if deriver.is_empty() => None,
            deriver => Some(parse_path(&deriver)?),
        };
        let hash = self.channel.read_word()?;
        let nar_hash =
            Sha256Hash::from_hex(&hash).map_err(|e| unexpected(format!("a hash that is none: {e}")))?;
        let mut references = self.read_paths()?;
        references.sort();
        let _registered = self.channel.read_u64()?;
        let nar_size = self.channel.read_u64()?;
        Ok(PathInfo { deriver, nar_hash, references, nar_size })
    }

    /// Keeps garbage collections off these paths, valid or not, for as long as the connection lasts; what they refer to
    /// is kept as well.
    ///
    /// # Errors
    /// As [`Connection::builtins`].
    pub fn add_temp_roots<'a>(&mut self, paths: impl Iterator<Item = &'a StorePath>) -> Result<(), Error> {
        let requests = paths.map(|path| (path, ()));
        let encode = |request: &mut Vec<u8>, path: &StorePath, ()| {
            framing::write_u64(&mut *request, ADD_TEMP_ROOT)?;
            framing::write_bytes(request, path.as_str().as_bytes())
        };
        self.in_batches(requests, encode, |connection, _| connection.channel.read_u64().map(drop))
            .map_err(|(path, fault)| fault.during(format!("keep {path} from garbage collection")))
    }

    /// Adds files as texts, without waiting for one before sending the next.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Protocol`] when the daemon puts one elsewhere.
    pub fn add_texts<'a>(&mut self, texts: impl Iterator<Item = NewText<'a>>) -> Result<(), Error> {
        let requests = texts.map(|text| (text.path, text));
        let encode = |request: &mut Vec<u8>, _: &StorePath, text: NewText<'_>| {
            framing::write_u64(&mut *request, ADD_TEXT_TO_STORE)?;
            framing::write_bytes(&mut *request, text.path.name().as_bytes())?;
            framing::write_bytes(&mut *request, text.text)?;
            framing::write_list(request, text.references.iter().map(StorePath::as_str))
        };
        self.in_batches(requests, encode, Self::expect_path)
            .map_err(|(path, fault)| fault.during(format!("add {path} to the store")))
    }

    /// Adds a source from its nar: a folder or file by its nar's hash, or else (`recursive` false) a plain file by the
    /// hash of its bytes.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Ours`] when `nar` fails, after which the connection is of no use any more.
    pub fn add_to_store(
        &mut self,
        path: &StorePath,
        recursive: bool,
        nar: &mut dyn Read,
    ) -> Result<(), Error> {
        self.send_nar(path, recursive, nar)
            .and_then(|()| self.expect_path(path))
            .map_err(|fault| fault.during(format!("add {path} to the store")))
    }

    fn send_nar(&mut self, path: &StorePath, recursive: bool, nar: &mut dyn Read) -> Result<(), Fault> {
        self.channel.write_u64(ADD_TO_STORE)?;
        self.channel.write_bytes(path.name().as_bytes())?;
        // An obsolete flag.
        self.channel.write_u64(1)?;
        self.channel.write_u64(recursive.into())?;
        self.channel.write_bytes(b"sha256")?;
        let mut buffer = [0; 8 * 1024];
        loop {
            match nar.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.channel.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Ours(error)),
            }
        }
        self.channel.finish()
    }

    /// Keeps what the symbolic link `link` points to for as long as the link exists. The daemon must see the link
    /// under the same name. Waits for a collection that runs: it reads the links long before the temporary roots, so
    /// that what is under a link only since then is safe by this connection's temporary roots alone until it ends.
    ///
    /// # Errors
    /// As [`Connection::builtins`].
    pub fn add_indirect_root(&mut self, link: &Path) -> Result<(), Error> {
        let channel = &mut self.channel;
        channel
            .write_u64(ADD_INDIRECT_ROOT)
            .and_then(|()| channel.write_bytes(link.as_os_str().as_encoded_bytes()))
            .and_then(|()| channel.finish())
            .and_then(|()| channel.read_u64().map(drop))
            .and_then(|()| channel.write_u64(SYNC_WITH_GC))
            .and_then(|()| channel.finish())
            .and_then(|()| channel.read_u64().map(drop))
            .map_err(|fault| fault.during(format!("make {} a root of garbage collection", link.display())))
    }

    /// Deletes these paths, and dead ones that refer to them. Only for a connection that has added neither roots nor
    /// texts: the daemon takes the temporary roots of the connection that asks for stale, and forgets them.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Refused`] when one is in use.
    pub fn delete(mut self, paths: &[StorePath]) -> Result<(), Error> {
        self.send_delete(paths).map_err(|fault| {
            let names: Vec<_> = paths.iter().map(StorePath::as_str).collect();
            fault.during(format!("delete {}", names.join(" ")))
        })
    }

    fn send_delete(&mut self, paths: &[StorePath]) -> Result<(), Fault> {
        // With a limit that is reached, the daemon deletes the first path and hangs up.
        self.send_collect(DELETE_SPECIFIC, paths, i64::MAX.unsigned_abs()).map(drop)
    }

    /// Has the daemon delete what nothing needs, until so many bytes are free that were not, or nothing is left to
    /// delete; how many they are. Nobody can add to the store while it does. Only for a connection that has added
    /// nothing, as for [`Connection::delete`].
    ///
    /// # Errors
    /// As [`Connection::builtins`].
    pub fn collect_garbage(mut self, bytes: u64) -> Result<u64, Error> {
        // It may count in signed numbers somewhere.
        self.send_collect(DELETE_DEAD, &[], bytes.min(i64::MAX.unsigned_abs()))
            .map_err(|fault| fault.during(format!("collect {bytes} bytes of garbage")))
    }

    fn send_collect(&mut self, action: u64, paths: &[StorePath], most_bytes: u64) -> Result<u64, Fault> {
        self.channel.write_u64(COLLECT_GARBAGE)?;
        self.channel.write_u64(action)?;
        self.channel.write_list(paths.iter().map(StorePath::as_str))?;
        let ignore_liveness = 0;
        for number in [ignore_liveness, most_bytes, 0, 0, 0] {
            self.channel.write_u64(number)?;
        }
        self.channel.finish()?;
        self.channel.skip_words()?;
        let freed = self.channel.read_u64()?;
        let _obsolete = self.channel.read_u64()?;
        Ok(freed)
    }

    /// Builds a derivation, telling what happens. `patience` is how long the daemon may be silent; none: as it likes.
    ///
    /// # Errors
    /// As [`Connection::builtins`]; [`Error::Refused`] when the build failed; [`Error::Ours`] with what `taker` said.
    pub fn build(
        &mut self,
        derivation: &StorePath,
        patience: Option<Duration>,
        mut taker: impl FnMut(Event<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        self.with_patience(patience, |this| this.send_build(derivation, &mut taker))
            .map_err(|fault| fault.during(format!("build {derivation}")))
    }

    fn send_build(
        &mut self,
        derivation: &StorePath,
        taker: &mut dyn FnMut(Event<'_>) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let normal = 0;
        self.channel.write_u64(BUILD_THINGS)?;
        self.channel.write_list([derivation.as_str()].iter())?;
        self.channel.write_u64(normal)?;
        self.channel.flush()?;
        let mut parser = TraceParser::new();
        loop {
            match self.channel.message()? {
                Message::Text => self.channel.take_body(|piece| parser.feed(piece, &mut *taker))?,
                Message::Last => return self.channel.read_u64().map(drop),
                Message::Wanted(_) | Message::Data => {
                    return Err(unexpected("data in the middle of a build"));
                }
            }
        }
    }

    fn expect_path(&mut self, path: &StorePath) -> Result<(), Fault> {
        let added = self.channel.read_word()?;
        if added == path.as_str() { Ok(()) } else { Err(unexpected(format!("{added}, another path"))) }
    }

    pub(super) fn read_paths(&mut self) -> Result<Vec<StorePath>, Fault> {
        self.channel.read_words()?.iter().map(|word| parse_path(word)).collect()
    }

    /// Sends requests without waiting for each reply. The replies to what is under way are read even after a refusal, so
    /// that the connection can be used; the first refusal is the error.
    fn in_batches<'a, T>(
        &mut self,
        requests: impl Iterator<Item = (&'a StorePath, T)>,
        mut encode: impl FnMut(&mut Vec<u8>, &StorePath, T) -> io::Result<()>,
        mut receive: impl FnMut(&mut Self, &StorePath) -> Result<(), Fault>,
    ) -> Result<(), (StorePath, Fault)> {
        let most = if self.is_local() { BATCH_REQUESTS } else { 1 };
        let (mut batch, mut request, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for (path, what) in requests {
            request.clear();
            encode(&mut request, path, what).map_err(|error| (path.clone(), Fault::Ours(error)))?;
            if waiting.len() == most || batch.len() + request.len() > BATCH_BYTES {
                self.converse(&mut batch, &mut waiting, &mut receive)?;
            }
            batch.extend_from_slice(&request);
            waiting.push(path);
        }
        self.converse(&mut batch, &mut waiting, &mut receive)
    }

    /// Sends one batch and reads its replies.
    fn converse(
        &mut self,
        batch: &mut Vec<u8>,
        waiting: &mut Vec<&StorePath>,
        receive: &mut impl FnMut(&mut Self, &StorePath) -> Result<(), Fault>,
    ) -> Result<(), (StorePath, Fault)> {
        let mut refused = None;
        for (number, path) in waiting.drain(..).enumerate() {
            let sent = if number == 0 { self.channel.write(batch) } else { Ok(()) };
            match sent.and_then(|()| self.channel.finish()).and_then(|()| receive(self, path)) {
                Ok(()) => {}
                Err(fault @ Fault::Refused { .. }) => {
                    refused.get_or_insert((path.clone(), fault));
                }
                Err(fault) => return Err((path.clone(), fault)),
            }
        }
        batch.clear();
        refused.map_or(Ok(()), Err)
    }
}

fn parse_path(text: &str) -> Result<StorePath, Fault> {
    StorePath::parse(text).map_err(|e| unexpected(e.to_string()))
}
