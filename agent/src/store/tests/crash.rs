use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::{OutputLimits, canonicalize, owner};
use super::*;

/// What the tests below give to processes of their own: the folder that they work in.
const FOLDER: &str = "DROVER_TEST_STORE";
/// An id that has no rights.
const NOBODY: u32 = 65534;

/// This program once more, running one test alone.
fn again(test: &str, folder: &Path) -> Command {
    let tests = std::env::current_exe().unwrap();
    // What plays the processor for these tests plays it for more of them.
    let mut command = match std::env::var_os("DROVER_TEST_RUNNER") {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(tests);
            command
        }
        None => Command::new(tests),
    };
    command.args(["--exact", &format!("store::tests::crash::{test}"), "--nocapture"]).env(FOLDER, folder);
    command
}

fn ground_of_another_process() -> Option<(PathBuf, PathBuf)> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    Some((folder.join("root"), folder.join("roots")))
}

/// Fails unless everything that counts is whole, and there is nothing else.
fn check(store: &Store, ground: &Ground) -> usize {
    let items = store.inner.all_items().unwrap();
    for path in &items {
        assert!(is_whole(store, path), "{path}");
        assert!(store.item(path).unwrap().unwrap().references.iter().all(|path| store.has(path)), "{path}");
    }
    let mut expected: Vec<_> = items.iter().map(|path| path.base_name().to_owned()).collect();
    expected.push(".drover".to_owned());
    expected.sort();
    assert_eq!(names(store.folder()), expected);
    assert_eq!(ground.names("making"), [""; 0]);
    assert_eq!(ground.names("placing"), [""; 0]);
    items.len()
}

/// For [`whatever_moment_the_agent_is_killed_at_what_counts_is_whole_and_nothing_else_is_left`].
#[test]
fn adds_and_removes_until_it_is_killed() {
    let Some((root, roots)) = ground_of_another_process() else { return };
    let store = Store::open(&root, &roots).unwrap();
    // Below the test's name, which has no line of its own.
    println!();
    let count = AtomicU64::new(0);
    let run = format!("{:?}", SystemTime::now());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut base = add(&store, "base", &[]);
                loop {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    let name = Sha256Hash::of(format!("{run}-{n}").as_bytes()).base32();
                    let large = Node::file(vec![b'x'; usize::try_from(n % 7).unwrap() << 16]);
                    let node =
                        Node::Directory([(b"a".to_vec(), large), (b"b".to_vec(), super::tree(&name))].into());
                    let hold = store.hold([base.clone(), path_of(&name)]);
                    let (said, nar) = item(&name, &node, &[&base]);
                    if store.add_nar(&said, &mut &nar[..], Limits::default()).is_err() {
                        // Cleaned away before it was held.
                        base = add(&store, "base", &[]);
                        continue;
                    }
                    base = if n % 5 == 0 { add(&store, "base", &[]) } else { said.path };
                    drop(hold);
                    println!("added");
                    match n % 40 {
                        0 => drop(store.clean(20_000_000).unwrap()),
                        20 => store.checkpoint().unwrap(),
                        _ => {}
                    }
                }
            });
        }
    });
}

