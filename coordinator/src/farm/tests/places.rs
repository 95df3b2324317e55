//! Places: which of them takes a nar, what lies in them when something goes wrong, and how one is emptied.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drover_os::Deadline;
use drover_store::Compression;
use drover_wire::storage::PlaceSummary;

use super::*;
use crate::config::{Gib, LocationConfig, PlaceConfig, Placement};
use crate::farm::places::Placed;
use crate::farm::{OpenError, PlaceError, files, now, sql};
use crate::storage::NarFile;

/// A farm with two folders beside the state folder, of which each takes so many bytes.
struct Two {
    runtime: Runtime,
    farm: Option<Arc<Farm>>,
    config: Config,
    folder: tempfile::TempDir,
}

/// How large the nars of these tests are, compressed; they cannot be compressed.
const SIZE: u64 = 50_000;

impl Two {
    fn new(capacities: [Option<u64>; 2], placement: Placement) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, capacity: Option<u64>| PlaceConfig {
            name: name.to_owned(),
            at: LocationConfig { folder: Some(folder.path().join(name)), ..LocationConfig::default() },
            capacity_gib: capacity.map(Gib),
            ..PlaceConfig::default()
        };
        let full =
            PlaceConfig { name: "state".to_owned(), capacity_gib: Some(Gib(0)), ..PlaceConfig::default() };
        let config = Config {
            state: folder.path().join("state"),
            disk_reserve_mib: 0,
            places: vec![place("one", capacities[0]), place("two", capacities[1]), full],
            placement,
            ..Config::default()
        };
        let mut two = Self { runtime: Runtime::new().unwrap(), farm: None, config, folder };
        two.open().unwrap();
        two
    }

    fn open(&mut self) -> Result<(), OpenError> {
        self.farm = None;
        let deadline = Instant::now() + Duration::from_secs(30);
        let _inside = self.runtime.enter();
        loop {
            match Farm::open(self.config.clone()) {
                // Threads of the farm before may have it in their hands for a moment.
                Err(OpenError::Storage(_) | OpenError::Place(PlaceError::Lock { .. }))
                    if Instant::now() < deadline =>
                {
                    thread::yield_now();
                }
                Err(error) => return Err(error),
                Ok(farm) => {
                    self.farm = Some(farm);
                    return Ok(());
                }
            }
        }
    }

    fn farm(&self) -> &Arc<Farm> {
        self.farm.as_ref().unwrap()
    }

    /// The compressed nar of an item that has no second, and its file.
    fn staged(&self, n: u8) -> (StorePath, Vec<u8>, PathBuf) {
        let mut word = u64::from(n) + 1;
        let random = std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 33) as u8
        });
        let nar = drover_store::nar::Node::file(random.take(SIZE as usize).collect::<Vec<u8>>()).to_nar();
        let path = drover_store::path::text(&format!("item-{n}"), b"", &[]).unwrap();
        let file = self.farm().storage.fresh_upload();
        std::fs::write(&file, zstd::encode_all(&nar[..], 1).unwrap()).unwrap();
        (path, nar, file)
    }

    fn put(&self, n: u8) -> Result<Placed, Error> {
        let (path, _, file) = self.staged(n);
        self.farm().put(&file, &path, Compression::Zstd)
    }

    /// An item, whose nar is in one of the places.
    fn hold(&self, n: u8) -> (i64, NarFile) {
        let (path, nar, staged) = self.staged(n);
        let placed = self.farm().put(&staged, &path, Compression::Zstd).unwrap();
        let file = placed.file.clone();
        let added = self.farm().database.write_blocking::<_, Error>(move |tx| {
            let id = paths::number(tx, &path)?;
            tx.execute(
                "INSERT INTO items VALUES (?1, 'output', NULL, ?2, ?3, ?4, NULL, zeroblob(32), ?5)",
                (
                    id,
                    drover_store::Sha256Hash::of(&nar).as_bytes(),
                    sql(nar.len() as u64),
                    sql(placed.file.size),
                    sql(now()),
                ),
            )?;
            files::add(tx, id, &placed.file)?;
            Ok(id)
        });
        (added.unwrap(), file)
    }

    fn file_of(&self, item: i64) -> NarFile {
        self.farm().database.read_blocking::<_, Error>(|sql| files::of(sql, item)).unwrap().remove(0)
    }

    fn name_of(&self, place: i64) -> String {
        self.farm().storage.places().get(place).unwrap().name.clone()
    }

    fn fullness(&self, name: &str) -> PlaceSummary {
        let all = self.runtime.block_on(self.farm().fullness()).unwrap();
        all.into_iter().find(|place| place.name == name).unwrap()
    }

    /// What lies in a place beside what says that it is one.
    fn lie(&self, name: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in std::fs::read_dir(self.folder.path().join(name)).unwrap() {
            let folder = folder.unwrap().path();
            if folder.is_dir() {
                found.extend(std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
            }
        }
        found
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let held = Deadline::after(Duration::from_secs(60)).ask(|| holds().then_some(()));
        assert!(held.is_some(), "{what}");
    }

    fn start_move(&self, from: &str, to: Option<&str>) -> Result<(), Error> {
        self.runtime.block_on(self.farm().start_move(from, to))
    }
}

