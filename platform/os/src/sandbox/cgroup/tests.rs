//! Groups in a folder tree that looks like the kernel's: what is written where. That the kernel heeds it is shown on
//! machines that have version 2.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// A folder that looks like the first group of all, with ours in it that has these controllers.
fn kernel(controllers: &str) -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    let ours = base.path().join(FOLDER);
    fs::create_dir(&ours).unwrap();
    fs::write(base.path().join("cgroup.controllers"), controllers).unwrap();
    fs::write(ours.join("cgroup.subtree_control"), controllers).unwrap();
    base
}

/// The files that the kernel makes in a group.
fn fill(group: &Path) {
    for name in ["memory.max", "memory.oom.group", "cpu.max", "pids.max", "cgroup.procs", "memory.events"] {
        fs::write(group.join(name), "").unwrap();
    }
}

fn groups(base: &Path) -> Cgroups {
    let place = Place::take(base).unwrap();
    let controllers = fs::read_to_string(place.folder.join("cgroup.subtree_control")).unwrap_or_default();
    Cgroups {
        place: Arc::new(place),
        controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        left: Vec::new(),
    }
}

#[test]
fn amounts_are_written_as_the_kernel_reads_them() {
    let base = kernel("memory cpu pids");
    let groups = groups(base.path());
    let folder = groups.place.folder.join("slot-1");
    fs::create_dir(&folder).unwrap();
    fill(&folder);
    let group = Group { folder: folder.clone(), _place: Arc::clone(&groups.place) };
    group.set("memory.max", "1000").unwrap();
    group.set_where_it_is("memory.swap.max", "0").unwrap();
    assert_eq!(fs::read_to_string(folder.join("memory.max")).unwrap(), "1000");
    assert!(!folder.join("memory.swap.max").exists());
    assert!(group.set("no.such", "1").unwrap_err().to_string().contains("no.such"));
    assert_eq!(time(1.5), "150000 100000");
    assert_eq!(time(0.0), "1000 100000");
    assert_eq!(time(f64::NAN), "1000 100000");
}

#[test]
fn what_cannot_be_limited_is_told() {
    let base = kernel("pids");
    let all = Amounts { memory: Some(1), processors: Some(1.0), processes: Some(1) };
    let groups = groups(base.path());
    assert_eq!(groups.lacking(&all), ["memory", "cpu"]);
    assert!(groups.lacking(&Amounts::default()).is_empty());
    assert!(groups.lacking(&Amounts { processes: Some(1), ..Amounts::default() }).is_empty());
}

