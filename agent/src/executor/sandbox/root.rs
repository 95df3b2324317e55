//! What a builder sees as `/`.
//!
//! Most of it is in memory. What the builder writes to, the store's folder with its outputs and the private `/tmp`, is on
//! the store's disk, in a folder that is removed after the build, so that outputs move into place without being copied and
//! nothing stays in the machine's own /tmp.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use drover_os::sandbox::{Bind, Ids, Made};
use drover_store::STORE_DIR;
use drover_store::path::StorePath;

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
    /// What is `/gnu/store` inside.
    store: PathBuf,
    /// What is `/tmp` inside.
    tmp: PathBuf,
    /// The name of the build folder, which is in there.
    build_folder: String,
    ids: Ids,
    pub(super) made: Vec<Made>,
    pub(super) binds: Vec<Bind>,
}

/// Whose a folder in the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The machine's, and the builder's group.
    Group,
    /// The builder's.
    Builder,
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
    /// Makes one in the folder `making`, which is empty, for the derivation of this path.
    pub(super) fn make(making: &Path, derivation: &StorePath, ids: Ids) -> io::Result<Self> {
        // Outside of sandboxes the last number tells builds of one name apart; here there is never another one.
        let build_folder = format!("guix-build-{}-0", derivation.name());
        let (store, tmp) = (making.join("store"), making.join("tmp"));
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
        let binds = vec![own(&store, STORE_DIR), own(&tmp, TMP)];
        let root = Self { store, tmp, build_folder, ids, made, binds };
        root.folder(&root.store, 0o1775, Some(Whose::Group))?;
        root.folder(&root.tmp, 0o1777, None)?;
        root.folder(&root.tmp.join(&root.build_folder), 0o700, Some(Whose::Builder))?;
        Ok(root)
    }

    /// Has the builder see these items of the store, which it cannot change.
    pub(super) fn add_inputs(&mut self, store: &Store, inputs: &[StorePath]) -> io::Result<()> {
        self.binds.reserve(inputs.len());
        for input in inputs {
            let (from, to) = (store.on_disk(input), self.store.join(input.base_name()));
            let kind = fs::symlink_metadata(&from)?.file_type();
            if kind.is_symlink() {
                // It is all in its target; mounted it would be what it points to.
                symlink(fs::read_link(&from)?, &to)?;
                continue;
            }
            if kind.is_dir() {
                fs::create_dir(&to)?
            } else {
                write_file(&to, b"")?
            }
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
    pub(super) fn outputs(&self) -> io::Result<&Path> {
        self.reopen(&self.store)?;
        Ok(&self.store)
    }

    /// Where the build folder is on the machine, and open to us again. The builder is dead. It may have put a link there,
    /// which would lead anywhere.
    ///
    /// # Errors
    /// What the builder did.
    pub(super) fn build_folder_again(&self) -> Result<PathBuf, String> {
        let inside = self.build_folder_inside();
        let closed = |error| format!("the builder has closed {inside}: {error}");
        self.reopen(&self.tmp).map_err(closed)?;
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
        self.store.with_file_name(name)
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
        self.tmp.join(&self.build_folder)
    }

    fn folder(&self, path: &Path, mode: u32, whose: Option<Whose>) -> io::Result<()> {
        fs::create_dir(path)?;
        if let Some(whose) = whose {
            self.give(path, whose)?;
        }
        // Afterwards: a change of owner may cost bits, and so does our umask.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Changes the owner, where there is another one.
    fn give(&self, path: &Path, whose: Whose) -> io::Result<()> {
        let Some((user, group)) = self.ids.outside else { return Ok(()) };
        let user = if whose == Whose::Builder { Some(user) } else { None };
        chown(path, user, Some(group))
    }
}

/// Writes a new file that everybody may read.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(0o644))
}
