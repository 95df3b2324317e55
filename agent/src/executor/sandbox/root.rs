//! The folder that a builder sees as `/`.
//!
//! It lies in a folder of the store that is removed after the build, so that outputs move into place without being copied
//! and nothing stays in the machine's own /tmp.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use drover_os::sandbox::{Bind, Ids};
use drover_store::STORE_DIR;
use drover_store::path::StorePath;

use crate::store::Store;

/// The user and the group of builders, as they see themselves.
const BUILDER: (u32, u32) = (30001, 30000);
/// What a builder with the machine's network also needs of the machine.
const NETWORK_FILES: [&str; 4] = ["/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/services", "/etc/hosts"];
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// A root that is ready.
#[derive(Debug)]
pub(super) struct Root {
    folder: PathBuf,
    build_folder: String,
    ids: Ids,
    pub(super) binds: Vec<Bind>,
}

/// Whose a file in the root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The machine's, and the builder's group.
    Group,
    /// The builder's.
    Builder,
}

/// The builder's user and group: with root's rights one of a build's own, by its number; else ourselves.
pub(super) fn ids(is_root: bool, slot: u32) -> Ids {
    let (user, group) = BUILDER;
    Ids { inside: BUILDER, outside: is_root.then(|| (user.saturating_add(slot), group)) }
}

impl Root {
    /// Makes one at `folder`, which does not exist, for the derivation of this path.
    pub(super) fn make(folder: PathBuf, derivation: &StorePath, ids: Ids) -> io::Result<Self> {
        // Outside of sandboxes the last number tells builds of one name apart; here there is never another one.
        let build_folder = format!("/tmp/guix-build-{}-0", derivation.name());
        let root = Self { folder, build_folder, ids, binds: Vec::new() };
        fs::create_dir(&root.folder)?;
        for (path, mode) in [("/gnu", 0o755), ("/etc", 0o755), ("/proc", 0o555), ("/dev", 0o755)] {
            root.folder(path, mode, None)?;
        }
        root.folder(STORE_DIR, 0o1775, Some(Whose::Group))?;
        root.folder("/tmp", 0o1777, None)?;
        root.folder(&root.build_folder, 0o700, None)?;
        let (user, group) = root.ids.inside;
        let passwd = format!(
            "nixbld:x:{user}:{group}:Nix build user:/:/noshell\nnobody:x:65534:65534:Nobody:/:/noshell\n"
        );
        write_file(&root.at("/etc/passwd"), passwd.as_bytes())?;
        write_file(&root.at("/etc/group"), format!("nixbld:!:{group}:\n").as_bytes())?;
        write_file(&root.at("/etc/hosts"), HOSTS.as_bytes())?;
        Ok(root)
    }

    /// Has the builder see these items of the store, which it cannot change.
    pub(super) fn add_inputs(&mut self, store: &Store, inputs: &[StorePath]) -> io::Result<()> {
        self.binds.reserve(inputs.len());
        for input in inputs {
            let (from, to) = (store.on_disk(input), self.at(input.as_str()));
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
    pub(super) fn add_network(&mut self) -> io::Result<()> {
        for path in NETWORK_FILES {
            // A link may lead to where the builder sees nothing.
            let Ok(from) = fs::canonicalize(path) else { continue };
            if from.is_file() {
                write_file(&self.at(path), b"")?;
                self.binds.push(Bind { from, to: path.into(), write: false });
            }
        }
        Ok(())
    }

    /// Gives to the builder what is its own, after which nothing more can be added.
    pub(super) fn hand_over(&self) -> io::Result<()> {
        self.give(&self.at(&self.build_folder), Whose::Builder)?;
        self.give(&self.folder, Whose::Group)?;
        fs::set_permissions(&self.folder, Permissions::from_mode(0o555))
    }

    /// Lets it be taken apart again; the builder is dead.
    pub(super) fn take_back(&self) -> io::Result<()> {
        fs::set_permissions(&self.folder, Permissions::from_mode(0o755))
    }

    /// Where a folder that was made here is on the machine, after the builder had it, and open to us again. Where all of the
    /// root is the builder's, there may be a link in its place, which would lead anywhere.
    ///
    /// # Errors
    /// What the builder did.
    pub(super) fn found_again(&self, inside: &str) -> Result<PathBuf, String> {
        let mut path = self.folder.clone();
        for name in inside.split('/').filter(|name| !name.is_empty()) {
            self.reopen(&path).map_err(|error| format!("the builder has closed {inside}: {error}"))?;
            path.push(name);
            if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(format!("the builder has put something else in the place of {inside}"));
            }
        }
        self.reopen(&path).map_err(|error| format!("the builder has closed {inside}: {error}"))?;
        Ok(path)
    }

    /// Takes back what the builder, who has our own user, may have done to the mode of a folder.
    fn reopen(&self, folder: &Path) -> io::Result<()> {
        match self.ids.outside {
            Some(_) => Ok(()),
            None => fs::set_permissions(folder, Permissions::from_mode(0o755)),
        }
    }

    /// Where it is on the machine.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// A place beside it on the machine, where no builder comes.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.folder.with_file_name(name)
    }

    /// Who the builder is.
    pub(super) fn ids(&self) -> Ids {
        self.ids
    }

    /// The build folder as the builder sees it.
    pub(super) fn build_folder(&self) -> &str {
        &self.build_folder
    }

    /// Where a path inside is on the machine, until the builder has it.
    pub(super) fn at(&self, inside: &str) -> PathBuf {
        self.folder.join(inside.trim_start_matches('/'))
    }

    fn folder(&self, inside: &str, mode: u32, whose: Option<Whose>) -> io::Result<()> {
        let path = self.at(inside);
        fs::create_dir(&path)?;
        if let Some(whose) = whose {
            self.give(&path, whose)?;
        }
        // Afterwards: a change of owner may cost bits, and so does our umask.
        fs::set_permissions(&path, Permissions::from_mode(mode))
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
