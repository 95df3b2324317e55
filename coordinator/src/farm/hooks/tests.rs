//! What was there before a hook was switched on, and what mirrors have, whatever happens to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use drover_store::narinfo::NarInfo;
use drover_store::{Sha256Hash, StorePath};
use drover_wire::hook::HookKind;
use drover_wire::key::KeyRotation;

use super::queue::Run;
use super::*;
use crate::config::{Gib, HookConfig, LocationConfig};
use crate::farm::error::Error;
use crate::farm::{Farm, OpenError, Tx, paths, publish};

struct World {
    folder: tempfile::TempDir,
    config: Config,
    farm: Option<Arc<Farm>>,
}

fn item(n: i64) -> StorePath {
    drover_store::path::text(&format!("item-{n}"), b"", &[]).unwrap()
}

fn into_folder(folder: PathBuf) -> HookConfig {
    HookConfig {
        kind: Some(HookKind::Push),
        to: LocationConfig { folder: Some(folder), ..LocationConfig::default() },
        ..HookConfig::default()
    }
}

fn off(hook: HookConfig) -> HookConfig {
    HookConfig { enabled: Some(false), ..hook }
}

fn failure(result: Result<(), Failure>) -> String {
    result.unwrap_err().to_string()
}

impl World {
    fn new(hooks: &[(&str, HookConfig)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().join("state"), disk_reserve_mib: 0, ..Config::default() };
        let mut world = Self { folder, config, farm: None };
        world.start_with(hooks);
        world
    }

    fn mirror(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The coordinator starts, with these hooks beside those that are always there.
    fn start_with(&mut self, hooks: &[(&str, HookConfig)]) {
        self.config.hooks = hooks.iter().map(|(name, hook)| ((*name).to_owned(), hook.clone())).collect();
        drop(self.farm.take());
        let opened = loop {
            match Farm::open(self.config.clone()) {
                // A thread of the one before may hold it for a moment longer.
                Err(OpenError::Storage(_)) => std::thread::yield_now(),
                opened => break opened,
            }
        };
        self.farm = Some(opened.unwrap());
    }

    fn farm(&self) -> &Arc<Farm> {
        self.farm.as_ref().unwrap()
    }

    fn lane(&self, name: &str) -> &Arc<Lane> {
        self.farm().hooks.queued().find(|lane| lane.hook.name.as_str() == name).unwrap()
    }

    fn write<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx<'_>) -> Result<R, Error> + Send + 'static,
    ) -> R {
        self.farm().database.write_blocking(job).unwrap()
    }

    /// An output with a nar of these bytes is held, in the place of what was held of it.
    fn hold(&self, n: i64, nar: &'static [u8]) -> i64 {
        self.write(move |tx| {
            let id = paths::number(tx, &item(n))?;
            publish::take_back(tx, id)?;
            let hash = Sha256Hash::of(nar);
            tx.execute(
                "INSERT OR REPLACE INTO items (path, kind, nar_hash, nar_size, file_size, export_hash, added_at) \
                 VALUES (?1, 'output', ?2, 96, ?3, x'', 0)",
                (id, hash.as_bytes(), nar.len() as i64),
            )?;
            tx.execute("INSERT OR REPLACE INTO contents VALUES (?1, ?2)", (id, nar))?;
            Ok(id)
        })
    }

    fn publish(&self, n: i64, nar: &'static [u8]) -> i64 {
        let id = self.hold(n, nar);
        assert_eq!(self.farm().publish_item(id).unwrap(), publish::Publication::Published);
        id
    }

    /// What is published, and nothing is under way: narinfos as the public has them, by their names.
    fn published(&self) -> BTreeMap<String, String> {
        let read = self.farm().database.read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare("SELECT path, narinfo FROM published")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let rows = rows.collect::<rusqlite::Result<Vec<(i64, Vec<u8>)>>>()?;
            rows.into_iter()
                .map(|(id, narinfo)| {
                    let name = format!("{}.narinfo", paths::path(sql, id)?.hash_part());
                    Ok((name, publish::text(narinfo)?))
                })
                .collect()
        });
        read.unwrap()
    }

    fn runs(&self, hook: &str) -> i64 {
        self.farm().database.read_blocking(|sql| queue::waiting(sql, hook, 1000)).unwrap()
    }

    /// Gives a hook all that it is to get, and has it done.
    fn work_off(&self, hook: &str) {
        while self.farm().give_backlog().unwrap() == publish::Given::Some {}
        work_off(self.farm(), hook);
    }

    fn push(&self, hook: &str, id: i64) -> Result<(), Failure> {
        let mut run = Run::for_test(1);
        run.path = Some(id);
        run::run(self.farm(), self.lane(hook), &run)
    }
}

