//! What everybody can have, and what nobody can see.

use std::io::Read as _;

use drover_store::{Sha256Hash, StorePath, base32};
use drover_wire::route::public;
use ureq::SendBody;

use crate::graph::{Made, derivation, derivation_with, noise, output};
use crate::house::House;
use crate::peer::{Answer, Peer};

const MISS: &str = "public, max-age=7";
const HIT: &str = "public, max-age=500";
const LOG: &[u8] = b"made it\n";

fn house() -> House {
    House::with(&["--narinfo-ttl-seconds", "500", "--narinfo-miss-seconds", "7"])
}

/// Builds something with these contents, and a log; gives its compressed nar.
fn build(house: &House, made: &Made, contents: &[u8]) -> Vec<u8> {
    house.client().submit(&[made]);
    let agent = house.agent(made.out.name());
    let lease = agent.allocation().lease;
    let (kept, bytes) = output(&made.out, contents, &[]);
    agent.log(lease, 0, LOG);
    agent.succeed(lease, &kept, &bytes);
    bytes
}

/// Publishes an item with a text that stands for its narinfo.
fn publish(house: &House, path: &StorePath, until: Option<i64>) {
    let published = house.database().execute(
        "INSERT OR REPLACE INTO published (path, narinfo, published_at, until) \
         SELECT id, ?2, 0, ?3 FROM paths WHERE base = ?1",
        (path.base_name(), narinfo(path).as_bytes(), until),
    );
    assert_eq!(published.unwrap(), 1);
}

fn narinfo(path: &StorePath) -> String {
    format!("StorePath: {path}\n")
}

/// Waits until the hook has published it.
fn wait_published(house: &House, path: &StorePath) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while house.stranger().get(&narinfo_path(path)).status != 200 {
        assert!(std::time::Instant::now() < deadline, "{path} is not published");
        std::thread::yield_now();
    }
}

/// Something that can only be kept, never published.
fn private(name: &str) -> Made {
    derivation_with(name, &[], &[("allowSubstitutes", "0")])
}

fn narinfo_path(path: &StorePath) -> String {
    public::NARINFO.path(&[&format!("{}.narinfo", path.hash_part())])
}

fn nar_path(path: &StorePath) -> String {
    public::NAR.path(&[&"zstd", &path.base_name()])
}

fn log_path(path: &StorePath) -> String {
    public::LOG.path(&[&path.base_name()])
}

fn ask(peer: &Peer, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    peer.send(method, path, headers, SendBody::none())
}

#[test]
fn the_store_and_the_key_are_there_for_everybody() {
    let house = house();
    let stranger = house.stranger();
    let info = stranger.get(&public::CACHE_INFO.path(&[]));
    assert_eq!(info.body, b"StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n");
    let key = stranger.get(&public::KEY.path(&[]));
    let signing = String::from_utf8(house.client().0.get("/v1/key").body).unwrap();
    assert!(signing.starts_with("(public-key"));
    assert_eq!(String::from_utf8(key.body).unwrap(), format!("{}\n", signing.trim()));
}

#[test]
fn a_published_narinfo_comes_as_it_is_with_its_time_to_live() {
    let house = house();
    let made = derivation("made", &[]);
    build(&house, &made, b"contents");
    publish(&house, &made.out, None);
    let stranger = house.stranger();
    let answer = stranger.get(&narinfo_path(&made.out));
    assert_eq!((answer.status, answer.body), (200, narinfo(&made.out).into_bytes()));
    assert_eq!(answer.headers["cache-control"], HIT);
    assert_eq!(answer.headers["content-type"], "application/x-nix-narinfo");
    let head = ask(&stranger, "HEAD", &narinfo_path(&made.out), &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), narinfo(&made.out).len().to_string());
}

