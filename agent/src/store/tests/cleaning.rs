use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::super::Use;
use super::super::clean::{AT_A_TIME, PART_AT_A_TIME};
use super::*;

/// Has an item be used this many days ago.
fn used(store: &Store, path: &StorePath, days: u64) {
    let file = File::options().append(true).open(store.inner.file_of(path)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 86400)).unwrap();
}

fn size(store: &Store, path: &StorePath) -> u64 {
    store.item(path).unwrap().unwrap().weight()
}

fn use_of(result: Result<(), StoreError>) -> Use {
    match result.unwrap_err() {
        StoreError::InUse { by, .. } => by,
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_held_rooted_or_referred_to_is_not_removed() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let top = add(&store, "top", &[&base, &path_of("top")]);
    let paths = |paths: &[&StorePath]| paths.iter().copied().cloned().collect::<Vec<_>>();
    assert_eq!(use_of(store.remove(&paths(&[&base]))), Use::Referrer(top.clone()));
    let hold = store.hold([top.clone()]);
    assert_eq!(use_of(store.remove(&paths(&[&top]))), Use::Hold);
    assert_eq!(use_of(store.remove(&paths(&[&top, &base]))), Use::Hold);
    let again = store.hold([top.clone()]);
    drop(hold);
    assert_eq!(use_of(store.remove(&paths(&[&top]))), Use::Hold);
    drop(again);
    let link = ground.roots().join("some/lease");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(top.as_str(), &link).unwrap();
    assert_eq!(use_of(store.remove(&paths(&[&base, &top]))), Use::Root);
    assert!(store.has(&top) && store.has(&base));
    fs::remove_file(link).unwrap();
    store.remove(&paths(&[&base, &top, &path_of("nothing")])).unwrap();
    assert!(!store.on_disk(&top).exists() && !store.on_disk(&base).exists());
    assert!(!store.has(&top) && !store.has(&base));
    assert_eq!(store.used().unwrap(), 0);
    for folder in ["making", "placing", "items"] {
        assert_eq!(ground.names(folder), [""; 0]);
    }
}

#[test]
fn what_refers_to_an_item_goes_with_it_if_that_is_wanted_and_nobody_needs_it() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let output = add(&store, "output", &[&base, &path_of("output")]);
    let [left, right] = ["left", "right"].map(|name| add(&store, name, &[&output]));
    let top = add(&store, "top", &[&left, &right]);
    let other = add(&store, "other", &[&base]);
    let remove = || store.remove_with_referrers(std::slice::from_ref(&output));
    let hold = store.hold([top.clone()]);
    assert_eq!(use_of(remove()), Use::Hold);
    drop(hold);
    fs::create_dir_all(ground.roots()).unwrap();
    let link = ground.roots().join("1-left");
    symlink(left.as_str(), &link).unwrap();
    assert_eq!(use_of(remove()), Use::Root);
    for path in [&output, &left, &right, &top] {
        assert!(store.has(path), "{path}");
    }
    fs::remove_file(link).unwrap();
    remove().unwrap();
    for path in [&output, &left, &right, &top] {
        assert!(!store.has(path) && !store.on_disk(path).exists(), "{path}");
    }
    assert!(is_whole(&store, &base) && is_whole(&store, &other));
    store.remove_with_referrers(&[path_of("nothing")]).unwrap();
}

#[test]
fn a_closure_is_whole_or_says_what_is_missing() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let middle = add(&store, "middle", &[&base]);
    let top = add(&store, "top", &[&middle]);
    let mut all = vec![base.clone(), middle, top.clone()];
    all.sort();
    assert_eq!(store.closure(std::slice::from_ref(&top)).unwrap(), all);
    let missing = store.closure(&[top, path_of("missing")]).unwrap_err();
    assert!(matches!(missing, StoreError::NotThere(path) if path == path_of("missing")));
}

#[test]
fn cleaning_goes_by_last_use_and_ends_at_the_budget() {
    let ground = Ground::new();
    let store = ground.open();
    let items: Vec<_> = (0..6).map(|n| add(&store, &format!("item-{n}"), &[])).collect();
    for (n, days) in [(0, 3), (1, 6), (2, 1), (3, 5), (4, 4), (5, 2)] {
        used(&store, &items[n], days);
    }
    // One more use.
    drop(store.hold([items[1].clone()]));
    let one = size(&store, &items[0]);
    let cleaned = store.clean(one * 4).unwrap();
    assert_eq!((cleaned.items, cleaned.freed, cleaned.used), (2, one * 2, one * 4));
    let left: Vec<_> = (0..6).filter(|n| store.has(&items[*n])).collect();
    assert_eq!(left, [0, 1, 2, 5]);
    assert_eq!(store.clean(one * 4).unwrap().items, 0);
    assert_eq!(store.used().unwrap(), one * 4);
    assert_eq!(ground.names("making"), [""; 0]);
}

