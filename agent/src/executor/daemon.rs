//! Builds by a guix-daemon.
//!
//! The connection of a [`DaemonWorkplace`] holds the temporary roots and builds. What can break half-way (imports,
//! sources from a stream) goes over connections of its own, so that its end does not cost the roots; so do deletions,
//! because a connection that asks for one loses its roots.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use drover_store::path::StorePath;
use drover_wire::ItemInfo;
use drover_wire::agent::{Output, TimeLimit};

use super::{Ended, Error, Executor, Job, Nars, NewText, Sink, Stopper, Workplace};
use crate::config::DaemonSocket;
use crate::daemon::{self, Connection, Event, Import, ImportItem, Options};

/// How much longer than a build's own limit the daemon may be silent during it, before it counts as hung.
const BEYOND_TIMEOUT: Duration = Duration::from_secs(900);
/// The most bytes of the daemon's own words that are looked at for the reason of a failure.
const WORDS_KEPT: usize = 4096;
/// How much of the beginning of its output.
const BEGINNING_KEPT: usize = 512;
/// What the daemon says by itself, in one piece, whenever another process of it writes its database.
const BUSY: &[u8] = b"warning: SQLite database is busy\n";
/// How the daemon calls a signature whose key is not in its ACL.
const UNAUTHORIZED: &str = "unauthorized";

/// A guix-daemon by its address.
#[derive(Debug)]
pub struct DaemonExecutor {
    socket: DaemonSocket,
    /// A connection that is ready for the next build.
    spare: Mutex<Option<Connection>>,
}

impl DaemonExecutor {
    /// The daemon that listens there; nothing is asked yet.
    #[must_use]
    pub fn new(socket: DaemonSocket) -> Self {
        Self { socket, spare: Mutex::new(None) }
    }

    fn connect(&self) -> Result<Connection, Error> {
        Ok(Connection::open(&self.socket)?)
    }

    fn put_by(&self, connection: Connection) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }

    fn take_spare(&self) -> Option<Connection> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.filter(Connection::is_usable)
    }
}

impl Executor for DaemonExecutor {
    fn builtins(&self) -> Result<Vec<String>, Error> {
        let mut connection = self.connect()?;
        let builtins = connection.builtins()?;
        self.put_by(connection);
        Ok(builtins)
    }

    fn open(&self) -> Result<Box<dyn Workplace>, Error> {
        let connection = match self.take_spare() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        Ok(Box::new(DaemonWorkplace { socket: self.socket.clone(), connection }))
    }

    fn nar(&self, item: &Output) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(self.connect()?.export_nar(&item.path, item.nar_size)?))
    }

    fn warm_up(&self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if !spare.as_ref().is_some_and(Connection::is_usable) {
            // A build that finds no spare connection says what is wrong.
            *spare = self.connect().ok();
        }
    }

    fn store(&self) -> &Path {
        Path::new(drover_store::STORE_DIR)
    }

    fn seems_there(&self) -> bool {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(Connection::is_usable)
    }

    fn tidy(&self, bytes: u64) -> Result<u64, Error> {
        Ok(self.connect()?.collect_garbage(bytes)?)
    }
}

/// A connection to a guix-daemon that a build has for itself.
#[derive(Debug)]
pub struct DaemonWorkplace {
    socket: DaemonSocket,
    connection: Connection,
}

impl DaemonWorkplace {
    fn another(&self) -> Result<Connection, Error> {
        Ok(Connection::open(&self.socket)?)
    }
}

impl Workplace for DaemonWorkplace {
    fn protect(&mut self, paths: &mut dyn Iterator<Item = &StorePath>) -> Result<(), Error> {
        Ok(self.connection.add_temp_roots(paths)?)
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let valid: HashSet<_> = self.connection.valid_paths(paths)?.into_iter().collect();
        Ok(paths.iter().filter(|path| !valid.contains(path)).cloned().collect())
    }