#[test]
fn in_order_the_first_place_is_filled_before_the_second_is_used() {
    let two = Two::new([Some(SIZE * 2), Some(SIZE * 10)], Placement::InOrder);
    let places: Vec<String> = (0..3).map(|n| two.name_of(two.hold(n).1.place)).collect();
    assert_eq!(places, ["one", "two", "two"]);
}

#[test]
fn the_place_with_most_room_takes_a_nar() {
    let two = Two::new([Some(SIZE * 3), Some(SIZE * 4)], Placement::MostFree);
    let places: Vec<String> = (0..4).map(|n| two.name_of(two.hold(n).1.place)).collect();
    assert_eq!(places[..3], ["two", "one", "two"]);
    let used: u64 = ["one", "two"].iter().map(|name| two.fullness(name).bytes).sum();
    assert!(used > SIZE * 4);
}

#[test]
fn two_at_once_do_not_both_get_the_last_room_and_what_is_not_kept_gives_it_back() {
    let two = Two::new([Some(SIZE * 3 / 2), Some(0)], Placement::InOrder);
    let first = two.put(0).unwrap();
    let second = two.put(1);
    assert!(matches!(second, Err(Error::StorageFull(_))), "{second:?}");
    drop(first);
    two.put(1).unwrap();
}

#[test]
fn what_finds_no_room_stays_where_it_was() {
    let two = Two::new([Some(10), Some(0)], Placement::MostFree);
    let (path, _, file) = two.staged(0);
    assert!(matches!(two.farm().put(&file, &path, Compression::Zstd), Err(Error::StorageFull(_))));
    assert!(file.exists());
    assert!(!two.farm().room_for(SIZE).unwrap());
    assert!(two.farm().room_for(5).unwrap());
}

#[test]
fn a_reserve_is_left_to_others() {
    let mut two = Two::new([None, Some(0)], Placement::InOrder);
    two.config.places[0].reserve_gib = Some(Gib(u64::MAX / 2));
    two.open().unwrap();
    assert!(matches!(two.put(0), Err(Error::StorageFull(_))));
}

#[test]
fn what_was_put_and_belongs_to_nothing_goes_at_once_or_at_the_next_start() {
    let mut two = Two::new([None, None], Placement::InOrder);
    let (kept, file) = two.hold(0);
    drop(two.put(1).unwrap());
    two.until("a file that belongs to nothing should go", || two.lie("one").len() == 1);
    // As if the coordinator had been killed between the file and its row.
    let left = two.folder.path().join("one/zz/left");
    let one = file.place;
    let noted = two.farm().database.write_blocking::<_, Error>(move |tx| {
        Ok(tx.execute("INSERT INTO leftovers VALUES (?1, 'zz/left', 1)", [one])?)
    });
    assert_eq!(noted.unwrap(), 1);
    std::fs::create_dir(left.parent().unwrap()).unwrap();
    std::fs::write(&left, "whole, or not").unwrap();
    std::fs::write(left.with_extension("new"), "not whole").unwrap();
    assert_eq!(two.lie("one").len(), 3);
    two.open().unwrap();
    two.until("a file from before should go", || two.lie("one").len() == 1);
    assert_eq!(two.file_of(kept), file);
}

#[test]
fn a_second_file_of_the_same_name_does_not_touch_the_first() {
    let two = Two::new([None, None], Placement::InOrder);
    let (item, file) = two.hold(0);
    let before = std::fs::read(two.folder.path().join("one").join(&file.name)).unwrap();
    let again = two.put(0).unwrap();
    assert_ne!(again.file.name, file.name);
    drop(again);
    two.until("the second should go", || two.lie("one").len() == 1);
    assert_eq!(std::fs::read(two.folder.path().join("one").join(&two.file_of(item).name)).unwrap(), before);
}

