//! What happened, noted in the transaction in which it did: what hooks start from.

use super::error::Error;
use super::{Tx, now, sql};

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// There is a new build.
    BuildSubmitted,
    /// An agent's builder was seen to run.
    BuildStarted,
    /// A build succeeded: its outputs are items.
    BuildSuccess,
    /// A build failed, or took too long.
    BuildFailure,
    /// A build was canceled.
    BuildCanceled,
    /// An agent lacked inputs of a build that nobody provides. The detail is a JSON list of their paths.
    MissingInputs,
    /// The public can have an item.
    Published,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::BuildSubmitted,
        Self::BuildStarted,
        Self::BuildSuccess,
        Self::BuildFailure,
        Self::BuildCanceled,
        Self::MissingInputs,
        Self::Published,
    ];

    /// The word in the configuration, the database and what is sent to programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::BuildSubmitted => "build-submitted",
            Self::BuildStarted => "build-started",
            Self::BuildSuccess => "build-success",
            Self::BuildFailure => "build-failure",
            Self::BuildCanceled => "build-canceled",
            Self::MissingInputs => "missing-inputs",
            Self::Published => "published",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A build, by its number.
    Build(i64),
    /// A store item, by the number of its path.
    Item(i64),
}

/// Notes that something happened.
pub(super) fn note(tx: &mut Tx<'_>, kind: Kind, subject: Subject, detail: Option<&str>) -> Result<(), Error> {
    let (build, path) = match subject {
        Subject::Build(build) => (Some(build), None),
        Subject::Item(path) => (None, Some(path)),
    };
    tx.prepare_cached("INSERT INTO events (at, kind, build, path, detail) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((sql(now()), kind.word(), build, path, detail))?;
    Ok(())
}
