//! What is logged of requests: their names, and nothing that is secret.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use drover_wire::agent::{Enrolled, Enrolment, Report};
use drover_wire::client::{NewToken, Secret};
use drover_wire::route::{agents, clients};
use drover_wire::{AGENT_NAME_HEADER, Code, REQUEST_HEADER};
use serde_json::Value;
use ureq::SendBody;

use crate::agent::{Agent, hello};
use crate::browser::Browser;
use crate::graph::{derivation, output};
use crate::house::House;
use crate::peer::{Answer, Peer};

/// The lines that a coordinator has logged so far.
fn lines(house: &House) -> Vec<Value> {
    house.log().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// What it says of a request.
fn said_of(house: &House, id: &str) -> Vec<String> {
    let all = lines(house).into_iter().filter(|line| line["span"]["id"] == id);
    all.map(|line| line["fields"]["message"].as_str().unwrap().to_owned()).collect()
}

fn get_as(peer: &Peer, path: &str, id: &str) -> Answer {
    peer.send("GET", path, &[(REQUEST_HEADER, id)], SendBody::none())
}

/// What a refusal says of the request.
fn request_of(refusal: &Answer) -> String {
    let problem: Value = serde_json::from_slice(&refusal.body).unwrap();
    problem["request"].as_str().unwrap().to_owned()
}

#[test]
fn a_request_goes_by_the_name_that_it_came_with_in_log_answer_and_refusal() {
    let house = House::with(&["--log", "debug", "--log-json"]);
    let client = house.client();
    let answer = get_as(&client.0, &clients::AGENTS.path(&[]), "mine.1");
    assert_eq!((answer.status, answer.header(REQUEST_HEADER)), (200, "mine.1"));
    assert_eq!(said_of(&house, "mine.1"), ["a request was answered"]);
    // What no name can be is replaced.
    let answer = get_as(&client.0, &clients::AGENTS.path(&[]), "mine 2");
    assert!(drover_wire::is_request_id(answer.header(REQUEST_HEADER)), "{answer:?}");
    // Whoever is refused can say of which request.
    let strange = Peer::new(house.clients, "Bearer of news");
    let answer = get_as(&strange, &clients::AGENTS.path(&[]), "mine.3");
    answer.refused(Code::Unauthorized);
    assert_eq!(request_of(&answer), "mine.3");
    let nowhere = client.0.get("/v1/nowhere");
    nowhere.refused(Code::NotFound);
    assert_eq!(request_of(&nowhere), nowhere.header(REQUEST_HEADER));
    // The public's answers are kept by others.
    assert_eq!(house.stranger().get("/nix-cache-info").header(REQUEST_HEADER), "");
    assert_eq!(get_as(&house.stranger(), "/nix-cache-info", "mine.4").header(REQUEST_HEADER), "mine.4");
}

#[test]
fn what_happens_elsewhere_for_a_request_is_logged_with_its_name() {
    let house = House::with(&["--log-json"]);
    let client = house.client();
    let made = derivation("made", &[]);
    client.submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let (kept, compressed) = output(&made.out, b"made", &[]);
    agent.declare(lease, &kept);
    // Its place is given to it on another thread.
    let path = format!("{}?offset=0", crate::agent::upload_path(lease, &kept.path));
    let mut body = &compressed[..];
    let body = SendBody::from_reader(&mut body);
    assert_eq!(agent.0.send("PATCH", &path, &[(REQUEST_HEADER, "upload-7")], body).status, 200);
    assert_eq!(said_of(&house, "upload-7"), ["an output is here"]);
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (reader, log) = UnixStream::pair().unwrap();
    let house = House::logging_to(Some(OwnedFd::from(log).into()), &["--log", "debug"]);
    let client = house.client();
    // Far more than waits in a socket.
    let path = format!("/v1/{}", "x".repeat(8000));
    for _ in 0..200 {
        client.0.get(&path).refused(Code::NotFound);
    }
    // Nobody ever will.
    drop(reader);
    client.0.get(&path).refused(Code::NotFound);
    assert_eq!(client.0.get(&clients::AGENTS.path(&[])).status, 200);
}

#[test]
fn no_secret_is_in_the_log_or_in_the_numbers_however_much_is_logged() {
    let house = House::with(&["--log", "trace", "--log-json"]);
    let client = house.client();
    let mut secrets = vec![house.token()];
    let mut peers = vec![client.0.clone()];

    // An agent with a password of the operator's, which builds.
    let agent = house.agent("one");
    let pair = agent.0.authorization.strip_prefix("Basic ").unwrap();
    let pair = String::from_utf8(data_encoding::BASE64.decode(pair.as_bytes()).unwrap()).unwrap();
    secrets.push(pair.split_once(':').unwrap().1.to_owned());
    peers.push(agent.0.clone());
    let made = derivation("made", &[]);
    let build = client.submit(&[&made]);
    let lease = agent.allocation().lease;
    agent.closure(lease);
    assert_eq!(agent.log(lease, 0, b"hello\n").status, 200);
    let (kept, compressed) = output(&made.out, b"made", &[]);
    agent.succeed(lease, &kept, &compressed);
    client.submit(&[&derivation("failing", &[])]);
    let lease = agent.allocation().lease;
    agent.report(lease, &Report::Failed { message: "exit code 1".to_owned() });
    client.show(build);

    // A machine that enrols itself.
    let new = NewToken { note: "boards".to_owned() };
    let token: Secret = client.0.post(&clients::AGENT_TOKEN.path(&[]), &new).value();
    let machine = Peer::new(house.agents, &format!("Bearer {}", token.secret));
    let body = serde_json::to_vec(&Enrolment { hardware: "serial:1".to_owned() }).unwrap();
    let name = [(AGENT_NAME_HEADER, "board")];
    let enrol = agents::ENROL.path(&[]);
    let enrolled: Enrolled =
        machine.send("POST", &enrol, &name, SendBody::from_reader(&mut &body[..])).value();
    secrets.extend([token.secret, enrolled.password.clone()]);
    let pair = format!("{}:{}", enrolled.agent, enrolled.password);
    let basic = |pair: &str| format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()));
    let board = Agent(Peer::new(house.agents, &basic(&pair)));
    board.hello(&[]);
    peers.extend([machine, board.0]);

    // Strangers, and what they tried.
    let wrong = ["wrong-password-of-somebody", "wrong-token-of-somebody"];
    let typo = Peer::new(house.agents, &basic(&format!("{}:{}", enrolled.agent, wrong[0])));
    typo.post(&agents::HELLO.path(&[]), &hello(&[])).refused(Code::Unauthorized);
    let stranger = Peer::new(house.clients, &format!("Bearer {}", wrong[1]));
    stranger.get(&clients::METRICS.path(&[])).refused(Code::Unauthorized);
    stranger.post_bytes(&clients::UPLOAD.path(&[]), &[0; 1000]).refused(Code::Unauthorized);
    secrets.extend(wrong.map(str::to_owned));
    peers.extend([typo, stranger]);

    // A browser that somebody logs in, and one that is somebody else's.
    let browser = Browser::logged_in(&house);
    browser.get("/").page();
    let session = browser.cookie.clone().expect("a session");
    secrets.extend([session.split_once('=').unwrap().1.to_owned(), session]);
    let wrong = "wrong-token-in-the-form";
    assert_eq!(Browser::new(house.clients).log_in(wrong, "/", &[]).status, 403);
    secrets.push(wrong.to_owned());

    // The key that signs.
    let key = std::fs::read_to_string(house.folder.path().join("keys/1.sec")).unwrap();
    let (_, secret_half) = key.split_once("(d #").expect("a secret Guix key");
    secrets.push(secret_half[..64].to_owned());

    // Whole headers, and what stands in them.
    for peer in &peers {
        secrets.push(peer.authorization.clone());
        secrets.push(peer.authorization.split_once(' ').unwrap().1.to_owned());
    }
    let numbers = String::from_utf8(client.0.get(&clients::METRICS.path(&[])).body).unwrap();
    let log = house.log();
    assert!(lines(&house).iter().any(|line| line["level"] == "DEBUG"), "nothing at the level debug: {log}");
    assert!(log.contains("/v1/enrol") && log.contains("/v1/bundle"), "{log}");
    assert!(numbers.contains("/v1/enrol") && numbers.contains("/login"), "{numbers}");
    for secret in &secrets {
        assert!(secret.len() > 20, "{secret}");
        let found = log.lines().find(|line| line.to_lowercase().contains(&secret.to_lowercase()));
        assert_eq!(found, None, "{secret} is in the log");
        assert!(!numbers.contains(secret), "{secret} is in the numbers");
    }
}
