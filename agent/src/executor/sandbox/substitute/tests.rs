//! Substitutes from real servers, some of which are no use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use drover_store::Sha256Hash;
use drover_store::key::SecretKey;
use drover_store::nar::Node;
use drover_store::narinfo::{NarInfo, Url};
use drover_store::path;
use tempfile::TempDir;

use super::*;
use crate::executor::sandbox::import::arrivals::AT_A_TIME;
use crate::http::testing::{Authority, Exchange, Server as HttpServer};

/// A store, and a key that is trusted.
struct Ground {
    folder: TempDir,
    store: Arc<Store>,
    key: SecretKey,
    stop: Stopping,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots");
        std::fs::create_dir(&roots).unwrap();
        let store = Arc::new(Store::open(&folder.path().join("root"), &roots).unwrap());
        Self { folder, store, key: SecretKey::generate().unwrap(), stop: Stopping::new().unwrap() }
    }

    fn substitute(&self, servers: &[&str], names: &[&str]) -> Result<(), Error> {
        let keys = [*self.key.public()].into_iter().collect();
        let servers: Vec<String> = servers.iter().map(|url| (*url).to_owned()).collect();
        let paths: Vec<StorePath> = names.iter().map(|name| path(name)).collect();
        let mut hold = self.store.hold([]);
        substitute(&self.store, &mut hold, &keys, &servers, &paths, &self.stop)
    }

    /// Which of these the store has; nothing may be left over of the others.
    fn present<const N: usize>(&self, names: [&str; N]) -> [bool; N] {
        let making = self.folder.path().join("root/gnu/store/.drover/making");
        assert_eq!(std::fs::read_dir(making).unwrap().count(), 0, "something is left in the making");
        names.map(|name| self.store.has(&path(name)))
    }
}

fn path(name: &str) -> StorePath {
    path::text(name, b"", &[]).unwrap()
}

fn nar(name: &str) -> Vec<u8> {
    Node::Directory(BTreeMap::from([(name.as_bytes().to_vec(), Node::file(vec![b'x'; 50_000]))])).to_nar()
}

/// What a server has: answers by the request's path.
#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Adds an item, with its nar in that form; of lzip only the word.
    fn add(&mut self, key: &SecretKey, name: &str, references: &[&str], compression: &str) -> &mut Self {
        self.add_at("", key, name, references, compression)
    }

    /// The same, its nar being below this address.
    fn add_at(
        &mut self,
        host: &str,
        key: &SecretKey,
        name: &str,
        references: &[&str],
        compression: &str,
    ) -> &mut Self {
        let nar = nar(name);
        let url =
            Url { url: format!("{host}nar/{name}"), compression: compression.to_owned(), file_size: None };
        let mut info = NarInfo {
            store_path: path(name),
            urls: vec![url],
            nar_hash: Sha256Hash::of(&nar),
            nar_size: nar.len() as u64,
            references: references.iter().map(|name| path(name)).collect(),
            deriver: None,
            system: None,
            signature: None,
        };
        info.sign("farm", key);
        self.0.insert(narinfo_of(name), info.print().into_bytes());
        let nar = if compression == "zstd" { zstd::encode_all(&nar[..], 3).unwrap() } else { nar };
        self.0.insert(format!("/nar/{name}"), nar);
        self
    }

    fn change(&mut self, target: &str, change: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        change(self.0.get_mut(target).unwrap());
        self
    }

    fn answer(&self, exchange: Exchange<'_>) {
        match self.0.get(exchange.target.trim_start_matches("GET ")) {
            Some(file) => exchange.respond(200, "", file),
            None => exchange.respond(404, "", b"no"),
        }
    }

    fn serve(self) -> HttpServer {
        HttpServer::start(move |exchange| self.answer(exchange))
    }
}

fn narinfo_of(name: &str) -> String {
    format!("/{}.narinfo", path(name).hash_part())
}

#[test]
fn a_closure_comes_from_several_servers_in_its_forms() {
    let ground = Ground::new();
    let (mut one, mut two) = (Files::default(), Files::default());
    one.add(&ground.key, "a", &["b", "c", "a"], "zstd").add(&ground.key, "c", &[], "none");
    two.add(&ground.key, "b", &["c"], "none").add(&ground.key, "a", &["b", "c", "a"], "none");
    let (one, two) = (one.serve(), two.serve());
    ground.substitute(&[one.url(), &format!("{}/", two.url())], &["a"]).unwrap();
    assert_eq!(ground.present(["a", "b", "c"]), [true; 3]);
    let item = ground.store.item(&path("a")).unwrap().unwrap();
    assert_eq!(item.nar_hash, Sha256Hash::of(&nar("a")));
    let mut references = [path("a"), path("b"), path("c")];
    references.sort();
    assert_eq!(item.references, references);
}

