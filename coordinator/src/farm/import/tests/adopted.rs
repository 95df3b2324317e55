//! Files that are used where they lie: they go elsewhere before anybody has read them, and are not there for a while.

use super::*;
use crate::config::{Gib, LocationConfig, PlaceConfig};
use crate::farm::outputs;
use crate::storage::Kind;

impl Ground {
    fn id(&self, made: &Made) -> i64 {
        let id = self.farm.database.read_blocking(|sql| paths::find(sql, &made.info.store_path));
        id.unwrap().unwrap()
    }

    fn adopted(&self) -> String {
        let places = self.farm.storage.places().all();
        places.iter().find(|place| place.kind == Kind::Adopted).unwrap().name.clone()
    }

    fn start_move(&self) {
        self.runtime.block_on(self.farm.start_move(&self.adopted(), None)).unwrap();
    }

    fn until_moving(&self, what: &str, holds: impl Fn(&drover_wire::storage::Moving) -> bool) {
        let name = self.adopted();
        until(what, || {
            let places = self.runtime.block_on(self.farm.fullness()).unwrap();
            let place = places.into_iter().find(|place| place.name == name).unwrap();
            holds(&place.moving.unwrap())
        });
    }

    fn has_signature(&self, made: &Made) -> bool {
        let key = self.farm.keys.signing();
        let id = self.id(made);
        let info = self.farm.database.read_blocking(|sql| outputs::item_info(sql, Some(&key), id));
        info.unwrap().unwrap().import_signature.is_some()
    }

    fn file(&self, made: &Made) -> std::path::PathBuf {
        self.folder.path().join("nar/none").join(made.info.store_path.base_name())
    }

    fn break_nar(&self, made: &Made) {
        let mut bytes = std::fs::read(self.file(made)).unwrap();
        bytes[100] ^= 1;
        std::fs::write(self.file(made), bytes).unwrap();
    }
}

#[test]
fn what_is_moved_before_it_was_read_is_read_first() {
    let ground = Ground::new();
    let below = made("below", &[]);
    let top = made("top", &[&below]);
    let nar = Node::file("a script").to_nar();
    let info = NarInfo {
        store_path: path::text("script", b"a script", &[]).unwrap(),
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        deriver: None,
        ..made("script", &[]).info
    };
    let source = Made { info, nar };
    let rotten = made("rotten", &[]);
    ground.put(&top, Compression::Gzip);
    for made in [&below, &source, &rotten] {
        ground.put(made, Compression::None);
    }
    ground.break_nar(&rotten);
    assert_eq!(ground.import(ground.in_place()).summary.taken, 4);
    assert!(ground.is_unread(&top) && !ground.has_signature(&top));
    ground.start_move();
    ground.until_moving("the folder should be empty", |moving| moving.ended_at.is_some());
    for made in [&below, &top, &source] {
        assert!(ground.is_published(made) && ground.has_signature(made), "{}", made.info.store_path);
    }
    assert!(!ground.is_held(&rotten) && !ground.is_published(&rotten));
    let kind = ground.farm.database.read_blocking::<_, Error>(|sql| {
        Ok(sql.query_row("SELECT kind, method FROM items WHERE path = ?1", [ground.id(&source)], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
        })?)
    });
    assert_eq!(kind.unwrap(), ("source".to_owned(), Some("text".to_owned())));
}