    fn add_texts(&mut self, texts: &[NewText<'_>]) -> Result<(), Error> {
        Ok(self.connection.add_texts(texts.iter().copied())?)
    }

    fn add_file(&mut self, path: &StorePath, recursive: bool, nar: &mut dyn Read) -> Result<(), Error> {
        Ok(self.another()?.add_to_store(path, recursive, nar)?)
    }

    fn import(&mut self, items: &[&ItemInfo], from: &dyn Nars) -> Result<(), Error> {
        let mut items = Importing { items: items.iter(), from };
        self.another()?.import(&mut items).map_err(|error| match &error {
            daemon::Error::Refused { message, .. } if message.contains(UNAUTHORIZED) => {
                Error::Untrusted(untrusted(&error))
            }
            _ => error.into(),
        })
    }

    fn substitute(&mut self, servers: &[String], paths: &[StorePath]) -> Result<(), Error> {
        let mut connection = self.another()?;
        connection.set_options(&Options { substitute_urls: Some(servers.to_vec()), ..Options::default() })?;
        for path in connection.substitutable_paths(paths)? {
            match connection.ensure_path(&path) {
                Err(error @ daemon::Error::Refused { .. }) => tracing::warn!("{error}"),
                done => done?,
            }
        }
        Ok(())
    }

    fn outputs_of(&mut self, derivation: &StorePath) -> Result<Vec<StorePath>, Error> {
        Ok(self.connection.derivation_outputs(derivation)?)
    }

    fn clear(&mut self, outputs: &[StorePath]) -> Result<(), Error> {
        let valid = self.connection.valid_paths(outputs)?;
        if valid.is_empty() {
            return Ok(());
        }
        Ok(self.another()?.delete(&valid)?)
    }

    fn stopper(&self) -> Stopper {
        let handle = self.connection.hang_up_handle();
        Box::new(move || handle.hang_up())
    }

    fn build(&mut self, job: &Job, sink: &mut dyn Sink) -> Result<Ended, Error> {
        self.connection.set_options(&Options {
            substitute_urls: None,
            timeout: job.timeout,
            max_silent_time: job.max_silent_time,
        })?;
        let patience = job.timeout.map(|seconds| Duration::from_secs(seconds).saturating_add(BEYOND_TIMEOUT));
        let mut seen = Seen::new(&job.derivation);
        let result = self.connection.build(&job.derivation, patience, |event| seen.take(event, sink));
        seen.verdict(result)
    }

    fn describe(&mut self, outputs: &[StorePath]) -> Result<Vec<Output>, Error> {
        let describe = |path: &StorePath| -> Result<Output, Error> {
            let info = self.connection.path_info(path)?;
            let (nar_hash, nar_size, references) = (info.nar_hash, info.nar_size, info.references);
            Ok(Output { path: path.clone(), nar_hash, nar_size, references })
        };
        outputs.iter().map(describe).collect()
    }

    fn keep(&mut self, link: &Path) -> Result<(), Error> {
        Ok(self.connection.add_indirect_root(link)?)
    }
}

/// Items one after the other, as the daemon takes them.
struct Importing<'a> {
    items: std::slice::Iter<'a, &'a ItemInfo>,
    from: &'a dyn Nars,
}

impl Import for Importing<'_> {
    fn next(&mut self) -> io::Result<Option<ImportItem<'_>>> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let Some(signature) = item.import_signature.clone() else {
            return Err(io::Error::other(format!("the coordinator sent no signature for {}", item.path)));
        };
        Ok(Some(ImportItem {
            path: item.path.clone(),
            references: item.references.clone(),
            deriver: item.deriver.clone(),
            signature,
            // One byte more than announced is enough for the daemon to see that it is another nar.
            nar: Box::new(self.from.open(item)?.take(item.nar_size.saturating_add(1))),
        }))
    }
}

/// What the daemon told of a build.
#[derive(Debug)]
struct Seen<'a> {
    derivation: &'a StorePath,
    started: bool,
    succeeded: bool,
    /// Another derivation that was started.
    foreign: Option<String>,
    failure: Option<String>,
    words: Vec<u8>,
    /// How the build's output begins.
    beginning: Vec<u8>,
}

impl<'a> Seen<'a> {
    fn new(derivation: &'a StorePath) -> Self {
        Self {
            derivation,
            started: false,
            succeeded: false,
            foreign: None,
            failure: None,
            words: Vec::new(),
            beginning: Vec::new(),
        }
    }

    fn is_ours(&self, derivation: &[u8]) -> bool {
        derivation == self.derivation.as_str().as_bytes()
    }