#[test]
fn what_is_no_use_is_left_out_and_the_rest_comes() {
    let (ground, stranger) = (Ground::new(), SecretKey::generate().unwrap());
    let mut files = Files::default();
    for name in ["good", "forged", "renamed", "rubbish", "torn", "other"] {
        files.add(&ground.key, name, &[], "zstd");
    }
    files.add(&stranger, "stranger", &[], "zstd").add(&ground.key, "lzip", &[], "lzip");
    files.add(&ground.key, "above", &["lzip", "good"], "none").add(
        &ground.key,
        "far-above",
        &["above"],
        "none",
    );
    files.add(&ground.key, "above-nothing", &["nobody-has"], "none");
    files.change(&narinfo_of("forged"), |text| {
        *text = String::from_utf8(text.clone()).unwrap().replace("NarSize: ", "NarSize: 1").into_bytes();
    });
    let other = files.0[&narinfo_of("good")].clone();
    files.change(&narinfo_of("renamed"), |text| *text = other);
    files.change(&narinfo_of("rubbish"), |text| *text = b"<html>Welcome</html>".to_vec());
    files.change("/nar/torn", |nar| nar.truncate(nar.len() / 2));
    files.change("/nar/other", |bytes| *bytes = zstd::encode_all(&nar("good")[..], 3).unwrap());
    let server = files.serve();
    let names = [
        "good",
        "forged",
        "renamed",
        "rubbish",
        "torn",
        "other",
        "stranger",
        "lzip",
        "above",
        "far-above",
        "above-nothing",
        "absent",
    ];
    ground.substitute(&[server.url()], &names).unwrap();
    let mut expected = [false; 12];
    expected[0] = true;
    assert_eq!(ground.present(names), expected);
}

#[test]
fn a_signature_is_enough_where_nobody_vouches_for_the_certificate() {
    let (ground, stranger) = (Ground::new(), SecretKey::generate().unwrap());
    let mut files = Files::default();
    files.add(&ground.key, "a", &[], "zstd").add(&stranger, "strange", &[], "zstd");
    let server = HttpServer::start_tls(&Authority::ended(), move |exchange| files.answer(exchange));
    ground.substitute(&[server.url()], &["a", "strange"]).unwrap();
    assert_eq!(ground.present(["a", "strange"]), [true, false]);
}

#[test]
fn another_server_helps_where_the_first_has_only_the_narinfo_or_is_away() {
    let ground = Ground::new();
    let (mut one, mut two) = (Files::default(), Files::default());
    for files in [&mut one, &mut two] {
        files.add(&ground.key, "a", &["b"], "zstd").add(&ground.key, "b", &[], "zstd");
    }
    one.0.remove("/nar/a");
    one.change("/nar/b", |nar| nar.truncate(100));
    let (one, two) = (one.serve(), two.serve());
    ground.substitute(&["http://127.0.0.1:1", one.url(), two.url()], &["a"]).unwrap();
    assert_eq!(ground.present(["a", "b"]), [true; 2]);
}

#[test]
fn a_host_of_nars_that_does_not_answer_is_not_asked_for_each_of_them() {
    let ground = Ground::new();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let note = asked.clone();
    // Not to answer closes the connection.
    let silent = HttpServer::start(move |exchange| {
        note.lock().unwrap().insert(exchange.target.clone());
    });
    let (mut one, mut two) = (Files::default(), Files::default());
    let names: Vec<_> = (0..12).map(|n| format!("item-{n}")).collect();
    for name in &names {
        one.add_at(&format!("{}/", silent.url()), &ground.key, name, &[], "none");
        two.add(&ground.key, name, &[], "none");
    }
    let (one, two) = (one.serve(), two.serve());
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    ground.substitute(&[one.url(), two.url()], &names).unwrap();
    assert_eq!(ground.present::<12>(names.try_into().unwrap()), [true; 12]);
    let asked = asked.lock().unwrap();
    assert!((1..=AT_A_TIME).contains(&asked.len()), "{asked:?}");
}

#[test]
fn what_could_be_placed_is_not_fetched_again_once_the_rest_can_be_had() {
    let ground = Ground::new();
    let mut files = Files::default();
    files.add(&ground.key, "a", &["b", "d"], "none").add(&ground.key, "b", &["c"], "none");
    files.add(&ground.key, "c", &["e"], "none").add(&ground.key, "d", &[], "none");
    files.add(&ground.key, "e", &[], "none");
    let fetched = Arc::new(Mutex::new(Vec::new()));
    let (note, is_there) = (fetched.clone(), Arc::new(AtomicBool::new(false)));
    let there = is_there.clone();
    let server = HttpServer::start(move |exchange| {
        if let Some((_, name)) = exchange.target.split_once("/nar/") {
            note.lock().unwrap().push(name.to_owned());
            if name == "c" && !there.load(Ordering::SeqCst) {
                return exchange.respond(404, "", b"no");
            }
        }
        files.answer(exchange);
    });
    ground.substitute(&[server.url()], &["a"]).unwrap();
    assert_eq!(ground.present(["a", "b", "c", "d", "e"]), [false, false, false, true, true]);
    fetched.lock().unwrap().clear();
    is_there.store(true, Ordering::SeqCst);
    ground.substitute(&[server.url()], &["a"]).unwrap();
    assert_eq!(ground.present(["a", "b", "c", "d", "e"]), [true; 5]);
    fetched.lock().unwrap().sort();
    assert_eq!(*fetched.lock().unwrap(), ["a", "b", "c"]);
}

