//! What builders write to on the store's disk: a folder that is `/gnu/store` inside, and one that is `/tmp`.
//!
//! A build in a small closure may cost less than making its folders, and a mount point for each of its inputs, and removing
//! them all. So rooms are used again, with the mount points that the next build needs too, but only where nobody can have
//! kept a hand in one. As root, builders own neither of the two folders, only what they made in there, which goes; and without
//! a network there is nobody whom they could have given a descriptor to. All other rooms are for one build.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drover_os::sandbox::Ids;
use drover_os::tree;
use drover_store::path::StorePath;

use super::root::write_file;
use crate::executor::Error;
use crate::store::{Making, Store};

/// A folder that grew beyond this stays as large on some file systems, however little is left in it.
const LARGEST: u64 = 64 * 1024;

/// Rooms that wait for their next build.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<Vec<Room>>);

impl Rooms {
    /// One for builders that can be neither owners nor givers, which may be given back.
    pub(super) fn take(&self, store: &Store, ids: Ids) -> Result<Room, Error> {
        let waiting = self.waiting().pop();
        let Some(mut room) = waiting else { return Room::new(store, ids) };
        match store.take_up(&mut room.making) {
            Ok(()) => Ok(room),
            Err(_) => Room::new(store, ids),
        }
    }

    /// Empties one for its next build, or removes it where that cannot be.
    pub(super) fn give_back(&self, store: &Store, mut room: Room) {
        match room.clear() {
            Ok(true) if store.set_aside(&mut room.making).is_ok() => self.waiting().push(room),
            // That it cannot be removed is told then.
            _ => drop(room),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Room>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room, for one build at a time. It goes with this.
#[derive(Debug)]
pub(super) struct Room {
    making: Making,
    /// The mount points in its store: names of items, and whether each is a folder.
    points: HashMap<String, bool>,
}

impl Room {
    /// A fresh one.
    pub(super) fn new(store: &Store, ids: Ids) -> Result<Self, Error> {
        let room = Self { making: store.making()?, points: HashMap::new() };
        let group = ids.outside.map(|(_, group)| group);
        let made = folder(&room.store(), 0o1775, None, group)
            .and_then(|()| folder(&room.tmp(), 0o1777, None, None))
            .and_then(|()| write_file(&room.beside("empty"), b""));
        made.map_err(|error| Error::refused(format!("make the folders of a build: {error}"), &error))?;
        Ok(room)
    }

    /// What is `/gnu/store` inside.
    pub(super) fn store(&self) -> PathBuf {
        self.beside("store")
    }

    /// What is `/tmp` inside.
    pub(super) fn tmp(&self) -> PathBuf {
        self.beside("tmp")
    }

    /// A place where no builder comes.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.making.path().join(name)
    }

    /// Takes away the mount points of other items than these.
    pub(super) fn keep_points(&mut self, of: &[StorePath]) -> io::Result<()> {
        let wanted: HashSet<&str> = of.iter().map(StorePath::base_name).collect();
        let store = self.store();
        for (name, is_folder) in &self.points {
            if !wanted.contains(name.as_str()) {
                remove_point(&store.join(name), *is_folder)?;
            }
        }
        self.points.retain(|name, _| wanted.contains(name.as_str()));
        Ok(())
    }

    /// Has a mount point for an item.
    pub(super) fn point(&mut self, item: &StorePath, is_folder: bool) -> io::Result<()> {
        let (name, at) = (item.base_name(), self.store().join(item.base_name()));
        match self.points.get(name) {
            Some(there) if *there == is_folder => return Ok(()),
            Some(there) => remove_point(&at, *there)?,
            None => {}
        }
        // One file is as good as another where something is mounted over it.
        if is_folder {
            fs::create_dir(&at)?
        } else {
            fs::hard_link(self.beside("empty"), &at).or_else(|_| write_file(&at, b""))?
        }
        self.points.insert(name.to_owned(), is_folder);
        Ok(())
    }

    /// Removes all but the mount points; whether it can be used again.
    fn clear(&self) -> io::Result<bool> {
        for entry in fs::read_dir(self.tmp())? {
            tree::remove(&entry?.path())?;
        }
        let mut points = 0;
        for entry in fs::read_dir(self.store())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            match name.to_str().and_then(|name| self.points.get(name)) {
                Some(true) if kind.is_dir() => points += 1,
                Some(false) if kind.is_file() => points += 1,
                _ => tree::remove(&entry.path())?,
            }
        }
        let is_small = |folder: &Path| Ok::<_, io::Error>(fs::symlink_metadata(folder)?.len() <= LARGEST);
        Ok(points == self.points.len() && is_small(&self.store())? && is_small(&self.tmp())?)
    }
}

fn remove_point(at: &Path, is_folder: bool) -> io::Result<()> {
    if is_folder { fs::remove_dir(at) } else { fs::remove_file(at) }
}

/// Makes a folder of this mode and, where they are given, this user and group.
pub(super) fn folder(path: &Path, mode: u32, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(path)?;
    if user.is_some() || group.is_some() {
        chown(path, user, group)?;
    }
    // Afterwards: a change of owner may cost bits, and so does our umask.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    const A: &str = "00a3xasf5iyzfv23danwy7pilf2yyxjz-a";
    const B: &str = "00a3xasf5iyzfv23danwy7pilf2yyxjz-b";
    const IDS: Ids = Ids { inside: (30001, 30000), outside: None };

    fn item(name: &str) -> StorePath {
        StorePath::parse_base(name).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_room_is_used_again_with_its_mount_points_and_nothing_else_of_its_last_build() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), &folder.path().join("roots")).unwrap();
        let rooms = Rooms::default();
        let mut room = rooms.take(&store, IDS).unwrap();
        let first = room.making.path().to_owned();
        room.point(&item(A), true).unwrap();
        room.point(&item(B), false).unwrap();
        fs::create_dir_all(room.tmp().join("guix-build-x-0/deep")).unwrap();
        fs::create_dir_all(room.store().join("an-output/bin")).unwrap();
        symlink("/etc/passwd", room.store().join("link")).unwrap();
        rooms.give_back(&store, room);
        assert!(!first.exists(), "a room that waits is in the making");

        let mut room = rooms.take(&store, IDS).unwrap();
        assert_eq!(names(&room.store()), [A, B]);
        assert_eq!(names(&room.tmp()), Vec::<String>::new());
        // Another kind of item under the name of one, and none under the other.
        room.keep_points(&[item(B)]).unwrap();
        room.point(&item(B), true).unwrap();
        assert_eq!(names(&room.store()), [B]);
        assert!(room.store().join(B).is_dir());
        rooms.give_back(&store, room);
        drop(rooms);
        assert!(fs::read_dir(first.parent().unwrap()).unwrap().next().is_none());
    }

    #[test]
    fn a_room_whose_mount_points_are_not_as_they_were_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), &folder.path().join("roots")).unwrap();
        let rooms = Rooms::default();
        for spoil in [
            |at: &Path| fs::remove_file(at).unwrap(),
            |at: &Path| {
                fs::remove_file(at).unwrap();
                symlink("/etc/passwd", at).unwrap();
            },
        ] {
            let mut room = rooms.take(&store, IDS).unwrap();
            room.point(&item(A), false).unwrap();
            spoil(&room.store().join(A));
            rooms.give_back(&store, room);
            assert!(rooms.waiting().is_empty());
        }
    }
}
