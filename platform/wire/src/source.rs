//! Fixed outputs, and how their upstreams are.

use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How the upstream of a fixed output was found at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// Nobody has looked.
    Unchecked,
    /// It gives what the hash says.
    There,
    /// No address of it gives anything any more.
    Vanished,
    /// It gives something else than the hash says.
    Changed,
    /// The last look came to no result.
    Unknown,
}

impl SourceState {
    /// The word for it, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::There => "there",
            Self::Vanished => "vanished",
            Self::Changed => "changed",
            Self::Unknown => "unknown",
        }
    }
}

/// A fixed output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its path.
    pub path: StorePath,
    /// Whether it is here.
    pub held: bool,
    /// What fixes it: `sha256:` and the hash in hexadecimal digits, `r:` before it for that of the nar.
    pub hash: Option<String>,
    /// Where its derivations say that it can be had; those of at most a few of them.
    pub urls: Vec<String>,
    /// How that was found.
    pub state: SourceState,
    /// When that was.
    pub checked_at: Option<Timestamp>,
    /// More about it, in words.
    pub detail: Option<String>,
}

/// “Which fixed outputs are there?”
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceQuestion {
    /// Only those that vanished.
    #[serde(default)]
    pub vanished: bool,
    /// Only those that changed; with `vanished` both.
    #[serde(default)]
    pub changed: bool,
    /// After this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<StorePath>,
}

/// A page of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceList {
    /// In no order that means anything.
    pub sources: Vec<Source>,
    /// Whether there are more after the last.
    pub more: bool,
}
