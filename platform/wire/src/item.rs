//! A store item as the coordinator holds it.

use drover_store::hash::Sha256Hash;
use drover_store::path::StorePath;
use serde::{Deserialize, Serialize};

/// What is known of a store item that the coordinator holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemInfo {
    /// Its path in the store.
    pub path: StorePath,
    /// The SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// The bytes of its nar.
    pub nar_size: u64,
    /// The bytes of the zstd-compressed nar as it is served. 0: that shows at its end, and no part of it can be asked for.
    pub file_size: u64,
    /// The store items that it refers to, itself included where it does, sorted.
    pub references: Vec<StorePath>,
    /// The derivation that it came from; none for sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// The signature that guix-daemon's import wants: the text of the s-expression, over the item in export format.
    /// Only agents get it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_signature: Option<String>,
}