#[test]
fn a_folder_within_that_is_empty_takes_nothing_from_the_public_nor_is_it_emptied() {
    let ground = Ground::new();
    let (one, other) = (made("one", &[]), made("other", &[]));
    ground.put(&one, Compression::None);
    ground.put(&other, Compression::Gzip);
    ground.import(ground.in_place());
    // A disk of its own is mounted there, or not.
    let (there, away) = (ground.folder.path().join("nar/none"), ground.folder.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    ground.read_all();
    assert!(ground.is_published(&one) && ground.is_unread(&one) && !ground.is_unread(&other));
    std::fs::create_dir(&there).unwrap();
    ground.read_all();
    assert!(ground.is_published(&one) && ground.is_unread(&one));
    ground.start_move();
    ground.until_moving("one should be moved, and one not", |moving| moving.moved == 1 && moving.failed == 1);
    assert!(ground.is_published(&one) && ground.is_unread(&one));
    std::fs::remove_dir(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    ground.start_move();
    ground.until_moving("the folder should be empty", |moving| moving.ended_at.is_some());
    assert!(ground.is_published(&one) && ground.has_signature(&one));
}

#[test]
fn who_needs_what_cannot_be_read_now_is_told_to_wait_and_gets_it_later() {
    let ground = Ground::new();
    let (one, other) = (made("one", &[]), made("other", &[]));
    for made in [&one, &other] {
        ground.put(made, Compression::None);
    }
    ground.import(ground.in_place());
    let (there, away) = (ground.folder.path().join("nar/none"), ground.folder.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let all = vec![ground.id(&one), ground.id(&other)];
    let read = || ground.runtime.block_on(ground.farm.read_soon(all.clone()));
    let refused = read().unwrap_err();
    assert!(matches!(&refused, Error::NotYet(why) if why.starts_with("2 ")), "{refused}");
    std::fs::rename(&away, &there).unwrap();
    // Many at once are served by the same readings.
    let several: Vec<_> = (0..20)
        .map(|_| {
            let (farm, all) = (Arc::clone(&ground.farm), all.clone());
            ground.runtime.spawn(async move { farm.read_soon(all).await })
        })
        .collect();
    for one in several {
        ground.runtime.block_on(one).unwrap().unwrap();
    }
    assert!(ground.has_signature(&one) && ground.has_signature(&other));
}

#[test]
fn a_file_that_is_about_to_be_removed_is_not_taken_over_again() {
    let ground = Ground::new();
    let (one, other) = (made("one", &[]), made("other", &[]));
    for made in [&one, &other] {
        ground.put(made, Compression::None);
    }
    ground.import(NewImport { paths: vec![other.info.store_path.clone()], ..ground.in_place() });
    let name = format!("nar/none/{}", one.info.store_path.base_name());
    let note = |name: String, adds: bool| {
        let place = ground.farm.storage.places().named(&ground.adopted()).unwrap().id;
        let noted = ground.farm.database.write_blocking::<_, Error>(move |tx| {
            Ok(match adds {
                true => tx.execute("INSERT INTO leftovers VALUES (?1, ?2, ?3)", (place, name, i64::MAX))?,
                false => tx.execute("DELETE FROM leftovers WHERE place = ?1 AND name = ?2", (place, name))?,
            })
        });
        assert_eq!(noted.unwrap(), 1);
    };
    note(name.clone(), true);
    let import = ground.import(ground.in_place());
    assert!(why(&import.refusals, &one).contains("about to be removed"), "{:?}", import.refusals);
    assert!(!ground.is_held(&one));
    note(name, false);
    assert_eq!(ground.import(ground.in_place()).summary.taken, 1);
    assert!(ground.is_published(&one));
}

#[test]
fn where_nars_are_put_nothing_is_used_where_it_lies() {
    let place = tempfile::tempdir().unwrap();
    let one = PlaceConfig {
        name: "one".to_owned(),
        at: LocationConfig { folder: Some(place.path().to_owned()), ..LocationConfig::default() },
        ..PlaceConfig::default()
    };
    let ground = Ground::with(Config { places: vec![one], ..Config::default() });
    for folder in [place.path().join("ab"), ground.farm.storage.root().to_owned()] {
        std::fs::create_dir_all(&folder).unwrap();
        let source = folder.canonicalize().unwrap().to_str().unwrap().to_owned();
        let import = ground.import(NewImport { source, ..ground.in_place() });
        assert_eq!(import.summary.state, ImportState::Failed);
        assert!(import.summary.error.as_ref().unwrap().contains("puts nars"), "{:?}", import.summary);
    }
}

#[test]
fn an_import_waits_for_a_place_that_is_away_and_goes_on_when_it_is_back() {
    let place = tempfile::tempdir().unwrap();
    let one = PlaceConfig {
        name: "one".to_owned(),
        at: LocationConfig { folder: Some(place.path().join("one")), ..LocationConfig::default() },
        ..PlaceConfig::default()
    };
    let full = PlaceConfig { name: "state".to_owned(), capacity_gib: Some(Gib(0)), ..PlaceConfig::default() };
    let ground = Ground::with(Config { places: vec![one, full], ..Config::default() });
    let made = made("one", &[]);
    ground.put(&made, Compression::Zstd);
    let (there, away) = (place.path().join("one"), place.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let (id, halt) = (ground.begin(ground.terms()), ground.halt());
    std::thread::scope(|scope| {
        scope.spawn(|| ground.go_on(id, &halt));
        let why = Deadline::after(LONG).ask(|| ground.farm.imports.waits.of(id)).expect("it should wait");
        assert!(why.contains("away") && why.contains("mounted"), "{why}");
        assert!(!there.exists(), "something was put where no disk is mounted");
        std::fs::rename(&away, &there).unwrap();
    });
    assert_eq!(ground.show(id).summary.state, ImportState::Done);
    assert!(ground.is_published(&made));
}
