//! What can go wrong on the client's side, each with the sentence for people.

use std::io;
use std::path::PathBuf;

use drover_store::path::StorePath;
use drover_wire::{BuildId, Problem};

/// Why a command of the client could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Something in the arguments, beyond their grammar.
    #[error("{0}")]
    Usage(String),
    /// No client token anywhere.
    #[error(
        "no client token to speak to the coordinator with: name a file with --token-file or DROVER_TOKEN_FILE, or set \
         DROVER_TOKEN ({looked})"
    )]
    NoToken {
        /// What became of the last place looked at.
        looked: String,
    },
    /// A token that was named and is of no use.
    #[error(
        "the client token in {place} cannot be used: {why}; the coordinator's first start says where it put one"
    )]
    BadToken {
        /// The file or the variable.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The coordinator's address is none.
    #[error(
        "“{}” is not a coordinator's address: {why}; it looks like http://127.0.0.1:8746",
        crate::web::shown(url)
    )]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The coordinator could not be spoken to, or went away in the middle.
    #[error(
        "{doing}: no answer from the coordinator at {url}: {why}; see whether it runs and --coordinator is right"
    )]
    Unreachable {
        /// What was attempted.
        doing: String,
        /// Its address.
        url: String,
        /// What the system says.
        why: String,
    },
    /// The coordinator said no.
    #[error("{doing}: the coordinator refuses: {problem}{}", in_its_log(request))]
    Refused {
        /// What was attempted.
        doing: String,
        /// Its words.
        problem: Box<Problem>,
        /// The name of the request in its log.
        request: Option<String>,
    },
    /// An answer that no coordinator of this version gives.
    #[error("{doing}: the answer of {url} is not a coordinator's: {why}; is this the listener for clients?")]
    NotACoordinator {
        /// What was attempted.
        doing: String,
        /// The address.
        url: String,
        /// What is odd about it.
        why: String,
    },
    /// A file that was named as a derivation, or that one refers to, and is none.
    #[error("{file} is not a derivation that can be submitted: {why}")]
    BadDerivation {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Derivations that are neither here nor at the coordinator.
    #[error(
        "{count} derivations that are needed are neither here nor at the coordinator; the first is {first}, an input \
         of {needed_by}: compute it again with guix build -d, or say with --store where it is"
    )]
    MissingDerivations {
        /// How many.
        count: usize,
        /// One of them.
        first: StorePath,
        /// What refers to it.
        needed_by: StorePath,
    },
    /// A derivation that was asked for and is nowhere.
    #[error(
        "{file} does not exist, and the coordinator does not have it either: see whether the name is right"
    )]
    NoSuchDerivation {
        /// What was given.
        file: PathBuf,
    },
    /// A row of a revision that cannot be submitted.
    #[error("row {row} of {from}: {why}; nothing of the revision was submitted")]
    BadRow {
        /// What has the rows.
        from: String,
        /// Which line of it, from 1.
        row: u64,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// Something on this machine.
    #[error("{doing}: {source}")]
    Local {
        /// What was attempted, on what.
        doing: String,
        /// What the system says.
        source: io::Error,
    },
    /// What came from the coordinator is not what it said that it is.
    #[error("{path} as it arrived is not what the coordinator promised: {why}; nothing was kept, try again")]
    Corrupt {
        /// The store item.
        path: StorePath,
        /// In what it differs.
        why: String,
    },
    /// A build that has no such log.
    #[error("there is no such log of the build {build}: {why}")]
    NoLog {
        /// The build.
        build: BuildId,
        /// In words.
        why: String,
    },
    /// Something is where something new should go.
    #[error("{path} is there already and stays as it is: remove it, or name another place with --to")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Whoever reads our standard output has gone.
    #[error("nobody reads the output any more")]
    OutputClosed,
}

/// Where more of it may be found.
fn in_its_log(request: &Option<String>) -> String {
    request.as_ref().map(|id| format!(" (request {id} in its log)")).unwrap_or_default()
}

impl ClientError {
    /// Something on this machine failed.
    pub(crate) fn local(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Local { doing: doing.into(), source }
    }

    /// Whether the same may succeed in a while without anybody changing it: the coordinator was away, or said so.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => problem.code.is_temporary(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use drover_wire::Code;

    use super::*;

    #[test]
    fn a_refusal_says_by_which_name_the_coordinator_s_log_has_it() {
        let problem = Box::new(Problem::new(Code::Internal, "it broke"));
        let request = Some("7f-3".to_owned());
        let error = ClientError::Refused { doing: "show".to_owned(), problem, request };
        assert_eq!(error.to_string(), "show: the coordinator refuses: it broke (request 7f-3 in its log)");
    }
}
