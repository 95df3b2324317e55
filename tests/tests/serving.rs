//! What the public gets of what agents built: over plain sockets, and by the real client.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use drover_store::narinfo::NarInfo;
use drover_store::{Sha256Hash, StorePath};
use drover_tests::farm::{Farm, words};
use drover_tests::graph::{Graph, Recipe};
use drover_tests::{ground, wait};

/// The head and the body of an answer, as they come.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn field(&self, name: &str) -> &str {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
            .unwrap_or("")
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request as it is written, and reads to the end of the connection.
fn ask(farm: &Farm, method: &str, path: &str, fields: &str) -> Answer {
    let mut stream = TcpStream::connect(farm.public).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: x\r\n{fields}\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let body = bytes.split_off(end + 4);
    Answer { head: String::from_utf8(bytes).unwrap(), body }
}

fn get(farm: &Farm, path: &str) -> Answer {
    ask(farm, "GET", path, "")
}

fn narinfo(path: &StorePath) -> String {
    format!("/{}.narinfo", path.hash_part())
}

#[test]
fn what_was_built_is_served_and_what_is_private_is_nowhere_and_the_real_client_finds_the_log() {
    if !ground::available("the public listener") {
        return;
    }
    let farm = Farm::with_flags(&["--narinfo-ttl-seconds", "1000", "--narinfo-miss-seconds", "9"]);
    let ground = farm.ground("builder");
    let _agent = farm.agent("builder", &ground, 2);
    let mut graph = Graph::new("serving").unwrap();
    let script = "echo built in public; head -c 300000 /dev/urandom >$out";
    let open = graph.add(Recipe::new("open", script)).unwrap();
    let private = graph
        .add(Recipe::new("private", "echo built in private >$out").env("allowSubstitutes", "0"))
        .unwrap();
    // What refers to something private cannot be published either; what was built after it has been looked at, too.
    let above = graph.add(Recipe::new("above", "echo $inputs >$out").input(&private)).unwrap();
    let builds = farm.client.submit(&graph, &[&open, &private, &above]);
    farm.client.wait_success(&builds);

    let found = wait::until("the output should be published", || {
        Some(get(&farm, &narinfo(open.out()))).filter(|answer| answer.status() == "200")
    });
    assert_eq!(found.field("cache-control"), "public, max-age=1000");
    let info = NarInfo::parse(&found.body).unwrap();
    assert_eq!(info.store_path, *open.out());
    let url = info.urls.iter().find(|url| url.compression == "zstd").unwrap();
    let head = ask(&farm, "HEAD", &narinfo(open.out()), "");
    assert_eq!((head.status(), head.field("content-length")), ("200", &*found.body.len().to_string()));

    let nar = format!("/{}", url.url);
    let whole = get(&farm, &nar);
    assert_eq!(whole.body.len() as u64, url.file_size.unwrap());
    assert_eq!(Sha256Hash::of(&zstd::decode_all(&whole.body[..]).unwrap()), info.nar_hash);
    let part = ask(&farm, "GET", &nar, "Range: bytes=1000-1999\r\n");
    assert_eq!((part.status(), &part.body[..]), ("206", &whole.body[1000..2000]));
    let tag = whole.field("etag");
    let known = ask(&farm, "GET", &nar, &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((known.status(), known.body.len()), ("304", 0));
    let head = ask(&farm, "HEAD", &nar, "");
    assert_eq!((head.field("etag"), head.body.len()), (tag, 0));
    assert_eq!(head.field("content-length"), whole.body.len().to_string());

    let nothing = get(&farm, "/00000000000000000000000000000000.narinfo");
    assert_eq!((nothing.status(), nothing.field("cache-control")), ("404", "public, max-age=9"));
    for made in [&private, &above] {
        let (out, drv) = (made.out(), &made.path);
        for path in [
            narinfo(out),
            narinfo(drv),
            format!("/nar/zstd/{}", out.base_name()),
            format!("/nar/zstd/{}", drv.base_name()),
            format!("/log/{}", out.base_name()),
            format!("/log/{}", drv.base_name()),
            format!("/nar/zstd/..%2f{}", out.base_name()),
        ] {
            let answer = get(&farm, &path);
            assert_eq!((answer.status(), answer.text()), ("404", nothing.text()), "{path}");
        }
    }

    for path in [open.out(), &open.path] {
        let log = get(&farm, &format!("/log/{}", path.base_name()));
        assert_eq!((log.status(), log.text().as_str()), ("200", "built in public\n"));
    }
    let other = farm.ground_with_network("client");
    let server = format!("--substitute-urls=http://{}", farm.public);
    for (path, there) in [(open.out(), true), (&open.path, true), (private.out(), false)] {
        let output = other.run(&["guix", "build", "--log-file", &server, &path.full()]);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert_eq!(output.status.success(), there, "{}", words(&output));
        if there {
            assert_eq!(said, format!("http://{}/log/{}", farm.public, path.base_name()));
        }
    }
}
