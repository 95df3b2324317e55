//! How items come into the store.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use drover_os::tree;
use drover_store::hash::{HashingReader, HashingWriter};
use drover_store::nar::{self, Limits, Visitor, Writer};
use drover_store::path::{self, StorePath};
use drover_store::{Sha256, Sha256Hash};

use super::canonical::{MODIFIED, set_mode};
use super::{Inner, Item, Making, OutputLimits, Store, StoreError, canonicalize, owner};

/// An item that has arrived, was found to be what it should be, and is not in its place yet.
#[derive(Debug)]
pub struct Received {
    tree: Making,
    item: Item,
    after_nar: Sha256,
}

impl Received {
    /// The state of the hash after the nar, for what is signed together with it.
    #[must_use]
    pub fn after_nar(&self) -> &Sha256 {
        &self.after_nar
    }
}

impl Store {
    /// Puts a tree in its place, from where it is in a [`Making`]. The tree has the form that [`canonicalize`] gives, and
    /// is what `item` says: neither is looked at again. If the item is there already, that one stays, and the tree too.
    ///
    /// # Errors
    /// [`StoreError::Reference`] when something is not there that the item refers to; when the disk says no.
    pub fn place(&self, tree: &Path, item: &Item) -> Result<(), StoreError> {
        // What was there without counting goes after the lock is given back.
        self.inner.place(tree, item).map(drop)
    }

    /// Takes the nar of an item from a stream that ends with it, and of which no more is read. The item may come before what it refers to, for it does
    /// not count before [`Store::settle`].
    ///
    /// # Errors
    /// [`StoreError::Nar`] when it cannot be read, is beyond the limits or larger than promised; [`StoreError::Hash`] when
    /// it is another one.
    pub fn receive(&self, item: &Item, nar: &mut dyn Read, limits: Limits) -> Result<Received, StoreError> {
        let limits = Limits { contents: limits.contents.min(item.nar_size), ..limits };
        // One byte more than promised is enough to see that it is another nar.
        let mut nar = nar.take(item.nar_size.saturating_add(1));
        let (tree, after_nar, found_size) = self.unpack(&item.path, &mut nar, limits)?;
        let found = after_nar.clone().finish();
        if (found, found_size) != (item.nar_hash, item.nar_size) {
            return Err(StoreError::Hash {
                item: item.path.clone(),
                found,
                found_size,
                expected: item.nar_hash,
                expected_size: item.nar_size,
            });
        }
        Ok(Received { tree, item: item.clone(), after_nar })
    }

    /// Puts what was received in its place.
    ///
    /// # Errors
    /// As [`Store::place`].
    pub fn settle(&self, received: &Received) -> Result<(), StoreError> {
        self.place(received.tree.path(), &received.item)
    }

    /// Adds a text, such as a derivation, with what it refers to, in ascending order.
    ///
    /// # Errors
    /// [`StoreError::Contents`] when its path is not made from all this; else as [`Store::place`].
    pub fn add_text(
        &self,
        path: &StorePath,
        text: &[u8],
        references: &[StorePath],
    ) -> Result<(), StoreError> {
        if path::text(path.name(), text, references).as_ref() != Ok(path) {
            return Err(StoreError::Contents(path.clone()));
        }
        if self.has(path) {
            return Ok(());
        }
        let (nar_hash, nar_size) = hash_of_file(text).map_err(|source| nar_error(path, source))?;
        let tree = Making { path: self.inner.new_name() };
        let written = OpenOptions::new().write(true).create_new(true).mode(0o444).open(tree.path());
        let written = written.and_then(|mut file| file.write_all(text));
        written.map_err(StoreError::io("write", tree.path()))?;
        canonical(path, tree.path())?;
        let references = references.to_vec();
        let item = Item { path: path.clone(), nar_hash, nar_size, references, deriver: None };
        self.place(tree.path(), &item)
    }

    /// Adds a source without references from its nar: a tree, whose path comes from the nar, or a single file, whose path
    /// comes from its contents.
    ///
    /// # Errors
    /// [`StoreError::Contents`] when the path is not made from that; else as [`Store::receive`] and [`Store::place`].
    pub fn add_file(
        &self,
        path: &StorePath,
        recursive: bool,
        nar: &mut dyn Read,
        limits: Limits,
    ) -> Result<(), StoreError> {
        let (tree, after_nar, nar_size) = self.unpack(path, nar, limits)?;
        let nar_hash = after_nar.finish();
        let made = if recursive {
            path::source(path.name(), &nar_hash)
        } else {
            let failed = StoreError::io("read", tree.path());
            let Some(hash) = hash_of_contents(tree.path()).map_err(failed)? else {
                return Err(StoreError::Contents(path.clone()));
            };
            path::fixed_output(path.name(), false, "sha256", hash.as_bytes())
        };
        if made.as_ref() != Ok(path) {
            return Err(StoreError::Contents(path.clone()));
        }
        let item = Item { path: path.clone(), nar_hash, nar_size, references: Vec::new(), deriver: None };
        self.place(tree.path(), &item)
    }

