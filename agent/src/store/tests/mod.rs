//! The store, on a real disk.

mod adding;
mod canonical;
mod cleaning;
mod crash;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use drover_store::Sha256Hash;
use drover_store::nar::{Limits, Node};
use drover_store::path::{self, StorePath};
use tempfile::TempDir;

use super::{Item, Store, StoreError};

/// A store in a folder that goes with the test.
struct Ground {
    folder: TempDir,
}

impl Ground {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn roots(&self) -> PathBuf {
        self.folder.path().join("roots")
    }

    fn open(&self) -> Store {
        Store::open(&self.root(), &self.roots()).unwrap()
    }

    /// The folder beside the items.
    fn own(&self, name: &str) -> PathBuf {
        self.root().join("gnu/store/.drover").join(name)
    }

    fn names(&self, own: &str) -> Vec<String> {
        names(&self.own(own))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Any valid path of that name.
fn path_of(name: &str) -> StorePath {
    path::source(name, &Sha256Hash::of(name.as_bytes())).unwrap()
}

/// An item of this tree.
fn item(name: &str, node: &Node, references: &[&StorePath]) -> (Item, Vec<u8>) {
    let nar = node.to_nar();
    let mut references: Vec<_> = references.iter().copied().cloned().collect();
    references.sort();
    let (nar_hash, nar_size) = (Sha256Hash::of(&nar), nar.len() as u64);
    (Item { path: path_of(name), nar_hash, nar_size, references, deriver: None }, nar)
}

impl Store {
    /// Takes the nar of an item, and puts it in its place, as inputs come.
    pub(crate) fn add_nar(&self, item: &Item, nar: &mut dyn Read, limits: Limits) -> Result<(), StoreError> {
        self.settle(&self.receive(item, nar, limits)?)
    }
}

fn add(store: &Store, name: &str, references: &[&StorePath]) -> StorePath {
    let (item, nar) = item(name, &tree(name), references);
    store.add_nar(&item, &mut &nar[..], Limits::default()).unwrap();
    item.path
}

/// A tree with one of each.
fn tree(name: &str) -> Node {
    let entries = [
        (b"bin".to_vec(), Node::Directory([(b"run".to_vec(), Node::program(name))].into())),
        (b"file".to_vec(), Node::file(name)),
        (b"link".to_vec(), Node::Symlink(b"/no/such/file".to_vec())),
    ];
    Node::Directory(entries.into())
}

/// Whether an item that counts is as it was said to be.
fn is_whole(store: &Store, path: &StorePath) -> bool {
    let item = store.item(path).unwrap().unwrap();
    let mut nar = Vec::new();
    drover_store::nar::pack(&store.on_disk(path), &mut nar).unwrap();
    (Sha256Hash::of(&nar), nar.len() as u64) == (item.nar_hash, item.nar_size)
}

/// Breaks off in the middle.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}