#[test]
fn what_is_there_already_stays_while_what_refers_to_it_comes() {
    let ground = Ground::new();
    let mut files = Files::default();
    files.add(&ground.key, "a", &["b"], "none");
    ground.store.add_text(&path("b"), b"", &[]).unwrap();
    let store = ground.store.clone();
    let server = HttpServer::start(move |exchange| {
        let target = exchange.target.trim_start_matches("GET ").to_owned();
        if target.starts_with("/nar") {
            store.clean(0).unwrap();
        }
        exchange.respond(200, "", &files.0[&target]);
    });
    let mut hold = ground.store.hold([]);
    let keys = [*ground.key.public()].into_iter().collect();
    let servers = [server.url().to_owned()];
    substitute(&ground.store, &mut hold, &keys, &servers, &[path("a")], &ground.stop).unwrap();
    ground.store.clean(0).unwrap();
    assert_eq!(ground.present(["a", "b"]), [true; 2]);
}

#[test]
fn a_server_that_is_busy_for_a_moment_is_asked_again() {
    let ground = Ground::new();
    let mut files = Files::default();
    files.add(&ground.key, "a", &[], "none");
    let busy = Mutex::new(BTreeMap::new());
    let server = HttpServer::start(move |exchange| {
        let target = exchange.target.trim_start_matches("GET ").to_owned();
        let asked = *busy.lock().unwrap().entry(target.clone()).and_modify(|n| *n += 1).or_insert(0);
        if asked == 0 {
            exchange.respond(503, "", b"busy")
        } else {
            exchange.respond(200, "", &files.0[&target])
        }
    });
    ground.substitute(&[server.url()], &["a"]).unwrap();
    assert_eq!(ground.present(["a"]), [true]);
}

#[test]
fn a_disk_that_refuses_ends_it_and_is_no_server_s_fault() {
    let ground = Ground::new();
    let (mut files, asked) = (Files::default(), Arc::new(Mutex::new(0)));
    files.add(&ground.key, "a", &[], "none");
    let count = asked.clone();
    let server = HttpServer::start(move |exchange| {
        *count.lock().unwrap() += usize::from(exchange.target.contains("/nar/"));
        files.answer(exchange);
    });
    std::fs::remove_dir(ground.folder.path().join("root/gnu/store/.drover/making")).unwrap();
    let error = ground.substitute(&[server.url(), server.url()], &["a"]).unwrap_err();
    assert!(error.to_string().contains(".drover/making"), "{error}");
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[test]
fn a_nar_that_breaks_off_is_resumed() {
    let ground = Ground::new();
    let mut files = Files::default();
    files.add(&ground.key, "a", &[], "none");
    let (asked, count) = mpsc::channel();
    let server = HttpServer::start(move |mut exchange| {
        let target = exchange.target.trim_start_matches("GET ").to_owned();
        let file = &files.0[&target];
        if !target.starts_with("/nar") {
            return exchange.respond(200, "", file);
        }
        asked.send(exchange.header("range").to_owned()).unwrap();
        let from: usize =
            exchange.header("range").trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let (status, length) = (if from > 0 { 206 } else { 200 }, file.len() - from);
        let range = format!("content-range: bytes {from}-{}/{}", file.len() - 1, file.len());
        exchange
            .raw(format!("HTTP/1.1 {status} X\r\n{range}\r\ncontent-length: {length}\r\n\r\n").as_bytes());
        exchange.raw(&file[from..(from + 30_000).min(file.len())]);
    });
    ground.substitute(&[server.url()], &["a"]).unwrap();
    assert_eq!(ground.present(["a"]), [true]);
    assert_eq!(count.try_iter().collect::<Vec<_>>(), ["", "bytes=30000-"]);
}

#[test]
fn a_machine_of_little_memory_reads_no_nar_that_takes_much_of_it() {
    let of = |gib: u64| window_log_limit(Some(Memory { total: gib << 30, available: 0 }));
    assert_eq!((of(1), of(2), window_log_limit(None)), (25, 27, 27));
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(26).unwrap();
    std::io::Write::write_all(&mut zstd, b"nar").unwrap();
    let compressed = zstd.finish().unwrap();
    for (gib, reads) in [(1, false), (2, true)] {
        let decompressors = Decompressors::new(of(gib));
        let mut nar = Vec::new();
        let read = decompressors.read(&compressed[..]).unwrap().read_to_end(&mut nar);
        assert_eq!(read.is_ok(), reads, "{read:?}");
    }
}

#[test]
fn a_stop_ends_it_while_a_server_is_silent() {
    let ground = Ground::new();
    let (came, coming) = mpsc::channel();
    let (gate, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = HttpServer::start(move |mut exchange| {
        exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nsome");
        came.send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
    });
    thread::scope(|scope| {
        let word = &ground.stop;
        scope.spawn(move || {
            coming.recv().unwrap();
            word.stop();
        });
        let result = ground.substitute(&[server.url()], &["a"]);
        assert!(matches!(result, Err(Error::Away(_))), "{result:?}");
    });
    drop(gate);
}