#[test]
fn many_small_items_are_as_large_for_the_budget_as_they_are_on_disk() {
    let ground = Ground::new();
    let store = ground.open();
    let count = 100;
    for n in 0..count {
        let text = format!("Derive {n}");
        let path = path::text(&format!("small-{n}.drv"), text.as_bytes(), &[]).unwrap();
        store.add_text(&path, text.as_bytes(), &[]).unwrap();
    }
    // A block for each, and one for the file about it.
    let on_disk = count * 2 * 4096;
    let budget = on_disk / 2;
    assert!(store.used().unwrap() >= on_disk);
    assert!(store.clean(budget).unwrap().items >= count / 2);
    // What is counted anew is what was added up.
    let used = store.used().unwrap();
    assert!(used <= budget);
    drop(store);
    let store = ground.open();
    assert_eq!(store.used().unwrap(), used);
    add(&store, "one-more", &[]);
    assert_eq!(store.used().unwrap(), used + size(&store, &path_of("one-more")));
}

#[test]
fn a_use_is_never_noted_as_earlier_than_another() {
    let ground = Ground::new();
    let store = ground.open();
    let path = add(&store, "item", &[]);
    let file = store.inner.file_of(&path);
    let modified = || fs::metadata(&file).unwrap().modified().unwrap();
    // Noted when the clock was right, which it is not any more.
    let later = SystemTime::now() + Duration::from_secs(86400);
    File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
    let noted = modified();
    drop(store.hold([path.clone()]));
    assert_eq!(modified(), noted);
    used(&store, &path, 1);
    let noted = modified();
    drop(store.hold([path.clone()]));
    assert!(modified() > noted);
}

#[test]
fn an_item_of_which_nothing_can_be_read_is_cleaned_first_and_keeps_nothing() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let broken = add(&store, "broken", &[&base]);
    let needed = add(&store, "needed", &[]);
    let [other, young] = ["other", "young"].map(|name| add(&store, name, &[]));
    for path in [&broken, &needed] {
        fs::write(store.inner.file_of(path), "noise").unwrap();
    }
    used(&store, &base, 9);
    used(&store, &other, 9);
    let _hold = store.hold([needed.clone()]);
    store.remove(std::slice::from_ref(&other)).unwrap();
    assert!(!store.has(&other));
    let mut asked = 0;
    let cleaned = store.clean_until(&mut |_| {
        asked += 1;
        asked > 2
    });
    assert_eq!(cleaned.unwrap().items, 1);
    assert!(!store.has(&broken) && !store.on_disk(&broken).exists());
    assert!(store.has(&base) && store.has(&needed));
    assert_eq!(store.clean(0).unwrap().items, 2);
    assert!(!store.has(&base) && !store.has(&young) && store.has(&needed));
}

#[test]
fn trees_go_while_others_may_remove_something() {
    let ground = Ground::new();
    let store = ground.open();
    let most = AT_A_TIME + 2;
    let items: Vec<_> = (0..=most).map(|n| add(&store, &format!("item-{n}"), &[])).collect();
    let mut trees = Vec::new();
    let cleaned = store.clean_until(&mut |cleaned| {
        // Asked under the lock: what is removed under it as well would be gone each time.
        trees.push(ground.names("making").len());
        cleaned.items == most as u64
    });
    assert_eq!(cleaned.unwrap().items, most as u64);
    let expected: Vec<usize> = [0].into_iter().chain(0..=AT_A_TIME).chain(0..=2).collect();
    assert_eq!(trees, expected);
    assert_eq!(ground.names("making"), [""; 0]);
    assert_eq!(items.iter().filter(|path| store.has(path)).count(), 1);
}

#[test]
fn a_large_store_is_looked_at_once_for_a_part_of_what_it_has() {
    let ground = Ground::new();
    let store = ground.open();
    let count = AT_A_TIME * PART_AT_A_TIME * 3 / 2;
    for n in 0..count {
        let name = format!("item-{n}");
        let path = path::text(&name, b"", &[]).unwrap();
        store.add_text(&path, b"", &[]).unwrap();
    }
    let (mut looks, mut before) = (0, 0);
    let cleaned = store.clean_until(&mut |cleaned| {
        let trees = ground.names("making").len();
        looks += usize::from(trees < before);
        before = trees;
        cleaned.items == 2 * AT_A_TIME as u64
    });
    assert_eq!(cleaned.unwrap().items, 2 * AT_A_TIME as u64);
    // A half more than at least is an eighth of them.
    assert_eq!(looks, 1);
}

#[test]
fn what_cannot_be_removed_does_not_keep_the_others_from_being_cleaned_away() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let stuck = add(&store, "stuck", &[&base]);
    let [old, young] = ["old", "young"].map(|name| add(&store, name, &[]));
    for (path, days) in [(&base, 9), (&stuck, 9), (&old, 5), (&young, 1)] {
        used(&store, path, days);
    }
    // Where it would wait to be removed there is something.
    let in_the_way = ground.own("placing").join(stuck.base_name());
    fs::create_dir_all(in_the_way.join("folder")).unwrap();
    for items in [2, 0] {
        let cleaned = store.clean(0).unwrap();
        assert_eq!((cleaned.items, cleaned.used), (items, size(&store, &base) + size(&store, &stuck)));
        assert!(is_whole(&store, &stuck) && is_whole(&store, &base));
        assert!(!store.has(&old) && !store.has(&young));
    }
    fs::remove_dir_all(in_the_way).unwrap();
    assert_eq!(store.clean(0).unwrap().items, 2);
}

