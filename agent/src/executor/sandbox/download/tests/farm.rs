//! Downloads that the farm itself is asked for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use drover_store::nar::Node;
use drover_wire::{Code, Problem};

use super::{fetched_by, serve, stop, wanted};
use crate::config::{self, Surroundings};
use crate::coordinator::FarmFiles;
use crate::executor::sandbox::download::*;
use crate::http::testing::{Authority, Exchange, Server};

/// How a farm answers.
type Answer = Box<dyn Fn(Exchange<'_>) + Send + Sync>;

/// What an agent of the coordinator at this address has of it.
fn farm(url: &str) -> FarmFiles {
    farm_with(url, &[])
}

fn farm_with(url: &str, more: &[&str]) -> FarmFiles {
    let words = [&["--coordinator", url, "--dynamic-auth-token=t", "--name=board"], more].concat();
    match config::read(words.iter().map(|word| word.into()), &Surroundings::here()).unwrap() {
        config::Request::Run(config) => FarmFiles::new(&config),
        config::Request::Print(text) => panic!("{text}"),
    }
}

/// A farm that answers like this, and a server beside it that has the file; what was asked of the two.
fn beside(
    answer: impl Fn(Exchange<'_>) + Send + Sync + 'static,
) -> (FarmFiles, String, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = |who: &'static str| {
        let asked = asked.clone();
        move |target: &str| asked.lock().unwrap().push(format!("{who}{target}"))
    };
    let (of_farm, of_origin) = (note("farm"), note("origin"));
    let coordinator = serve(move |target, exchange| {
        of_farm(target);
        answer(exchange);
    });
    let origin = serve(move |target, exchange| {
        of_origin(target);
        exchange.respond(200, "", b"hello");
    });
    (farm(coordinator.url()), origin.url().to_owned(), asked)
}

#[test]
fn the_farm_is_asked_before_all_others_as_the_agent_that_it_knows() {
    let (farm, url, asked) = beside(|exchange| {
        assert_eq!(exchange.header("authorization"), "Bearer t");
        exchange.respond(200, "", b"hello");
    });
    let request = Request { name: "a?b".to_owned(), ..wanted(b"hello", &[format!("{url}/own")]) };
    let (result, log) = fetched_by(Some(&farm), &request);
    assert_eq!(result.unwrap(), (b"hello".to_vec(), 0o644), "{log}");
    assert!(log.starts_with("downloading a?b from the farm\n"), "{log}");
    let hash = Sha256Hash::of(b"hello").base32();
    assert_eq!(*asked.lock().unwrap(), [format!("farm/v1/file/a%3Fb/sha256/{hash}")]);
}

#[test]
fn the_farm_is_trusted_as_the_agents_coordinator_is() {
    let authority = Authority::new();
    let coordinator = Server::start_tls(&authority, |exchange| exchange.respond(200, "", b"hello"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, &authority.pem).unwrap();
    let known = farm_with(coordinator.url(), &["--ca-file", file.to_str().unwrap()]);
    for (farm, trusted) in [(known, true), (farm(coordinator.url()), false)] {
        let (result, log) = fetched_by(Some(&farm), &wanted(b"hello", &[]));
        assert_eq!(result.is_ok(), trusted, "{log}");
        assert_eq!(log.contains("certificate"), !trusted, "{log}");
    }
}

#[test]
fn what_the_farm_does_not_give_is_had_elsewhere_and_the_log_says_why() {
    let problem = |code| serde_json::to_vec(&Problem::new(code, "that is how it is")).unwrap();
    let absent = problem(Code::NotFound);
    let busy = problem(Code::Unavailable);
    let stranger = problem(Code::Unauthorized);
    let wrong = format!("5 bytes of the SHA-256 {}", Sha256Hash::of(b"wrong").base32());
    let cases: [(Answer, &str); 7] = [
        (Box::new(move |exchange| exchange.respond(404, "", &absent)), "it has no such file"),
        (Box::new(move |exchange| exchange.respond(503, "", &busy)), "that is how it is"),
        (Box::new(move |exchange| exchange.respond(401, "", &stranger)), "that is how it is"),
        (Box::new(|exchange| exchange.respond(302, "location: http://x/\r\n", b"")), "go to http://x/"),
        (Box::new(|exchange| exchange.respond(200, "", b"wrong")), &wrong),
        (Box::new(|exchange| exchange.respond(200, "", &[0; 1000])), "more than 100 bytes"),
        (
            Box::new(|mut exchange| exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\nhel")),
            "not from there now: it broke off: ",
        ),
    ];
    for (answer, words) in cases {
        let (farm, url, asked) = beside(answer);
        let request = Request { size_max: 100, ..wanted(b"hello", &[format!("{url}/own")]) };
        let (result, log) = fetched_by(Some(&farm), &request);
        assert_eq!(result.unwrap().0, b"hello", "{log}");
        assert!(log.contains(words), "“{words}” is not in: {log}");
        let asked = asked.lock().unwrap();
        assert_eq!((asked.len(), &*asked[1]), (2, "origin/own"), "{log}");
    }
    let (_, url, _) = beside(|_| {});
    let (result, log) = fetched_by(Some(&farm("http://127.0.0.1:1")), &wanted(b"hello", &[url]));
    assert_eq!(result.unwrap().0, b"hello", "{log}");
    assert!(
        log.contains("not from there now: fetch a file by its hash (http://127.0.0.1:1/v1/file/"),
        "{log}"
    );
}

#[test]
fn a_farm_that_breaks_off_is_asked_again_when_nobody_else_has_the_file() {
    let asked = AtomicUsize::new(0);
    let coordinator = serve(move |_, mut exchange| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => exchange.raw(b"HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\nhel"),
        _ => exchange.respond(200, "", b"hello"),
    });
    let request = wanted(b"hello", &["http://127.0.0.1:1/gone".to_owned()]);
    let (result, log) = fetched_by(Some(&farm(coordinator.url())), &request);
    assert_eq!(result.unwrap().0, b"hello", "{log}");
    assert_eq!(log.matches("from the farm").count(), 2, "{log}");
}

#[test]
fn a_farm_that_cannot_be_asked_may_have_what_nobody_else_has() {
    for (is_there, is_away) in [(false, true), (true, false)] {
        let coordinator = serve(|_, exchange| {
            let absent = Problem::new(Code::NotFound, "that is how it is");
            exchange.respond(404, "", &serde_json::to_vec(&absent).unwrap());
        });
        let origin = serve(|_, exchange| exchange.respond(404, "", b"no"));
        let farm = farm(if is_there { coordinator.url() } else { "http://127.0.0.1:1" });
        let (result, log) = fetched_by(Some(&farm), &wanted(b"hello", &[origin.url().to_owned()]));
        assert_eq!(matches!(result, Err(DownloadError::Away { .. })), is_away, "{log}");
    }
}

#[test]
fn the_farm_is_not_asked_for_what_has_the_hash_of_a_nar_or_is_not_to_be_had_by_its_hash() {
    let nar = Node::file("hello").to_nar();
    for (recursive, by_hash, content) in [(true, true, &nar[..]), (false, false, b"hello")] {
        let (farm, url, asked) = beside(|exchange| exchange.respond(200, "", b"hello"));
        let request = Request { recursive, by_hash, ..wanted(content, &[format!("{url}/own")]) };
        let (result, log) = fetched_by(Some(&farm), &request);
        assert_eq!(result.unwrap().0, b"hello", "{log}");
        assert_eq!(*asked.lock().unwrap(), ["origin/own"]);
    }
}

#[test]
fn a_stop_ends_a_download_from_the_farm_that_stands_still() {
    for head in ["", "HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nsome"] {
        let ((came, coming), (gate, wait)) = (mpsc::channel(), mpsc::channel::<()>());
        let wait = Mutex::new(wait);
        let (farm, url, asked) = beside(move |mut exchange| {
            exchange.raw(head.as_bytes());
            came.send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
        });
        let folder = tempfile::tempdir().unwrap();
        let (dest, stop, request) = (folder.path().join("out"), stop(), wanted(b"hello", &[url]));
        thread::scope(|scope| {
            let word = &stop;
            scope.spawn(move || {
                coming.recv().unwrap();
                word.stop();
            });
            let result = download(&request, Some(&farm), &dest, &mut |_| Ok(()), &stop);
            assert!(matches!(result, Err(DownloadError::Stopped)), "{result:?}");
        });
        assert!(!dest.exists());
        assert_eq!(asked.lock().unwrap().len(), 1);
        drop(gate);
    }
}
