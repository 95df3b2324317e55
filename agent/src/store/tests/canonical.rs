use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::super::canonical::canonicalize_within;
use super::super::{CanonicalError, OutputLimits, canonicalize};
use super::*;

fn tree() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("out");
    fs::create_dir(&tree).unwrap();
    (folder, tree)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn of(path: &Path) -> (u32, i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec())
}

fn run(program: &str, args: &[&str], path: &Path) -> bool {
    Command::new(program).args(args).arg(path).output().is_ok_and(|output| output.status.success())
}

#[test]
fn modes_times_and_owners_are_the_same_for_all() {
    let (folder, tree) = tree();
    let outside = folder.path().join("outside");
    fs::write(&outside, "x").unwrap();
    mode(&outside, 0o640);
    for (name, with) in [("plain", 0o600), ("setuid", 0o6711), ("sticky", 0o1666), ("none", 0)] {
        fs::write(tree.join(name), name).unwrap();
        mode(&tree.join(name), with);
    }
    fs::hard_link(tree.join("plain"), tree.join("hard")).unwrap();
    symlink(&outside, tree.join("link")).unwrap();
    fs::create_dir_all(tree.join("closed/inner")).unwrap();
    mode(&tree.join("closed/inner"), 0o2070);
    mode(&tree.join("closed"), 0);
    canonicalize(&tree, super::super::owner(), &OutputLimits::NONE).unwrap();
    for name in ["plain", "hard", "sticky", "none"] {
        assert_eq!(of(&tree.join(name)), (0o444, 1, 0), "{name}");
    }
    for name in ["", "setuid", "closed", "closed/inner"] {
        assert_eq!(of(&tree.join(name)), (0o555, 1, 0), "{name}");
    }
    assert_eq!(of(&tree.join("link")), (0o777, 1, 0));
    let (mode, time, _) = of(&outside);
    assert!(mode == 0o640 && time > 1, "what a link leads to stays as it is");
    drover_os::tree::remove(&tree).unwrap();
}

#[test]
fn as_root_everything_belongs_to_root_afterwards_links_as_well() {
    if !drover_os::user::is_root() {
        eprintln!("SKIPPED: owners are changed by root alone");
        return;
    }
    let (_folder, tree) = tree();
    fs::write(tree.join("file"), "x").unwrap();
    symlink("file", tree.join("link")).unwrap();
    for name in ["", "file", "link"] {
        std::os::unix::fs::lchown(tree.join(name), Some(30001), Some(30000)).unwrap();
    }
    canonicalize(&tree, super::super::owner(), &OutputLimits::NONE).unwrap();
    for name in ["", "file", "link"] {
        let metadata = fs::symlink_metadata(tree.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{name}");
    }
}

#[test]
fn extended_attributes_go() {
    let (_folder, tree) = tree();
    fs::write(tree.join("file"), "x").unwrap();
    // A user's attribute wants a file system that has them, and a program to set it.
    if !run("setfattr", &["-n", "user.drover", "-v", "x"], &tree.join("file")) {
        eprintln!("SKIPPED: no setfattr, or no extended attributes on {}", tree.display());
        return;
    }
    canonicalize(&tree, None, &OutputLimits::NONE).unwrap();
    let left = Command::new("getfattr").args(["-d", "-m", "-"]).arg(tree.join("file")).output().unwrap();
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
}

#[test]
fn sockets_pipes_and_devices_are_refused_by_name() {
    let refused = |tree: &Path| match canonicalize(tree, None, &OutputLimits::NONE).unwrap_err() {
        CanonicalError::Unfit { path, what } => (path.to_str().unwrap().to_owned(), what),
        other => panic!("{other}"),
    };
    let (_folder, socket) = tree();
    fs::create_dir(socket.join("a")).unwrap();
    let _listener = UnixListener::bind(socket.join("a/socket")).unwrap();
    assert_eq!(refused(&socket), ("a/socket".into(), "a socket"));
    let (_folder, pipe) = tree();
    assert!(run("mkfifo", &[], &pipe.join("pipe")));
    assert_eq!(refused(&pipe), ("pipe".into(), "a named pipe"));
    assert_eq!(refused(&pipe.join("pipe")), (".".into(), "a named pipe"));
    assert_eq!(refused(Path::new("/dev/null")), (".".into(), "a device"));
}

#[test]
fn more_files_than_allowed_are_refused() {
    let (_folder, tree) = tree();
    for n in 0..9 {
        fs::write(tree.join(n.to_string()), "").unwrap();
    }
    let limits = |files| OutputLimits { files, bytes: 0 };
    canonicalize(&tree, None, &limits(10)).unwrap();
    assert!(matches!(canonicalize(&tree, None, &limits(9)), Err(CanonicalError::Files { limit: 9, .. })));
    assert!(matches!(canonicalize(&tree, None, &limits(0)), Err(CanonicalError::Files { limit: 0, .. })));
}

#[test]
fn a_sparse_file_counts_in_full_and_a_file_with_two_names_twice() {
    let (_folder, tree) = tree();
    File::create(tree.join("sparse")).unwrap().set_len(1 << 30).unwrap();
    fs::hard_link(tree.join("sparse"), tree.join("again")).unwrap();
    let limits = |bytes| OutputLimits { files: 100, bytes };
    let error = canonicalize(&tree, None, &limits((2 << 30) - 1)).unwrap_err();
    assert!(matches!(error, CanonicalError::Bytes { size: 0x4000_0000, .. }), "{error}");
    canonicalize(&tree, None, &limits(2 << 30)).unwrap();
}

#[test]
fn a_tree_that_no_nar_may_have_is_refused_for_its_depth() {
    let (_folder, tree) = tree();
    let mut deep = tree.clone();
    for _ in 0..511 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    canonicalize(&tree, None, &OutputLimits::NONE).unwrap();
    drover_store::nar::pack(&tree, std::io::sink()).unwrap();
    mode(&deep, 0o755);
    fs::create_dir(deep.join("d")).unwrap();
    let error = canonicalize(&tree, None, &OutputLimits::NONE).unwrap_err();
    assert!(matches!(error, CanonicalError::Depth { limit: 512, .. }), "{error}");
}

#[test]
fn names_that_are_too_many_for_the_memory_are_refused() {
    let (_folder, tree) = tree();
    for side in ["a", "b"] {
        fs::create_dir(tree.join(side)).unwrap();
        for file in ["1", "2", "3"] {
            fs::write(tree.join(side).join(file), "").unwrap();
        }
    }
    // Those at the top, and those in one of the two.
    let most = 5 * drover_store::nar::name_cost(1);
    let within = |names| canonicalize_within(&tree, None, &OutputLimits::NONE, names, &|| true);
    within(most).unwrap();
    let error = within(most - 1).unwrap_err();
    assert!(matches!(&error, CanonicalError::Names { .. }), "{error}");
}

#[test]
fn a_path_that_is_longer_than_the_system_takes_is_told_as_that() {
    let (folder, tree) = tree();
    let long = ["d"; 15].map(|name| name.repeat(200)).join("/");
    let other = folder.path().join("other");
    for side in [&tree, &other] {
        fs::create_dir_all(side.join(&long)).unwrap();
    }
    fs::rename(other, tree.join(&long).join("x")).unwrap();
    let error = canonicalize(&tree, None, &OutputLimits::NONE).unwrap_err();
    assert!(matches!(error, CanonicalError::Length { .. }), "{error}");
}
