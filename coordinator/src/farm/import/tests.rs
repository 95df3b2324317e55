use std::io::Write;
use std::thread;
use std::time::Duration;

use drover_os::Deadline;
use drover_store::key::SecretKey;
use drover_store::nar::Node;
use drover_store::narinfo::{NarInfo, Url};
use drover_store::{Compression, Sha256Hash, StorePath, path};
use drover_wire::import::ImportRefusal;
use tokio::runtime::Runtime;

use super::*;
use crate::config::Config;
use crate::farm::{files, publish};

mod adopted;
mod herders;
mod in_place;
mod mirrors;
mod servers;
mod sources;

const LONG: Duration = Duration::from_secs(60);

/// A farm, and a folder that is taken over.
struct Ground {
    runtime: Runtime,
    farm: Arc<Farm>,
    key: SecretKey,
    _state: tempfile::TempDir,
    folder: tempfile::TempDir,
}

/// An item as some server has it.
#[derive(Clone)]
struct Made {
    info: NarInfo,
    nar: Vec<u8>,
}

fn item(name: &str) -> StorePath {
    path::text(name, b"", &[]).unwrap()
}

fn made(name: &str, references: &[&Made]) -> Made {
    let mut references: Vec<StorePath> = references.iter().map(|made| made.info.store_path.clone()).collect();
    references.sort();
    let named: Vec<&str> = references.iter().map(StorePath::as_str).collect();
    let nar = Node::file(format!("{name} {}", named.join(" "))).to_nar();
    let info = NarInfo {
        store_path: item(name),
        urls: Vec::new(),
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        references,
        deriver: Some(item(&format!("{name}.drv"))),
        system: None,
        signature: None,
    };
    Made { info, nar }
}

fn packed(compression: Compression, nar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Zstd => zstd::encode_all(nar, 3).unwrap(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(nar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lzip => crate::storage::lzip(nar),
        Compression::None => nar.to_vec(),
    }
}

impl Ground {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config { state: state.path().to_owned(), disk_reserve_mib: 0, ..config };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let farm = {
            let _within = runtime.enter();
            Farm::open(config).unwrap()
        };
        Self { runtime, farm, key: SecretKey::generate().unwrap(), _state: state, folder }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let file = self.folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    /// Puts the narinfo and the nar into the folder, in the plain layout.
    fn put(&self, made: &Made, compression: Compression) {
        let bytes = packed(compression, &made.nar);
        let url = format!("nar/{compression}/{}", made.info.store_path.base_name());
        self.write(&url, &bytes);
        let mut info = made.info.clone();
        info.urls =
            vec![Url { url, compression: compression.to_string(), file_size: Some(bytes.len() as u64) }];
        info.sign("elsewhere", &self.key);
        self.write_narinfo(&info);
    }

    fn write_narinfo(&self, info: &NarInfo) {
        self.write(&format!("{}.narinfo", info.store_path.hash_part()), info.print().as_bytes());
    }

    fn terms(&self) -> NewImport {
        NewImport {
            source: self.folder.path().to_str().unwrap().to_owned(),
            keys: vec![self.key.public().to_text()],
            ..NewImport::default()
        }
    }

    fn import(&self, new: NewImport) -> ImportDetails {
        let id = self.begin(new);
        self.go_on(id, &self.halt());
        self.show(id)
    }

    /// An import that was not started yet.
    fn begin(&self, new: NewImport) -> i64 {
        let checked = check(new).unwrap();
        self.farm.database.write_blocking::<_, Error>(move |tx| rows::insert(tx, &checked)).unwrap()
    }

    /// Until it ends, or is stopped.
    fn go_on(&self, id: i64, halt: &Halt) {
        let mut jobs = self.farm.database.read_blocking(rows::running).unwrap();
        jobs.retain(|job| job.id == id);
        run::whole(&self.farm, &jobs[0], halt);
    }

    fn halt(&self) -> Halt {
        let _within = self.runtime.enter();
        Halt::new(self.farm.stopping())
    }

    fn show(&self, id: i64) -> ImportDetails {
        self.farm.database.read_blocking(|sql| rows::show(sql, unsql(id))).unwrap()
    }

    /// What lies in the folder of what is on its way.
    fn uploads(&self) -> usize {
        std::fs::read_dir(self.farm.storage.uploads()).unwrap().count()
    }

    fn is_published(&self, made: &Made) -> bool {
        self.farm
            .database
            .read_blocking::<_, Error>(|sql| match paths::find(sql, &made.info.store_path)? {
                Some(id) => publish::is_published(sql, id),
                None => Ok(false),
            })
            .unwrap()
    }

    fn is_held(&self, made: &Made) -> bool {
        self.farm.database.read_blocking(|sql| keep::here(sql, &made.info.store_path)).unwrap().is_some()
    }

    fn files(&self, made: &Made) -> Vec<Compression> {
        let found = self.farm.database.read_blocking::<_, Error>(|sql| {
            let id = paths::find(sql, &made.info.store_path)?.unwrap();
            files::of(sql, id)
        });
        found.unwrap().iter().map(|file| file.compression).collect()
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let is = Deadline::after(LONG).ask(|| is().then_some(()));
    assert!(is.is_some(), "{what}");
}

fn why<'r>(refusals: &'r [ImportRefusal], made: &Made) -> &'r str {
    let base = made.info.store_path.base_name();
    let hash = format!("{}.narinfo", made.info.store_path.hash_part());
    let found = refusals.iter().find(|refusal| refusal.item == base || refusal.item == hash);
    &found.unwrap_or_else(|| panic!("{base} was not refused: {refusals:?}")).why
}