#[test]
fn a_place_is_emptied_to_where_it_was_said_and_its_old_files_stay_for_those_who_read_them() {
    let two = Two::new([None, None], Placement::InOrder);
    let held: Vec<(i64, NarFile)> = (0..10).map(|n| two.hold(n)).collect();
    two.start_move("one", Some("two")).unwrap();
    two.until("the place should be empty", || {
        two.fullness("one").moving.is_some_and(|moving| moving.ended_at.is_some())
    });
    for (item, old) in &held {
        let new = two.file_of(*item);
        assert_eq!(two.name_of(new.place), "two");
        let [old, new] = [("one", old), ("two", &new)]
            .map(|(place, file)| std::fs::read(two.folder.path().join(place).join(&file.name)).unwrap());
        assert!(old == new);
    }
    let (one, moved) = (two.fullness("one"), two.fullness("two"));
    assert_eq!((one.files, one.bytes, one.open), (0, 0, false));
    assert_eq!((moved.files, one.moving.unwrap().moved), (10, 10));
    assert_eq!(two.name_of(two.hold(99).1.place), "two", "nothing new goes to a place that is emptied");
}

#[test]
fn a_place_that_was_being_emptied_is_emptied_after_a_restart() {
    let mut two = Two::new([None, Some(SIZE * 9 / 2)], Placement::InOrder);
    for n in 0..10 {
        two.hold(n);
    }
    two.start_move("one", None).unwrap();
    two.until("some should be moved, and no room be left", || {
        two.fullness("one").moving.is_some_and(|moving| moving.moved == 4 && moving.failed == 6)
    });
    let moving = two.fullness("one").moving.unwrap();
    assert!(moving.error.unwrap().contains("full") && moving.ended_at.is_none());
    two.config.places[1].capacity_gib = None;
    two.open().unwrap();
    two.until("the rest should go", || two.fullness("one").files == 0);
    assert_eq!((two.fullness("two").files, two.fullness("one").moving.unwrap().moved), (10, 10));
}

