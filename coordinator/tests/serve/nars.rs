//! Nars, whole and in part.

use drover_store::{Sha256Hash, base32};
use drover_wire::route::{agents, clients, public};
use drover_wire::{Code, NAR_TYPE};
use ureq::SendBody;

use crate::agent::Agent;
use crate::graph::{derivation, derivation_with, noise, output};
use crate::house::House;
use crate::peer::{Answer, Peer};

/// A coordinator that holds an item: the address of its nar, and the compressed nar.
fn holding(size: usize) -> (House, Agent, String, Vec<u8>) {
    let house = House::start();
    let made = derivation("made", &[]);
    house.client().submit(&[&made]);
    let agent = house.agent("one");
    let (kept, bytes) = output(&made.out, &noise(size), &[]);
    agent.succeed(agent.allocation().lease, &kept, &bytes);
    (house, agent, clients::NAR.path(&[&made.out.base_name()]), bytes)
}

fn get(peer: &Peer, path: &str, headers: &[(&str, &str)]) -> Answer {
    peer.send("GET", path, headers, SendBody::none())
}

#[test]
fn a_nar_comes_back_as_it_was_sent_to_agents_and_clients() {
    let (house, agent, path, bytes) = holding(1 << 20);
    for peer in [&house.client().0, &agent.0] {
        let answer = peer.get(&path);
        assert_eq!((answer.status, answer.header("content-type")), (200, NAR_TYPE));
        assert_eq!(answer.header("content-length"), bytes.len().to_string());
        assert!(answer.body == bytes);
    }
    assert_eq!(agents::NAR.pattern, clients::NAR.pattern);
}

#[test]
fn the_head_of_a_nar_is_that_of_the_whole_answer() {
    let (house, _, path, bytes) = holding(100);
    let client = house.client();
    let (head, whole) = (client.0.send("HEAD", &path, &[], SendBody::none()), client.0.get(&path));
    assert_eq!(head.header("content-length"), bytes.len().to_string());
    assert!(head.body.is_empty());
    for name in ["content-type", "etag", "accept-ranges"] {
        assert_eq!(head.header(name), whole.header(name));
        assert_ne!(head.header(name), "");
    }
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    for size in [100, 1 << 20] {
        let (house, _, path, bytes) = holding(size);
        let peer = house.client().0;
        let (half, all) = (bytes.len() / 2, bytes.len());
        let rest = get(&peer, &path, &[("range", &format!("bytes={half}-"))]);
        assert_eq!(rest.status, 206);
        assert_eq!(rest.header("content-range"), format!("bytes {half}-{}/{all}", all - 1));
        assert_eq!(rest.header("content-length"), (all - half).to_string());
        assert!(rest.body == bytes[half..]);
        let part = get(&peer, &path, &[("range", "bytes=3-9")]);
        assert_eq!((part.status, &part.body[..]), (206, &bytes[3..10]));
        let last = get(&peer, &path, &[("range", "bytes=-5")]);
        assert_eq!((last.status, &last.body[..]), (206, &bytes[all - 5..]));
    }
}

#[test]
fn a_range_behind_the_end_is_refused_with_the_size() {
    let (house, _, path, bytes) = holding(100);
    let answer = get(&house.client().0, &path, &[("range", &format!("bytes={}-", bytes.len()))]);
    assert_eq!(answer.refused(Code::WrongOffset).received, Some(bytes.len() as u64));
    assert_eq!(answer.header("content-range"), format!("bytes */{}", bytes.len()));
}

#[test]
fn what_is_known_is_not_sent_again_and_a_range_of_something_else_is_everything() {
    let (house, _, path, bytes) = holding(100);
    let peer = house.client().0;
    let tag = peer.get(&path).header("etag").to_owned();
    let known = get(&peer, &path, &[("if-none-match", &tag)]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    let same = get(&peer, &path, &[("range", "bytes=1-"), ("if-range", &tag)]);
    assert_eq!((same.status, &same.body[..]), (206, &bytes[1..]));
    let other = get(&peer, &path, &[("range", "bytes=1-"), ("if-range", "\"another\"")]);
    assert_eq!((other.status, &other.body), (200, &bytes));
}

#[test]
fn a_nar_that_is_not_held_is_not_found() {
    let house = House::start();
    let made = derivation("made", &[]);
    house.client().submit(&[&made]);
    let agent = house.agent("one");
    for peer in [house.client().0, agent.0] {
        let answer = peer.get(&clients::NAR.path(&[&made.out.base_name()]));
        answer.refused(Code::NotFound);
        assert_eq!(answer.header("cache-control"), "no-store", "it may come at any moment");
    }
}

#[test]
fn agents_have_fixed_outputs_by_their_hash_published_or_not_and_nobody_else_has() {
    for size in [0, 100, 3 << 20] {
        let house = House::start();
        let made = derivation_with("source?1.tar", &[], &[("allowSubstitutes", "0")]);
        house.client().submit(&[&made]);
        let agent = house.agent("one");
        let contents = noise(size);
        let (kept, bytes) = output(&made.out, &contents, &[]);
        agent.succeed(agent.allocation().lease, &kept, &bytes);
        let hash = Sha256Hash::of(&contents);
        let path = agents::FILE.path(&[&made.out.name(), &hash.base32()]);
        agent.0.get(&path).refused(Code::NotFound);
        // One of a nar is none of a file.
        for recursive in [true, false] {
            let note =
                "INSERT OR REPLACE INTO fixed_outputs SELECT id, 'sha256', ?2, ?3 FROM paths WHERE base = ?1";
            let noted =
                house.database().execute(note, (made.out.base_name(), recursive, hash.as_bytes())).unwrap();
            assert_eq!(noted, 1);
            let answer = agent.0.get(&path);
            if recursive {
                answer.refused(Code::NotFound);
                continue;
            }
            assert_eq!((answer.status, answer.header("content-length")), (200, &*size.to_string()));
            assert!(answer.body == contents);
        }
        assert_eq!(house.stranger().get(&public::FILE.path(&[&made.out.name(), &hash.base32()])).status, 404);
        Peer::new(agent.0.address, "").get(&path).refused(Code::Unauthorized);
        Peer::new(agent.0.address, &house.client().0.authorization).get(&path).refused(Code::Unauthorized);
        house.client().0.get(&path).refused(Code::NotFound);
        let none = base32::encode(&[7; 32]);
        agent.0.get(&agents::FILE.path(&[&made.out.name(), &none])).refused(Code::NotFound);
        agent.0.get(&agents::FILE.path(&[&made.out.name(), &"no-hash"])).refused(Code::BadRequest);
    }
}
