//! Items that another server has, or says that it has, beside a small HTTP server that says what a test has it say.

mod lost;
mod order;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use drover_store::key::SecretKey;
use drover_store::narinfo::{NarInfo, Url};
use drover_store::{Compression, Sha256Hash, StorePath};

use super::*;
use crate::config::Config;
use crate::farm::depend::{self, Provided};
use crate::farm::{Shown, retention, unsql};

const RULES: &str = "
    [[sets]]
    names = '*'
    [others]
    days = 100
    unless-elsewhere = true
    [elsewhere]
    after-days = 0
";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What a server answers at an address: a status, more lines of the head, and a body, which HEAD leaves out.
#[derive(Debug, Clone)]
struct Page(u16, String, Vec<u8>);

/// Another server.
struct Other {
    url: String,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    asked: Arc<AtomicUsize>,
    key: SecretKey,
}

impl Other {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pages: Arc<Mutex<HashMap<String, Page>>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let (known, count) = (Arc::clone(&pages), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(first)) = lines.next() else { continue };
                // The head of a question ends with an empty line.
                let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
                count.fetch_add(1, Ordering::Relaxed);
                let mut words = first.split(' ');
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let found = known.lock().unwrap().get(path).cloned();
                let Page(status, head, body) = found.unwrap_or(Page(404, String::new(), Vec::new()));
                let length = if head.contains("Content-Length") {
                    String::new()
                } else {
                    format!("Content-Length: {}\r\n", body.len())
                };
                let head = format!("HTTP/1.1 {status} So\r\n{head}{length}Connection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                if method == "GET" {
                    let _ = stream.write_all(&body);
                }
            }
        });
        Self { url, pages, asked, key: SecretKey::generate().unwrap() }
    }

    fn page(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    fn ok(&self, path: &str, body: &[u8]) {
        self.page(path, Page(200, String::new(), body.to_vec()));
    }

    /// Has the item as we have it, as lzip.
    fn has(&self, n: usize, references: &[usize]) {
        self.says(&said(n, references), &self.key);
        self.ok(&format!("/nar/lzip/{}", item(n).base_name()), b"seven77");
    }

    fn says(&self, info: &NarInfo, key: &SecretKey) {
        let mut info = info.clone();
        info.sign("other", key);
        self.ok(&format!("/{}.narinfo", info.store_path.hash_part()), info.print().as_bytes());
    }

    fn loses(&self, n: usize) {
        self.pages.lock().unwrap().remove(&format!("/{}.narinfo", item(n).hash_part()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn item(n: usize) -> StorePath {
    drover_store::path::text(&format!("item-{n}"), b"", &[]).unwrap()
}

fn nar_hash(n: usize) -> Sha256Hash {
    Sha256Hash::of(item(n).base_name().as_bytes())
}

fn said(n: usize, references: &[usize]) -> NarInfo {
    NarInfo {
        store_path: item(n),
        urls: vec![Url {
            url: format!("nar/lzip/{}", item(n).base_name()),
            compression: "lzip".to_owned(),
            file_size: Some(7),
        }],
        nar_hash: nar_hash(n),
        nar_size: 96,
        references: references.iter().map(|n| item(*n)).collect(),
        deriver: None,
        system: None,
        signature: None,
    }
}

struct World {
    farm: Arc<Farm>,
    config: Config,
    other: Other,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let other = Other::start();
        let key = folder.path().join("other.pub");
        std::fs::write(&key, other.key.public().to_text()).unwrap();
        let mut retention: RetentionConfig = toml::from_str(RULES).unwrap();
        retention.elsewhere.servers = vec![format!("{}/", other.url)];
        retention.elsewhere.keys = vec![key];
        let mut config = Config {
            state: folder.path().join("state"),
            disk_reserve_mib: 0,
            narinfo_ttl_seconds: 0,
            retention,
            ..Config::default()
        };
        change(&mut config);
        Self { farm: Farm::open(config.clone()).unwrap(), config, other, _folder: folder }
    }

    fn restart(self) -> Self {
        let Self { farm, config, other, _folder: folder } = self;
        drop(farm);
        let farm = std::iter::repeat_with(|| Farm::open(config.clone())).find_map(|opened| {
            thread::yield_now();
            opened.ok()
        });
        Self { farm: farm.unwrap(), config, other, _folder: folder }
    }

    fn write<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx<'_>) -> Result<R, Error> + Send + 'static,
    ) -> R {
        self.farm.database.write_blocking(job).unwrap()
    }

    fn number(&self, select: &str, n: usize) -> Option<i64> {
        let select = select.to_owned();
        self.write(move |tx| {
            let id = paths::number(tx, &item(n))?;
            Ok(paths::numbers(tx, &select, id)?.first().copied())
        })
    }

    /// An item is here from now on, and published if it can be.
    fn comes(&self, n: usize, references: &[usize], hash: Sha256Hash) {
        let references = references.to_vec();
        let id = self.write(move |tx| {
            let id = paths::number(tx, &item(n))?;
            tx.execute(
                "INSERT INTO items (path, kind, nar_hash, nar_size, file_size, deriver, export_hash, added_at) \
                 VALUES (?1, 'output', ?2, 96, 5, NULL, x'', ?3)",
                (id, hash.as_bytes(), sql(now() - 1)),
            )?;
            tx.execute("INSERT OR IGNORE INTO contents VALUES (?1, x'0102030405')", [id])?;
            retention::forget(tx, id)?;
            for reference in references {
                let reference = paths::number(tx, &item(reference))?;
                tx.execute("INSERT INTO item_references VALUES (?1, ?2)", [id, reference])?;
            }
            depend::provide(tx, id, Provided::Held)?;
            Ok(id)
        });
        self.farm.publish_item(id).unwrap();
    }

    /// As the hook does it.
    fn publish_all(&self) {
        let all = self.write(|tx| paths::numbers(tx, "SELECT id FROM paths WHERE id > ?1", 0));
        for _ in 0..2 {
            for id in &all {
                self.farm.publish_item(*id).unwrap();
            }
        }
    }

    fn sweep(&self) -> RetentionRun {
        let run = self.farm.sweep_items().unwrap();
        self.check();
        run
    }

    fn is_here(&self, n: usize) -> bool {
        self.number("SELECT path FROM items WHERE path = ?1", n).is_some()
    }

    fn is_published(&self, n: usize) -> bool {
        self.number("SELECT path FROM published WHERE path = ?1", n).is_some()
    }

    fn provided(&self, n: usize) -> i64 {
        self.number("SELECT provided FROM paths WHERE id = ?1", n).unwrap()
    }

    fn is_announced(&self, n: usize) -> bool {
        self.number("SELECT path FROM removals WHERE path = ?1", n).is_some()
    }

    fn narinfo(&self, n: usize) -> NarInfo {
        let part = item(n).hash_part().parse().unwrap();
        let text = self.farm.shown_narinfo(part).unwrap().expect("it is published").what;
        NarInfo::parse(&text).unwrap()
    }

    /// Where requests for a nar are sent.
    fn there(&self, n: usize, compression: Compression) -> Option<String> {
        self.farm.shown_elsewhere(&item(n), compression).unwrap().map(|shown: Shown<String>| shown.what)
    }

    /// So many days pass since others were asked.
    fn days(&self, days: u64) {
        self.write(move |tx| {
            for (table, column) in
                [("redirects", "asked_at"), ("redirects", "found_at"), ("elsewhere_misses", "checked_at")]
            {
                tx.execute(&format!("UPDATE {table} SET {column} = {column} - ?1"), [sql(days * DAY_MS)])?;
            }
            Ok(())
        });
    }

    /// What is published refers to nothing that is not; what is held is said to be, and nothing else; narinfos are signed
    /// by us, and name nars that can be had.
    fn check(&self) {
        let keys = [*self.farm.keys.signing().public()].into_iter().collect();
        let all = self.write(|tx| {
            let open = "SELECT r.reference FROM published u JOIN item_references r ON r.item = u.path \
                        WHERE u.path > ?1 AND NOT EXISTS (SELECT 1 FROM published v WHERE v.path = r.reference)";
            assert!(paths::numbers(tx, open, 0)?.is_empty());
            let odd = "SELECT p.id FROM paths p WHERE p.id > ?1 AND (p.provided = 1) <> EXISTS \
                       (SELECT 1 FROM items i WHERE i.path = p.id)";
            assert!(paths::numbers(tx, odd, 0)?.is_empty());
            let all = paths::numbers(tx, "SELECT path FROM published WHERE path > ?1", 0)?;
            all.into_iter().map(|id| paths::path(tx, id)).collect::<Result<Vec<_>, _>>()
        });
        for path in all {
            let text = self.farm.shown_narinfo(path.hash_part().parse().unwrap()).unwrap().unwrap().what;
            let info = NarInfo::parse(&text).unwrap();
            info.verify(&keys).unwrap();
            for url in info.urls.iter().filter(|url| url.compression != "none") {
                let compression = url.compression.parse().unwrap();
                assert_eq!(url.url, format!("nar/{compression}/{}", path.base_name()));
                let here = self.farm.shown_nar(&path, compression).unwrap().is_some();
                assert!(here || self.farm.shown_elsewhere(&path, compression).unwrap().is_some(), "{path}");
            }
        }
    }
}

#[test]
fn what_another_server_verifiably_has_goes_and_requests_are_sent_there() {
    let world = World::new();
    world.comes(0, &[], nar_hash(0));
    world.comes(1, &[0, 1], nar_hash(1));
    world.other.has(0, &[]);
    let before = world.narinfo(0);
    let run = world.sweep();
    assert_eq!((run.asked, run.announced_elsewhere, run.redirected.items), (2, 1, 0));
    // It is announced: new narinfos name the other's nar, and those that are known hold.
    assert!(world.is_here(0) && world.is_announced(0) && !world.is_announced(1));
    let announced = world.narinfo(0);
    assert_eq!(announced.signature, before.signature);
    let lzip = format!("nar/lzip/{}", item(0).base_name());
    assert_eq!(announced.urls, [Url { url: lzip.clone(), compression: "lzip".into(), file_size: Some(7) }]);
    let own = world.farm.shown_nar(&item(0), Compression::Zstd).unwrap().unwrap();
    assert!(own.what.is_leaving);
    assert_eq!(world.there(0, Compression::Lzip), Some(format!("{}/{lzip}", world.other.url)));

    let run = world.sweep();
    // The one that it does not have is not asked for again so soon.
    assert_eq!((run.asked, run.redirected.items, run.redirected.bytes), (1, 1, 5));
    assert!(!world.is_here(0) && world.is_published(0) && world.is_here(1) && world.is_published(1));
    assert_eq!(world.provided(0), Provided::Elsewhere as i64);
    assert_eq!(world.narinfo(0), announced);
    assert!(world.farm.shown_nar(&item(0), Compression::Zstd).unwrap().is_none());
    assert_eq!(world.there(0, Compression::Lzip), Some(format!("{}/{lzip}", world.other.url)));
    let asked = world.other.asked();
    world.sweep();
    assert_eq!(world.other.asked(), asked, "what was just found is not asked for");
    world.days(8);
    assert_eq!(world.sweep().asked, 2);
    assert!(world.is_published(0));
}

#[test]
fn what_is_not_the_same_there_or_not_there_stays() {
    let world = World::new();
    for n in 0..9 {
        world.comes(n, &[], nar_hash(n));
    }
    let Other { url, key, .. } = &world.other;
    let nar = |n: usize| format!("/nar/lzip/{}", item(n).base_name());
    for n in 0..8 {
        world.other.has(n, &[]);
    }
    world.other.says(&NarInfo { nar_hash: nar_hash(8), ..said(0, &[]) }, key);
    world.other.says(&said(1, &[]), &SecretKey::generate().unwrap());
    world.other.says(&said(2, &[3]), key);
    world.other.page(&nar(3), Page(404, String::new(), Vec::new()));
    world.other.ok(&nar(4), b"eight888");
    world.other.page(&nar(5), Page(302, format!("Location: {url}{}\r\n", nar(6)), Vec::new()));
    world.other.page(&nar(6), Page(200, "Drover-Leaving: yes\r\n".to_owned(), b"seven77".to_vec()));
    let mut out = said(7, &[]);
    out.urls[0].url = "http://127.0.0.1:1/nar".to_owned();
    world.other.says(&out, key);
    for _ in 0..3 {
        let run = world.sweep();
        assert_eq!((run.announced_elsewhere, run.redirected.items), (0, 0));
    }
    for n in 0..9 {
        assert!(world.is_here(n) && !world.is_announced(n), "item-{n}");
    }
    // Item 6, when it does not leave there any more.
    world.other.ok(&nar(6), b"seven77");
    world.days(8);
    assert_eq!(world.sweep().announced_elsewhere, 1);
    assert!(world.is_announced(6));
}

#[test]
fn what_is_not_there_any_more_when_the_time_has_come_stays() {
    let world = World::new();
    world.comes(0, &[], nar_hash(0));
    let before = world.narinfo(0);
    world.other.has(0, &[]);
    world.sweep();
    assert!(world.is_announced(0));
    world.other.loses(0);
    world.sweep();
    assert!(world.is_here(0) && !world.is_announced(0));
    assert_eq!(world.narinfo(0), before);
    // Somebody may still come for the other server's.
    assert!(world.there(0, Compression::Lzip).is_some());
    world.days(8);
    world.sweep();
    assert!(world.there(0, Compression::Lzip).is_none());
}

#[test]
fn a_server_that_does_not_answer_is_no_server_that_does_not_have_it() {
    let world = World::new();
    for n in 0..40 {
        world.comes(n, &[], nar_hash(n));
    }
    world.other.has(0, &[]);
    world.sweep();
    world.sweep();
    assert!(!world.is_here(0));
    for n in 0..40 {
        let narinfo = format!("/{}.narinfo", item(n).hash_part());
        world.other.page(&narinfo, Page(500, String::new(), Vec::new()));
    }
    world.days(8);
    let before = world.other.asked();
    let run = world.sweep();
    assert_eq!(run.lost, 0);
    assert!(world.is_published(0));
    // One that fails again and again is left alone.
    assert!(world.other.asked() - before <= 3 + 2 * AT_ONCE, "asked {} times", world.other.asked() - before);
}

#[test]
fn what_the_other_server_has_lost_is_withdrawn_with_what_refers_to_it_and_can_be_built_again() {
    let world = World::new();
    world.comes(0, &[], nar_hash(0));
    world.comes(1, &[0], nar_hash(1));
    world.comes(2, &[1], nar_hash(2));
    world.comes(3, &[], nar_hash(3));
    world.other.has(0, &[]);
    world.other.has(1, &[0]);
    world.sweep();
    world.sweep();
    assert!(!world.is_here(0) && !world.is_here(1) && world.is_here(2));
    assert_eq!(world.provided(0), Provided::Elsewhere as i64);
    world.other.loses(0);
    world.days(8);
    assert_eq!(world.sweep().lost, 1);
    assert_eq!(world.provided(0), Provided::No as i64);
    assert_eq!((0..4).map(|n| world.is_published(n)).collect::<Vec<_>>(), [false, false, false, true]);
    // It is built again: all is as it was, with the narinfo of what is still elsewhere.
    world.comes(0, &[], nar_hash(0));
    world.publish_all();
    world.check();
    assert!((0..4).all(|n| world.is_published(n)));
    assert_eq!(world.narinfo(1).urls[0].compression, "lzip");
    assert!(world.is_here(0) && !world.is_here(1));
}

#[test]
fn what_is_here_again_is_as_any_other_item() {
    let world = World::new();
    for n in 0..2 {
        world.comes(n, &[], nar_hash(n));
        world.other.has(n, &[]);
    }
    world.sweep();
    world.sweep();
    assert!(!world.is_here(0) && !world.is_here(1));
    world.comes(0, &[], nar_hash(0));
    world.comes(1, &[], nar_hash(7));
    world.check();
    assert_eq!(world.narinfo(0).urls[0].compression, "zstd");
    assert!(world.there(0, Compression::Lzip).is_some(), "somebody may still come for it");
    // Another nar than the one that was published.
    assert_eq!(world.narinfo(1).nar_hash, nar_hash(7));
    assert!(world.there(1, Compression::Lzip).is_none());
    assert_eq!((world.provided(0), world.provided(1)), (1, 1));
}

#[test]
fn what_comes_to_be_needed_or_is_kept_by_other_rules_stays() {
    let world = World::new();
    for n in 0..3 {
        world.comes(n, &[], nar_hash(n));
        world.other.has(n, &[]);
    }
    // A source of derivations is kept whoever else has it, and so is what it refers to.
    let needs = |n: usize| {
        world.write(move |tx| {
            let (source, id) = (paths::number(tx, &item(100 + n))?, paths::number(tx, &item(n))?);
            tx.execute(
                "INSERT INTO items VALUES (?1, 'source', 'text', x'00', 1, 1, NULL, x'00', 1)",
                [source],
            )?;
            tx.execute("INSERT INTO item_references VALUES (?1, ?2)", [source, id])?;
            depend::provide(tx, source, Provided::Held)
        });
    };
    needs(0);
    assert_eq!(world.sweep().announced_elsewhere, 2);
    assert!(!world.is_announced(0));
    needs(1);
    let own = |n: usize| world.narinfo(n).urls[0].compression == "zstd";
    assert!(!own(1));
    // As whoever comes to need something says it.
    world.write(|tx| {
        let id = paths::number(tx, &item(2))?;
        retention::rescue(tx, id)
    });
    assert!(own(2) && !world.is_announced(2));
    needs(2);
    let run = world.sweep();
    assert_eq!((run.rescued, run.redirected.items), (1, 0));
    assert!((0..3).all(|n| world.is_here(n) && own(n)));
}

#[test]
fn what_nothing_keeps_any_more_is_not_redirected_for_ever() {
    let world = World::new();
    world.comes(0, &[], nar_hash(0));
    world.comes(1, &[0], nar_hash(1));
    world.other.has(0, &[]);
    world.other.has(1, &[0]);
    world.sweep();
    world.sweep();
    assert!(!world.is_here(0) && !world.is_here(1) && world.is_published(1));
    world.write(|tx| Ok(tx.execute("UPDATE redirects SET added_at = 0", [])?));
    for _ in 0..4 {
        world.sweep();
    }
    assert!(!world.is_published(0) && !world.is_published(1));
    let left = world.write(|tx| {
        let all = "SELECT (SELECT count(*) FROM redirects) + (SELECT count(*) FROM redirect_nars) \
                   + (SELECT count(*) FROM item_references) + (SELECT count(*) FROM removals)";
        Ok(unsql(tx.query_row(all, [], |row| row.get(0))?))
    });
    assert_eq!((left, world.provided(0)), (0, Provided::No as i64));
}

#[test]
fn what_is_interrupted_goes_on_after_a_restart() {
    let mut world = World::new();
    for n in 0..6 {
        world.comes(n, &[n.saturating_sub(1)], nar_hash(n));
        if n != 3 {
            world.other.has(n, &[n.saturating_sub(1)]);
        }
    }
    for jobs in 0..6 {
        let mut left: u32 = jobs;
        *world.farm.sweeps.between_jobs.0.lock().unwrap() = Some(Box::new(move || {
            let over = left == 0;
            left = left.saturating_sub(1);
            over
        }));
        let swept = world.farm.sweep_items();
        assert!(matches!(swept, Ok(_) | Err(Error::Stopping)), "{swept:?}");
        world = world.restart();
        world.check();
    }
    world.sweep();
    world.sweep();
    for n in 0..6 {
        assert_eq!(world.is_here(n), n == 3, "item-{n}");
        assert!(world.is_published(n));
    }
}

#[test]
fn a_fixed_output_is_asked_for_by_its_hash_and_sent_on() {
    let world = World::with(|config| config.retention.sources.unless_elsewhere = true);
    let hash = Sha256Hash::of(b"contents");
    for n in 0..2 {
        world.comes(n, &[], nar_hash(n));
        world.other.has(n, &[]);
        let hash = if n == 0 { hash } else { nar_hash(9) };
        world.write(move |tx| {
            let id = paths::number(tx, &item(n))?;
            tx.execute("INSERT INTO fixed_outputs VALUES (?1, 'sha256', 0, ?2)", (id, hash.as_bytes()))?;
            Ok(())
        });
    }
    let file = format!("/file/item-0/sha256/{}", hash.base32());
    world.other.ok(&file, b"contents");
    world.sweep();
    assert!(world.farm.shown_file(&hash).unwrap().is_some());
    world.sweep();
    assert!(!world.is_here(0) && !world.is_here(1));
    assert!(world.farm.shown_file(&hash).unwrap().is_none());
    let there = world.farm.shown_file_elsewhere(&hash).unwrap().unwrap().what;
    assert_eq!(there, format!("{}{file}", world.other.url));
    // The other is not there by its hash.
    assert!(world.farm.shown_file_elsewhere(&nar_hash(9)).unwrap().is_none());
}

#[test]
fn keys_that_are_none_are_refused_at_start_with_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let opened = |text: Option<&str>| {
        let file = folder.path().join("keys");
        let _ = std::fs::remove_file(&file);
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let mut retention: RetentionConfig = toml::from_str(RULES).unwrap();
        retention.elsewhere.servers = vec!["http://127.0.0.1:1".to_owned()];
        retention.elsewhere.keys = vec![file];
        let config = Config { state: Path::new("/nowhere").to_owned(), retention, ..Config::default() };
        Elsewhere::new(&config).map(drop).map_err(|error| error.to_string())
    };
    for text in [None, Some(""), Some("nonsense"), Some("(acl)"), Some("(acl (entry))")] {
        let error = opened(text).unwrap_err();
        assert!(error.contains("retention.elsewhere.keys") && error.contains("/keys"), "{text:?}: {error}");
    }
    let key = SecretKey::generate().unwrap().public().to_text();
    assert_eq!(opened(Some(&key)), Ok(()));
    assert_eq!(opened(Some(&format!("(acl (entry {key} (tag (guix import))))"))), Ok(()));
}

#[test]
fn a_question_about_something_does_not_fail_on_what_another_server_has() {
    let world = World::new();
    world.comes(0, &[], nar_hash(0));
    world.other.has(0, &[]);
    world.sweep();
    world.sweep();
    let url = world.other.url.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let question = drover_wire::retention::RetentionQuestion { why: vec![item(0)] };
    let plan = runtime.block_on(world.farm.retention_plan(question)).unwrap();
    assert_eq!((plan.elsewhere, plan.leaving.items, plan.unless_elsewhere.items), (1, 0, 0));
    assert_eq!(plan.why[0].fate, drover_wire::retention::Fate::Elsewhere);
    assert_eq!(plan.why[0].other_server.as_ref().map(|other| &other.server), Some(&url));
    assert_eq!(runtime.block_on(world.farm.retention()).unwrap().elsewhere, 1);
}
