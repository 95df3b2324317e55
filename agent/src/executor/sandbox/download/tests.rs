//! Downloads from real servers, and what real derivations want to have downloaded.

mod farm;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use drover_store::derivation::{Fixed, Output};
use drover_store::nar::Node;
use drover_store::{Derivation, StorePath, path};

use super::request::RequestError;
use super::*;
use crate::http::testing::{Authority, Exchange, Server};

const MIRRORS: &str = "qw8jnq1mlk8f8y6nnyk5p0h5m49dyymf-mirrors";

fn stop() -> Stopping {
    Stopping::new().unwrap()
}

/// A request for a file of this content.
fn wanted(content: &[u8], urls: &[String]) -> Request {
    Request {
        urls: urls.to_vec(),
        mirrors: Vec::new(),
        by_hash: true,
        name: "hello-2.12.tar.gz".to_owned(),
        hash: Sha256Hash::of(content),
        recursive: false,
        executable: false,
        size_max: u64::MAX,
    }
}

/// What is downloaded, with its mode, or the error; and the log.
fn fetched(request: &Request) -> (Result<(Vec<u8>, u32), DownloadError>, String) {
    fetched_by(None, request)
}

/// The same, of an agent of such a farm.
fn fetched_by(
    farm: Option<&dyn Files>,
    request: &Request,
) -> (Result<(Vec<u8>, u32), DownloadError>, String) {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("out");
    let mut log = Vec::new();
    let mut keep = |bytes: &[u8]| {
        log.extend_from_slice(bytes);
        Ok(())
    };
    let result = download(request, farm, &dest, &mut keep, &stop());
    let result = result.map(|()| {
        let mode = fs::metadata(&dest).unwrap().permissions().mode() & 0o7777;
        (fs::read(&dest).unwrap(), mode)
    });
    if result.is_err() {
        assert!(!dest.exists(), "something was left behind");
    }
    (result, String::from_utf8(log).unwrap())
}

