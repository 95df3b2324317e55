//! What can be wrong with the store, and with what is put into it.

use std::io;
use std::path::{Path, PathBuf};

use drover_os::file::LockError;
use drover_store::path::StorePath;
use drover_store::{Sha256Hash, nar};

use super::CanonicalError;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is a daemon's database.
    #[error(
        "use {} as the agent's own store: it belongs to a guix-daemon ({} is there); give --store-root another folder, or \
         build with --executor daemon",
        store.display(), database.display()
    )]
    Daemon {
        /// The store's folder.
        store: PathBuf,
        /// The daemon's database.
        database: PathBuf,
    },
    /// The folder has things in it, and was never an agent's.
    #[error(
        "use {} as the agent's own store: there is something in it already that no agent put there; give --store-root \
         another folder",
        .0.display()
    )]
    Foreign(PathBuf),
    /// The store is another user's.
    #[error(
        "use the agent's own store in {}: it belongs to user {owner}, and this is user {user}; run as that user, or give \
         --store-root another folder",
        store.display()
    )]
    Owner {
        /// The store's folder.
        store: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// The store cannot be made.
    #[error(
        "make the agent's own store in {}: {source}; give --store-root a folder that this user may write to",
        path.display()
    )]
    Unusable {
        /// Which of its folders.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("use the agent's own store: {0}; see --store-root")]
    Lock(#[from] LockError),
    /// The system says no.
    #[error("{attempted} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that says of an item what it is cannot be read.
    #[error("read what is known of {item} in {}: {problem}; remove that file, and the item is fetched or built again", path.display())]
    Unreadable {
        /// The item.
        item: StorePath,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An item that is needed is not there.
    #[error("{0} is not in the store")]
    NotThere(StorePath),
    /// An item comes before what it refers to.
    #[error("put {item} into the store: it refers to {reference}, which is not there; that must come first")]
    Reference {
        /// The item.
        item: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// The nar is another one than was said.
    #[error(
        "put {item} into the store: its nar has {found_size} bytes of hash {found}, where {expected_size} of \
         {expected} were promised"
    )]
    Hash {
        /// The item.
        item: StorePath,
        /// The hash of the nar that came.
        found: Sha256Hash,
        /// Its size.
        found_size: u64,
        /// The hash that was promised.
        expected: Sha256Hash,
        /// The size that was promised.
        expected_size: u64,
    },
    /// The contents are not those that the name is made from.
    #[error("put {0} into the store: its contents do not belong to its name")]
    Contents(StorePath),
    /// The nar cannot be read or unpacked.
    #[error("unpack {item}: {source}")]
    Nar {
        /// The item.
        item: StorePath,
        /// What is wrong.
        source: nar::Error,
    },
    /// The tree cannot be in a store.
    #[error("put {item} into the store: {source}")]
    Canonical {
        /// The item.
        item: StorePath,
        /// What is wrong.
        source: CanonicalError,
    },
    /// An item is needed.
    #[error("remove {item}: {by}")]
    InUse {
        /// The item.
        item: StorePath,
        /// Who needs it.
        by: Use,
    },
}

/// What keeps an item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Use {
    /// A build that goes on.
    #[error("a build is using it")]
    Hold,
    /// A result that is not delivered yet.
    #[error("it is kept until it is delivered")]
    Root,
    /// Another item refers to it.
    #[error("{0} refers to it")]
    Referrer(StorePath),
}

impl StoreError {
    /// For `map_err`: what was attempted, on what.
    pub(super) fn io(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { attempted, path, source }
    }
}