#[test]
fn whatever_moment_the_agent_is_killed_at_what_counts_is_whole_and_nothing_else_is_left() {
    let ground = Ground::new();
    let mut seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let (mut most, mut interrupted) = (0, 0);
    for _ in 0..25 {
        let mut agent = again("adds_and_removes_until_it_is_killed", ground.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let added = BufReader::new(agent.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut added = added.filter(|line| line == "added");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Any moment will do.
        let (wanted, moment) = (usize::try_from(seed >> 60).unwrap() + 1, (seed >> 33) % 5000);
        assert_eq!(added.by_ref().take(wanted).count(), wanted, "it should go on adding");
        std::thread::sleep(Duration::from_micros(moment));
        agent.kill().unwrap();
        agent.wait().unwrap();
        if !ground.names("making").is_empty() {
            interrupted += 1;
        }
        most = most.max(check(&ground.open(), &ground));
    }
    println!("at most {most} items; {interrupted} times something was under way");
    assert!(most >= 25 && interrupted > 0, "{most} items, {interrupted} interruptions");
}

#[test]
fn half_an_item_does_not_count_and_goes_at_the_next_start() {
    let ground = Ground::new();
    let store = ground.open();
    let kept = add(&store, "kept", &[]);
    let half = path_of("half");
    // As a crash leaves it just before the item counts, and as one leaves it that was unpacking.
    let (said, _) = item("half", &super::tree("half"), &[]);
    fs::create_dir(store.on_disk(&half)).unwrap();
    fs::write(ground.own("placing").join(half.base_name()), said.print(1)).unwrap();
    fs::create_dir_all(ground.own("making/7/x")).unwrap();
    // And one that was on its way out.
    let leaving = add(&store, "leaving", &[]);
    fs::rename(store.inner.file_of(&leaving), ground.own("placing").join(leaving.base_name())).unwrap();
    assert!(!store.has(&half) && store.item(&half).unwrap().is_none());
    drop(store);
    let store = ground.open();
    assert_eq!(check(&store, &ground), 1);
    assert!(store.has(&kept));
}

#[test]
fn what_came_after_the_last_checkpoint_is_read_again_after_a_loss_of_power() {
    let ground = Ground::new();
    let store = ground.open();
    let safe = add(&store, "safe", &[]);
    store.checkpoint().unwrap();
    let whole = add(&store, "whole", &[&safe]);
    let [lost, empty, unread] = ["lost", "empty", "unread"].map(|name| add(&store, name, &[]));
    let above = add(&store, "above", &[&lost]);
    let top = add(&store, "top", &[&above, &whole]);
    // As power fails: names are there, and what is in the files is not.
    let spoil = |path: PathBuf| {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    };
    spoil(store.on_disk(&lost).join("file"));
    spoil(store.on_disk(&safe).join("file"));
    spoil(store.inner.file_of(&unread));
    drover_os::tree::remove(&store.on_disk(&empty)).unwrap();
    drop(store);
    // The same start of the machine: what is in memory is what was written. Where starts have no names each may be another.
    if drover_os::machine::boot_id().is_some() {
        let store = ground.open();
        assert!(store.has(&lost) && store.has(&above) && !store.has(&empty));
    }
    fs::write(ground.own("boot"), "another start of the machine").unwrap();
    let store = ground.open();
    for path in [&lost, &unread, &above, &top] {
        assert!(!store.has(path) && !store.on_disk(path).exists(), "{path}");
    }
    assert!(is_whole(&store, &whole));
    assert!(store.has(&safe), "what is safe is not read again");
    drop(store);
    // What was checked is safe now.
    fs::write(ground.own("boot"), "one more").unwrap();
    fs::remove_file(ground.own("checkpoint")).unwrap();
    let store = ground.open();
    assert!(!store.has(&safe) && !store.has(&whole), "without a checkpoint nothing is safe");
}

/// For [`a_plain_user_has_a_store_of_his_own`], which runs this as another user.
#[test]
fn works_with_a_store_as_a_plain_user() {
    let Some((root, roots)) = ground_of_another_process() else { return };
    assert!(!drover_os::user::is_root());
    let error = Store::open(Path::new("/usr/drover-test"), &roots).unwrap_err();
    assert!(
        matches!(error, StoreError::Unusable { .. }) && error.to_string().contains("--store-root"),
        "{error}"
    );
    let store = Store::open(&root, &roots).unwrap();
    let base = add(&store, "base", &[]);
    let built = store.making().unwrap();
    let out = built.path().join("out");
    fs::create_dir_all(out.join("closed")).unwrap();
    fs::write(out.join("closed/file"), "x").unwrap();
    symlink("closed", out.join("link")).unwrap();
    fs::set_permissions(out.join("closed/file"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(out.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    canonicalize(&out, owner(), &OutputLimits { files: 10, bytes: 10 }).unwrap();
    let mut nar = Vec::new();
    drover_store::nar::pack(&out, &mut nar).unwrap();
    let (path, nar_hash) = (path_of("out"), Sha256Hash::of(&nar));
    let item =
        Item { path, nar_hash, nar_size: nar.len() as u64, references: vec![base.clone()], deriver: None };
    store.place(&out, &item).unwrap();
    drop(built);
    assert!(is_whole(&store, &item.path));
    for name in ["", "closed"] {
        let metadata = fs::symlink_metadata(store.on_disk(&item.path).join(name)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.uid()), (0o555, 1, NOBODY));
    }
    store.remove(std::slice::from_ref(&item.path)).unwrap();
    // What a builder leaves is removed, whatever it did to the modes.
    let left = store.making().unwrap();
    fs::create_dir_all(left.path().join("a/b")).unwrap();
    fs::set_permissions(left.path().join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(left.path().join("a"), fs::Permissions::from_mode(0o0)).unwrap();
    drop(left);
    add(&store, "top", &[&base]);
    store.checkpoint().unwrap();
    assert_eq!(store.clean(0).unwrap().items, 2);
    assert_eq!(names(store.folder()), [".drover"]);
    assert_eq!(names(&store.folder().join(".drover/making")), [""; 0]);
}

#[test]
fn a_plain_user_has_a_store_of_his_own() {
    if !drover_os::user::is_root() {
        eprintln!("SKIPPED: only root can become another user, whose ways the test is about");
        return;
    }
    let ground = Ground::new();
    chown(ground.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let test = "works_with_a_store_as_a_plain_user";
    let output = again(test, ground.folder.path()).uid(NOBODY).gid(NOBODY).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
    // And root leaves it to that user.
    let error = Store::open(&ground.root(), &ground.roots()).unwrap_err();
    assert!(matches!(error, StoreError::Owner { owner: NOBODY, user: 0, .. }), "{error}");
}

#[test]
fn an_item_of_which_nobody_can_read_what_it_is_does_not_keep_the_store_from_being_opened() {
    for booted in [false, true] {
        let ground = Ground::new();
        let store = ground.open();
        let fine = add(&store, "fine", &[]);
        let [closed, gone] = ["closed", "gone"].map(|name| add(&store, name, &[&fine]));
        let above = add(&store, "above", &[&closed]);
        let file = store.inner.file_of(&closed);
        fs::remove_file(&file).unwrap();
        fs::create_dir_all(file.join("folder")).unwrap();
        // With this one gone, all that is there is looked at.
        drover_os::tree::remove(&store.on_disk(&gone)).unwrap();
        drop(store);
        if booted {
            fs::write(ground.own("boot"), "another start of the machine").unwrap();
        }
        let store = ground.open();
        assert_eq!(check(&store, &ground), 1, "{booted}");
        assert!(store.has(&fine) && !store.has(&closed) && !store.has(&above), "{booted}");
        // And it may come again.
        add(&store, "closed", &[&fine]);
        assert!(is_whole(&store, &closed));
    }
}

/// For [`an_item_that_cannot_be_removed_does_not_keep_the_store_from_being_opened`], which has a store with such a one.
#[test]
fn opens_a_store_with_an_item_that_cannot_be_moved() {
    let Some((root, roots)) = ground_of_another_process() else { return };
    // The second time there is a note of it, too.
    for _ in 0..2 {
        let store = Store::open(&root, &roots).unwrap();
        assert!(is_whole(&store, &path_of("fine")));
        assert!(!store.has(&path_of("stuck")) && store.on_disk(&path_of("stuck")).exists());
    }
}

#[test]
fn an_item_that_cannot_be_removed_does_not_keep_the_store_from_being_opened() {
    let ground = Ground::new();
    let store = ground.open();
    add(&store, "fine", &[]);
    let [stuck, gone] = ["stuck", "gone"].map(|name| add(&store, name, &[]));
    File::options().write(true).open(store.inner.file_of(&stuck)).unwrap().set_len(0).unwrap();
    drover_os::tree::remove(&store.on_disk(&gone)).unwrap();
    let tree = store.on_disk(&stuck);
    drop(store);
    // What something is mounted on cannot be moved.
    let apart = |command: &Command| {
        let mut unshare = Command::new("unshare");
        if !drover_os::user::is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$0\" && exec \"$@\""]).arg(&tree);
        unshare.arg(command.get_program()).args(command.get_args()).env(FOLDER, ground.folder.path());
        unshare.output()
    };
    if !apart(&Command::new("true")).is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: nothing can be mounted here to keep an item from being moved");
        return;
    }
    let output = apart(&again("opens_a_store_with_an_item_that_cannot_be_moved", ground.folder.path()));
    let output = output.unwrap();
    let words = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.contains("1 passed"), "{words}");
    // Once it can be moved, the next start removes what is left.
    let store = ground.open();
    assert!(!tree.exists());
    assert_eq!(check(&store, &ground), 1);
}
