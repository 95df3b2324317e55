//! Places that nars lie in: how full they are, and one being emptied.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::state::words;

words!(
    /// What a place is.
    PlaceKind, "the kind of a place" {
    /// A folder.
    Folder = "folder",
    /// A bucket of an S3-compatible store.
    Bucket = "bucket",
    /// A folder that was taken over as it was; nothing is added to it.
    Adopted = "adopted",
});

/// A place, and how full it is. All amounts are bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceSummary {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: PlaceKind,
    /// The folder, or the address of the bucket.
    pub location: String,
    /// The files that lie there.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many may lie there; none if that has no limit but the disk's.
    pub capacity: Option<u64>,
    /// What stays free on its disk.
    pub reserve: u64,
    /// What its disk has free; none for a bucket, and for a disk that does not tell.
    pub disk_free: Option<u64>,
    /// What can still be put there; none if there is no end to it.
    pub room: Option<u64>,
    /// What was added a day, less what was removed, over the last 7 days, or as many as there are.
    pub growth_7_days: i64,
    /// The same over the last 30 days.
    pub growth_30_days: i64,
    /// In how many days it is full if it grows on as in the last 7 days, or in the last 30, whichever is sooner; none if
    /// it does not grow or has no end.
    pub full_in_days: Option<f64>,
    /// Whether new nars may go there.
    pub open: bool,
    /// How far it is emptied, if it is to be.
    pub moving: Option<Moving>,
}

/// How far a place is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Where to; none if that is left to the policy.
    pub to: Option<String>,
    /// Since when.
    pub started_at: Timestamp,
    /// Files that were moved; those that are left are the place's own.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Files that could not be moved when they were tried last.
    pub failed: u64,
    /// Why the last of them could not.
    pub error: Option<String>,
    /// Since when nothing is left there.
    pub ended_at: Option<Timestamp>,
}

/// A place is to be emptied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Where its nars go; where the policy says, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}
