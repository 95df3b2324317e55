//! Where builds happen: a store with somebody who builds in it.
//!
//! An [`Executor`] is the machine's; it opens a [`Workplace`] for each build, in which the build's inputs are put
//! together, built, and looked at. All of a build's steps go through these two traits and nothing else, so a sandbox of
//! our own fits beside the [`daemon`] that a machine with Guix has.

pub mod daemon;
#[cfg(all(target_os = "linux", not(drover_portable)))]
pub mod sandbox;

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::Path;

use drover_store::Sha256Hash;
use drover_store::nar;
use drover_store::path::StorePath;
use drover_wire::ItemInfo;
use drover_wire::agent::{Output, TimeLimit};

pub use crate::daemon::NewText;

/// Whether there is a sandbox for this system at all; whether it is to be had on a machine is another question.
pub const HAS_SANDBOX: bool = cfg!(all(target_os = "linux", not(drover_portable)));

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Whoever builds is gone, or was stopped by us: the build can go on elsewhere.
    #[error("{0}")]
    Away(String),
    /// An input is signed by a key that this machine does not trust; the words say how to authorize it.
    #[error("{0}")]
    Untrusted(String),
    /// The disk has no room for it.
    #[error("{0}")]
    Full(String),
    /// The store says no.
    #[error("{0}")]
    Refused(String),
    /// What was to be put in could not be read, or what came out could not be kept.
    #[error("{attempted}: {source}")]
    Stream {
        /// What was wanted.
        attempted: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl Error {
    /// That something, in these words, was refused for this reason.
    #[cfg_attr(any(not(target_os = "linux"), drover_portable), allow(dead_code))]
    pub(crate) fn refused(words: String, reason: &(dyn StdError + 'static)) -> Self {
        if is_full(reason) { Self::Full(words) } else { Self::Refused(words) }
    }
}

/// Whether what is behind an error is a disk that has no more room, as the system says by its number. Words may be of
/// whoever gave names to files.
pub(crate) fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let system = match error.downcast_ref::<nar::Error>() {
            Some(nar::Error::Io { error, .. } | nar::Error::Tree { error, .. }) => Some(error),
            _ => error.downcast_ref::<io::Error>(),
        };
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if system.is_some_and(|error| full.contains(&error.kind())) {
            return true;
        }
        next = match system.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// A machine's store and builder.
pub trait Executor: Send + Sync {
    /// The builtin builders that it has; also a look whether it is there.
    ///
    /// # Errors
    /// [`Error::Away`] when it is not.
    fn builtins(&self) -> Result<Vec<String>, Error>;

    /// A place for one build.
    ///
    /// # Errors
    /// [`Error::Away`].
    fn open(&self) -> Result<Box<dyn Workplace>, Error>;

    /// The nar of a valid item, as it is described.
    ///
    /// # Errors
    /// [`Error::Away`]; other troubles show in reading.
    fn nar(&self, item: &Output) -> Result<Box<dyn Read + Send>, Error>;

    /// Gets ready for the next build while there is time.
    fn warm_up(&self);

    /// The folder whose free disk counts for builds.
    fn store(&self) -> &Path;

    /// Whether it seems to be there, without asking it; cheap.
    fn seems_there(&self) -> bool;

    /// What waits to be [saved](Executor::save), and for long enough; cheap.
    fn unsaved(&self) -> Unsaved {
        Unsaved::Nothing
    }

    /// Makes what came into the store safe from a loss of power, if something did. May take long.
    fn save(&self) {}

    /// How many bytes should go from the store although the disk has room, because the store has a limit of its own;
    /// cheap.
    fn excess(&self) -> u64 {
        0
    }

    /// Removes from the store so many bytes of what nobody needs, or as many as there are, and gives how many went. May
    /// take long. Builds go on meanwhile; what is in a [`Workplace`], or was [kept](Workplace::keep), stays.
    ///
    /// # Errors
    /// [`Error`]; some may have gone for all that.
    fn tidy(&self, bytes: u64) -> Result<u64, Error> {
        let _ = bytes;
        Ok(0)
    }
}

/// How much waits to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaved {
    /// Nothing, or not for long.
    Nothing,
    /// Something, which has time until nobody builds.
    Something,
    /// So much that it takes long to make sure of it after a loss of power.
    Much,
}

/// A place for one build. What is put in here is safe from garbage collection for as long as the place is open.
pub trait Workplace: Send {
    /// Keeps garbage collections off these paths, valid or not yet.
    ///
    /// # Errors
    /// [`Error`].
    fn protect(&mut self, paths: &mut dyn Iterator<Item = &StorePath>) -> Result<(), Error>;

    /// Those of the paths that are not valid, in their order.
    ///
    /// # Errors
    /// [`Error`].
    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error>;

    /// Adds derivations and other texts, each after what it refers to.
    ///
    /// # Errors
    /// [`Error`].
    fn add_texts(&mut self, texts: &[NewText<'_>]) -> Result<(), Error>;

    /// Adds a source from its nar.
    ///
    /// # Errors
    /// [`Error::Stream`] when the nar cannot be read, else as the others.
    fn add_file(&mut self, path: &StorePath, recursive: bool, nar: &mut dyn Read) -> Result<(), Error>;

    /// Adds signed items, of which each stands after what it refers to.
    ///
    /// # Errors
    /// [`Error::Untrusted`], [`Error::Stream`], else as the others. Some of them may be there for all that.
    fn import(&mut self, items: &[&ItemInfo], from: &dyn Nars) -> Result<(), Error>;

    /// Gets what it can of these paths from substitute servers; what cannot be had is left out.
    ///
    /// # Errors
    /// [`Error`].
    fn substitute(&mut self, servers: &[String], paths: &[StorePath]) -> Result<(), Error>;

    /// The outputs of a valid derivation.
    ///
    /// # Errors
    /// [`Error`].
    fn outputs_of(&mut self, derivation: &StorePath) -> Result<Vec<StorePath>, Error>;

    /// Deletes those of the paths that are valid, with what refers to them.
    ///
    /// # Errors
    /// [`Error::Refused`] when one of all these is in use.
    fn clear(&mut self, outputs: &[StorePath]) -> Result<(), Error>;

    /// Ends the build, from any thread: what was started for it is killed.
    fn stopper(&self) -> Stopper;

    /// Builds, giving the log to `log` as it comes, and calling `started` when the builder is.
    ///
    /// # Errors
    /// [`Error::Away`] also after the [`Workplace::stopper`] was used, and then nothing of the build runs any more;
    /// [`Error::Stream`] with what `log` said.
    fn build(&mut self, job: &Job, sink: &mut dyn Sink) -> Result<Ended, Error>;

    /// What the store knows of these valid paths, in their order.
    ///
    /// # Errors
    /// [`Error`].
    fn describe(&mut self, outputs: &[StorePath]) -> Result<Vec<Output>, Error>;

    /// Keeps a path from garbage collection for as long as the symbolic link `link`, which points to it, exists.
    ///
    /// # Errors
    /// [`Error`].
    fn keep(&mut self, link: &Path) -> Result<(), Error>;
}

/// Where the nars of items come from. Several may be read at a time.
pub trait Nars: Sync {
    /// The nar of an item, which may turn out to be another one, or longer.
    ///
    /// # Errors
    /// When it cannot be had; other troubles show in reading.
    fn open<'a>(&'a self, item: &'a ItemInfo) -> io::Result<Box<dyn Read + Send + 'a>>;
}

/// Where files are had by their hash before anybody else is asked. Several may be read at a time.
pub trait Files: fmt::Debug + Send + Sync {
    /// The contents of the fixed output of this name and SHA-256, as they come, which may turn out to be others, or longer;
    /// none if there is no such file. Whatever this waits for ends when `stop` becomes readable.
    ///
    /// # Errors
    /// When it cannot be had now; other troubles show in reading.
    fn open(&self, name: &str, hash: &Sha256Hash, stop: BorrowedFd<'_>) -> io::Result<Option<Box<dyn Read>>>;
}

/// Ends something, from any thread, any number of times.
pub type Stopper = Box<dyn Fn() + Send + Sync>;

/// Takes what happens during a build.
pub trait Sink {
    /// The builder of the derivation was started.
    fn started(&mut self);

    /// A piece of the log.
    ///
    /// # Errors
    /// When it cannot be kept, which ends the build.
    fn log(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Job {
    /// The derivation.
    pub derivation: StorePath,
    /// Seconds after which it is ended.
    pub timeout: Option<u64>,
    /// Seconds of silence after which it is ended.
    pub max_silent_time: Option<u64>,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was built, here and now.
    Succeeded,
    /// The builder ended, and said by its exit that it failed; whoever stops the machine may have made it end.
    Exited(String),
    /// What was built, or was to be, is not as it should be.
    Failed(String),
    /// It was ended for its time.
    TimedOut(TimeLimit, String),
    /// It was not built here, or not by this build alone.
    NotBuiltHere(String),
    /// This machine cannot run the builder.
    Unsupported(String),
}