#[test]
fn a_folder_is_taken_over_in_whatever_compression_and_published_with_its_own_signature() {
    let ground = Ground::new();
    let below = made("below", &[]);
    let middle = made("middle", &[&below]);
    let top = made("top", &[&middle, &below]);
    ground.put(&top, Compression::Zstd);
    ground.put(&middle, Compression::Gzip);
    ground.put(&below, Compression::None);
    let import = ground.import(ground.terms());
    assert_eq!(import.refusals, []);
    assert_eq!((import.summary.state, import.summary.taken), (ImportState::Done, 3));
    assert!(ground.is_published(&top) && ground.is_published(&middle) && ground.is_published(&below));
    assert_eq!(ground.files(&middle), [Compression::Gzip]);
    let again = ground.import(ground.terms());
    assert_eq!((again.summary.taken, again.summary.known), (0, 3));
}

#[test]
fn what_is_told_is_taken_with_what_it_refers_to_and_nothing_else() {
    let ground = Ground::new();
    let below = made("below", &[]);
    let top = made("top", &[&below]);
    let other = made("other", &[]);
    for made in [&below, &top, &other] {
        ground.put(made, Compression::Zstd);
    }
    let absent = made("absent", &[]);
    let paths = vec![top.info.store_path.clone(), absent.info.store_path.clone()];
    let import = ground.import(NewImport { paths, ..ground.terms() });
    assert_eq!((import.summary.taken, import.summary.refused), (2, 1));
    assert!(why(&import.refusals, &absent).contains("does not have it"));
    assert!(!ground.is_held(&other));
}

#[test]
fn what_refers_to_something_that_is_nowhere_is_refused_and_so_is_what_refers_to_it() {
    let ground = Ground::new();
    let lost = made("lost", &[]);
    let middle = made("middle", &[&lost]);
    let top = made("top", &[&middle]);
    ground.put(&middle, Compression::Zstd);
    ground.put(&top, Compression::Zstd);
    let import = ground.import(ground.terms());
    assert_eq!((import.summary.taken, import.summary.refused), (0, 2), "{:?}", import.refusals);
    assert!(why(&import.refusals, &middle).contains("nowhere"), "{:?}", import.refusals);
    ground.put(&lost, Compression::Zstd);
    assert_eq!(ground.import(ground.terms()).summary.taken, 3);
    assert!(ground.is_published(&top));
}