/// The narinfos of a mirror, by their names; the nars that they name must be there.
fn narinfos(mirror: &std::path::Path) -> BTreeMap<String, String> {
    let names = fs::read_dir(mirror).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let all = names.filter(|name| name.ends_with(".narinfo")).map(|name| {
        let text = fs::read_to_string(mirror.join(&name)).unwrap();
        let info = NarInfo::parse(text.as_bytes()).unwrap();
        for url in &info.urls {
            let nar = fs::read(mirror.join(&url.url)).unwrap();
            assert_eq!(Sha256Hash::of(&nar), info.nar_hash, "{name}");
        }
        (name, text)
    });
    all.collect()
}

#[test]
fn what_was_built_while_nothing_was_published_is_published_whenever_that_is_switched_on() {
    let publishing = |enabled| ("publish", HookConfig { enabled: Some(enabled), ..HookConfig::default() });
    let mut world = World::new(&[publishing(true)]);
    world.hold(1, b"before");
    world.start_with(&[publishing(false)]);
    world.hold(2, b"while");
    for _ in 0..2 {
        world.start_with(&[publishing(true)]);
        world.work_off("publish");
        assert_eq!(world.published().len(), 2);
    }
    world.start_with(&[publishing(false)]);
    world.hold(3, b"again");
    world.start_with(&[publishing(true)]);
    world.work_off("publish");
    assert_eq!(world.published().len(), 3);
    assert_eq!(world.runs("publish"), 0);
}

#[test]
fn a_mirror_has_what_was_published_before_it_was_there_and_nothing_is_done_twice_for_it() {
    let mut world = World::new(&[]);
    world.publish(1, b"first");
    world.publish(2, b"second");
    let (near, far) = (world.mirror("near"), world.mirror("far"));
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    world.work_off("mirror");
    assert_eq!(narinfos(&near), world.published());
    // Switched on all the time, it gets what is new alone.
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    assert_eq!(world.farm().give_backlog().unwrap(), publish::Given::Nothing);
    assert_eq!(world.runs("mirror"), 0);
    world.publish(3, b"third");
    world.work_off("mirror");
    assert_eq!(narinfos(&near), world.published());

    world.start_with(&[("mirror", off(into_folder(near.clone())))]);
    world.publish(4, b"while it was switched off");
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    world.work_off("mirror");
    assert_eq!(narinfos(&near), world.published());
    world.start_with(&[("mirror", into_folder(far.clone()))]);
    world.work_off("mirror");
    assert_eq!(narinfos(&far), world.published());
}

#[test]
fn what_is_given_from_before_goes_on_where_it_was_interrupted() {
    const MANY: i64 = 1100;
    let mut world = World::new(&[]);
    for n in 0..MANY {
        world.hold(n, b"the same");
    }
    let ids = world.write(|tx| paths_of(tx));
    for id in ids {
        world.farm().publish_item(id).unwrap();
    }
    let hooks = [("mirror", into_folder(world.mirror("near")))];
    world.start_with(&hooks);
    assert_eq!(world.farm().give_backlog().unwrap(), publish::Given::Some);
    let some = world.runs("mirror");
    assert!((1..MANY).contains(&some), "{some}");
    world.start_with(&hooks);
    world.work_off("mirror");
    assert_eq!(narinfos(&world.mirror("near")).len() as i64, MANY);
}

