//! Imports from servers: those that do what they should not, and several items at once.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Condvar, Mutex};

use super::*;
use crate::config::{Gib, PlaceConfig, STATE_PLACE};

/// What a server does when it is asked.
#[derive(Clone)]
pub(super) enum Reply {
    /// It gives this.
    Whole(Vec<u8>),
    /// It says that there is as much as this, and gives the first so many bytes.
    Cut(Vec<u8>, usize),
    /// The same, and then it neither goes on nor hangs up.
    Stall(Vec<u8>, usize),
    Status(&'static str),
    /// It gives this when so many are asked for at the same time.
    Together(usize, Vec<u8>),
}

/// A server that does something else each time that it is asked for something, and at last the same again and again.
pub(super) struct Site {
    pub(super) url: String,
    all: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    asked: Mutex<Vec<String>>,
    /// How many wait for each other, and how many did at most.
    together: Mutex<(usize, usize)>,
    changed: Condvar,
    held: Mutex<Vec<TcpStream>>,
}

impl Site {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let all = Arc::new(Shared::default());
        let shared = Arc::clone(&all);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { url, all }
    }

    pub(super) fn on(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.all.replies.lock().unwrap().insert(path.to_owned(), replies);
    }

    /// Has an item: its narinfo, and its nar as these replies.
    pub(super) fn has(&self, made: &Made, key: &SecretKey, replies: impl IntoIterator<Item = Reply>) {
        let mut info = made.info.clone();
        let url = format!("nar/{}", made.info.store_path.base_name());
        let size = Some(packed(Compression::Zstd, &made.nar).len() as u64);
        info.urls = vec![Url { url: url.clone(), compression: "zstd".into(), file_size: size }];
        info.sign("elsewhere", key);
        let narinfo = format!("/{}.narinfo", made.info.store_path.hash_part());
        self.on(&narinfo, [Reply::Whole(info.print().into_bytes())]);
        self.on(&format!("/{url}"), replies);
    }

    /// All that it was asked for, in that order.
    pub(super) fn all_asked(&self) -> Vec<String> {
        self.all.asked.lock().unwrap().clone()
    }

    /// The names of the items whose nars were asked for, in that order.
    fn asked(&self) -> Vec<String> {
        let asked = self.all.asked.lock().unwrap();
        let nars = asked.iter().filter_map(|path| path.strip_prefix("/nar/"));
        nars.map(|base| StorePath::parse_base(base).unwrap().name().to_owned()).collect()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let Some(Ok(first)) = lines.next() else { return };
        // The head of a question ends with an empty line.
        let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            let replies = replies.get_mut(&path);
            replies.and_then(|all| if all.len() > 1 { all.pop_front() } else { all.front().cloned() })
        };
        self.asked.lock().unwrap().push(path);
        let _ = match reply.unwrap_or(Reply::Status("404 Not Found")) {
            Reply::Whole(bytes) => stream.write_all(&answer("200 OK", bytes.len(), &bytes)),
            Reply::Cut(bytes, length) => stream.write_all(&answer("200 OK", bytes.len(), &bytes[..length])),
            Reply::Stall(bytes, length) => {
                let written = stream.write_all(&answer("200 OK", bytes.len(), &bytes[..length]));
                self.held.lock().unwrap().push(stream);
                written
            }
            Reply::Status(status) => stream.write_all(&answer(status, 0, b"")),
            Reply::Together(count, bytes) => {
                let mut together = self.together.lock().unwrap();
                together.0 += 1;
                together.1 = together.1.max(together.0);
                self.changed.notify_all();
                let waited =
                    self.changed.wait_timeout_while(together, LONG, |(_, most)| *most < count).unwrap();
                let (mut together, late) = waited;
                together.0 -= 1;
                drop(together);
                if late.timed_out() {
                    stream.write_all(&answer("403 Alone", 0, b""))
                } else {
                    stream.write_all(&answer("200 OK", bytes.len(), &bytes))
                }
            }
        };
    }
}

fn zstd_of(made: &Made) -> Vec<u8> {
    packed(Compression::Zstd, &made.nar)
}

pub(super) fn whole(made: &Made) -> Reply {
    Reply::Whole(zstd_of(made))
}

impl Ground {
    pub(super) fn of_site(&self, site: &Site, all: &[&Made]) -> NewImport {
        let paths = all.iter().map(|made| made.info.store_path.clone()).collect();
        NewImport { source: site.url.clone(), paths, ..self.terms() }
    }
}

