//! What holds for every request.

use drover_wire::Code;
use drover_wire::bundle::Kind;
use drover_wire::route::{agents, clients};
use ureq::SendBody;

use crate::agent::{hello, upload_path};
use crate::client::bundle;
use crate::graph::{derivation, noise};
use crate::house::House;
use crate::peer::Peer;

#[test]
fn who_is_not_known_is_told_how_to_say_who_they_are() {
    let house = House::start();
    let stranger = Peer::new(house.clients, "");
    let answer = stranger.get(&clients::BUILDS.path(&[]));
    answer.refused(Code::Unauthorized);
    assert!(answer.header("www-authenticate").starts_with("Bearer "));
    let stranger = Peer::new(house.agents, "Bearer of news");
    let answer = stranger.post(&agents::HELLO.path(&[]), &hello(&[]));
    answer.refused(Code::Unauthorized);
    assert!(answer.header("www-authenticate").starts_with("Basic "));
}

#[test]
fn a_sender_that_waits_is_refused_before_it_sends() {
    let house = House::start();
    let agent = house.agent("one");
    let made = derivation("made", &[]);
    let waits = "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n";
    // A lease that nobody holds; a stranger; an address that is not there.
    let path = format!("{}?offset=0", upload_path(drover_wire::LeaseId(7), &made.out));
    let refused = agent.0.open("PATCH", &path, waits).head();
    assert_eq!(refused[0], "HTTP/1.1 409 Conflict");
    let stranger = Peer::new(house.agents, "");
    assert_eq!(stranger.open("PATCH", &path, waits).head()[0], "HTTP/1.1 401 Unauthorized");
    assert_eq!(agent.0.open("PATCH", "/v1/nothing", waits).head()[0], "HTTP/1.1 404 Not Found");
    let large = "Expect: 100-continue\r\nContent-Length: 999999999\r\n";
    let refused = agent.0.open("POST", &agents::HELLO.path(&[]), large).head();
    assert_eq!(refused[0], "HTTP/1.1 413 Payload Too Large");
}

#[test]
fn a_sender_that_waits_is_told_to_go_on() {
    let house = House::start();
    let agent = house.agent("one");
    let body = serde_json::to_vec(&hello(&[])).unwrap();
    let headers = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
    let mut connection = agent.0.open("POST", &agents::HELLO.path(&[]), &headers);
    assert_eq!(connection.head(), ["HTTP/1.1 100 Continue"]);
    connection.send(&body);
    assert_eq!(connection.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn a_sender_that_does_not_look_up_before_it_has_sent_everything_reads_the_refusal() {
    let house = House::start();
    let client = house.client();
    let (made, noise) = (derivation("made", &[]), noise(12 << 20));
    // Refused at its first entry, with megabytes to come.
    let bundle = bundle(&[(Kind::Derivation, &made.path, b"Derive"), (Kind::Derivation, &made.path, &noise)]);
    client.upload(&bundle).refused(Code::BadDerivation);
    client.0.post_bytes(&clients::UPLOAD.path(&[]), &noise).refused(Code::BadRequest);
    client.0.post_bytes(&clients::SUBMIT.path(&[]), &[&noise[..], &noise].concat()).refused(Code::TooLarge);
    let agent = house.agent("one");
    agent.log(drover_wire::LeaseId(7), 0, &noise).refused(Code::TooLarge);
    agent.upload(drover_wire::LeaseId(7), &made.out, 0, &noise).refused(Code::LeaseNotHeld);
    for address in [house.clients, house.agents] {
        let stranger = Peer::new(address, "Bearer of news");
        stranger.post_bytes(&clients::UPLOAD.path(&[]), &noise).refused(Code::Unauthorized);
    }
}

#[test]
fn what_should_be_compressed_and_is_not_is_refused_with_what_it_should_be() {
    let house = House::start();
    let client = house.client();
    let rows = format!("{}?rows=1", clients::SUBMIT_SET.path(&[&"master", &"r1"]));
    for path in [clients::UPLOAD.path(&[]), rows] {
        for body in [&b"{\"package\": 1}\n"[..], b"\x28\xb5\x2f\x1f, all but the last", b"none at all"] {
            let problem = client.0.post_bytes(&path, body).refused(Code::BadRequest);
            assert!(problem.message.contains("should be compressed with zstd, and is not"), "{problem}");
        }
    }
}

#[test]
fn an_address_or_method_that_is_not_there_is_refused_in_words() {
    let house = House::start();
    let client = house.client();
    client.0.get("/v2/builds").refused(Code::NotFound);
    client.0.get(&agents::HELLO.path(&[])).refused(Code::NotFound);
    let answer = client.0.send("DELETE", &clients::BUILDS.path(&[]), &[], SendBody::none());
    answer.refused(Code::MethodNotAllowed);
    let mut allowed: Vec<&str> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[test]
fn a_message_that_is_none_is_refused_with_the_reason() {
    let house = House::start();
    let client = house.client();
    let agent = house.agent("one");
    for body in
        ["", "{", "[]", "null", "{\"builds\":7}", "{\"builds\":[{\"derivation\":\"/etc/passwd\"}]}", "\u{0}"]
    {
        client.0.post_bytes(&clients::SUBMIT.path(&[]), body.as_bytes()).refused(Code::BadRequest);
        agent.0.post_bytes(&agents::POLL.path(&[]), body.as_bytes()).refused(Code::BadRequest);
    }
    let problem = client.0.post_bytes(&clients::WAIT.path(&[]), b"{}").refused(Code::BadRequest);
    assert!(problem.message.contains("missing field `builds`"), "{problem}");
}

#[test]
fn an_address_whose_parts_are_none_is_refused_with_the_reason() {
    let house = House::start();
    let client = house.client();
    let agent = house.agent("one");
    let problem = client.0.get("/v1/builds/seven").refused(Code::BadRequest);
    assert!(problem.message.contains("“seven” is not a build's UUID"), "{problem}");
    for path in ["/v1/items/..%2f..%2fetc", "/v1/items/%ff", "/v1/nars/x", "/v1/builds?limit=many"] {
        client.0.get(path).refused(Code::BadRequest);
    }
    // Without an offset, with half of one, with one too many.
    for query in ["", "?offset=", "?offset=-1", "?offset=1&offset=2", "?ofset=1"] {
        let path = format!("{}{query}", agents::LOG.path(&[&7]));
        agent.0.send("PATCH", &path, &[], SendBody::from_reader(&mut &b"x"[..])).refused(Code::BadRequest);
    }
}

#[test]
fn a_request_that_stops_in_its_middle_changes_nothing() {
    let house = House::start();
    let client = house.client();
    let made = derivation("made", &[]);
    let build = client.submit(&[&made]);
    let agent = house.agent("one");
    let lease = agent.allocation().lease;
    let path = format!("{}?offset=0", agents::LOG.path(&[&lease]));
    let mut connection = agent.0.open("PATCH", &path, "Content-Length: 10\r\n");
    connection.send(b"half ");
    drop(connection);
    let received: drover_wire::agent::Received = agent.log(lease, 0, b"whole\n").value();
    assert_eq!(received.received, 6);
    assert_eq!(client.whole_log(build), b"whole\n");
}