#[test]
fn nothing_is_promised_for_longer_than_it_is_there() {
    let house = house();
    let made = derivation("made", &[]);
    build(&house, &made, b"contents");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    publish(&house, &made.out, Some(i64::try_from(now).unwrap() + 100_000));
    for path in [narinfo_path(&made.out), nar_path(&made.out), log_path(&made.out)] {
        let answer = house.stranger().get(&path);
        assert_eq!(answer.status, 200);
        let age = answer.header("cache-control").strip_prefix("public, max-age=").unwrap();
        assert!((1..=100).contains(&age.parse::<u64>().unwrap()), "{path}: {age}");
    }
    publish(&house, &made.out, Some(1));
    assert_eq!(house.stranger().get(&narinfo_path(&made.out)).header("cache-control"), "public, max-age=0");
}

#[test]
fn a_published_nar_is_served_whole_and_in_part() {
    for size in [100, 1 << 20] {
        let house = house();
        let made = derivation("made", &[]);
        let bytes = build(&house, &made, &noise(size));
        publish(&house, &made.out, None);
        let (stranger, path) = (house.stranger(), nar_path(&made.out));
        let whole = stranger.get(&path);
        assert_eq!(whole.status, 200);
        assert!(whole.body == bytes);
        assert_eq!(whole.headers["content-type"], "application/x-nix-nar");
        assert_eq!(whole.headers["accept-ranges"], "bytes");
        assert_eq!(whole.headers["cache-control"], HIT);
        assert_eq!(whole.header("content-length"), bytes.len().to_string());
        let head = ask(&stranger, "HEAD", &path, &[]);
        assert_eq!(head.header("content-length"), bytes.len().to_string());
        assert!(head.body.is_empty());
        let part = ask(&stranger, "GET", &path, &[("range", "bytes=3-9")]);
        assert_eq!((part.status, &part.body[..]), (206, &bytes[3..10]));
        let rest = format!("bytes={}-", bytes.len() - 5);
        let rest = ask(&stranger, "GET", &path, &[("range", &rest), ("if-range", whole.header("etag"))]);
        assert_eq!((rest.status, &rest.body[..]), (206, &bytes[bytes.len() - 5..]));
        let known = ask(&stranger, "GET", &path, &[("if-none-match", whole.header("etag"))]);
        assert_eq!((known.status, known.body.len()), (304, 0));
        assert_eq!(known.headers["cache-control"], HIT);
        let behind = format!("bytes={}-", bytes.len());
        let behind = ask(&stranger, "GET", &path, &[("range", &behind)]);
        assert_eq!((behind.status, behind.header("cache-control")), (416, "no-store"));
        // There is no other compression of it.
        assert_eq!(stranger.get(&public::NAR.path(&[&"lzip", &made.out.base_name()])).status, 404);
    }
}

#[test]
fn a_client_that_does_not_know_zstd_has_the_nar_uncompressed() {
    let house = house();
    let made = derivation("made", &[]);
    let nar = zstd::decode_all(&build(&house, &made, &noise(1 << 20))[..]).unwrap();
    let path = public::NAR.path(&[&"none", &made.out.base_name()]);
    wait_published(&house, &made.out);
    let told = house.stranger().get(&narinfo_path(&made.out));
    let told = String::from_utf8(told.body).unwrap();
    let plain =
        format!("URL: nar/none/{}\nCompression: none\nFileSize: {}\n", made.out.base_name(), nar.len());
    assert!(told.ends_with(&plain), "{told}");
    assert!(told.find("Signature: ") < told.find("URL: nar/zstd/"), "{told}");
    let whole = house.stranger().get(&path);
    assert_eq!((whole.status, whole.header("content-length")), (200, &*nar.len().to_string()));
    assert!(whole.body == nar);
    assert_eq!(whole.headers["cache-control"], HIT);
    let head = ask(&house.stranger(), "HEAD", &path, &[]);
    assert_eq!((head.header("content-length"), head.body.len()), (&*nar.len().to_string(), 0));
    let known = ask(&house.stranger(), "GET", &path, &[("if-none-match", whole.header("etag"))]);
    assert_eq!((known.status, known.body.len()), (304, 0));
}