    fn take(&mut self, event: Event<'_>, sink: &mut dyn Sink) -> io::Result<()> {
        match event {
            Event::Started { derivation, .. } if self.is_ours(derivation) => {
                self.started = true;
                sink.started();
            }
            Event::Started { derivation, .. } => {
                self.foreign = Some(text(derivation));
                return Err(io::Error::other("guix-daemon started to build something else"));
            }
            Event::Succeeded { derivation } => self.succeeded |= self.is_ours(derivation),
            Event::Failed { derivation, reason } if self.is_ours(derivation) => {
                self.failure = Some(text(reason))
            }
            Event::Failed { .. } => {}
            Event::Output(bytes) => {
                let room = BEGINNING_KEPT.saturating_sub(self.beginning.len()).min(bytes.len());
                self.beginning.extend_from_slice(&bytes[..room]);
                sink.log(bytes)?;
            }
            Event::Words(BUSY) => tracing::info!("guix-daemon waits for its database, which others use"),
            Event::Words(bytes) => {
                self.words.extend_from_slice(bytes);
                let excess = self.words.len().saturating_sub(WORDS_KEPT);
                self.words.drain(..excess);
                sink.log(bytes)?;
            }
            Event::Other(line) => tracing::debug!("guix-daemon: {}", text(line)),
        }
        Ok(())
    }

    /// The system that this machine cannot build for: said by the daemon's child in the place of the builder, at the
    /// very beginning of its output.
    fn unsupported(&self) -> Option<String> {
        let rest = self.beginning.strip_prefix(b"@ unsupported-platform ")?;
        let rest = rest.strip_prefix(self.derivation.as_str().as_bytes())?.strip_prefix(b" ")?;
        rest.split(|byte| *byte == b'\n').next().map(text)
    }

    fn verdict(self, result: Result<(), daemon::Error>) -> Result<Ended, Error> {
        if let Some(foreign) = self.foreign {
            return Ok(Ended::NotBuiltHere(format!(
                "guix-daemon began to build {foreign} first, which is an input"
            )));
        }
        let said = match result {
            Ok(()) if self.started && self.succeeded => return Ok(Ended::Succeeded),
            Ok(()) => {
                let message =
                    "guix-daemon answered success without building it: the output was there already";
                return Ok(Ended::NotBuiltHere(message.to_owned()));
            }
            Err(daemon::Error::Refused { message, .. }) => message,
            Err(other) => return Err(other.into()),
        };
        let words = text(&self.words);
        let last_words = || words.lines().last().map_or(said.clone(), str::to_owned);
        Ok(match self.failure.as_deref() {
            Some("timeout") if words.contains("of silence") => {
                Ended::TimedOut(TimeLimit::Silence, last_words())
            }
            Some("timeout") => {
                Ended::TimedOut(TimeLimit::Timeout, format!("{} took too long", self.derivation))
            }
            Some("cached") => {
                Ended::NotBuiltHere("guix-daemon remembers a failure of it and did not try again".to_owned())
            }
            Some(reason) if reason.starts_with("unsupported-platform") => Ended::Unsupported(last_words()),
            Some(_) if self.unsupported().is_some() => Ended::Unsupported(format!(
                "guix-daemon here cannot run builders for {}",
                self.unsupported().unwrap_or_default()
            )),
            // A number, then the sentence.
            Some(reason) => {
                failed(reason.split_once(' ').map_or(said, |(_, words)| words.trim().to_owned()))?
            }
            None if self.started => failed(said)?,
            None => Ended::NotBuiltHere(said),
        })
    }
}

/// By the daemon's words: whether the builder itself said so, or there was no room.
fn failed(words: String) -> Result<Ended, Error> {
    if tells_full(&words) {
        return Err(Error::Full(words));
    }
    if ["failed with exit code ", "failed due to signal "].iter().any(|how| words.contains(how)) {
        return Ok(Ended::Exited(words));
    }
    Ok(Ended::Failed(words))
}

/// Whether these words of the daemon, which has no others for it, are about a full disk.
fn tells_full(words: &str) -> bool {
    words.contains("No space left on device")
        || words.contains("Disk quota exceeded")
        || words.contains("database or disk is full")
}