#[test]
fn a_nar_that_is_not_what_was_signed_is_refused_whatever_is_wrong_with_it() {
    let ground = Ground::new();
    let nar = made("good", &[]).nar;
    let url = "nar/zstd/x";
    let refused = |name: &str, file: &[u8], change: &dyn Fn(&mut NarInfo)| {
        let mut made = made(name, &[]);
        made.info.nar_hash = Sha256Hash::of(&nar);
        made.info.nar_size = nar.len() as u64;
        ground.write(url, file);
        made.info.urls = vec![Url { url: url.into(), compression: "zstd".into(), file_size: None }];
        change(&mut made.info);
        made.info.sign("elsewhere", &ground.key);
        ground.write_narinfo(&made.info);
        let paths = vec![made.info.store_path.clone()];
        let import = ground.import(NewImport { paths, ..ground.terms() });
        assert_eq!(import.summary.taken, 0, "{name}");
        assert!(!ground.is_held(&made), "{name}");
        why(&import.refusals, &made).to_owned()
    };
    let pack = |nar: &[u8]| packed(Compression::Zstd, nar);
    let is = |why: String, wanted: &str| assert!(why.contains(wanted), "{why}");
    let nothing = |_: &mut NarInfo| {};
    is(refused("another", &pack(&Node::file("another").to_nar()), &nothing), "SHA-256");
    is(refused("longer", &pack(&[&nar[..], &[0; 8]].concat()), &nothing), "longer than");
    is(refused("shorter", &pack(&nar[..nar.len() - 8]), &nothing), "truncated");
    is(refused("cut", &pack(&nar)[..20], &nothing), "no whole zstd stream");
    is(refused("bomb", &zstd::encode_all(&vec![0; 64 << 20][..], 3).unwrap(), &nothing), "longer than");
    is(
        refused(
            "padded",
            &[&pack(&nar)[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 2, 0], &[0; 131_072]].concat(),
            &nothing,
        ),
        "much larger",
    );
    let odd = |info: &mut NarInfo| {
        info.nar_hash = Sha256Hash::of(b"12345678");
        info.nar_size = 8;
    };
    is(refused("odd", &pack(b"12345678"), &odd), "its nar is none");
    let unsaid = made("below", &[]);
    let said = |info: &mut NarInfo| info.references = vec![unsaid.info.store_path.clone()];
    ground.put(&unsaid, Compression::Zstd);
    let first = vec![unsaid.info.store_path.clone()];
    assert_eq!(ground.import(NewImport { paths: first, ..ground.terms() }).summary.taken, 1);
    is(refused("unsaid", &pack(&nar), &said), "does not refer");
    let size = |info: &mut NarInfo| info.urls[0].file_size = Some(7);
    is(refused("size", &pack(&nar), &size), "7 were said");
    let out = |info: &mut NarInfo| info.urls[0].url = "nar/../../secret".into();
    is(refused("out", &pack(&nar), &out), "does not lead to");
    let gone = |info: &mut NarInfo| info.urls[0].url = "nar/gone".into();
    is(refused("gone", &pack(&nar), &gone), "is there");
    std::os::unix::fs::symlink("/etc/passwd", ground.folder.path().join("nar/link")).unwrap();
    let link = |info: &mut NarInfo| info.urls[0].url = "nar/link".into();
    is(refused("link", &pack(&nar), &link), "out of the folder");
}

#[test]
fn what_nobody_that_is_trusted_signed_is_refused_or_kept_for_the_farm_alone_or_signed_here() {
    let ground = Ground::new();
    let one = made("one", &[]);
    ground.put(&one, Compression::Zstd);
    let strange = NewImport { keys: Vec::new(), ..ground.terms() };
    assert_eq!(ground.import(strange.clone()).summary.refused, 1);
    let unsigned = NewImport { unsigned: true, ..strange.clone() };
    assert_eq!(ground.import(unsigned.clone()).summary.taken, 1);
    assert!(ground.is_held(&one) && !ground.is_published(&one));
    ground.import(NewImport { sign: true, ..unsigned });
    assert!(ground.is_published(&one));
}