#[test]
fn cleaning_ends_where_nothing_can_be_removed() {
    let ground = Ground::new();
    let store = ground.open();
    let items: Vec<_> = (0..40).map(|n| add(&store, &format!("item-{n}"), &[])).collect();
    for path in &items {
        fs::create_dir_all(ground.own("placing").join(path.base_name()).join("folder")).unwrap();
    }
    assert!(matches!(store.clean(0), Err(StoreError::Io { .. })));
    assert!(items.iter().all(|path| is_whole(&store, path)));
}

#[test]
fn cleaning_spares_what_is_held_or_rooted_and_all_that_such_items_need() {
    let ground = Ground::new();
    let store = ground.open();
    let old_base = add(&store, "old-base", &[]);
    let held = add(&store, "held", &[&old_base]);
    let rooted_base = add(&store, "rooted-base", &[]);
    let rooted = add(&store, "rooted", &[&rooted_base]);
    let base = add(&store, "base", &[]);
    let top = add(&store, "top", &[&base]);
    for path in [&old_base, &held, &rooted_base, &rooted, &base] {
        used(&store, path, 9);
    }
    fs::create_dir_all(ground.roots()).unwrap();
    symlink(rooted.as_str(), ground.roots().join("1-rooted")).unwrap();
    symlink("/somewhere/else", ground.roots().join("2-other")).unwrap();
    let hold = store.hold([held.clone()]);
    used(&store, &held, 9);
    let cleaned = store.clean(0).unwrap();
    assert_eq!(cleaned.items, 2);
    // The younger one went, since the older one is nothing without it.
    assert!(!store.has(&top) && !store.has(&base));
    for path in [&old_base, &held, &rooted_base, &rooted] {
        assert!(store.has(path) && is_whole(&store, path), "{path}");
    }
    drop(hold);
    assert_eq!(store.clean(0).unwrap().items, 2);
    assert!(!store.has(&held) && !store.has(&old_base) && store.has(&rooted));
}

#[test]
fn a_hold_keeps_what_comes_after_it() {
    let ground = Ground::new();
    let store = ground.open();
    let mut hold = store.hold([]);
    hold.add([path_of("top"), path_of("top")]);
    let base = add(&store, "base", &[]);
    let top = add(&store, "top", &[&base]);
    assert_eq!(store.clean(0).unwrap().items, 0);
    assert!(store.has(&top) && store.has(&base));
    drop(hold);
    assert_eq!(store.clean(0).unwrap().items, 2);
}

#[test]
fn what_comes_to_be_needed_during_a_cleaning_is_spared() {
    let ground = Ground::new();
    let store = ground.open();
    let [needed, rooted, held, idle] =
        ["needed", "rooted", "held", "idle"].map(|name| add(&store, name, &[]));
    fs::create_dir_all(ground.roots()).unwrap();
    let mut before = Some(store.hold([rooted.clone()]));
    let (mut after, mut asked) = (None, 0);
    let cleaned = store.clean_until(&mut |_| {
        asked += 1;
        // It has looked at items and roots, and nothing is gone yet.
        if asked == 2 {
            assert!(store.has(&idle));
            add(&store, "young", &[&needed]);
            symlink(rooted.as_str(), ground.roots().join("1-rooted")).unwrap();
            before = None;
            after = Some(store.hold([held.clone()]));
        }
        false
    });
    assert_eq!(cleaned.unwrap().items, 1);
    assert!(!store.has(&idle));
    for path in [&needed, &rooted, &held] {
        assert!(store.has(path) && is_whole(&store, path), "{path}");
    }
    assert!(before.is_none() && after.is_some());
    // The next cleaning looks again.
    drop(after);
    assert_eq!(store.clean(0).unwrap().items, 3);
    assert!(store.has(&rooted));
}

#[test]
fn cleaning_beside_builds_takes_nothing_that_they_hold() {
    let ground = Ground::new();
    let store = ground.open();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let builds: Vec<_> = (0..2)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..60 {
                        let name = |part: &str| format!("{part}-{thread}-{n}");
                        let (common, top) = (path_of("common"), path_of(&name("top")));
                        let hold = store.hold([common.clone(), top.clone()]);
                        add(store, "common", &[]);
                        add(store, &name("top"), &[&common]);
                        assert_eq!(store.closure(std::slice::from_ref(&top)).unwrap().len(), 2);
                        assert!(is_whole(store, &common) && is_whole(store, &top));
                        drop(hold);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                store.clean(0).unwrap();
            }
        });
        let results: Vec<_> = builds.into_iter().map(|build| build.join()).collect();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    store.clean(0).unwrap();
    assert_eq!(store.used().unwrap(), 0);
    assert_eq!(names(store.folder()), [".drover"]);
}
