//! What logs, history and the like will take once as much goes by its age as comes.

use serde::{Deserialize, Serialize};

/// What all that goes by its age takes, at the pace at which it comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Builds that come each day.
    pub builds_a_day: f64,
    /// Whether that is the pace of this farm; else it is a large farm's.
    pub measured: bool,
    /// A line for each kind.
    pub parts: Vec<EstimatedPart>,
}

/// A kind of thing that goes by its age.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EstimatedPart {
    /// What.
    pub what: Noted,
    /// After how many days it goes; 0: never.
    pub days: u32,
    /// How many there are.
    pub now: u64,
    /// How many come each day.
    pub a_day: f64,
    /// The bytes that one takes, about.
    pub bytes_each: f64,
    /// Whether the bytes are those of this farm; else they are those of farms that were looked at.
    pub measured: bool,
    /// How many there will be when as many go as come; none: it grows for ever.
    pub steady: Option<u64>,
    /// The bytes that these take; of what grows for ever, those of a year.
    pub bytes: u64,
}

/// What goes by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noted {
    /// Logs of tries, but for the next.
    Logs,
    /// Logs of tries whose builder failed or took too long.
    FailedLogs,
    /// Builds with their tries.
    History,
    /// Events.
    Events,
    /// Runs of hooks that were given up.
    HookRuns,
    /// Derivations that nothing needs but builds that are noted.
    Derivations,
    /// Names of store paths, which never go.
    Paths,
}

impl Noted {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::FailedLogs => "logs of failures",
            Self::History => "build history",
            Self::Events => "events",
            Self::HookRuns => "failed hook runs",
            Self::Derivations => "derivations",
            Self::Paths => "names of store paths",
        }
    }
}