#[test]
fn a_server_that_stalls_fails_or_cuts_off_is_asked_again_and_at_last_it_is_said_what_it_did() {
    let ground = Ground::with(Config { import_silence_seconds: 1, ..Config::default() });
    let site = Site::start();
    let names = ["once", "silent", "broken", "short", "above"];
    let [once, silent, broken, short, _] = names.map(|name| made(name, &[]));
    let above = made("above", &[&silent]);
    let half = |made: &Made| zstd_of(made).len() / 2;
    site.has(&once, &ground.key, [Reply::Stall(zstd_of(&once), half(&once)), whole(&once)]);
    site.has(&silent, &ground.key, [Reply::Stall(zstd_of(&silent), half(&silent))]);
    site.has(&broken, &ground.key, [Reply::Status("500 Oops")]);
    // A whole answer by its own words.
    site.has(&short, &ground.key, [Reply::Whole(zstd_of(&short)[..half(&short)].to_vec())]);
    site.has(&above, &ground.key, [whole(&above)]);
    let import = ground.import(ground.of_site(&site, &[&once, &silent, &broken, &short, &above]));
    assert_eq!((import.summary.taken, import.summary.refused), (1, 4), "{import:?}");
    assert!(ground.is_published(&once));
    let says = |made, part: &str| {
        let why = why(&import.refusals, made);
        assert!(why.contains(part), "{why}");
    };
    says(&silent, "silent for too long");
    says(&broken, "answered 500");
    says(&short, "were said");
    says(&above, "nowhere");
    for made in [&silent, &broken, &short, &above] {
        assert!(!ground.is_held(made) && !ground.is_published(made));
    }
    assert_eq!(ground.uploads(), 0, "something was left of what broke off");
    let tries = |name: &str| site.asked().iter().filter(|asked| *asked == name).count();
    assert_eq!(names.map(tries), [2, 5, 5, 5, 0]);
    // What came out of it does not stand in the way of another time.
    site.has(&silent, &ground.key, [whole(&silent)]);
    assert_eq!(ground.import(ground.of_site(&site, &[&above])).summary.taken, 2);
}

#[test]
fn a_server_that_is_down_ends_the_import_with_what_it_said() {
    let ground = Ground::new();
    let site = Site::start();
    let all: Vec<Made> = (0..6).map(|n| made(&format!("item-{n}"), &[])).collect();
    for made in &all {
        site.has(made, &ground.key, [Reply::Cut(zstd_of(made), 3)]);
    }
    let import = ground.import(ground.of_site(&site, &all.iter().collect::<Vec<_>>()));
    assert_eq!((import.summary.state, import.summary.taken), (ImportState::Failed, 0), "{import:?}");
    assert!(import.summary.error.unwrap().contains("broke off after 3 bytes"));
}

#[test]
fn as_many_items_are_taken_at_a_time_as_the_configuration_says() {
    let ground = Ground::with(Config { import_parallel: 3, ..Config::default() });
    let site = Site::start();
    let all: Vec<Made> = (0..7).map(|n| made(&format!("item-{n}"), &[])).collect();
    for made in &all {
        site.has(made, &ground.key, [Reply::Together(3, zstd_of(made))]);
    }
    let import = ground.import(ground.of_site(&site, &all.iter().collect::<Vec<_>>()));
    assert_eq!((import.summary.taken, import.summary.refused), (7, 0), "{import:?}");
    assert_eq!(site.all.together.lock().unwrap().1, 3);
}

#[test]
fn nothing_is_asked_for_before_what_it_refers_to_however_many_are_on_their_way() {
    let ground = Ground::with(Config { import_parallel: 8, ..Config::default() });
    let site = Site::start();
    let mut all: Vec<Made> = Vec::new();
    for n in 0..60_usize {
        // Few with none, most with up to three, far and near.
        let references: Vec<&Made> =
            [n * 7, n * 13 + 5, n + 59].iter().filter_map(|k| all.get(k % (n + n / 5 + 1))).collect();
        let mut unique: Vec<&Made> = Vec::new();
        for made in references {
            if unique.iter().all(|other| other.info.store_path != made.info.store_path) {
                unique.push(made);
            }
        }
        all.push(made(&format!("item-{n}"), &unique));
    }
    for made in &all {
        site.has(made, &ground.key, [whole(made)]);
    }
    // From the top down.
    let import = ground.import(ground.of_site(&site, &all.iter().rev().collect::<Vec<_>>()));
    assert_eq!((import.summary.taken, import.summary.refused), (60, 0), "{import:?}");
    let asked = site.asked();
    let place = |path: &StorePath| asked.iter().position(|name| name == path.name()).unwrap();
    for made in &all {
        assert!(ground.is_published(made));
        for reference in &made.info.references {
            assert!(place(reference) < place(&made.info.store_path), "{reference} came too late");
        }
    }
    assert_eq!(asked.len(), 60, "something was asked for twice");
}