#[test]
fn a_group_without_limits_is_made_and_removed_when_dropped() {
    let base = kernel("memory");
    let groups = groups(base.path());
    let group = groups.make("slot-1", &Amounts::default()).unwrap();
    let folder = group.folder.clone();
    assert!(folder.is_dir());
    assert_eq!(groups.make("slot-1", &Amounts::default()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    for bad in ["", "..", "a/b", "cgroup.procs"] {
        assert_eq!(groups.make(bad, &Amounts::default()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    fs::create_dir_all(folder.join("inner/most")).unwrap();
    drop(group);
    assert!(!folder.exists());
}

#[test]
fn leftovers_are_removed_and_their_processes_killed() {
    let base = kernel("memory");
    let old = base.path().join(FOLDER).join("slot-7");
    fs::create_dir_all(&old).unwrap();
    let mut tree = crate::process::Program::new("/bin/sh").args(["-c", "sleep 1000"]).spawn().unwrap();
    let left = tempfile::tempdir().unwrap();
    fs::write(left.path().join("cgroup.procs"), format!("{}\n", tree.id())).unwrap();
    kill_all_in(left.path());
    let end = tree.wait(Deadline::after(Duration::from_secs(60))).unwrap();
    assert_eq!(end, Some(crate::process::Exit::Signal(9)));
    remove_all_in(&base.path().join(FOLDER)).unwrap();
    assert!(!old.exists());
}

#[test]
fn what_cannot_be_removed_is_told_and_its_name_is_not_taken() {
    let base = kernel("memory");
    let folder = base.path().join(FOLDER);
    // A group of the kernel's with a process that does not die is as little removed as a folder with a file in it.
    fs::create_dir_all(folder.join("build-0")).unwrap();
    fs::write(folder.join("build-0/stays"), "").unwrap();
    fs::create_dir_all(folder.join("build-1")).unwrap();
    let left = remove_all_in(&folder).unwrap();
    assert!(!folder.join("build-1").exists());
    let groups = Cgroups { left, ..groups(base.path()) };
    let told: Vec<_> = groups.left().collect();
    assert!(matches!(&told[..], [words] if words.contains("build-0")), "{told:?}");
    let group = groups.make("build-0", &Amounts::default()).unwrap();
    assert_eq!(group.folder, folder.join("build-0+"));
}

#[test]
fn a_kernel_full_of_groups_is_not_taken_for_a_full_disk() {
    let words = not_made(&io::Error::from_raw_os_error(libc::ENOSPC), Path::new("/cg/build-0")).to_string();
    assert!(words.contains("/cg/build-0") && words.contains("control groups"), "{words}");
    assert!(!words.contains("No space left"), "{words}");
    let other = not_made(&io::Error::from_raw_os_error(libc::EACCES), Path::new("/cg/build-0"));
    assert_eq!(other.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn two_of_us_have_folders_of_their_own() {
    let base = kernel("memory");
    let (first, second) = (Place::take(base.path()).unwrap(), Place::take(base.path()).unwrap());
    assert_ne!(first.folder, second.folder);
    let folder = first.folder.clone();
    drop(first);
    assert_eq!(Place::take(base.path()).unwrap().folder, folder);
}

#[test]
fn running_out_of_memory_is_seen() {
    let base = kernel("memory");
    let groups = groups(base.path());
    let group = groups.make("slot-1", &Amounts::default()).unwrap();
    assert!(!group.was_out_of_memory());
    let events = |text: &str| fs::write(group.folder.join("memory.events"), text).unwrap();
    events("low 0\nmax 7\noom 0\noom_kill 0\noom_group_kill 0\n");
    assert!(!group.was_out_of_memory());
    events("low 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n");
    assert!(group.was_out_of_memory());
    fs::remove_file(group.folder.join("memory.events")).unwrap();
}

#[test]
fn a_machine_without_them_says_why() {
    // Whatever this machine has: there are groups, or words.
    match Cgroups::find() {
        Ok(groups) => assert!(groups.place.folder.is_dir()),
        Err(why) => assert!(!why.is_empty()),
    }
    let base = tempfile::tempdir().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let why = Cgroups::within(&base.path().join("missing")).unwrap_err();
    assert!(why.contains("missing"), "{why}");
}

/// Our folder among the kernel's own groups, with or without controllers; `None` where we can make none.
fn real(test: &str) -> Option<Cgroups> {
    let bases = find::bases(Path::new("/proc/self"));
    let place = bases.and_then(|bases| match bases.last() {
        Some(base) => Place::take(base),
        None => Err("there are no groups".into()),
    });
    match place {
        Ok(place) => Some(Cgroups { place: Arc::new(place), controllers: Vec::new(), left: Vec::new() }),
        Err(why) => {
            eprintln!("SKIPPED: {test}: {why}");
            None
        }
    }
}

#[test]
fn a_group_of_the_kernels_is_emptied_and_removed() {
    let Some(groups) = real("a_group_of_the_kernels_is_emptied_and_removed") else { return };
    let folder = groups.place.folder.clone();
    let script = "(setsid sleep 1000 &); exec sleep 1000";
    let mut tree = crate::process::Program::new("/bin/sh").args(["-c", script]).spawn().unwrap();
    // As one that was killed leaves it to the next run.
    fs::create_dir_all(folder.join("old/inner")).unwrap();
    write(&folder.join("old/cgroup.procs"), &tree.id().to_string()).unwrap();
    remove_all_in(&folder).unwrap();
    assert!(!folder.join("old").exists());
    let end = tree.wait(Deadline::after(Duration::from_secs(60))).unwrap();
    assert_eq!(end, Some(crate::process::Exit::Signal(9)));
    tree.kill(Deadline::after(Duration::from_secs(60))).unwrap();
    let group = groups.make("new", &Amounts::default()).unwrap();
    // Where the kernel knows that limit it counts.
    if group.folder.join("cgroup.max.descendants").exists() {
        assert!(fs::create_dir(group.folder.join("inner")).is_err());
    }
    drop(group);
    assert!(subgroups(&folder).unwrap().is_empty());
}

#[test]
#[cfg(all(target_os = "linux", not(drover_portable)))]
fn a_sandbox_runs_in_its_group_from_the_beginning() {
    use crate::sandbox::{Bind, Ids, Limits, Made, Sandbox};

    let Some(groups) = real("a_sandbox_runs_in_its_group_from_the_beginning") else { return };
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (mut made, mut binds) = (Vec::new(), Vec::new());
    for name in ["bin", "lib", "lib64", "usr"] {
        let from = Path::new("/").join(name);
        match fs::read_link(&from) {
            Ok(to) => made.push(Made::Link(from, to)),
            Err(_) if from.is_dir() => {
                made.push(Made::Folder(from.clone()));
                binds.push(Bind { from: from.clone(), to: from, write: false });
            }
            Err(_) => {}
        }
    }
    let sandbox = Sandbox {
        root: root.path().into(),
        made,
        binds,
        ids: Ids { inside: (1000, 1000), outside: crate::user::is_root().then_some((30001, 30000)) },
        host_name: "localhost".into(),
        network: false,
        bits32: false,
        folder: "/".into(),
        limits: Limits::default(),
        cgroup: Some(groups.make("sandbox", &Amounts::default()).unwrap()),
    };
    let program = crate::process::Program::new("/bin/cat").args(["/proc/self/cgroup"]).one_output();
    let mut tree = match program.sandbox(&sandbox).unwrap().spawn() {
        Ok(tree) => tree,
        Err(why) => return eprintln!("SKIPPED: a_sandbox_runs_in_its_group_from_the_beginning: {why}"),
    };
    let said = crate::process::read_all(tree.output.take().unwrap(), 10_000).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.lines().any(|line| line.starts_with("0::") && line.ends_with("/sandbox")), "{said}");
    drop((tree, sandbox));
    assert!(subgroups(&groups.place.folder).unwrap().is_empty());
}
