//! Files that are used where they lie.

use super::*;

impl Ground {
    pub(super) fn in_place(&self) -> NewImport {
        NewImport { in_place: true, ..self.terms() }
    }

    pub(super) fn read_all(&self) {
        let unread = self.farm.database.read_blocking::<_, Error>(|sql| {
            paths::numbers(sql, "SELECT DISTINCT item FROM files WHERE checked_at IS NULL AND item > ?1", 0)
        });
        for item in unread.unwrap() {
            self.farm.read_now(item).unwrap();
        }
    }

    pub(super) fn is_unread(&self, made: &Made) -> bool {
        let found = self.farm.database.read_blocking::<_, Error>(|sql| {
            let id = paths::find(sql, &made.info.store_path)?.unwrap();
            unread_among(sql, &[id])
        });
        !found.unwrap().is_empty()
    }
}

#[test]
fn files_are_used_where_they_lie_published_at_once_and_read_later() {
    let ground = Ground::new();
    let below = made("below", &[]);
    let middle = made("middle", &[&below]);
    let top = made("top", &[&middle, &below]);
    ground.put(&top, Compression::Gzip);
    ground.put(&middle, Compression::Lzip);
    ground.put(&below, Compression::None);
    let import = ground.import(ground.in_place());
    assert_eq!((import.summary.taken, import.summary.refused), (3, 0), "{:?}", import.refusals);
    assert!(ground.is_published(&top) && ground.is_published(&middle) && ground.is_published(&below));
    assert!(ground.is_unread(&top) && ground.is_unread(&middle));
    assert_eq!(std::fs::read_dir(ground.farm.storage.nars()).unwrap().count(), 0, "something was copied");
    ground.read_all();
    assert!(![&top, &middle, &below].iter().any(|made| ground.is_unread(made)));
    assert!(ground.is_published(&top));
    assert_eq!(ground.import(ground.in_place()).summary.known, 3);
}

#[test]
fn a_file_that_is_not_what_it_was_said_to_be_goes_from_the_public_with_all_that_refers_to_it() {
    for compression in Compression::ALL {
        is_taken_back(compression);
    }
}

fn is_taken_back(compression: Compression) {
    let ground = Ground::new();
    let below = made("below", &[]);
    let (middle, other) = (made("middle", &[&below]), made("other", &[]));
    let top = made("top", &[&middle]);
    for made in [&below, &middle, &top, &other] {
        ground.put(made, compression);
    }
    let file =
        ground.folder.path().join(format!("nar/{compression}")).join(below.info.store_path.base_name());
    let mut bytes = std::fs::read(&file).unwrap();
    // Where all compressions have the contents themselves.
    bytes[30] ^= 0x10;
    std::fs::write(&file, bytes).unwrap();
    let import = ground.import(ground.in_place());
    assert_eq!(import.summary.taken, 4);
    assert!(ground.is_published(&top));
    ground.read_all();
    assert!(![&below, &middle, &top].iter().any(|made| ground.is_published(made)));
    assert!(ground.is_published(&other) && ground.is_held(&top) && !ground.is_held(&below));
    assert!(file.exists(), "a file that is not ours was removed");
    let id = import.summary.import;
    let import = ground.farm.database.read_blocking(|sql| rows::show(sql, id)).unwrap();
    assert!(why(&import.refusals, &below).contains("nar"), "{:?}", import.refusals);
    // It is mended, and taken over again.
    ground.put(&below, compression);
    let again = ground.import(ground.in_place());
    assert!(ground.is_published(&below), "{again:?}");
    assert!(ground.is_published(&middle) && ground.is_published(&top), "{again:?}");
}

#[test]
fn a_folder_that_is_not_there_takes_nothing_from_the_public() {
    let ground = Ground::new();
    let one = made("one", &[]);
    ground.put(&one, Compression::None);
    ground.import(ground.in_place());
    let moved = ground.folder.path().with_extension("moved");
    std::fs::rename(ground.folder.path(), &moved).unwrap();
    ground.read_all();
    assert!(ground.is_published(&one) && ground.is_unread(&one));
    std::fs::rename(&moved, ground.folder.path()).unwrap();
    ground.read_all();
    assert!(ground.is_published(&one) && !ground.is_unread(&one));
}

