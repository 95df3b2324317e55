//! What a builder sees as `/`.
//!
//! Most of it is in memory. What the builder writes to, the store's folder with its outputs and the private `/tmp`, is on
//! the store's disk, in the build's [`Room`], so that outputs move into place without being copied and nothing comes into
//! the machine's own /tmp.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use drover_os::sandbox::{Bind, Ids, Made};
use drover_store::STORE_DIR;
use drover_store::path::StorePath;

use super::room::{self, Room};
use crate::store::Store;

/// The user and the group of builders, as they see themselves.
const BUILDER: (u32, u32) = (30001, 30000);
/// What a builder with the machine's network also needs of the machine.
const NETWORK_FILES: [&str; 4] = ["/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/services", "/etc/hosts"];
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";
/// What else is there, besides /proc and /dev.
const FOLDERS: [&str; 4] = ["/gnu", STORE_DIR, "/etc", TMP];
const TMP: &str = "/tmp";

/// A root that is ready.
#[derive(Debug)]
pub(super) struct Root {
    /// With what is `/gnu/store` and `/tmp` inside.
    room: Room,
    /// The name of the build folder, which is in `/tmp`.
    build_folder: String,
    ids: Ids,
    pub(super) made: Vec<Made>,
    pub(super) binds: Vec<Bind>,
}

/// The builder's user and group: with root's rights one of a build's own, by its number; else ourselves.
pub(super) fn ids(is_root: bool, slot: u32) -> Ids {
    Ids { inside: BUILDER, outside: is_root.then(|| (user(slot), BUILDER.1)) }
}

/// The user on the machine by the number of its build (see [`super::slots`]).
pub(super) fn user(slot: u32) -> u32 {
    BUILDER.0.saturating_add(slot)
}

impl Root {
    /// Makes one in this room, for the derivation of this path.
    pub(super) fn make(room: Room, derivation: &StorePath, ids: Ids) -> io::Result<Self> {
        // Outside of sandboxes the last number tells builds of one name apart; here there is never another one.
        let build_folder = format!("guix-build-{}-0", derivation.name());
        let (user, group) = ids.inside;
        let passwd = format!(
            "nixbld:x:{user}:{group}:Nix build user:/:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n"
        );
        let mut made: Vec<_> = FOLDERS.map(|path| Made::Folder(path.into())).into();
        made.extend([
            Made::File("/etc/passwd".into(), passwd.into()),
            Made::File("/etc/group".into(), format!("nixbld:!:{group}:\n").into()),
            Made::File("/etc/hosts".into(), HOSTS.into()),
        ]);
        let own = |from: &Path, to: &str| Bind { from: from.into(), to: to.into(), write: true };
        let binds = vec![own(&room.store(), STORE_DIR), own(&room.tmp(), TMP)];
        let root = Self { room, build_folder, ids, made, binds };
        let (user, group) = ids.outside.unzip();
        room::folder(&root.build_folder(), 0o700, user, group)?;
        Ok(root)
    }

    /// Has the builder see these items of the store, which it cannot change.
    pub(super) fn add_inputs(&mut self, store: &Store, inputs: &[StorePath]) -> io::Result<()> {
        self.room.keep_points(inputs)?;
        self.binds.reserve(inputs.len());
        for input in inputs {
            let from = store.on_disk(input);
            let kind = fs::symlink_metadata(&from)?.file_type();
            if kind.is_symlink() {
                // It is all in its target; mounted it would be what it points to.
                symlink(fs::read_link(&from)?, self.room.store().join(input.base_name()))?;
                continue;
            }
            self.room.point(input, kind.is_dir())?;
            self.binds.push(Bind { from, to: input.as_str().into(), write: false });
        }
        Ok(())
    }

    /// Has the builder see how names are resolved here.
    pub(super) fn add_network(&mut self) {
        for path in NETWORK_FILES {
            // A link may lead to where the builder sees nothing.
            let Ok(from) = fs::canonicalize(path) else { continue };
            if from.is_file() {
                if !self.made.iter().any(|made| made.path() == Path::new(path)) {
                    self.made.push(Made::File(path.into(), Vec::new()));
                }
                self.binds.push(Bind { from, to: path.into(), write: false });
            }
        }
    }

    /// Where what the builder put into the store is on the machine. The builder is dead.
    ///
    /// # Errors
    /// When the folder cannot be opened to us again.
    pub(super) fn outputs(&self) -> io::Result<PathBuf> {
        let store = self.room.store();
        self.reopen(&store)?;
        Ok(store)
    }

    /// Where the build folder is on the machine, and open to us again. The builder is dead. It may have put a link there,
    /// which would lead anywhere.
    ///
    /// # Errors
    /// What the builder did.
    pub(super) fn build_folder_again(&self) -> Result<PathBuf, String> {
        let inside = self.build_folder_inside();
        let closed = |error| format!("the builder has closed {inside}: {error}");
        self.reopen(&self.room.tmp()).map_err(closed)?;
        let folder = self.build_folder();
        if !fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(format!("the builder has put something else in the place of {inside}"));
        }
        self.reopen(&folder).map_err(closed)?;
        Ok(folder)
    }

    /// Takes back what the builder, who has our own user, may have done to the mode of a folder.
    fn reopen(&self, folder: &Path) -> io::Result<()> {
        match self.ids.outside {
            Some(_) => Ok(()),
            None => fs::set_permissions(folder, Permissions::from_mode(0o755)),
        }
    }

    /// A place beside it on the machine, where no builder comes.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.room.beside(name)
    }

    /// Who the builder is.
    pub(super) fn ids(&self) -> Ids {
        self.ids
    }

    /// The build folder as the builder sees it.
    pub(super) fn build_folder_inside(&self) -> String {
        format!("{TMP}/{}", self.build_folder)
    }

    /// Where the build folder is on the machine, until the builder has it.
    pub(super) fn build_folder(&self) -> PathBuf {
        self.room.tmp().join(&self.build_folder)
    }

    /// Its room, after the build.
    pub(super) fn into_room(self) -> Room {
        self.room
    }
}

/// Writes a new file that everybody may read.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(0o644))
}
