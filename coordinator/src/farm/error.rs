//! Why the farm says no. What each of these is over HTTP stands in one place, `serve::problem`.

use std::io;

use drover_store::StorePath;
use drover_wire::{BuildId, LeaseId, Timestamp, bundle::BundleError};

use crate::cli::text::time;
use crate::database;
use crate::storage::StoreError;

/// Why something was not done. Nothing of it was, then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request that says something that cannot be.
    #[error("{0}")]
    BadRequest(String),
    /// No such build, agent or item.
    #[error("there is no {what} {name}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The log of a build was removed by its age.
    #[error(
        "the log of the build {build} was removed by its age on {}; logs-days and failed-logs-days in the \
         coordinator's [retention.ages] say how long logs are kept", time(*at)
    )]
    LogRemoved {
        /// The build.
        build: BuildId,
        /// When.
        at: Timestamp,
    },
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// It collides with what is there.
    #[error("{0}")]
    Conflict(String),
    /// The agent does not hold the lease.
    #[error(
        "this agent does not hold the lease {0}: it was never its own, has ended, or ran out and the build was \
         given to another; drop the build"
    )]
    LeaseNotHeld(LeaseId),
    /// A chunk that does not start where what is here ends.
    #[error(
        "the chunk starts at byte {offset} of {what}, of which {received} bytes are here; go on from there"
    )]
    WrongOffset {
        /// Of what.
        what: &'static str,
        /// Where the chunk starts.
        offset: u64,
        /// What is here.
        received: u64,
    },
    /// Larger than is accepted.
    #[error("{what} has more than the {limit} bytes that are accepted")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it may be.
        limit: u64,
    },
    /// A derivation that is none, or not the one of its name.
    #[error("the derivation {path} is refused: {reason}")]
    BadDerivation {
        /// Its path.
        path: StorePath,
        /// What is wrong.
        reason: String,
    },
    /// A derivation whose inputs are not here.
    #[error("the derivation {path} needs derivations that are not here; send {} first", inputs[0])]
    MissingDerivation {
        /// Its path.
        path: StorePath,
        /// What is not here, at least one.
        inputs: Vec<StorePath>,
    },
    /// A derivation that is not here.
    #[error("the derivation {0} is not here; upload it, and what it needs, first")]
    UnknownDerivation(StorePath),
    /// A source that is not the one of its name.
    #[error("the source {path} is refused: {reason}")]
    BadSource {
        /// Its path.
        path: StorePath,
        /// What is wrong.
        reason: String,
    },
    /// A row of a set's revision that is refused.
    #[error("row {row} is refused: {reason}; nothing of the revision was taken")]
    BadRow {
        /// Which row; the first is 1.
        row: u64,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// An output that is refused.
    #[error("the output {path} is refused: {reason}")]
    BadOutput {
        /// Its path.
        path: StorePath,
        /// What is wrong.
        reason: String,
    },
    /// A bundle that is none, or cut off.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The sender stopped within what it sent; what came is kept.
    #[error("the upload was cut off after {received} bytes; declare it again and go on from there")]
    CutOff {
        /// What is here.
        received: u64,
    },
    /// The disk is full, or its reserve would be used.
    #[error(
        "the coordinator's disk is full: {0} was not taken, and nothing was lost; free some space and try again"
    )]
    StorageFull(String),
    /// The database.
    #[error(transparent)]
    Database(database::Error),
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A place of nars.
    #[error(transparent)]
    Store(StoreError),
    /// What is kept contradicts itself.
    #[error("what the coordinator keeps is damaged: {0}")]
    Damaged(String),
    /// An agent of a version that does not work with this one.
    #[error(
        "this coordinator ({}) speaks version {} of the protocol, and the agent ({agent_version}) version {agent}; \
         bring the older of the two up to date", env!("CARGO_PKG_VERSION"), drover_wire::PROTOCOL
    )]
    Protocol {
        /// The agent's protocol.
        agent: u32,
        /// The agent's own version.
        agent_version: String,
    },
    /// Too many ask for the same at once.
    #[error("too many ask for {0} at the moment; try again in a few seconds")]
    Busy(&'static str),
    /// What has come of an output is being read or put into its place, which takes long.
    #[error("what has come of {0} is being looked at, or put into its place; ask again in a few seconds")]
    InHand(StorePath),
    /// Something must be done first, and is.
    #[error("{0}; try again in a minute")]
    NotYet(String),
    /// The coordinator stops.
    #[error("the coordinator is stopping; try again in a moment")]
    Stopping,
}

impl Error {
    /// An error of a file: a full disk is told apart.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::StorageFull(what.into())
        } else {
            Self::Io { what: what.into(), source }
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { what, source } => Self::io(format!("cannot {what}"), source),
            other => Self::Store(other),
        }
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::Full => Self::StorageFull("a change to the database".to_owned()),
            database::Error::Closed => Self::Stopping,
            other => Self::Database(other),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        database::Error::from(error).into()
    }
}