#[test]
fn what_is_not_what_it_should_be_is_not_moved_but_given_up_so_that_it_can_be_made_again() {
    let two = Two::new([None, None], Placement::InOrder);
    let (good, _) = two.hold(0);
    let (rotten, file) = two.hold(1);
    let at = |file: &NarFile| two.folder.path().join("one").join(&file.name);
    let mut bytes = std::fs::read(at(&file)).unwrap();
    bytes[SIZE as usize / 2] ^= 1;
    std::fs::write(at(&file), bytes).unwrap();
    let (gone, file) = two.hold(2);
    std::fs::remove_file(at(&file)).unwrap();
    let (short, file) = two.hold(3);
    std::fs::write(at(&file), "short").unwrap();
    // A set wants the first of the three.
    let wanted = two.farm().database.write_blocking::<_, Error>(move |tx| {
        let maker = paths::number(tx, &drover_store::path::text("item-1.drv", b"", &[]).unwrap())?;
        wanting::derivation_of(tx, rotten, maker)?;
        wanting::set_of(tx, maker)?;
        Ok(maker)
    });
    let wanted = wanted.unwrap();
    two.start_move("one", Some("two")).unwrap();
    two.until("the place should be empty", || {
        two.fullness("one").moving.is_some_and(|moving| moving.ended_at.is_some())
    });
    assert_eq!(two.name_of(two.file_of(good).place), "two");
    assert_eq!(two.fullness("one").moving.unwrap().moved, 1);
    for item in [rotten, gone, short] {
        let left = two.farm().database.read_blocking::<_, Error>(|sql| {
            let left = "SELECT (SELECT count(*) FROM items WHERE path = ?1), \
                        (SELECT count(*) FROM files WHERE item = ?1)";
            Ok(sql.query_row(left, [item], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?)
        });
        assert_eq!(left.unwrap(), (0, 0));
    }
    two.until("what was copied of it should go", || two.lie("two").len() == 1);
    let ready = two.farm().database.read_blocking::<_, Error>(|sql| {
        paths::numbers(sql, "SELECT derivation FROM builds WHERE id > ?1 AND state = 'ready'", 0)
    });
    assert_eq!(ready.unwrap(), [wanted]);
}

#[test]
fn a_disk_that_is_away_loses_nothing_and_others_take_what_comes() {
    let two = Two::new([None, None], Placement::InOrder);
    let (item, file) = two.hold(0);
    let (there, away) = (two.folder.path().join("one"), two.folder.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    // As it is where a disk was mounted.
    std::fs::create_dir(&there).unwrap();
    assert_eq!(two.name_of(two.hold(1).1.place), "two");
    assert!(two.lie("one").is_empty());
    two.start_move("one", Some("two")).unwrap();
    two.until("it should not be moved", || {
        two.fullness("one").moving.is_some_and(|moving| moving.failed == 1)
    });
    let error = two.fullness("one").moving.unwrap().error.unwrap();
    assert!(error.contains("item-0") && error.contains("mounted"), "{error}");
    assert_eq!(two.file_of(item), file);
    std::fs::remove_dir(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    two.start_move("one", Some("two")).unwrap();
    two.until("it should be moved", || two.name_of(two.file_of(item).place) == "two");
}

#[test]
fn when_all_places_are_away_that_is_said_and_not_that_they_are_full() {
    let two = Two::new([None, None], Placement::InOrder);
    for name in ["one", "two"] {
        std::fs::remove_file(two.folder.path().join(name).join("drover-place")).unwrap();
    }
    let error = two.put(0).unwrap_err();
    assert!(matches!(error, Error::Store(_)) && error.to_string().contains("mounted"), "{error}");
}

#[test]
fn a_place_is_not_empty_while_a_file_is_on_its_way_there_and_none_sets_out_once_it_is_emptied() {
    let two = Two::new([None, None], Placement::InOrder);
    let on_its_way = two.put(0).unwrap();
    let one = two.farm().storage.places().named("one").unwrap();
    two.start_move("one", Some("two")).unwrap();
    two.farm().move_all().unwrap();
    assert_eq!(two.fullness("one").moving.unwrap().ended_at, None);
    let (path, ..) = two.staged(1);
    let late = two.farm().expect(&one, &path, Compression::Zstd, SIZE, false).unwrap();
    assert!(late.is_none(), "{late:?}");
    drop(on_its_way);
    two.farm().move_all().unwrap();
    assert!(two.fullness("one").moving.unwrap().ended_at.is_some());
}

#[test]
fn leftovers_in_a_place_that_is_away_hold_up_nobody_and_those_that_may_not_go_yet_are_waited_for() {
    let two = Two::new([None, None], Placement::InOrder);
    let [one, other] = ["one", "two"].map(|name| two.farm().storage.places().named(name).unwrap().id);
    std::fs::rename(two.folder.path().join("one"), two.folder.path().join("away")).unwrap();
    let late = sql(now()) + 3_600_000;
    let noted = two.farm().database.write_blocking::<_, Error>(move |tx| {
        for (place, name, since) in
            [(one, "aa/first", 1), (one, "aa/second", 2), (other, "aa/third", 3), (other, "aa/late", late)]
        {
            tx.execute("INSERT INTO leftovers VALUES (?1, ?2, ?3)", (place, name, since))?;
        }
        Ok(())
    });
    noted.unwrap();
    let file = |name: &str| two.folder.path().join("two").join(name);
    std::fs::create_dir(file("aa")).unwrap();
    for name in ["aa/third", "aa/late"] {
        std::fs::write(file(name), "left").unwrap();
    }
    let again = two.farm().remove_leftovers().unwrap().unwrap();
    assert!(again <= Duration::from_secs(60), "{again:?}");
    assert!(!file("aa/third").exists() && file("aa/late").exists());
    std::fs::rename(two.folder.path().join("away"), two.folder.path().join("one")).unwrap();
    let again = two.farm().remove_leftovers().unwrap().unwrap();
    assert!(again > Duration::from_secs(60), "{again:?}");
    let left = two.farm().database.read_blocking::<_, Error>(|sql| {
        Ok(sql.query_row("SELECT count(*) FROM leftovers", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(left.unwrap(), 1);
}

#[test]
fn leftovers_that_may_go_are_found_without_a_look_at_the_others() {
    let two = Two::new([None, None], Placement::InOrder);
    let plan = two.farm().database.read_blocking::<_, Error>(|sql| {
        let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {}", crate::farm::leftovers::DUE))?;
        let steps = plan.query_map((0, 0, "", 0, 1), |row| row.get::<_, String>(3))?;
        Ok(steps.collect::<rusqlite::Result<Vec<_>>>()?)
    });
    let plan = plan.unwrap();
    assert!(plan[0].contains("leftovers_by_time"), "{plan:?}");
    assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
}

#[test]
fn a_place_cannot_have_the_name_or_the_folder_of_what_an_import_took_over() {
    let mut two = Two::new([None, None], Placement::InOrder);
    let taken_over = two.folder.path().join("over");
    let location = taken_over.display().to_string();
    let added = two.farm().database.write_blocking::<_, Error>(move |tx| {
        let insert = "INSERT INTO places (name, kind, location) VALUES ('adopted-9', 'adopted', ?1)";
        Ok(tx.execute(insert, [location])?)
    });
    added.unwrap();
    let config = two.config.clone();
    two.config.places[0].name = "adopted-9".to_owned();
    let error = two.open().unwrap_err();
    assert!(matches!(&error, OpenError::Place(PlaceError::Adopted { .. })), "{error}");
    two.config = config.clone();
    two.config.places[0].at.folder = Some(taken_over.join("within"));
    let error = two.open().unwrap_err();
    assert!(matches!(&error, OpenError::Place(PlaceError::Within { .. })), "{error}");
    // Nothing of that was noted.
    two.config = config;
    two.open().unwrap();
    assert_eq!(two.fullness("adopted-9").kind, crate::storage::Kind::Adopted);
}

#[test]
fn what_cannot_be_emptied_is_said() {
    let two = Two::new([None, None], Placement::InOrder);
    assert!(matches!(two.start_move("three", None), Err(Error::NotFound { .. })));
    assert!(matches!(two.start_move("one", Some("three")), Err(Error::NotFound { .. })));
    assert!(matches!(two.start_move("one", Some("one")), Err(Error::BadRequest(_))));
    two.start_move("one", None).unwrap();
    assert!(matches!(two.start_move("two", Some("one")), Err(Error::Conflict(_))));
    two.runtime.block_on(two.farm().stop_move("one")).unwrap();
    assert!(two.fullness("one").open);
    let again = two.runtime.block_on(two.farm().stop_move("one"));
    assert!(matches!(again, Err(Error::Conflict(_))));
}

#[test]
fn a_place_with_nars_cannot_be_left_out_nor_be_another_folder() {
    let mut two = Two::new([None, None], Placement::InOrder);
    two.hold(0);
    let config = two.config.clone();
    two.config.places.remove(0);
    let error = two.open().unwrap_err();
    assert!(
        matches!(&error, OpenError::Place(PlaceError::Unknown { name, files: 1, .. }) if name == "one"),
        "{error}"
    );

    two.config = config.clone();
    // A disk that is not mounted.
    two.config.places[0].at.folder = Some(two.folder.path().join("elsewhere"));
    let error = two.open().unwrap_err();
    assert!(matches!(&error, OpenError::Place(PlaceError::NotMounted { .. })), "{error}");
    two.config.places[0].at.folder = Some(two.folder.path().join("two"));
    two.config.places[1].at.folder = Some(two.folder.path().join("three"));
    let error = two.open().unwrap_err();
    assert!(matches!(&error, OpenError::Place(PlaceError::Other { other, .. }) if other == "two"), "{error}");
    // Moved as a whole, it is the same place.
    two.config = config;
    let at = |name: &str| -> PathBuf { Path::new(two.folder.path()).join(name) };
    std::fs::rename(at("one"), at("moved")).unwrap();
    two.config.places[0].at.folder = Some(at("moved"));
    two.open().unwrap();
    // And an empty one can be left out.
    two.config.places.remove(1);
    two.open().unwrap();
}

#[test]
fn what_comes_and_goes_is_the_growth_of_a_place() {
    let two = Two::new([Some(SIZE * 100), None], Placement::InOrder);
    two.hold(0);
    let one = two.fullness("one");
    assert_eq!((one.files, one.growth_7_days, one.growth_30_days), (1, one.bytes as i64, one.bytes as i64));
    let days = one.full_in_days.unwrap();
    assert!((98.0..100.0).contains(&days), "{days}");
    assert_eq!(one.room, Some(SIZE * 100 - one.bytes));
    assert_eq!(two.fullness("two").full_in_days, None);
}