#[test]
fn what_is_on_its_way_when_the_coordinator_stops_is_taken_when_it_goes_on() {
    let ground = Ground::with(Config { import_silence_seconds: 1, import_parallel: 2, ..Config::default() });
    let site = Site::start();
    let all: Vec<Made> = (0..5).map(|n| made(&format!("item-{n}"), &[])).collect();
    for made in &all {
        site.has(made, &ground.key, [whole(made)]);
    }
    site.has(&all[1], &ground.key, [Reply::Stall(zstd_of(&all[1]), 5)]);
    let id = ground.begin(ground.of_site(&site, &all.iter().collect::<Vec<_>>()));
    let halt = ground.halt();
    thread::scope(|scope| {
        scope.spawn(|| ground.go_on(id, &halt));
        until("all but one should be taken", || ground.show(id).summary.taken == 4);
        ground.farm.stop();
    });
    let stopped = ground.show(id);
    assert_eq!((stopped.summary.state, stopped.summary.taken), (ImportState::Running, 4), "{stopped:?}");
    let cursor = ground.farm.database.read_blocking(|sql| rows::cursor(sql, id)).unwrap();
    assert_eq!(cursor, rows::Cursor::at(rows::Kind::Told, 1), "it would go on after what was not taken");
    site.has(&all[1], &ground.key, [whole(&all[1])]);
    ground.farm.stopping.send_replace(false);
    ground.go_on(id, &ground.halt());
    let ended = ground.show(id);
    assert_eq!((ended.summary.taken, ended.summary.refused), (5, 0), "{ended:?}");
    assert!(all.iter().all(|made| ground.is_published(made)));
}

#[test]
fn an_import_waits_while_there_is_no_room_says_so_and_goes_on() {
    let place = PlaceConfig {
        name: STATE_PLACE.to_owned(),
        capacity_gib: Some(Gib(1 << 30)),
        ..PlaceConfig::default()
    };
    let ground = Ground::with(Config { places: vec![place], ..Config::default() });
    let site = Site::start();
    let below = made("below", &[]);
    let top = made("top", &[&below]);
    for made in [&below, &top] {
        site.has(made, &ground.key, [whole(made)]);
    }
    let full = || {
        let place = ground.farm.storage.places().named(STATE_PLACE).unwrap();
        place.claim(1 << 30, true, || Ok::<_, Error>(0)).unwrap().unwrap()
    };
    let claim = full();
    let id = ground.begin(ground.of_site(&site, &[&top]));
    let halt = ground.halt();
    thread::scope(|scope| {
        scope.spawn(|| ground.go_on(id, &halt));
        until("it should wait", || ground.farm.imports.waits.of(id).is_some());
        let shown = ground.runtime.block_on(ground.farm.import(unsql(id))).unwrap();
        let why = shown.summary.waits_for.unwrap();
        assert!(why.contains(below.info.store_path.base_name()) && why.contains("drover storage"), "{why}");
        assert!(site.asked().is_empty(), "it was fetched before there was room");
        drop(claim);
    });
    let ended = ground.show(id);
    assert_eq!((ended.summary.state, ended.summary.taken), (ImportState::Done, 2), "{ended:?}");
    assert_eq!(ground.farm.imports.waits.of(id), None);
    // One that waits can be stopped.
    let _claim = full();
    let other = made("other", &[]);
    site.has(&other, &ground.key, [whole(&other)]);
    let id = ground.begin(ground.of_site(&site, &[&other]));
    let halt = ground.halt();
    thread::scope(|scope| {
        scope.spawn(|| ground.go_on(id, &halt));
        until("it should wait", || ground.farm.imports.waits.of(id).is_some());
        halt.stop();
    });
    assert_eq!(ground.show(id).summary.state, ImportState::Stopped);
}

