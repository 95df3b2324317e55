//! What can go wrong between agent and coordinator, and whether trying again helps.

use std::io;
use std::time::Duration;

use drover_wire::{Code, Problem};

use crate::retry::Temporary;

/// Why the coordinator did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be reached, or the connection broke: try again.
    #[error("{attempt}: {reason}")]
    Unreachable {
        /// What was attempted, with the address.
        attempt: String,
        /// What happened.
        reason: String,
    },
    /// It said no.
    #[error("{attempt}: the coordinator says: {problem} ({status})")]
    Refused {
        /// What was attempted.
        attempt: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        problem: Problem,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// Somebody answered who does not speak our protocol: a proxy, or another program.
    #[error("{attempt}: the answer ({status}) is not a coordinator's: {excerpt}; check --coordinator")]
    NotACoordinator {
        /// What was attempted.
        attempt: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        excerpt: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// What was to be sent could not be read here.
    #[error("{attempt}: reading what is to be sent: {source}")]
    Source {
        /// What was attempted.
        attempt: String,
        /// What happened.
        source: io::Error,
    },
}

impl Error {
    /// The kind of refusal, if it was one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// With [`Code::WrongOffset`]: what the coordinator has, where to go on.
    pub fn received(&self) -> Option<u64> {
        match self {
            Self::Refused { problem, .. } if problem.code == Code::WrongOffset => problem.received,
            _ => None,
        }
    }

    /// Whether the lease is not ours any more, so that its build is to be dropped.
    pub fn is_lease_lost(&self) -> bool {
        self.code() == Some(Code::LeaseNotHeld)
    }
}

impl Temporary for Error {
    fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, problem, .. } => problem.code.is_temporary() || is_temporary(*status),
            Self::NotACoordinator { status, .. } => is_temporary(*status),
            Self::Source { .. } => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::NotACoordinator { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Whether a status alone says that trying again helps.
fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code) -> Error {
        Error::Refused {
            attempt: "x".into(),
            status: code.status(),
            problem: Problem::new(code, "no"),
            retry_after: None,
        }
    }

    #[test]
    fn refusals_are_final_and_troubles_of_the_coordinator_are_not() {
        for code in
            [Code::Internal, Code::Unavailable, Code::StorageFull, Code::TooMany, Code::RequestTimeout]
        {
            assert!(refused(code).is_temporary(), "{code:?}");
        }
        for code in
            [Code::BadRequest, Code::Unauthorized, Code::LeaseNotHeld, Code::BadOutput, Code::WrongOffset]
        {
            assert!(!refused(code).is_temporary(), "{code:?}");
        }
        assert!(refused(Code::LeaseNotHeld).is_lease_lost());
    }
}
