//! Who builds: a guix-daemon where there is one, else a sandbox of the agent's own.

use std::fmt;
use std::path::Path;

use super::DaemonSocket;
use crate::executor::HAS_SANDBOX;

/// What a guix-daemon has of its own, whether it runs or not.
const DATABASE: &str = "/var/guix/db/db.sqlite";

/// A kind of executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorKind {
    /// A guix-daemon.
    Daemon,
    /// The agent itself.
    Sandbox,
}

impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daemon => "daemon",
            Self::Sandbox => "sandbox",
        })
    }
}

/// An executor that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub kind: ExecutorKind,
    /// The reason, for the log.
    pub why: &'static str,
}

/// What there is to be seen of a guix-daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuixDaemon {
    /// Its socket.
    Socket,
    /// Its database: it may not be up yet.
    Database,
    /// Nothing.
    Nothing,
}

impl GuixDaemon {
    /// Looks in the usual places.
    #[must_use]
    pub fn here() -> Self {
        match DaemonSocket::usual() {
            DaemonSocket::Unix(socket) if socket.exists() => Self::Socket,
            _ if Path::new(DATABASE).exists() => Self::Database,
            _ => Self::Nothing,
        }
    }
}

/// Chooses: by what is `asked` for, else by whether a daemon's `socket_given`, else by what is `seen` of a daemon, which
/// may be down for the moment if the sandbox's would be `another_store` than its own.
pub(super) fn choose(
    asked: Option<ExecutorKind>,
    socket_given: bool,
    another_store: bool,
    seen: GuixDaemon,
) -> Choice {
    let (kind, why) = match (asked, seen) {
        (Some(kind), _) => (kind, "as configured"),
        (None, _) if socket_given => (ExecutorKind::Daemon, "its socket is configured"),
        (None, GuixDaemon::Socket) => (ExecutorKind::Daemon, "its socket is there"),
        (None, GuixDaemon::Database) if !another_store => {
            (ExecutorKind::Daemon, "its database is there, so its socket should be soon")
        }
        (None, _) if !HAS_SANDBOX => (ExecutorKind::Daemon, "this system has nothing to make a sandbox of"),
        (None, _) => (ExecutorKind::Sandbox, "there is no guix-daemon's socket on this machine"),
    };
    Choice { kind, why }
}