    /// Unpacks a nar in canonical form: the tree, the state of the nar's hash, and its size.
    fn unpack(
        &self,
        path: &StorePath,
        nar: &mut dyn Read,
        limits: Limits,
    ) -> Result<(Making, Sha256, u64), StoreError> {
        let tree = Making { path: self.inner.new_name() };
        let mut nar = HashingReader::new(nar);
        // It reads the stream to its end, and nothing may follow the nar.
        nar::unpack_for_store(&mut nar, tree.path(), limits).map_err(|source| nar_error(path, source))?;
        // Owners and attributes come from the folder that the tree is made in, to all of it or to nothing.
        if !is_canonical(tree.path()).map_err(StoreError::io("look at", tree.path()))? {
            canonical(path, tree.path())?;
        }
        Ok((tree, nar.state().clone(), nar.count()))
    }
}

impl Inner {
    /// See [`Store::place`]. What it answers, if anything, stood in the place and did not count.
    fn place(&self, tree: &Path, item: &Item) -> Result<Option<Making>, StoreError> {
        let (path, file) = (self.on_disk(&item.path), self.file_of(&item.path));
        let note = self.placing.join(item.path.base_name());
        let mut state = self.state();
        if self.has(&item.path) {
            return Ok(None);
        }
        if let Some(reference) = item.others().find(|reference| !self.has(reference)) {
            return Err(StoreError::Reference { item: item.path.clone(), reference: reference.clone() });
        }
        // From here on a crash leaves the note, and the next start removes what it is about.
        fs::write(&note, item.print(state.period)).map_err(StoreError::io("write", &note))?;
        let moved = self.move_in(tree, &path);
        let placed = moved.and_then(|rubbish| {
            fs::rename(&note, &file).map_err(StoreError::io("make", &file))?;
            Ok(rubbish)
        });
        match placed {
            Ok(_) => {
                state.is_unsaved = true;
                state.unsaved = state.unsaved.saturating_add(item.nar_size);
                state.used = state.used.map(|used| used.saturating_add(item.weight()));
                if let Some(spared) = &mut state.spared {
                    spared.extend(item.references.iter().cloned());
                }
            }
            Err(_) => {
                // Nobody would know of what is there now: it goes, or the note stays for the next start, as after a crash.
                let gone = match fs::symlink_metadata(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                    _ => self.move_away(&path).is_ok(),
                };
                if gone {
                    let _ = fs::remove_file(&note);
                }
            }
        }
        placed
    }

    /// Moves a tree to where it belongs, and what is there away.
    fn move_in(&self, tree: &Path, to: &Path) -> Result<Option<Making>, StoreError> {
        let rubbish = match fs::symlink_metadata(to) {
            Ok(_) => Some(self.move_away(to)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::io("look at", to)(error)),
        };
        self.rename(tree, to).map_err(StoreError::io("move a new item to", to))?;
        if !self.is_root && fs::symlink_metadata(to).map_err(StoreError::io("look at", to))?.is_dir() {
            set_mode(to, 0o555).map_err(StoreError::io("set the mode of", to))?;
            tree::set_modified(to, MODIFIED).map_err(StoreError::io("set the time of", to))?;
        }
        Ok(rubbish)
    }

    /// Moves what is in the store to where it is removed.
    pub(super) fn move_away(&self, from: &Path) -> Result<Making, StoreError> {
        let doomed = Making { path: self.new_name() };
        self.rename(from, doomed.path()).map_err(StoreError::io("move away", from))?;
        Ok(doomed)
    }
}

/// Whether the top of a tree that was unpacked belongs to whom it must, and has no attributes.
fn is_canonical(tree: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(tree)?;
    let is_ours = owner().is_none_or(|owner| (metadata.uid(), metadata.gid()) == owner);
    Ok(is_ours && !tree::has_attributes(tree))
}

fn canonical(item: &StorePath, tree: &Path) -> Result<(), StoreError> {
    canonicalize(tree, owner(), &OutputLimits::NONE)
        .map_err(|source| StoreError::Canonical { item: item.clone(), source })
}

fn nar_error(item: &StorePath, source: nar::Error) -> StoreError {
    StoreError::Nar { item: item.clone(), source }
}

/// Hash and size of the nar of a file with these contents.
fn hash_of_file(contents: &[u8]) -> Result<(Sha256Hash, u64), nar::Error> {
    let mut nar = Writer::new(HashingWriter::new(io::sink()));
    nar.regular(false, contents.len() as u64)?;
    nar.contents(contents)?;
    nar.end_regular()?;
    let (_, hash, size) = nar.finish()?.finish();
    Ok((hash, size))
}

/// The hash of what is in a file; none if it is no file, or may be run.
fn hash_of_contents(file: &Path) -> io::Result<Option<Sha256Hash>> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(file)?;
    if !metadata.is_file() || metadata.mode() & 0o100 != 0 {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hash)?;
    Ok(Some(hash.finish()))
}
