//! What can go wrong between us and a daemon.

use std::io;

use drover_store::framing;

use crate::config::DaemonSocket;

/// Why an operation of the daemon did not succeed. `attempted` says what was wanted, as in “add x to the store”.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no daemon, or it does not answer.
    #[error(
        "connect to guix-daemon at {address}: {source}; is it running, and may this user write to its socket?"
    )]
    Connect {
        /// Where.
        address: DaemonSocket,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke: the daemon was stopped, or ended its part of this conversation.
    #[error("{attempted}: guix-daemon went away: {source}")]
    Away {
        /// What was wanted.
        attempted: String,
        /// What the system says.
        source: io::Error,
    },
    /// What came is not this protocol, or a version of it that we do not speak.
    #[error("{attempted}: guix-daemon answered {what}, which this agent does not understand")]
    Protocol {
        /// What was wanted.
        attempted: String,
        /// What came instead.
        what: String,
    },
    /// The daemon says no; the connection goes on.
    #[error("{attempted}: guix-daemon says: {message}")]
    Refused {
        /// What was wanted.
        attempted: String,
        /// Its words.
        message: String,
        /// Its number: 100 when a build failed.
        status: u64,
    },
    /// What was to be sent to the daemon could not be had, or what it sent could not be taken: not its fault.
    #[error("{attempted}: {source}")]
    Ours {
        /// What was wanted.
        attempted: String,
        /// What went wrong on our side.
        source: io::Error,
    },
}

impl Error {
    /// Whether the daemon is gone or was never there, so that trying again later may help.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Away { .. })
    }

    /// The daemon's words, if it said no.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => Some(message),
            _ => None,
        }
    }
}

/// What went wrong, before it is known what was wanted.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Protocol(String),
    Refused { message: String, status: u64 },
    Ours(io::Error),
}

impl Fault {
    pub(super) fn during(self, attempted: impl Into<String>) -> Error {
        let attempted = attempted.into();
        match self {
            Self::Io(source) => Error::Away { attempted, source },
            Self::Protocol(what) => Error::Protocol { attempted, what },
            Self::Refused { message, status } => Error::Refused { attempted, message, status },
            Self::Ours(source) => Error::Ours { attempted, source },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<framing::Error> for Fault {
    fn from(error: framing::Error) -> Self {
        match error {
            framing::Error::Io { error, .. } => Self::Io(error),
            other => Self::Protocol(other.to_string()),
        }
    }
}
