//! Against a server that answers what the test wants.

use super::*;
use crate::config::{self, Request, Surroundings};
use crate::http::testing::{Authority, Exchange, Server};
use crate::logging::tests::printed;
use crate::retry::Temporary;
use drover_store::hash::Sha256Hash;
use drover_wire::agent::{Allocation, Machine};
use drover_wire::{BuildState, Code, Problem};
use std::io;
use std::sync::mpsc;
use std::thread;

const ITEM: &str = "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-hello";

fn coordinator_with(url: &str, identity: &[&str]) -> Coordinator {
    let arguments = [&["--coordinator", url], identity].concat();
    match config::read(arguments.iter().map(|a| a.into()), &Surroundings::here()).unwrap() {
        Request::Run(config) => Coordinator::new(&config),
        Request::Print(text) => panic!("{text}"),
    }
}

fn coordinator(server: &Server) -> Coordinator {
    coordinator_with(server.url(), &["--dynamic-auth-token=t", "--name=board"])
}

fn answering(status: u16, body: &'static str) -> Server {
    Server::start(move |mut exchange: Exchange<'_>| {
        let _ = exchange.body();
        exchange.respond(status, "", body.as_bytes());
    })
}

fn problem(code: Code) -> Vec<u8> {
    serde_json::to_vec(&Problem::new(code, "no such thing")).unwrap()
}

fn heartbeat() -> Heartbeat {
    Heartbeat { accepting: 1, machine: Machine::default(), leases: Vec::new() }
}

fn item() -> StorePath {
    ITEM.parse().unwrap()
}

#[test]
fn every_request_says_who_we_are() {
    let (saw, seen) = mpsc::channel();
    let server = Server::start(move |exchange| {
        saw.send((
            exchange.header("authorization").to_owned(),
            exchange.header("drover-agent-name").to_owned(),
        ))
        .unwrap();
        exchange.respond(200, "", b"(key)");
    });
    assert_eq!(coordinator(&server).key().unwrap(), "(key)");
    assert_eq!(seen.recv().unwrap(), ("Bearer t".to_owned(), "board".to_owned()));
    let uuid = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    coordinator_with(server.url(), &["--uuid", uuid, "--password=pw"]).key().unwrap();
    let expected = format!("Basic {}", data_encoding::BASE64.encode(format!("{uuid}:pw").as_bytes()));
    assert_eq!(seen.recv().unwrap(), (expected, String::new()));
}

#[test]
fn messages_go_to_their_routes_and_answers_come_back() {
    let orders = Orders {
        allocations: vec![Allocation {
            lease: LeaseId(7),
            build: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse().unwrap(),
            derivation: format!("{ITEM}.drv").parse().unwrap(),
            priority: 3,
            timeout: Some(60),
            max_silent_time: None,
        }],
        give_up: Vec::new(),
    };
    let (saw, seen) = mpsc::channel();
    let answer = serde_json::to_vec(&orders).unwrap();
    let server = Server::start(move |mut exchange| {
        let body = exchange.body().unwrap();
        saw.send((exchange.target.clone(), exchange.header("content-type").to_owned(), body)).unwrap();
        exchange.respond(200, "", &answer);
    });
    let coordinator = coordinator(&server);
    assert_eq!(coordinator.heartbeat(&heartbeat()).unwrap(), orders);
    let (target, content_type, body) = seen.recv().unwrap();
    assert_eq!((&*target, &*content_type), ("POST /v1/heartbeat", "application/json"));
    assert_eq!(serde_json::from_slice::<Heartbeat>(&body).unwrap(), heartbeat());
    let poll = Poll { accepting: 1, holding: vec![LeaseId(7)] };
    assert_eq!(coordinator.poll(&poll, Duration::from_secs(60)).unwrap(), orders);
    assert_eq!(seen.recv().unwrap().0, "POST /v1/poll");
}