fn serve(handler: impl Fn(&str, Exchange<'_>) + Send + Sync + 'static) -> Server {
    Server::start(move |exchange| handler(exchange.target.clone().trim_start_matches("GET "), exchange))
}

#[test]
fn the_first_address_that_has_the_right_file_gives_it_and_the_log_says_why_the_others_did_not() {
    let server = serve(|target, exchange| match target {
        "/wrong" => exchange.respond(200, "", b"something else"),
        "/moved" => exchange.respond(302, "location: /right\r\n", b""),
        "/right" => exchange.respond(200, "", b"hello"),
        _ => exchange.respond(404, "", b"no"),
    });
    let url = server.url();
    let urls = [
        "ftp://127.0.0.1/hello".to_owned(),
        "mirror://nobody/hello".to_owned(),
        "http://127.0.0.1:1/nobody-listens".to_owned(),
        format!("{url}/missing"),
        format!("{url}/wrong"),
        format!("{url}/moved"),
        format!("{url}/never-asked"),
    ];
    let (result, log) = fetched(&wanted(b"hello", &urls));
    assert_eq!(result.unwrap(), (b"hello".to_vec(), 0o644), "{log}");
    let misses: Vec<_> = log.lines().filter(|line| line.contains("not from there")).collect();
    assert_eq!(misses.len(), 5, "{log}");
    assert!(misses[0].contains("HTTP and HTTPS only"), "{log}");
    assert!(misses[1].contains("no mirrors of that name"), "{log}");
    assert!(misses[3].contains("404"), "{log}");
    let (sent, right) = (Sha256Hash::of(b"something else").base32(), Sha256Hash::of(b"hello").base32());
    assert!(misses[4].contains(&sent) && misses[4].contains(&right), "{log}");
    assert!(log.contains("which leads to ") && !log.contains("never-asked"), "{log}");
}

#[test]
fn a_download_that_breaks_off_is_resumed_and_hashed_as_a_whole() {
    let content: Vec<u8> = (0..500_000_u32).map(|n| (n % 253) as u8).collect();
    let (file, asked) = (content.clone(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let server = serve(move |_, mut exchange| {
        count.fetch_add(1, Ordering::SeqCst);
        let from: usize =
            exchange.header("range").trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
        let (status, end) = (if from > 0 { 206 } else { 200 }, (from + 200_000).min(file.len()));
        let range = format!("content-range: bytes {from}-{}/{}", file.len() - 1, file.len());
        let length = file.len() - from;
        exchange
            .raw(format!("HTTP/1.1 {status} X\r\n{range}\r\ncontent-length: {length}\r\n\r\n").as_bytes());
        exchange.raw(&file[from..end]);
    });
    let (result, log) = fetched(&wanted(&content, &[server.url().to_owned()]));
    assert!(result.unwrap().0 == content, "{log}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn what_nobody_has_is_a_failure_that_leaves_nothing() {
    let server = serve(|target, exchange| match target {
        "/large" => exchange.respond(200, "", &[0; 1000]),
        _ => exchange.respond(200, "", b"something else"),
    });
    let urls = [format!("{}/wrong", server.url()), format!("{}/large", server.url())];
    let (result, log) = fetched(&Request { size_max: 100, ..wanted(b"hello", &urls) });
    let error = result.unwrap_err();
    assert!(matches!(error, DownloadError::Nowhere { asked: 2, .. }), "{error}");
    assert!(log.contains("more than 100 bytes"), "{log}");
}

#[test]
fn executable_files_have_the_hash_of_their_nar_and_no_mirror_is_asked_for_it() {
    let server = serve(|target, exchange| {
        assert_eq!(target, "/bash");
        exchange.respond(200, "", b"#!/bin/sh\n");
    });
    let nar = Node::program(*b"#!/bin/sh\n").to_nar();
    let request = Request {
        recursive: true,
        executable: true,
        mirrors: vec![format!("{}/file", server.url())],
        ..wanted(&nar, &[format!("{}/bash", server.url())])
    };
    assert_eq!(fetched(&request).0.unwrap(), (b"#!/bin/sh\n".to_vec(), 0o755));
    let (result, log) = fetched(&Request { executable: false, ..request });
    assert!(matches!(result, Err(DownloadError::Nowhere { asked: 1, .. })), "{log}");
}

#[test]
fn a_certificate_that_nobody_vouches_for_does_not_keep_away_what_has_the_right_hash() {
    for authority in [Authority::new(), Authority::ended()] {
        let server = Server::start_tls(&authority, |exchange| exchange.respond(200, "", b"hello"));
        let (result, log) = fetched(&wanted(b"hello", &[server.url().to_owned()]));
        assert_eq!(result.unwrap().0, b"hello", "{log}");
        let (result, log) = fetched(&wanted(b"another", &[server.url().to_owned()]));
        assert!(matches!(result, Err(DownloadError::Nowhere { .. })), "{log}");
    }
}

#[test]
fn mirrors_are_asked_by_hash_after_the_addresses() {
    let hash = Sha256Hash::of(b"hello").base32();
    let (name, plain) = (format!("/file/a%3Fb/sha256/{hash}"), format!("/tarballs/sha256/{hash}"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (targets, right) = (asked.clone(), plain.clone());
    let server = serve(move |target, exchange| {
        targets.lock().unwrap().push(target.to_owned());
        if target == right { exchange.respond(200, "", b"hello") } else { exchange.respond(404, "", b"") }
    });
    let url = server.url();
    let request = Request {
        name: "a?b".to_owned(),
        mirrors: vec![format!("{url}/file"), format!("{url}/tarballs/"), format!("{url}/more")],
        ..wanted(b"hello", &[format!("{url}/own")])
    };
    assert_eq!(fetched(&request).0.unwrap().0, b"hello");
    assert_eq!(*asked.lock().unwrap(), ["/own".to_owned(), name, plain]);
}

#[test]
fn who_is_busy_is_asked_again_after_all_the_others() {
    let asked = AtomicUsize::new(0);
    let server = serve(move |target, exchange| match target {
        "/busy" if asked.fetch_add(1, Ordering::SeqCst) > 0 => exchange.respond(200, "", b"hello"),
        "/busy" => exchange.respond(503, "", b"later"),
        _ => exchange.respond(404, "", b"no"),
    });
    let urls = ["busy", "absent"].map(|name| format!("{}/{name}", server.url()));
    let (result, log) = fetched(&wanted(b"hello", &urls));
    assert_eq!(result.unwrap().0, b"hello", "{log}");
    assert_eq!(log.matches("/absent").count(), 1, "{log}");
}

#[test]
fn where_no_address_answers_it_is_for_want_of_a_network_and_one_that_does_shows_that_there_is_one() {
    let server = serve(|target, mut exchange| match target {
        "/torn" => exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\nhel"),
        "/busy" => exchange.respond(503, "", b"later"),
        "/wrong" => exchange.respond(200, "", b"wrong"),
        _ => exchange.respond(404, "", b"no"),
    });
    let at = |path: &str| format!("{}/{path}", server.url());
    let [ftp, gone] = ["ftp://127.0.0.1/", "http://127.0.0.1:1/"].map(str::to_owned);
    let of = |urls: &[&String]| {
        let urls: Vec<_> = urls.iter().map(|url| (*url).clone()).collect();
        let (result, log) = fetched(&wanted(b"hello", &urls));
        (result.unwrap_err(), log)
    };
    for urls in [&[&gone][..], &[&ftp, &gone], &[&at("torn"), &gone]] {
        let (error, log) = of(urls);
        assert!(matches!(error, DownloadError::Away { .. }), "{error}: {log}");
        assert!(error.to_string().contains("network"), "{error}");
    }
    for urls in [&[&gone, &at("absent")][..], &[&at("busy"), &gone], &[&gone, &at("wrong")], &[&ftp], &[]] {
        let (error, log) = of(urls);
        assert!(matches!(error, DownloadError::Nowhere { .. }), "{error}: {log}");
    }
}

#[test]
fn addresses_do_not_multiply_without_bound() {
    let table = |bases: usize| format!("((gnu {}))", "\"http://a/\" ".repeat(bases));
    let of = |urls: usize, length: usize, bases: usize| {
        let url = format!("\"mirror://gnu/{}\" ", "x".repeat(length));
        let url = format!("({})", url.repeat(urls));
        let mirrors = format!("/gnu/store/{MIRRORS}");
        let mut wants = derivation(&[("url", &url), ("mirrors", &mirrors)]);
        wants.sources = vec![StorePath::parse(&mirrors).unwrap()];
        let read = |_: &StorePath| Ok::<_, io::Error>(table(bases).into_bytes());
        Request::of(&wants, &[], read).map(|request| request.urls.len())
    };
    assert_eq!(of(10, 10, 100).unwrap(), 1000);
    assert!(matches!(of(10, 10, 101), Err(RequestError::TooMany)));
    assert!(matches!(of(10_000, 10, 10_000), Err(RequestError::TooMany)));
    assert!(matches!(of(1, 100_000, 1000), Err(RequestError::TooMany)));
}

#[test]
fn a_stop_ends_a_download_that_stands_still() {
    let (came, coming) = mpsc::channel();
    let (gate, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = serve(move |_, mut exchange| {
        exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nsome");
        came.send(()).unwrap();
        let _ = wait.lock().unwrap().recv();
    });
    let folder = tempfile::tempdir().unwrap();
    let (dest, stop) = (folder.path().join("out"), stop());
    let request = wanted(b"hello", &[server.url().to_owned(), server.url().to_owned()]);
    thread::scope(|scope| {
        let word = &stop;
        scope.spawn(move || {
            coming.recv().unwrap();
            word.stop();
        });
        let result = download(&request, None, &dest, &mut |_| Ok(()), &stop);
        assert!(matches!(result, Err(DownloadError::Stopped)), "{result:?}");
    });
    assert!(!dest.exists());
    drop(gate);
}

#[test]
fn a_log_or_a_disk_that_takes_nothing_ends_it() {
    let server = serve(|_, exchange| exchange.respond(200, "", b"hello"));
    let folder = tempfile::tempdir().unwrap();
    let request = wanted(b"hello", &[server.url().to_owned()]);
    let dest = folder.path().join("out");
    let result = download(&request, None, &dest, &mut |_| Err(io::Error::other("full")), &stop());
    assert!(matches!(result, Err(DownloadError::Log(_))), "{result:?}");
    let result = download(&request, None, &folder.path().join("no/folder"), &mut |_| Ok(()), &stop());
    assert!(matches!(result, Err(DownloadError::Disk { .. })), "{result:?}");
}

/// A derivation with these variables.
fn derivation(env: &[(&str, &str)]) -> Derivation {
    let path = path::fixed_output("hello", false, "sha256", &[7; 32]).unwrap();
    let fixed = Fixed { recursive: false, algorithm: "sha256".to_owned(), hash: vec![7; 32] };
    let mut env: Vec<_> =
        env.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
    env.sort();
    Derivation {
        outputs: vec![Output { name: "out".to_owned(), path, fixed: Some(fixed) }],
        inputs: Vec::new(),
        sources: Vec::new(),
        system: "x86_64-linux".to_owned(),
        builder: b"builtin:download".to_vec(),
        args: Vec::new(),
        env,
    }
}

fn request(derivation: &Derivation) -> Result<Request, RequestError> {
    Request::of(derivation, &["http://farm/file".to_owned()], |_| Err::<Vec<u8>, _>("no store here"))
}

#[test]
fn variables_that_cannot_be_meant_are_said() {
    let of = |env: &[(&str, &str)]| request(&derivation(env)).unwrap_err().to_string();
    assert!(of(&[]).contains("'url'"));
    for (url, words) in [
        ("", "expected a string"),
        ("hello", "neither a string nor a list"),
        ("()", "neither a string nor a list"),
        ("(\"http://a\" b)", "neither a string nor a list"),
        ("\"http://a", "the end of a string"),
        ("\"file:///etc/passwd\"", "does not read files"),
        ("(\"http://a/\" \"/etc/passwd\")", "does not read files"),
    ] {
        assert!(of(&[("url", url)]).contains(words), "{url}: {}", of(&[("url", url)]));
    }
    let mirror = ("url", "\"mirror://gnu/hello\"");
    assert!(of(&[mirror, ("mirrors", "/etc/passwd")]).contains("table of mirrors"));
    let foreign = of(&[mirror, ("mirrors", &format!("/gnu/store/{MIRRORS}"))]);
    assert!(foreign.contains("not among the derivation's sources"), "{foreign}");

    let mut unfixed = derivation(&[("url", "\"http://a/\"")]);
    unfixed.outputs[0].fixed.as_mut().unwrap().algorithm = "sha1".to_owned();
    assert!(matches!(request(&unfixed), Err(RequestError::Algorithm(_))));
    unfixed.outputs[0].fixed = None;
    assert!(matches!(request(&unfixed), Err(RequestError::NotFixed)));
}

#[test]
fn a_derivation_may_leave_ways_of_downloading_out() {
    let of = |methods| {
        let request =
            request(&derivation(&[("url", "\"http://a/\""), ("download-methods", methods)])).unwrap();
        (request.urls.len(), request.mirrors.len(), request.is_by_hash())
    };
    assert_eq!(of("(upstream content-addressed-mirrors)"), (1, 1, true));
    assert_eq!(of("(content-addressed-mirrors)"), (0, 1, true));
    assert_eq!(of("(upstream)"), (1, 0, false));
    assert_eq!(of("()"), (0, 0, false));
}

/// The files of an archive of store items, by base name.
fn items(archive: &str) -> BTreeMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(archive);
    let mut decoder = zstd::stream::read::Decoder::new(File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(decoder).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().trim_matches('/').to_owned();
        if entry.header().entry_type().is_file() && !name.contains('/') {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            files.insert(name, contents);
        }
    }
    files
}

#[test]
fn every_download_of_the_closure_of_hello_is_understood() {
    let sources = items("hello-sources.tar.zst");
    let read = |path: &StorePath| sources.get(path.base_name()).cloned().ok_or("no such source");
    let (mut downloads, mut executables) = (0, 0);
    for (name, text) in items("hello-drvs.tar.zst") {
        let derivation = Derivation::parse(&text).unwrap();
        if derivation.builtin() != Some("download") {
            continue;
        }
        let request = Request::of(&derivation, &["http://farm/file".to_owned()], read).unwrap();
        downloads += 1;
        if request.name == "bash52-024" {
            let gnu = "https://ftpmirror.gnu.org/gnu/bash/bash-5.2-patches/bash52-024";
            assert_eq!(request.urls.first().map(String::as_str), Some(gnu));
            assert!(request.urls.len() > 3, "{name}");
        }
        executables += usize::from(request.executable);
        assert_eq!(request.executable, request.recursive, "{name}");
        assert_eq!(request.name, derivation.outputs[0].path.name());
        assert!(!request.urls.is_empty(), "{name}");
        for url in request.addresses() {
            let (scheme, _) = url.split_once("://").unwrap();
            assert!(["http", "https", "ftp"].contains(&scheme), "{name}: {url}");
            assert!(url.parse::<ureq::http::Uri>().is_ok(), "{name}: {url}");
        }
    }
    assert_eq!((downloads, executables), (370, 16));
}