fn untrusted(error: &daemon::Error) -> String {
    format!(
        "the coordinator's key is not in the ACL of this machine's guix-daemon; to authorize it, give what `drover key \
         show` prints to `guix archive --authorize` here: drover key show | guix archive --authorize ({error})"
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl From<daemon::Error> for Error {
    fn from(error: daemon::Error) -> Self {
        match error {
            error if error.is_away() => Self::Away(error.to_string()),
            daemon::Error::Ours { attempted, source } => Self::Stream { attempted, source },
            daemon::Error::Refused { ref message, .. } if tells_full(message) => {
                Self::Full(error.to_string())
            }
            other => Self::Refused(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_authorized_is_said_with_the_remedy() {
        let refusal = refused("unauthorized public key").unwrap_err();
        let words = untrusted(&refusal);
        assert!(words.contains("the coordinator's key is not in the ACL"), "{words}");
        assert!(words.contains("drover key show | guix archive --authorize"), "{words}");
        assert!(words.contains("unauthorized public key"), "{words}");
    }

    struct Keep(Vec<u8>, bool);

    impl Sink for Keep {
        fn started(&mut self) {
            self.1 = true;
        }
        fn log(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn refused(message: &str) -> Result<(), daemon::Error> {
        Err(daemon::Error::Refused { attempted: "build".into(), message: message.into(), status: 100 })
    }

    fn verdict(events: &[Event<'_>], result: Result<(), daemon::Error>) -> Ended {
        let path = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv").unwrap();
        let mut seen = Seen::new(&path);
        let mut sink = Keep(Vec::new(), false);
        for event in events {
            let event = match event {
                Event::Started { derivation, process } => Event::Started { derivation, process: *process },
                Event::Succeeded { derivation } => Event::Succeeded { derivation },
                Event::Failed { derivation, reason } => Event::Failed { derivation, reason },
                Event::Output(bytes) => Event::Output(bytes),
                Event::Words(words) => Event::Words(words),
                other => panic!("{other:?}"),
            };
            if seen.take(event, &mut sink).is_err() {
                break;
            }
        }
        seen.verdict(result).unwrap()
    }

    const OURS: &[u8] = b"/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv";
    const STARTED: Event<'_> = Event::Started { derivation: OURS, process: None };

    #[test]
    fn what_the_daemon_says_of_its_database_is_not_of_the_build() {
        let path = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv").unwrap();
        let mut seen = Seen::new(&path);
        let mut sink = Keep(Vec::new(), false);
        let words: [&[u8]; 3] = [b"a word\n", b"warning: SQLite database is busy\n", b"another\n"];
        for words in words {
            seen.take(Event::Words(words), &mut sink).unwrap();
        }
        assert_eq!(sink.0, b"a word\nanother\n");
        assert_eq!(seen.words, sink.0);
    }

    #[test]
    fn success_counts_only_if_it_was_started_here() {
        assert_eq!(verdict(&[STARTED, Event::Succeeded { derivation: OURS }], Ok(())), Ended::Succeeded);
        assert!(matches!(verdict(&[], Ok(())), Ended::NotBuiltHere(_)));
        let other = Event::Started { derivation: b"/gnu/store/y.drv", process: None };
        assert!(
            matches!(verdict(&[other], refused("")), Ended::NotBuiltHere(words) if words.contains("y.drv"))
        );
    }

    #[test]
    fn failures_are_told_apart_by_the_daemons_words() {
        let failed = |reason| Event::Failed { derivation: OURS, reason };
        let silence = Event::Words(b"building of `x' timed out after 1 seconds of silence\n");
        let limit = |events: &[Event<'_>]| match verdict(events, refused("build of x failed")) {
            Ended::TimedOut(limit, _) => limit,
            other => panic!("{other:?}"),
        };
        assert_eq!(limit(&[STARTED, silence, failed(b"timeout")]), TimeLimit::Silence);
        assert_eq!(limit(&[STARTED, failed(b"timeout")]), TimeLimit::Timeout);
        assert_eq!(
            verdict(&[STARTED, failed(b"1 builder failed with exit code 3")], refused("build of x failed")),
            Ended::Exited("builder failed with exit code 3".into())
        );
        let mismatch = verdict(&[STARTED, failed(b"1 hash mismatch for store item x")], refused("no"));
        assert_eq!(mismatch, Ended::Failed("hash mismatch for store item x".into()));
        let words = "1 opening file `x': No space left on device";
        let full = super::failed(words.into());
        assert!(matches!(full, Err(Error::Full(_))), "{full:?}");
        assert!(matches!(refused(words).unwrap_err().into(), Error::Full(_)));
        assert!(matches!(verdict(&[failed(b"unsupported-platform")], refused("no")), Ended::Unsupported(_)));
        let line = [b"@ unsupported-platform ", OURS, b" i586-gnu\nand more\n"].concat();
        let ended = verdict(&[STARTED, Event::Output(&line), failed(b"1 builder failed")], refused("no"));
        assert!(matches!(ended, Ended::Unsupported(words) if words.ends_with("i586-gnu")));
        let later = [
            STARTED,
            Event::Output(b"x\n"),
            Event::Output(&line),
            failed(b"1 builder failed with exit code 1"),
        ];
        let ended = verdict(&later, refused("no"));
        assert!(matches!(ended, Ended::Exited(_)));
        assert!(matches!(verdict(&[failed(b"cached")], refused("no")), Ended::NotBuiltHere(_)));
        assert_eq!(verdict(&[], refused("no input")), Ended::NotBuiltHere("no input".into()));
    }
}