#[test]
fn files_that_cannot_be_read_are_passed_over_wherever_they_are() {
    let ground = Ground::new();
    for n in 0..8 {
        let made = made(&format!("item-{n}"), &[]);
        ground.put(&made, Compression::Zstd);
        let name = format!("{}.narinfo", made.info.store_path.hash_part());
        let folder = ground.folder.path().join(n.to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::rename(ground.folder.path().join(&name), folder.join(name)).unwrap();
        // It leads to itself, and can no more be read than what a disk has lost.
        std::os::unix::fs::symlink("x.narinfo", folder.join("x.narinfo")).unwrap();
    }
    let import = ground.import(ground.in_place());
    assert_eq!(import.summary.state, ImportState::Done, "{import:?}");
    assert_eq!((import.summary.taken, import.summary.refused), (8, 8), "{import:?}");
}

#[test]
fn a_form_that_is_not_as_it_was_said_does_not_stand_in_the_way_of_another() {
    let ground = Ground::new();
    let one = made("one", &[]);
    let (bad, good) = (packed(Compression::Zstd, &one.nar), packed(Compression::Lzip, &one.nar));
    ground.write("nar/zstd/x", &bad);
    ground.write("nar/lzip/x", &good);
    let url = |compression: &str, size: usize| Url {
        url: format!("nar/{compression}/x"),
        compression: compression.into(),
        file_size: Some(size as u64),
    };
    let mut info = one.info.clone();
    info.urls = vec![url("zstd", bad.len() + 1), url("lzip", good.len())];
    info.sign("elsewhere", &ground.key);
    ground.write_narinfo(&info);
    let import = ground.import(ground.in_place());
    assert_eq!((import.summary.taken, import.summary.refused), (1, 0), "{import:?}");
    assert_eq!(ground.files(&one), [Compression::Lzip]);
    ground.read_all();
    assert!(ground.is_published(&one));
}

#[test]
fn an_import_in_place_waits_while_the_database_has_no_room() {
    let ground = Ground::new();
    let all: Vec<Made> = (0..300).map(|n| made(&format!("item-{n}"), &[])).collect();
    for made in &all {
        ground.put(made, Compression::None);
    }
    let pages = |most: Option<i64>| {
        let set = ground.farm.database.write_blocking::<_, Error>(move |tx| {
            let now: i64 = tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            let most = most.unwrap_or(now);
            tx.query_row(&format!("PRAGMA max_page_count = {most}"), [], |row| row.get::<_, i64>(0))?;
            Ok(())
        });
        set.unwrap();
    };
    let id = ground.begin(ground.in_place());
    pages(None);
    let halt = ground.halt();
    std::thread::scope(|scope| {
        scope.spawn(|| ground.go_on(id, &halt));
        until("it should wait", || ground.farm.imports.waits.of(id).is_some());
        pages(Some(1 << 30));
    });
    let ended = ground.show(id);
    assert_eq!((ended.summary.state, ended.summary.taken), (ImportState::Done, 300), "{ended:?}");
    assert!(all.iter().all(|made| ground.is_published(made)));
}

#[test]
fn an_import_in_place_that_is_stopped_in_the_middle_goes_on() {
    let ground = Ground::new();
    let all: Vec<Made> = (0..250).map(|n| made(&format!("item-{n}"), &[])).collect();
    for made in &all {
        ground.put(made, Compression::None);
    }
    let id = ground.begin(ground.in_place());
    let halt = ground.halt();
    std::thread::scope(|scope| {
        scope.spawn(|| ground.go_on(id, &halt));
        until("something should be taken", || ground.show(id).summary.taken > 0);
        ground.farm.stop();
    });
    ground.farm.stopping.send_replace(false);
    if ground.show(id).summary.state == ImportState::Running {
        ground.go_on(id, &ground.halt());
    }
    let ended = ground.show(id);
    assert_eq!((ended.summary.state, ended.summary.refused), (ImportState::Done, 0), "{ended:?}");
    assert_eq!(ended.summary.taken, 250, "something was taken twice, or not at all");
    assert!(all.iter().all(|made| ground.is_published(made)));
}