/// A server that answers its questions one after the other with these, and then no more.
fn server(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // The head of a question ends with an empty line.
            let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
            let _ = stream.write_all(&answer);
        }
    });
    format!("http://{address}")
}

fn answer(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[test]
fn a_server_that_fails_and_cuts_off_and_lies_about_lengths_is_asked_again() {
    let ground = Ground::new();
    let one = made("one", &[]);
    let packed = packed(Compression::Zstd, &one.nar);
    let mut info = one.info.clone();
    info.urls =
        vec![Url { url: "nar/x".into(), compression: "zstd".into(), file_size: Some(packed.len() as u64) }];
    info.sign("elsewhere", &ground.key);
    let narinfo = info.print().into_bytes();
    let ok = |bytes: &[u8]| answer("200 OK", bytes.len(), bytes);
    let source = server(vec![
        answer("500 Oops", 0, b""),
        answer("200 OK", narinfo.len() + 10, &narinfo),
        ok(&narinfo),
        answer("200 OK", packed.len(), &packed[..packed.len() / 2]),
        ok(&packed[..packed.len() / 2]),
        ok(&packed),
    ]);
    let import =
        ground.import(NewImport { source, paths: vec![one.info.store_path.clone()], ..ground.terms() });
    assert_eq!((import.summary.taken, import.summary.refused), (1, 0), "{import:?}");
    assert!(ground.is_published(&one));
    assert_eq!(ground.uploads(), 0, "something was left of what broke off");
}

#[test]
fn a_nar_of_a_server_that_is_too_long_is_not_read_to_its_end() {
    let ground = Ground::new();
    let one = made("one", &[]);
    let mut info = one.info.clone();
    info.urls = vec![Url { url: "nar/x".into(), compression: "none".into(), file_size: None }];
    info.sign("elsewhere", &ground.key);
    let narinfo = info.print().into_bytes();
    let endless = [one.nar.clone(), vec![0; 1 << 20]].concat();
    let source = server(vec![
        answer("200 OK", narinfo.len(), &narinfo),
        // It says that there is more than anybody could take.
        answer("200 OK", usize::MAX >> 2, &endless),
    ]);
    let import =
        ground.import(NewImport { source, paths: vec![one.info.store_path.clone()], ..ground.terms() });
    // Which of the two depends on how much came at once.
    let why = why(&import.refusals, &one);
    assert!(why.contains("has more than") || why.contains("longer than"), "{import:?}");
}

/// Bytes that hardly become fewer, however they are compressed.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..count).map(next).collect()
}

#[test]
fn a_nar_that_is_refused_before_its_end_was_not_cut_off_and_is_asked_for_once() {
    let ground = Ground::new();
    let site = Site::start();
    // Compressed, a nar may be an eighth longer than it is plain: so much more than is read ahead.
    let (noise, shorter) = (noise(2900 << 10), 2540 << 10);
    let large = |name: &str| {
        let nar = Node::file(noise.clone()).to_nar();
        let mut made = made(name, &[]);
        (made.info.nar_hash, made.info.nar_size) = (Sha256Hash::of(&nar), nar.len() as u64);
        Made { info: made.info, nar }
    };
    let names = ["good", "odd", "longer", "damaged", "other-1", "other-2"];
    let mut all = names.map(large);
    // No nar at all, from its first byte on.
    all[1].nar[..64].fill(b'x');
    all[1].info.nar_hash = Sha256Hash::of(&all[1].nar);
    for n in [2, 4, 5] {
        all[n].info.nar_size = shorter;
    }
    for made in &all {
        site.has(made, &ground.key, [whole(made)]);
    }
    let mut damaged = zstd_of(&all[3]);
    damaged[20_000..20_100].fill(0xff);
    damaged[..4].fill(0);
    site.has(&all[3], &ground.key, [Reply::Whole(damaged)]);
    let import = ground.import(ground.of_site(&site, &all.iter().collect::<Vec<_>>()));
    // Five in a row that a server does not give would be one that is down.
    assert_eq!((import.summary.state, import.summary.taken), (ImportState::Done, 1), "{import:?}");
    let says = |made, part: &str| {
        let why = why(&import.refusals, made);
        assert!(why.contains(part), "{why}");
    };
    says(&all[1], "its nar is none");
    says(&all[2], "longer than");
    says(&all[3], "no whole zstd stream");
    let tries = |name: &str| site.asked().iter().filter(|asked| *asked == name).count();
    assert_eq!(names.map(tries), [1; 6]);
}