#[test]
fn an_upload_is_streamed_to_its_offset() {
    let (saw, seen) = mpsc::channel();
    let server = Server::start(move |mut exchange| {
        let body = exchange.body().unwrap();
        saw.send((exchange.target.clone(), body)).unwrap();
        exchange.respond(200, "", br#"{"received":300005,"complete":true}"#);
    });
    let nar = vec![b'n'; 300_000];
    let received = coordinator(&server).upload(LeaseId(7), &item(), 5, &mut &nar[..]).unwrap();
    assert_eq!(received, Received { received: 300_005, complete: true });
    let (target, body) = seen.recv().unwrap();
    assert_eq!(target, format!("PATCH /v1/leases/7/outputs/{}?offset=5", item().base_name()));
    assert!(body == nar);
}

#[test]
fn a_refused_upload_sends_nothing_and_brings_the_sentence() {
    struct Untouched;
    impl Read for Untouched {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("the body was read")
        }
    }
    let server = Server::start(|exchange| {
        let problem = Problem { received: Some(42), ..Problem::new(Code::WrongOffset, "go on at 42") };
        exchange.respond(416, "", &serde_json::to_vec(&problem).unwrap());
    });
    let error = coordinator(&server).upload(LeaseId(7), &item(), 5, &mut Untouched).unwrap_err();
    assert_eq!(error.received(), Some(42));
    assert!(error.to_string().contains("go on at 42") && !error.is_temporary(), "{error}");
}

#[test]
fn an_upload_whose_connection_breaks_may_be_tried_again() {
    let server = Server::start(|mut exchange| exchange.some_of_the_body(1000));
    let nar = vec![b'n'; 10_000_000];
    let error = coordinator(&server).upload(LeaseId(7), &item(), 0, &mut &nar[..]).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_temporary(), "{error}");
}

#[test]
fn a_nar_that_cannot_be_read_here_is_not_the_coordinators_fault() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the daemon went away"))
        }
    }
    let server = Server::start(|mut exchange| assert!(exchange.body().is_err()));
    let error = coordinator(&server).upload(LeaseId(7), &item(), 0, &mut Broken).unwrap_err();
    assert!(matches!(error, Error::Source { .. }) && !error.is_temporary(), "{error}");
    assert!(error.to_string().contains("the daemon went away"), "{error}");
}

#[test]
fn log_reports_and_declarations_go_to_their_lease() {
    let (saw, seen) = mpsc::channel();
    let server = Server::start(move |mut exchange| {
        let body = exchange.body().unwrap();
        saw.send((exchange.target.clone(), body)).unwrap();
        let answer: &[u8] = if exchange.target.ends_with("report") {
            br#"{"state":"canceled"}"#
        } else {
            br#"{"received":9,"complete":false}"#
        };
        exchange.respond(200, "", answer);
    });
    let coordinator = coordinator(&server);
    coordinator.append_log(LeaseId(7), 6, b"\xff\x00!").unwrap();
    assert_eq!(seen.recv().unwrap(), ("PATCH /v1/leases/7/log?offset=6".to_owned(), b"\xff\x00!".to_vec()));
    assert_eq!(coordinator.report(LeaseId(7), &Report::Canceled).unwrap().state, BuildState::Canceled);
    assert_eq!(seen.recv().unwrap().0, "POST /v1/leases/7/report");
    let nar_hash = Sha256Hash::of(b"");
    let output = Output { path: item(), nar_hash, nar_size: 1, references: Vec::new() };
    assert_eq!(coordinator.declare(LeaseId(7), &output).unwrap().received, 9);
    assert_eq!(seen.recv().unwrap().0, "POST /v1/leases/7/outputs");
}

#[test]
fn a_connection_is_used_again_after_a_nar_of_which_nothing_but_its_bytes_was_read() {
    let (saw, connections) = mpsc::channel();
    let server = Server::start(move |exchange| {
        saw.send(thread::current().id()).unwrap();
        exchange.respond(200, "", b"nar");
    });
    let coordinator = coordinator(&server);
    for _ in 0..3 {
        let mut download = coordinator.nar(&item(), 0).unwrap();
        download.read_exact(&mut [0; 3]).unwrap();
    }
    let connections: Vec<_> = connections.try_iter().collect();
    assert_eq!(connections, [connections[0]; 3]);
}

#[test]
fn a_nar_is_read_from_an_offset_to_its_end() {
    let server = Server::start(|exchange| match exchange.header("range") {
        "" => exchange.respond(200, "", b"whole"),
        "bytes=3-" => exchange.respond(206, "", b"le"),
        other => panic!("{other}"),
    });
    let coordinator = coordinator(&server);
    for (from, expected) in [(0, "whole"), (3, "le")] {
        let mut download = coordinator.nar(&item(), from).unwrap();
        assert_eq!(download.size(), Some(expected.len() as u64));
        let mut text = String::new();
        download.read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }
}

#[test]
fn a_server_that_ignores_the_offset_is_noticed() {
    let server = answering(200, "whole");
    assert!(coordinator(&server).nar(&item(), 3).unwrap_err().to_string().contains("sends everything"));
}

