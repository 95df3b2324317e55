//! Where control groups of version 2 can be made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::write;

/// The controllers that we have a use for.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// The group that this process goes to: groups that others are made in may have no processes of their own.
const OWN: &str = "drover-agent";

/// The groups in which others may be made, the best one first, told by the folder of this process in /proc.
pub(super) fn bases(process: &Path) -> Result<Vec<PathBuf>, String> {
    let read = |name: &str| {
        let file = process.join(name);
        fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))
    };
    let Some(mount) = mount(&read("mountinfo")?) else {
        return Err("no file system with control groups of version 2 (cgroup2) is mounted".into());
    };
    let groups = read("cgroup")?;
    let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Err("this kernel has no control groups of version 2".into());
    };
    let top = &mount.point;
    let mut bases = Vec::new();
    // What is mounted may be a part of all groups, as in containers; ours may be outside of it.
    if let Ok(inside) = Path::new(own).strip_prefix(&mount.root) {
        let own = top.join(inside);
        bases.push(if own.file_name().is_some_and(|name| name == OWN) {
            // We went there before, or were put there by what started us.
            own.parent().unwrap_or(top).to_owned()
        } else {
            own
        });
    }
    // Root may make groups beside those of everything else.
    if crate::user::is_root() && !bases.contains(top) {
        bases.push(top.clone());
    }
    if bases.is_empty() {
        return Err(format!("our own control group, {own}, is not among those in {}", top.display()));
    }
    Ok(bases)
}

/// Where a tree of groups is mounted, and which part of it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

/// The first mount of version 2 in a table of mounts: number, parent, device, root, place, options, a few more, a dash,
/// kind of file system.
fn mount(table: &str) -> Option<Mount> {
    table.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let is = kind.split(' ').next() == Some("cgroup2");
        is.then(|| Mount { root: root.into(), point: point.into() })
    })
}

/// Sees to it that a group has no processes but those in groups in it, unless it is the first of all, which may.
pub(super) fn settle(base: &Path) -> Result<(), String> {
    let available = fs::read_to_string(base.join("cgroup.controllers"));
    let available = available.map_err(|error| cannot(base, &error))?;
    if !CONTROLLERS.iter().any(|name| available.split_whitespace().any(|has| has == *name)) {
        return Err(format!(
            "the control group {} has none of the controllers {}: they are switched off, used by version 1, or not \
             delegated (systemd: Delegate=yes)",
            base.display(),
            CONTROLLERS.join(", ")
        ));
    }
    // Only the first group of all has no such file.
    if !base.join("cgroup.type").exists() {
        return Ok(());
    }
    let processes = || -> io::Result<Vec<u32>> {
        let list = fs::read_to_string(base.join("cgroup.procs"))?;
        Ok(list.lines().filter_map(|line| line.parse().ok()).collect())
    };
    let there = processes().map_err(|error| cannot(base, &error))?;
    let ourselves = std::process::id();
    // A 0 is one that we cannot see from here: of another pid namespace.
    if let Some(other) = there.iter().find(|process| **process != ourselves) {
        return Err(format!(
            "the control group {} has other processes in it, such as {other}, so that no groups with limits can be made \
             there (systemd: run this as a service of its own)",
            base.display()
        ));
    }
    if there.is_empty() {
        return Ok(());
    }
    let own = base.join(OWN);
    match fs::create_dir(&own) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(base, &error)),
        _ => {}
    }
    write(&own.join("cgroup.procs"), &ourselves.to_string()).map_err(|error| cannot(base, &error))
}

/// Hands the controllers that a group has on to those in it, through its parent; which ones those are.
pub(super) fn switch_on(folder: &Path) -> Result<Vec<String>, String> {
    let parent = folder.parent().unwrap_or(folder);
    let mut refused = None;
    for group in [parent, folder] {
        for controller in CONTROLLERS {
            // One at a time: of several none is switched on if one cannot be.
            if let Err(error) = write(&group.join("cgroup.subtree_control"), &format!("+{controller}")) {
                refused.get_or_insert((group, error));
            }
        }
    }
    let on = fs::read_to_string(folder.join("cgroup.subtree_control"));
    let on = on.map_err(|error| cannot(folder, &error))?;
    let on: Vec<_> =
        on.split_whitespace().filter(|name| CONTROLLERS.contains(name)).map(str::to_owned).collect();
    match refused {
        Some((group, error)) if on.is_empty() => Err(cannot(group, &error)),
        _ => Ok(on),
    }
}

fn cannot(group: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => " (systemd: Delegate=yes lets a service do it)",
        _ => "",
    };
    format!("the control group {} cannot be used: {error}{hint}", group.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_version_2_is_found_among_others() {
        let table = "24 1 0:22 / /proc rw,relatime - proc proc rw\n\
                     30 24 0:27 / /sys/fs/cgroup/pids rw shared:9 - cgroup cgroup rw,pids\n\
                     31 24 0:28 /part /sys/fs/cgroup/unified rw shared:10 master:2 - cgroup2 cgroup2 rw\n";
        let expected = Mount { root: "/part".into(), point: "/sys/fs/cgroup/unified".into() };
        assert_eq!(mount(table), Some(expected));
        assert_eq!(mount("24 1 0:22 / /proc rw - proc proc rw\nnonsense\n"), None);
    }

    fn process(own: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mount = "31 24 0:28 /part /cg rw - cgroup2 cgroup2 rw\n";
        fs::write(folder.path().join("mountinfo"), mount).unwrap();
        fs::write(folder.path().join("cgroup"), format!("3:pids:/x\n0::{own}\n")).unwrap();
        folder
    }

    #[test]
    fn groups_are_made_in_our_own_or_beside_the_one_that_we_went_to() {
        assert_eq!(bases(process("/part/a.service").path()).unwrap()[0], Path::new("/cg/a.service"));
        assert_eq!(
            bases(process("/part/a.service/drover-agent").path()).unwrap()[0],
            Path::new("/cg/a.service")
        );
        assert_eq!(bases(process("/part").path()).unwrap()[0], Path::new("/cg"));
    }

    #[test]
    fn without_version_2_it_says_so() {
        let folder = process("/part");
        fs::write(folder.path().join("mountinfo"), "").unwrap();
        assert!(bases(folder.path()).unwrap_err().contains("cgroup2"));
        let folder = process("/part");
        fs::write(folder.path().join("cgroup"), "3:pids:/x\n").unwrap();
        assert!(bases(folder.path()).unwrap_err().contains("version 2"));
    }

    #[test]
    fn a_group_with_processes_of_others_or_without_controllers_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(base.path().join(name), text).unwrap();
        file("cgroup.controllers", "\n");
        assert!(settle(base.path()).unwrap_err().contains("controllers"));
        file("cgroup.controllers", "cpuset memory\n");
        settle(base.path()).unwrap();
        file("cgroup.type", "domain\n");
        file("cgroup.procs", &format!("1\n{}\n", std::process::id()));
        assert!(settle(base.path()).unwrap_err().contains("other processes"));
        assert!(!base.path().join(OWN).exists());
        file("cgroup.procs", "");
        settle(base.path()).unwrap();
    }
}