#[test]
fn only_so_many_nars_are_unpacked_at_once_and_nobody_else_waits_for_those_who_read_slowly() {
    /// As many as `farm/turns.rs` lets.
    const AT_ONCE: usize = 16;
    let house = house();
    let made = derivation("made", &[]);
    // Much more than lies between the two ends of a connection.
    let bytes = build(&house, &made, &vec![7; 64 << 20]);
    let path = public::NAR.path(&[&"none", &made.out.base_name()]);
    wait_published(&house, &made.out);
    let stranger = house.stranger();
    let mut slow: Vec<_> = (0..AT_ONCE).map(|_| stranger.open("GET", &path, "")).collect();
    for connection in &mut slow {
        assert_eq!(connection.head()[0], "HTTP/1.1 200 OK");
    }
    let refused = stranger.get(&path);
    refused.refused(drover_wire::Code::Unavailable);
    assert_eq!(refused.header("retry-after"), "10");
    assert!(stranger.get(&nar_path(&made.out)).body == bytes);
    // One of them goes, and another has its turn.
    drop(slow.pop());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let whole = loop {
        let answer = stranger.get(&path);
        if answer.status == 200 || std::time::Instant::now() >= deadline {
            break answer;
        }
    };
    assert_eq!((whole.status, whole.body.len()), (200, (64 << 20) + 112));
}

#[test]
fn many_who_read_slowly_all_have_the_whole_in_the_end() {
    let house = house();
    let made = derivation("made", &[]);
    // More than lies between the two ends of a connection.
    let bytes = build(&house, &made, &noise(16 << 20));
    publish(&house, &made.out, None);
    let (stranger, path) = (house.stranger(), nar_path(&made.out));
    let open: Vec<_> = (0..100).map(|_| stranger.stream(&path)).collect();
    for mut reader in open {
        let mut whole = Vec::new();
        reader.read_to_end(&mut whole).unwrap();
        assert!(whole == bytes);
    }
}

