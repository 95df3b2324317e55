//! What is known of an item, and the file that it is kept in.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use drover_store::Sha256Hash;
use drover_store::narinfo::{self, NarInfo};
use drover_store::path::StorePath;

/// A line of the file that no narinfo has, and that readers of narinfos skip.
const PERIOD: &str = "Period: ";
/// What an item takes of a disk besides the bytes of its nar: the file about it, the rest of a block here and there.
const PER_ITEM: u64 = 8 << 10;

/// An item of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its path.
    pub path: StorePath,
    /// SHA-256 of its nar.
    pub nar_hash: Sha256Hash,
    /// Bytes of its nar.
    pub nar_size: u64,
    /// What it refers to, itself perhaps among them; in ascending order.
    pub references: Vec<StorePath>,
    /// What built it, where that is known.
    pub deriver: Option<StorePath>,
}

impl Item {
    /// What it refers to besides itself.
    pub fn others(&self) -> impl Iterator<Item = &StorePath> {
        self.references.iter().filter(|reference| **reference != self.path)
    }

    /// How much of a store's budget it takes: about what it takes of the disk.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.nar_size.saturating_add(PER_ITEM)
    }

    /// The text of its file. The period is that between two checkpoints in which it came.
    pub(super) fn print(&self, period: u64) -> String {
        let info = NarInfo {
            store_path: self.path.clone(),
            urls: Vec::new(),
            nar_hash: self.nar_hash,
            nar_size: self.nar_size,
            references: self.references.clone(),
            deriver: self.deriver.clone(),
            system: None,
            signature: None,
        };
        format!("{}{PERIOD}{period}\n", info.print())
    }

    /// Reads the file of this item, and in which period the item came. None: there is none.
    pub(super) fn read(file: &Path, path: &StorePath) -> io::Result<Option<(Self, u64)>> {
        // Most are shorter, and read at once.
        let mut text = Vec::with_capacity(2048);
        match File::open(file) {
            Ok(file) => file.take(narinfo::SIZE_MAX as u64).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let broken =
            |problem: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, problem.to_string());
        let info = NarInfo::parse(&text).map_err(|error| broken(&error))?;
        // The last line: a file that ends early has none.
        let period = std::str::from_utf8(&text).ok().and_then(|text| {
            let last = text.strip_suffix('\n')?.lines().next_back()?;
            last.strip_prefix(PERIOD)?.parse().ok()
        });
        let period = period.ok_or_else(|| broken(&"its last line is missing"))?;
        if info.store_path != *path {
            return Err(broken(&format!("it is about {}", info.store_path)));
        }
        let item = Self {
            path: info.store_path,
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references,
            deriver: info.deriver,
        };
        Ok(Some((item, period)))
    }
}