#[test]
fn a_download_that_is_cut_is_an_error_in_reading() {
    let server = Server::start(|mut exchange| {
        let _ = exchange.body();
        exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"te");
    });
    let coordinator = coordinator(&server);
    let mut bundle = coordinator.bundle(&BundleRequest { paths: vec![item()] }).unwrap();
    assert!(bundle.read_to_end(&mut Vec::new()).is_err());
    // An answer of ours that is cut is one that may be asked for again.
    let error = coordinator.closure(LeaseId(7)).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn refusals_bring_the_coordinators_sentence() {
    for (code, temporary) in [(Code::LeaseNotHeld, false), (Code::Unavailable, true)] {
        let server = Server::start(move |mut exchange| {
            let _ = exchange.body();
            exchange.respond(code.status(), "retry-after: 9\r\n", &problem(code));
        });
        let error = coordinator(&server).heartbeat(&heartbeat()).unwrap_err();
        assert_eq!((error.code(), error.is_temporary()), (Some(code), temporary));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
        let said = error.to_string();
        assert!(said.contains("no such thing") && said.contains("send a heartbeat (http://"), "{said}");
    }
}

#[test]
fn each_request_has_a_name_by_which_its_failure_is_told() {
    let (named, names) = mpsc::channel();
    let server = Server::start(move |mut exchange| {
        let _ = exchange.body();
        named.send(exchange.header(drover_wire::REQUEST_HEADER).to_owned()).unwrap();
        exchange.respond(Code::Internal.status(), "", &problem(Code::Internal));
    });
    let coordinator = coordinator(&server);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let mut said = String::new();
        let line = printed(false, false, || {
            said = coordinator.heartbeat(&heartbeat()).unwrap_err().to_string();
        });
        let name = names.recv().unwrap();
        // The log tells of it also when all is well.
        assert!(line.starts_with("DEBUG send a heartbeat (http://"), "{line}");
        assert!(line.ends_with(&format!("/v1/heartbeat) request={name}\n")), "{line}");
        assert!(
            drover_wire::is_request_id(&name) && said.contains(&format!(", request {name})")),
            "{name}: {said}"
        );
        assert!(seen.insert(name));
    }
}

#[test]
fn what_is_no_coordinator_is_called_so() {
    for (status, body, temporary) in [
        (200, "<html>hello</html>", false),
        (404, "<h1>not\n here</h1>", false),
        (502, "<html>bad gateway</html>", true),
        (204, "", false),
    ] {
        let server = answering(status, body);
        let error = coordinator(&server).heartbeat(&heartbeat()).unwrap_err();
        assert!(matches!(error, Error::NotACoordinator { .. }), "{error:?}");
        assert_eq!(error.is_temporary(), temporary, "{error}");
    }
    let moved = Server::start(|mut exchange| {
        let _ = exchange.body();
        exchange.respond(301, "location: https://new/\r\n", b"");
    });
    let error = coordinator(&moved).heartbeat(&heartbeat()).unwrap_err().to_string();
    assert!(error.contains("go to https://new/"), "{error}");
}

#[test]
fn a_coordinator_that_is_not_there_may_come_back() {
    let listener = drover_os::net::Listener::bind_tcp("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}", listener.port().unwrap());
    drop(listener);
    let error = coordinator_with(&url, &["--dynamic-auth-token=t"]).heartbeat(&heartbeat()).unwrap_err();
    assert!(error.is_temporary());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_called_so() {
    let server = Server::start_tls(&Authority::new(), |exchange| exchange.respond(200, "", b"(key)"));
    let error = coordinator(&server).key().unwrap_err().to_string();
    assert!(error.contains("--ca-file"), "{error}");
}

#[test]
fn an_open_poll_is_interrupted_and_other_calls_are_not() {
    let (came, coming) = mpsc::channel();
    let server = Server::start(move |mut exchange| {
        let _ = exchange.body();
        if exchange.target.ends_with("poll") {
            came.send(()).unwrap();
            // Until the client goes away.
            exchange.some_of_the_body(1);
        } else {
            exchange.respond(200, "", b"{}");
        }
    });
    let coordinator = coordinator(&server);
    coordinator.heartbeat(&heartbeat()).unwrap();
    thread::scope(|scope| {
        let polling = scope.spawn(|| {
            coordinator
                .poll(&Poll { accepting: 1, holding: Vec::new() }, Duration::from_secs(600))
                .unwrap_err()
        });
        coming.recv().unwrap();
        coordinator.interrupt_poll();
        assert!(matches!(polling.join().unwrap(), Error::Unreachable { .. }));
    });
    coordinator.heartbeat(&heartbeat()).unwrap();
}
