//! What a program in a sandbox sees: the folder that it gets, what of the machine is there, /proc and /dev.

use std::ffi::{CStr, CString, c_ulong};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::action::Action;
use super::plan::{invalid, path, text};
use super::{Bind, Made, Sandbox};

/// Neither setuid programs nor devices.
const HARMLESS: c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
/// The devices that a program may use, where the machine has them.
const DEVICES: [&str; 7] = ["full", "kvm", "null", "random", "tty", "urandom", "zero"];
/// Those of them that only a group may use, on most machines.
const GROUP_DEVICES: [&str; 1] = ["kvm"];
/// Names in /dev for what is elsewhere.
const LINKS: [(&CStr, &str); 5] = [
    (c"/proc/self/fd", "fd"),
    (c"/proc/self/fd/0", "stdin"),
    (c"/proc/self/fd/1", "stdout"),
    (c"/proc/self/fd/2", "stderr"),
    (c"/dev/pts/ptmx", "ptmx"),
];

/// The steps from the machine's root to the sandbox's.
pub(super) fn actions(sandbox: &Sandbox) -> io::Result<Vec<Action>> {
    let root = &sandbox.root;
    // Shown to have root's files in it, and the group's own folder, which is all that guix-daemon's root tells.
    let group = sandbox.ids.outside.map(|(_, group)| format!(",gid={group}")).unwrap_or_default();
    let options = CString::new(format!("mode=0555,size=1m{group}"))?;
    let quiet = HARMLESS | libc::MS_NOEXEC;
    path(root)?;
    let mut actions = vec![Action::Private, mount(c"tmpfs", root, quiet, &options)?];
    let (proc, dev) = (root.join("proc"), root.join("dev"));
    actions.push(Action::Folder { path: text(&proc)?, mode: 0o555 });
    actions.push(Action::Folder { path: text(&dev)?, mode: 0o755 });
    for made in &sandbox.made {
        actions.push(made_action(root, made)?);
    }
    for bind in &sandbox.binds {
        actions.push(bind_action(root, bind)?);
    }
    actions.push(mount(c"proc", &proc, quiet, c"")?);
    devices(&dev, &mut actions)?;
    actions.push(Action::Restrict { to: text(root)?, flags: quiet | libc::MS_RDONLY });
    actions.push(Action::Root(text(root)?));
    Ok(actions)
}

fn made_action(root: &Path, made: &Made) -> io::Result<Action> {
    let at = |path| text(inside(root, path)?);
    Ok(match made {
        Made::Folder(path) => Action::Folder { path: at(path)?, mode: 0o755 },
        Made::File(path, text) => Action::File { path: at(path)?, text: text.clone() },
        Made::Link(path, to) => Action::Link { to: text(to)?, at: at(path)? },
    })
}

fn bind_action(root: &Path, bind: &Bind) -> io::Result<Action> {
    let from = path(&bind.from)?;
    // Mounting follows links, and one in the store may lead to anywhere on the machine.
    let kind = fs::symlink_metadata(&bind.from);
    let kind = kind
        .map_err(|error| io::Error::new(error.kind(), format!("look at {}: {error}", bind.from.display())))?;
    if kind.is_symlink() {
        return Err(invalid(&format!(
            "{}: is a symbolic link, which is not mounted but made",
            bind.from.display()
        )));
    }
    let flags = if bind.write { HARMLESS } else { HARMLESS | libc::MS_RDONLY };
    Ok(Action::Bind { from, to: text(inside(root, &bind.to)?)?, flags })
}

/// Where on the machine a path inside is.
fn inside(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut parts = path.components();
    let mut all = root.to_owned();
    if parts.next() == Some(Component::RootDir) {
        all.extend(parts.clone());
        if parts.all(|part| matches!(part, Component::Normal(_))) {
            return Ok(all);
        }
    }
    Err(invalid(&format!("{}: is no plain absolute path", path.display())))
}

/// A /dev with what builds need, that nobody can change.
fn devices(dev: &Path, actions: &mut Vec<Action>) -> io::Result<()> {
    let at = |name: &str| text(dev.join(name));
    actions.push(mount(c"tmpfs", dev, libc::MS_NOSUID | libc::MS_NOEXEC, c"mode=0755,size=64k")?);
    for name in DEVICES {
        let device = Path::new("/dev").join(name);
        if device.exists() {
            actions.push(Action::File { path: at(name)?, text: Vec::new() });
            // No restrictions of ours: it is a device.
            actions.push(Action::Bind { from: text(&device)?, to: at(name)?, flags: 0 });
        }
    }
    for (to, name) in LINKS {
        actions.push(Action::Link { to: to.to_owned(), at: at(name)? });
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
        actions.push(Action::Folder { path: at(name)?, mode });
    }
    let quiet = libc::MS_NOSUID | libc::MS_NOEXEC;
    actions.push(mount(c"devpts", &dev.join("pts"), quiet, c"newinstance,ptmxmode=0666,mode=0620")?);
    actions.push(mount(c"tmpfs", &dev.join("shm"), HARMLESS, c"mode=1777")?);
    actions.push(Action::Restrict { to: text(dev)?, flags: quiet | libc::MS_RDONLY });
    Ok(())
}

/// The groups whose devices a program may use, by their numbers on the machine.
pub(super) fn device_groups() -> impl Iterator<Item = u32> {
    let devices = GROUP_DEVICES.iter().filter_map(|name| fs::metadata(Path::new("/dev").join(name)).ok());
    devices.map(|device| device.gid())
}

fn mount(kind: &CStr, to: &Path, flags: c_ulong, data: &CStr) -> io::Result<Action> {
    let kind: CString = kind.to_owned();
    Ok(Action::Mount {
        from: kind.clone(),
        to: CString::new(to.as_os_str().as_bytes())?,
        kind,
        flags,
        data: data.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_inside_stay_inside() {
        let root = Path::new("/r");
        assert_eq!(inside(root, Path::new("/gnu/store/x")).unwrap(), Path::new("/r/gnu/store/x"));
        assert_eq!(inside(root, Path::new("/")).unwrap(), Path::new("/r"));
        for bad in ["relative", "", "/a/../../etc", "../x"] {
            assert_eq!(
                inside(root, Path::new(bad)).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_link_is_not_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/shadow", &link).unwrap();
        let bind = Bind { from: link, to: "/gnu/store/link".into(), write: false };
        let error = bind_action(Path::new("/r"), &bind).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
}
