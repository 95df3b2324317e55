use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

#[test]
fn an_added_item_is_known_whole_and_in_canonical_form() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let (mut said, nar) = item("top", &tree("top"), &[&base, &path_of("top")]);
    said.deriver = Some(path_of("top.drv"));
    store.add_nar(&said, &mut &nar[..], Limits::default()).unwrap();
    assert_eq!(store.item(&said.path).unwrap(), Some(said.clone()));
    assert!(is_whole(&store, &said.path));
    let on_disk = store.on_disk(&said.path);
    for (name, mode) in [("", 0o555), ("bin", 0o555), ("bin/run", 0o555), ("file", 0o444), ("link", 0o777)] {
        let metadata = fs::symlink_metadata(on_disk.join(name)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (mode, 1), "{name}");
    }
    assert_eq!(store.closure(&[said.path.clone()]).unwrap().len(), 2);
    assert_eq!(ground.names("making"), [""; 0]);
    assert_eq!(ground.names("placing"), [""; 0]);
    // The same again leaves the first.
    store.add_nar(&said, &mut &nar[..], Limits::default()).unwrap();
    drop(store);
    assert!(is_whole(&ground.open(), &said.path));
}

#[test]
fn an_item_is_read_only_if_it_is_a_file_of_its_size() {
    let ground = Ground::new();
    let store = ground.open();
    let put = |name: &str, node: &Node| {
        let (item, nar) = item(name, node, &[]);
        store.add_nar(&item, &mut &nar[..], Limits::default()).unwrap();
        item.path
    };
    let file = put("file", &Node::file("12345"));
    assert_eq!(store.read_file(&file, 5).unwrap(), b"12345");
    assert!(store.read_file(&file, 4).unwrap_err().to_string().contains("more than 4 bytes"));
    for (name, node) in [("link", Node::Symlink(b"/dev/zero".to_vec())), ("folder", tree("x"))] {
        let error = store.read_file(&put(name, &node), 5).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
    // There by accident, but not an item.
    fs::write(store.on_disk(&path_of("stray")), b"x").unwrap();
    assert!(matches!(store.read_file(&path_of("stray"), 5), Err(StoreError::NotThere(_))));
}

#[test]
fn a_nar_of_another_hash_or_size_or_that_breaks_off_leaves_nothing() {
    let ground = Ground::new();
    let store = ground.open();
    let (said, nar) = item("x", &tree("x"), &[]);
    let (_, other) = item("x", &tree("y"), &[]);
    let more = [&nar[..], b"more"].concat();
    let add = |nar: &mut dyn Read| store.add_nar(&said, nar, Limits::default()).unwrap_err();
    assert!(matches!(add(&mut &other[..]), StoreError::Hash { .. }));
    assert!(matches!(add(&mut &more[..]), StoreError::Nar { .. }));
    assert!(matches!(add(&mut Broken(&nar[..nar.len() - 8])), StoreError::Nar { .. }));
    let wrong = Item { nar_size: 1, ..said.clone() };
    assert!(matches!(store.add_nar(&wrong, &mut &nar[..], Limits::default()), Err(StoreError::Nar { .. })));
    assert_eq!(store.item(&said.path).unwrap(), None);
    assert!(!store.on_disk(&said.path).exists());
    assert_eq!(ground.names("making"), [""; 0]);
}

#[test]
fn an_item_waits_for_what_it_refers_to() {
    let ground = Ground::new();
    let store = ground.open();
    let base = path_of("base");
    let (top, nar) = item("top", &tree("top"), &[&base]);
    let received = store.receive(&top, &mut &nar[..], Limits::default()).unwrap();
    let early = store.settle(&received).unwrap_err();
    assert!(matches!(early, StoreError::Reference { reference, .. } if reference == base));
    assert!(!store.has(&top.path));
    add(&store, "base", &[]);
    store.settle(&received).unwrap();
    assert!(is_whole(&store, &top.path));
}

#[test]
fn texts_and_sources_must_belong_to_their_names() {
    let ground = Ground::new();
    let store = ground.open();
    let base = add(&store, "base", &[]);
    let references = std::slice::from_ref(&base);
    let text = path::text("x.drv", b"Derive()", references).unwrap();
    store.add_text(&text, b"Derive()", references).unwrap();
    assert!(is_whole(&store, &text));
    assert_eq!(store.item(&text).unwrap().unwrap().references, references);
    assert!(matches!(store.add_text(&text, b"Derive(", references), Err(StoreError::Contents(_))));
    assert!(matches!(store.add_text(&text, b"Derive()", &[]), Err(StoreError::Contents(_))));

    let nar = tree("source").to_nar();
    let source = path::source("source", &Sha256Hash::of(&nar)).unwrap();
    store.add_file(&source, true, &mut &nar[..], Limits::default()).unwrap();
    assert!(is_whole(&store, &source));
    let file = Node::file("flat").to_nar();
    let flat = path::fixed_output("flat", false, "sha256", Sha256Hash::of(b"flat").as_bytes()).unwrap();
    store.add_file(&flat, false, &mut &file[..], Limits::default()).unwrap();
    assert!(is_whole(&store, &flat));
    for (path, recursive, node) in [
        (path_of("other"), true, tree("source")),
        (path_of("other"), false, Node::file("flat")),
        (flat.clone(), false, Node::program("flat")),
        (flat, false, tree("flat")),
    ] {
        let error = store.add_file(&path, recursive, &mut &node.to_nar()[..], Limits::default());
        assert!(matches!(error, Err(StoreError::Contents(_))), "{path}");
    }
    assert_eq!(ground.names("making"), [""; 0]);
}

#[test]
fn what_stands_in_the_place_of_an_item_without_counting_gives_way() {
    let ground = Ground::new();
    let store = ground.open();
    for node in [tree("x"), Node::file("x"), Node::Symlink(b"x".to_vec())] {
        let (said, nar) = item("x", &node, &[]);
        let place = store.on_disk(&said.path);
        for rubbish in ["folder", "file", "link"] {
            match rubbish {
                "folder" => {
                    fs::create_dir_all(place.join("rubbish")).unwrap();
                    fs::set_permissions(&place, fs::Permissions::from_mode(0o555)).unwrap();
                }
                "file" => fs::write(&place, "rubbish").unwrap(),
                _ => symlink("rubbish", &place).unwrap(),
            }
            assert_eq!(store.item(&said.path).unwrap(), None);
            store.add_nar(&said, &mut &nar[..], Limits::default()).unwrap();
            assert!(is_whole(&store, &said.path));
            store.remove(std::slice::from_ref(&said.path)).unwrap();
        }
    }
    assert_eq!(ground.names("making"), [""; 0]);
}

#[test]
fn an_item_that_cannot_be_made_to_count_leaves_nothing() {
    let ground = Ground::new();
    let store = ground.open();
    // A disk in disorder: nothing can be renamed to there.
    fs::remove_dir(ground.own("items")).unwrap();
    let (said, nar) = item("x", &tree("x"), &[]);
    let error = store.add_nar(&said, &mut &nar[..], Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(names(store.folder()), [".drover"]);
    assert_eq!((ground.names("making"), ground.names("placing")), (vec![], vec![]));
}

#[test]
fn many_threads_add_the_same_items_at_a_time() {
    let ground = Ground::new();
    let store = ground.open();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..20 {
                    let base = add(&store, &format!("base-{n}"), &[]);
                    add(&store, &format!("top-{n}"), &[&base]);
                }
            });
        }
    });
    assert_eq!(ground.names("items").len(), 40);
    assert!(store.inner.all_items().unwrap().iter().all(|path| is_whole(&store, path)));
    assert_eq!(ground.names("making"), [""; 0]);
}

#[test]
fn two_agents_a_daemon_or_somebody_elses_things_have_no_common_store() {
    let ground = Ground::new();
    let first = ground.open();
    assert!(matches!(Store::open(&ground.root(), &ground.roots()), Err(StoreError::Lock(_))));
    drop(first);
    drop(ground.open());
    let database = ground.root().join("var/guix/db/db.sqlite");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, "").unwrap();
    let error = Store::open(&ground.root(), &ground.roots()).unwrap_err();
    assert!(
        matches!(error, StoreError::Daemon { .. }) && error.to_string().contains("--store-root"),
        "{error}"
    );

    let ground = Ground::new();
    fs::create_dir_all(ground.root().join("gnu/store/something")).unwrap();
    assert!(matches!(Store::open(&ground.root(), &ground.roots()), Err(StoreError::Foreign(_))));
}

#[test]
fn a_disk_of_its_own_is_a_store_in_spite_of_what_the_file_system_has_there() {
    let ground = Ground::new();
    let found = ground.root().join("gnu/store/lost+found");
    fs::create_dir_all(&found).unwrap();
    let store = ground.open();
    add(&store, "item", &[]);
    drop(store);
    let store = ground.open();
    assert!(found.exists() && is_whole(&store, &path_of("item")));
}