#[test]
fn another_nar_of_what_is_held_is_refused() {
    let ground = Ground::new();
    let one = made("one", &[]);
    ground.put(&one, Compression::Zstd);
    ground.import(NewImport { unsigned: true, keys: Vec::new(), ..ground.terms() });
    let mut other = one.clone();
    other.nar = Node::file("something else").to_nar();
    other.info.nar_hash = Sha256Hash::of(&other.nar);
    other.info.nar_size = other.nar.len() as u64;
    ground.put(&other, Compression::Zstd);
    let import = ground.import(ground.terms());
    assert!(why(&import.refusals, &one).contains("another nar"), "{:?}", import.refusals);
}

#[test]
fn a_source_that_derivations_lack_is_one_when_it_is_imported() {
    let ground = Ground::new();
    let nar = Node::file("a script").to_nar();
    let store_path = path::text("script", b"a script", &[]).unwrap();
    let info = NarInfo {
        store_path: store_path.clone(),
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        deriver: None,
        ..made("script", &[]).info
    };
    ground.put(&Made { info, nar }, Compression::Zstd);
    let named = store_path.clone();
    let lacks = ground.farm.database.write_blocking::<_, Error>(move |tx| {
        let id = paths::number(tx, &named)?;
        tx.execute("INSERT INTO missing_sources VALUES (?1)", [id])?;
        Ok(())
    });
    lacks.unwrap();
    assert_eq!(ground.import(ground.terms()).summary.taken, 1);
    let left = ground.farm.database.read_blocking::<_, Error>(|sql| {
        let id = paths::find(sql, &store_path)?.unwrap();
        let method: String =
            sql.query_row("SELECT method FROM items WHERE path = ?1 AND kind = 'source'", [id], |row| {
                row.get(0)
            })?;
        let lacking: i64 = sql.query_row("SELECT count(*) FROM missing_sources", [], |row| row.get(0))?;
        Ok((method, lacking))
    });
    assert_eq!(left.unwrap(), ("text".to_owned(), 0));
}

#[test]
fn what_cannot_be_imported_is_refused_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let of = |source: &str| NewImport { source: source.to_owned(), ..NewImport::default() };
    let here = folder.path().to_str().unwrap();
    for source in [
        "",
        "here",
        "ftp://farm",
        "http://",
        "http://farm/?x=y",
        "http://user@farm",
        "https://ho st",
        "/no/such/folder",
    ] {
        assert!(check(of(source)).is_err(), "{source} was taken");
    }
    assert_eq!(check(of("http://farm/guix/")).unwrap().source, "http://farm/guix");
    check(of(here)).unwrap();
    assert!(check(NewImport { in_place: true, ..of("http://farm") }).is_err());
    assert!(check(NewImport { every_minutes: Some(5), ..of(here) }).is_err());
    assert!(check(NewImport { every_minutes: Some(0), ..of("http://farm") }).is_err());
    assert!(check(NewImport { keys: vec!["(no key)".into()], ..of(here) }).is_err());
}

#[test]
fn what_sets_want_is_found_without_a_look_at_all_items() {
    let ground = Ground::new();
    let plan = ground.farm.database.read_blocking::<_, Error>(|sql| {
        let mut plan = sql.prepare(&format!("EXPLAIN QUERY PLAN {}", rows::WANTED))?;
        let steps = plan.query_map([1], |row| row.get::<_, String>(3))?;
        Ok(steps.collect::<rusqlite::Result<Vec<_>>>()?)
    });
    let plan = plan.unwrap();
    assert!(!plan.iter().any(|step| step.starts_with("SCAN") || step.contains("TEMP B-TREE")), "{plan:?}");
}