#[test]
fn only_so_many_logs_are_unpacked_at_once_and_who_takes_them_as_they_are_does_not_wait() {
    /// As many as `farm/turns.rs` lets.
    const AT_ONCE: usize = 32;
    let house = house();
    let made = derivation("made", &[]);
    house.client().submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let (kept, bytes) = output(&made.out, b"contents", &[]);
    // Much more than lies between the two ends of a connection.
    let line = vec![b'x'; drover_wire::LOG_CHUNK_LIMIT];
    let length = (16 << 20) / line.len() * line.len();
    for offset in (0..length).step_by(line.len()) {
        assert_eq!(agent.log(lease, offset as u64, &line).status, 200);
    }
    agent.succeed(lease, &kept, &bytes);
    publish(&house, &made.out, None);
    let (stranger, path) = (house.stranger(), log_path(&made.out));
    let packed = || ask(&stranger, "GET", &path, &[("accept-encoding", "zstd")]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while packed().header("content-encoding") != "zstd" {
        assert!(std::time::Instant::now() < deadline, "the log is not packed");
    }
    let mut slow: Vec<_> = (0..AT_ONCE).map(|_| stranger.open("GET", &path, "")).collect();
    for connection in &mut slow {
        assert_eq!(connection.head()[0], "HTTP/1.1 200 OK");
    }
    stranger.get(&path).refused(drover_wire::Code::Unavailable);
    assert_eq!(packed().status, 200);
    drop(slow);
    while stranger.get(&path).body.len() != length {
        assert!(
            std::time::Instant::now() < deadline + std::time::Duration::from_secs(60),
            "nobody has a turn"
        );
    }
}

#[test]
fn connections_beyond_those_that_are_taken_wait_and_the_other_listeners_do_not() {
    let house = House::with(&["--public-connections", "32"]);
    let stranger = house.stranger();
    let mut idle: Vec<_> = (0..300).map(|_| stranger.raw()).collect();
    // All that has to do with files goes on meanwhile.
    house.client().0.get("/v1/builds").value::<serde_json::Value>();
    let mut waiting = stranger.open("GET", &public::CACHE_INFO.path(&[]), "Connection: close\r\n");
    let files = std::fs::read_dir(format!("/proc/{}/fd", house.id())).unwrap().count();
    assert!(files < 200, "{files} files are open");
    idle.clear();
    assert_eq!(waiting.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn what_is_not_published_looks_the_same_as_nothing_at_all() {
    let house = house();
    let made = private("made");
    build(&house, &made, b"contents");
    house.client().0.get(&format!("/v1/items/{}", made.out.base_name())).value::<serde_json::Value>();
    let stranger = house.stranger();
    let look = |path: &str| {
        let answer = stranger.get(path);
        let mut headers = answer.headers;
        headers.remove("date");
        (answer.status, headers, answer.body)
    };
    let nothing = look(&narinfo_path(&derivation("another", &[]).out));
    assert_eq!(nothing.0, 404);
    assert_eq!(nothing.1["cache-control"], MISS);
    let (base, drv) = (made.out.base_name(), made.path.base_name());
    let hash = Sha256Hash::of(b"contents");
    for path in [
        narinfo_path(&made.out),
        narinfo_path(&made.path),
        nar_path(&made.out),
        nar_path(&made.path),
        log_path(&made.out),
        log_path(&made.path),
        public::FILE.path(&[&"made", &hash.base32()]),
        public::FILE.path(&[&"made", &hash.hex()]),
        format!("/v1/items/{base}"),
        format!("/v1/nars/{base}"),
        format!("/gnu/store/{base}"),
        format!("/{base}.narinfo"),
        format!("/{drv}"),
        "/".to_owned(),
        "/v1/builds".to_owned(),
        "/nar/zstd/".to_owned(),
    ] {
        assert_eq!(look(&path), nothing, "{path}");
    }
}

#[test]
fn addresses_that_lead_elsewhere_lead_nowhere() {
    let house = house();
    let made = derivation("made", &[]);
    build(&house, &made, b"contents");
    publish(&house, &made.out, None);
    let (base, hash) = (made.out.base_name(), made.out.hash_part());
    let long = "a".repeat(5000);
    let odd = [
        "/nar/zstd/../../client-token".to_owned(),
        "/nar/zstd/..%2f..%2fclient-token".to_owned(),
        "/nar/zstd/%2e%2e/%2e%2e/drover.sqlite".to_owned(),
        "/../../../../etc/passwd".to_owned(),
        "//etc/passwd".to_owned(),
        format!("/nar/zstd/./{base}"),
        format!("/nar/zstd//{base}"),
        format!("/nar/zstd/{base}/"),
        format!("/nar/zstd/{base}%00"),
        format!("/nar/zstd/{base}%ff"),
        format!("/nar/ZSTD/{base}"),
        format!("/nar/zstd/{base}%2f..%2f{base}"),
        format!("/nar/zstd/{}", long),
        format!("/{hash}.narinfo%00"),
        format!("/{hash}%2enarinfo/"),
        format!("/{}.narinfo", hash.to_uppercase()),
        format!("/{}%25.narinfo", &hash[..31]),
        format!("/{long}.narinfo"),
        "/%.narinfo".to_owned(),
        "/%zz.narinfo".to_owned(),
        "/%ff%fe.narinfo".to_owned(),
        "/.narinfo".to_owned(),
        "/_%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25%25.narinfo".to_owned(),
        format!("/file/../sha256/{}", base32::encode(&[0; 32])),
        "/file/x/sha256/..".to_owned(),
        format!("/file/x/sha256/{long}"),
        "/file/x/md5/d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        "/log/../../etc/shadow".to_owned(),
        "/log/..%2f..%2fclient-token".to_owned(),
        format!("/log/{base}?offset=-1/.."),
    ];
    for path in odd {
        let mut connection = house.stranger().open("GET", &path, "");
        let status = connection.line();
        let refused = ["HTTP/1.1 404 Not Found", "HTTP/1.1 400 Bad Request"].contains(&status.as_str());
        // A query is no part of an address.
        assert!(refused || path.contains("?offset="), "{path}: {status}");
    }
    for raw in ["GET /\u{0} HTTP/1.1\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n"] {
        let mut connection = house.stranger().raw();
        connection.send(raw.as_bytes());
        assert!(connection.line().starts_with("HTTP/1.1 400"), "{raw:?}");
    }
    let percent = format!("/nar/zstd/%{:02x}{}", base.as_bytes()[0], &base[1..]);
    assert_eq!(house.stranger().get(&percent).status, 200, "what is encoded without need is the same");
}

#[test]
fn nothing_can_be_changed_there() {
    let house = house();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let mut connection = house.stranger().open(method, "/nix-cache-info", "Content-Length: 0\r\n");
        let head = connection.head();
        assert_eq!(head[0], "HTTP/1.1 405 Method Not Allowed", "{method}");
        assert!(head.iter().any(|line| line.eq_ignore_ascii_case("allow: GET,HEAD")), "{head:?}");
        assert!(head.iter().any(|line| line.eq_ignore_ascii_case("cache-control: no-store")), "{head:?}");
    }
}

#[test]
fn a_published_fixed_output_is_had_by_its_hash() {
    for size in [0, 1, 100, 3 << 20] {
        let house = house();
        let made = derivation("source.tar", &[]);
        let contents = noise(size);
        build(&house, &made, &contents);
        let hash = Sha256Hash::of(&contents);
        let noted = house.database().execute(
            "INSERT OR REPLACE INTO fixed_outputs SELECT id, 'sha256', 0, ?2 FROM paths WHERE base = ?1",
            (made.out.base_name(), hash.as_bytes()),
        );
        assert_eq!(noted.unwrap(), 1);
        publish(&house, &made.out, None);
        let stranger = house.stranger();
        for hash in [hash.base32(), hash.hex()] {
            let answer = stranger.get(&public::FILE.path(&[&"source.tar", &hash]));
            assert_eq!(answer.status, 200);
            assert!(answer.body == contents);
            assert_eq!(answer.header("content-length"), size.to_string());
            assert_eq!(answer.headers["cache-control"], HIT);
            let known = [("if-none-match", answer.header("etag"))];
            let known = ask(&stranger, "GET", &public::FILE.path(&[&"source.tar", &hash]), &known);
            assert_eq!((known.status, known.body.len()), (304, 0));
            let head = ask(&stranger, "HEAD", &public::FILE.path(&[&"source.tar", &hash]), &[]);
            assert_eq!(head.header("content-length"), size.to_string());
        }
    }
}

#[test]
fn the_log_of_a_published_output_is_there_under_its_name_and_its_derivations() {
    let house = house();
    let made = derivation("made", &[]);
    build(&house, &made, b"contents");
    publish(&house, &made.out, None);
    let stranger = house.stranger();
    for path in [&made.out, &made.path] {
        let plain = stranger.get(&log_path(path));
        assert_eq!((plain.status, &plain.body[..]), (200, LOG));
        assert_eq!(plain.headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(plain.headers["cache-control"], HIT);
        // Packed or not yet: what comes is said.
        let any = ask(&stranger, "GET", &log_path(path), &[("accept-encoding", "gzip, zstd")]);
        let bytes = match any.header("content-encoding") {
            "zstd" => zstd::decode_all(&any.body[..]).unwrap(),
            _ => any.body,
        };
        assert_eq!(bytes, LOG);
    }
}
