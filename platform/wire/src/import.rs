//! Imports and mirrors: store items that are taken over from substitute servers and folders; and what was published
//! here, for those who mirror it.

use std::fmt;

use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The number of an import.
pub type ImportId = u64;

/// What is to be taken over, from where, and whom to believe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewImport {
    /// The address of a substitute server, or a folder on the coordinator's machine as an absolute path.
    pub source: String,
    /// These, and what they refer to; none: all that is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<StorePath>,
    /// The public keys that may have signed it, as s-expressions, beside the coordinator's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Whether it need not be signed by a key that is known here.
    #[serde(default)]
    pub unsigned: bool,
    /// Whether the coordinator signs it anew, in its own name.
    #[serde(default)]
    pub sign: bool,
    /// The names of the keys (`sha256/…`) of which the server's certificate must have one, whoever vouches for it; none: the
    /// system's authorities do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_keys: Vec<String>,
    /// Whether the files of a folder are used where they lie.
    #[serde(default)]
    pub in_place: bool,
    /// The database of the nar-herder whose nars lie in the folder, as an absolute path on the coordinator's machine; none:
    /// narinfos are files beside the nars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub herder: Option<String>,
    /// How many minutes after its end it begins again: it is a mirror then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_minutes: Option<u64>,
}

/// How an import stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportState {
    /// It goes on; a mirror also while it waits for its next time.
    Running,
    /// It came to its end.
    Done,
    /// It could not go on.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl ImportState {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ImportState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSummary {
    /// Its number.
    pub import: ImportId,
    /// Where it takes from.
    pub source: String,
    /// How it stands.
    pub state: ImportState,
    /// Whether the files of a folder are used where they lie.
    pub in_place: bool,
    /// How many minutes after its end it begins again, if it is a mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_minutes: Option<u64>,
    /// The items that were taken over.
    pub taken: u64,
    /// The bytes of their files.
    pub bytes: u64,
    /// The items that were met and are here already.
    pub known: u64,
    /// The items that were refused.
    pub refused: u64,
    /// What it waits for, in words, if it does: room for what comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// Why it could not go on; of a mirror, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRefusal {
    /// The store item, or the file of a narinfo that cannot be read.
    pub item: String,
    /// Why.
    pub why: String,
}

/// One import, with what was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportDetails {
    /// How it stands.
    pub summary: ImportSummary,
    /// What was refused, at most [`REFUSALS`] of it.
    pub refusals: Vec<ImportRefusal>,
}

/// How many refusals are listed.
pub const REFUSALS: usize = 1000;

/// What was published since a number, as the query of an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedQuestion {
    /// The number of the last one that is known; 0 for all.
    #[serde(default)]
    pub after: u64,
    /// At most so many; [`PUBLISHED_LIMIT`] at most, and by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How many published items are listed at a time.
pub const PUBLISHED_LIMIT: u64 = 1000;

/// A published item. Numbers rise with the time of publication and have gaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedItem {
    /// The number to go on after.
    pub number: u64,
    /// The item.
    pub path: StorePath,
}

/// What was published since a number, in that order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPage {
    /// The items; fewer than were asked for: there are no more at the moment.
    pub items: Vec<PublishedItem>,
    /// The highest number that was ever given: whoever knows a higher one begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}