fn paths_of(tx: &Tx<'_>) -> Result<Vec<i64>, Error> {
    let mut select = tx.prepare("SELECT path FROM items")?;
    let rows = select.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[test]
fn when_another_key_signs_mirrors_get_what_it_signed() {
    let mut world = World::new(&[]);
    let near = world.mirror("near");
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    world.publish(1, b"first");
    world.publish(2, b"second");
    world.work_off("mirror");
    let before = narinfos(&near);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(world.farm().rotate_key(KeyRotation { after: 0, secret: None })).unwrap();
    while world.farm().sign_anew().unwrap() {}
    world.work_off("mirror");
    let after = narinfos(&near);
    assert_eq!(after, world.published());
    assert!(before.iter().all(|(name, text)| after[name] != *text));
}

#[test]
fn a_nar_of_the_same_length_with_other_contents_takes_the_place_of_the_one_before() {
    let mut world = World::new(&[]);
    let near = world.mirror("near");
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    world.publish(1, b"one content");
    world.work_off("mirror");
    let id = world.publish(1, b"and another");
    world.work_off("mirror");
    assert_eq!(narinfos(&near), world.published());

    // And where it broke off before the narinfo was there.
    let name = format!("{}.narinfo", item(1).hash_part());
    fs::remove_file(near.join(name)).unwrap();
    fs::write(near.join("nar/zstd").join(item(1).base_name()), b"something..").unwrap();
    world.push("mirror", id).unwrap();
    assert_eq!(narinfos(&near), world.published());
}

#[test]
fn nothing_is_put_into_a_folder_whose_disk_is_not_there() {
    let mut world = World::new(&[]);
    let near = world.mirror("near");
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    let id = world.publish(1, b"first");
    let elsewhere = world.mirror("elsewhere");
    fs::rename(&near, &elsewhere).unwrap();
    // Whether the folder below is there, or not, and after another start, too.
    for _ in 0..2 {
        let error = failure(world.push("mirror", id));
        assert!(error.contains("is its disk mounted?") && error.contains("near"), "{error}");
        fs::create_dir_all(&near).unwrap();
        let error = failure(world.push("mirror", id));
        assert!(error.contains("is its disk mounted?"), "{error}");
        assert_eq!(fs::read_dir(&near).unwrap().count(), 0);
        fs::remove_dir(&near).unwrap();
        world.start_with(&[("mirror", into_folder(near.clone()))]);
    }
    fs::rename(&elsewhere, &near).unwrap();
    world.push("mirror", id).unwrap();
    assert_eq!(narinfos(&near), world.published());
}

#[test]
fn a_folder_that_cannot_be_made_at_the_start_is_made_as_soon_as_it_can() {
    let mut world = World::new(&[]);
    let (file, near) = (world.mirror("file"), world.mirror("file/near"));
    fs::write(&file, "no folder").unwrap();
    let id = world.publish(1, b"first");
    for _ in 0..2 {
        world.start_with(&[("mirror", into_folder(near.clone()))]);
        assert!(failure(world.push("mirror", id)).contains("file/near"));
    }
    fs::remove_file(&file).unwrap();
    world.work_off("mirror");
    assert_eq!(narinfos(&near), world.published());
}

#[test]
fn what_a_disk_keeps_in_reserve_is_not_filled_by_a_mirror() {
    let mut world = World::new(&[]);
    let near = world.mirror("near");
    let much = HookConfig { reserve_gib: Some(Gib(1 << 59)), ..into_folder(near.clone()) };
    world.start_with(&[("mirror", much)]);
    let id = world.publish(1, b"first");
    let error = failure(world.push("mirror", id));
    assert!(error.contains("reserve-gib") && error.contains("near"), "{error}");
    assert!(!near.join("nar").exists() && narinfos(&near).is_empty());
    world.start_with(&[("mirror", into_folder(near.clone()))]);
    world.push("mirror", id).unwrap();
    assert_eq!(narinfos(&near), world.published());
}

#[cfg(feature = "s3")]
#[test]
fn a_bucket_that_does_not_answer_has_no_more_time_than_the_hook_and_one_door_for_all_runs() {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            open.push(stream);
        }
    });
    let mut world = World::new(&[]);
    let key = world.mirror("key");
    fs::write(&key, "key\n").unwrap();
    let to = LocationConfig {
        bucket: Some("s3://nars/mirror".to_owned()),
        endpoint: Some(format!("http://{address}")),
        region: Some("nowhere".to_owned()),
        access_key_file: Some(key.clone()),
        secret_key_file: Some(key),
        ..LocationConfig::default()
    };
    let far = HookConfig { kind: Some(HookKind::Push), to, seconds: Some(1), ..HookConfig::default() };
    world.start_with(&[("far", far)]);
    let id = world.publish(1, b"first");
    let error = failure(world.push("far", id));
    assert!(error.contains("longer than 1 seconds"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it was asked again when there was no time left");
    let lane = world.lane("far");
    assert_eq!(lane.hook.limit, Duration::from_secs(1));
    let Task::Push { to, reserve } = &lane.hook.task else { panic!() };
    let mirror = || lane.mirror(world.farm(), to, *reserve).unwrap();
    assert!(Arc::ptr_eq(&mirror(), &mirror()));
}
