//! Revisions of sets that are sent badly, over HTTP: each is refused in words, and nothing of it is kept.

use drover_wire::Code;
use drover_wire::bundle::Kind;
use drover_wire::route::clients;
use drover_wire::set::{SetDropped, SetSubmitted, SetSummary};

use crate::client::{Client, bundle};
use crate::graph::{Made, derivation};
use crate::house::House;
use crate::peer::Answer;

/// A row that wants this.
fn row(made: &Made) -> String {
    let name = made.path.derivation_name();
    format!(
        "{{\"derivation\":\"{}\",\"package\":\"{name}\",\"version\":\"1\",\"system\":\"x86_64-linux\"}}\n",
        made.path
    )
}

fn address(set: &str, revision: &str, query: &str) -> String {
    format!("/v1/sets/{set}/revisions/{revision}{query}")
}

fn compressed(rows: &str) -> Vec<u8> {
    zstd::encode_all(rows.as_bytes(), 1).unwrap()
}

/// Sends rows that are good so far as they go.
fn submit(client: &Client, set: &str, revision: &str, rows: &[String]) -> Answer {
    let query = format!("?rows={}", rows.len());
    client.0.post_bytes(&address(set, revision, &query), &compressed(&rows.concat()))
}

/// A coordinator that has two derivations and a set `master` that wants the first, as revision `r1`.
fn house() -> (House, Client, [Made; 2]) {
    let house = House::start();
    let client = house.client();
    let all = ["a", "b"].map(|name| derivation(name, &[]));
    let entries: Vec<_> =
        all.iter().map(|made| (Kind::Derivation, &made.path, made.text.as_slice())).collect();
    assert_eq!(client.upload(&bundle(&entries)).status, 200);
    let submitted: SetSubmitted = submit(&client, "master", "r1", &[row(&all[0])]).value();
    assert!(submitted.new);
    (house, client, all)
}

/// There is the one set, as it was.
#[track_caller]
fn unchanged(client: &Client) {
    let sets: Vec<SetSummary> = client.0.get(&clients::SETS.path(&[])).value();
    let [only] = &sets[..] else { panic!("{sets:?}") };
    assert_eq!((only.set.as_str(), only.revision.as_str()), ("master", "r1"));
    assert_eq!((only.revisions, only.total.wanted), (1, 1));
}

#[test]
fn rows_that_do_not_arrive_whole_are_refused_and_the_set_is_as_before() {
    let (_house, client, [a, b]) = house();
    let good = compressed(&(row(&a) + &row(&b)));
    let send = |rows: &[u8]| client.0.post_bytes(&address("master", "r2", "?rows=2"), rows);
    let cut = send(&good[..good.len() - 5]).refused(Code::BadRequest);
    assert!(cut.message.contains("could not be read to their end"), "{cut}");
    assert!(cut.message.contains("send them again"), "{cut}");
    // Not compressed at all; nothing; two rows and then something else.
    let plain = send((row(&a) + &row(&b)).as_bytes()).refused(Code::BadRequest);
    assert!(plain.message.contains("could not be read to their end"), "{plain}");
    send(b"").refused(Code::BadRequest);
    send(&[&good[..], b"more"].concat()).refused(Code::BadRequest);
    let midst = send(&compressed(&(row(&a) + "{\"deriv"))).refused(Code::BadRow);
    assert!(midst.message.contains("row 2") && midst.message.contains("in the middle of it"), "{midst}");
    unchanged(&client);

    // The connection breaks within the rows.
    let headers = format!("Content-Length: {}\r\n", good.len());
    let mut connection = client.0.open("POST", &address("master", "r2", "?rows=2"), &headers);
    connection.send(&good[..good.len() / 2]);
    drop(connection);
    let submitted: SetSubmitted = send(&good).value();
    assert_eq!(submitted.superseded.unwrap().as_str(), "r1");
}

#[test]
fn rows_that_are_none_are_refused_by_their_number() {
    let (_house, client, [a, b]) = house();
    let unknown = derivation("unknown", &[]);
    let long = row(&b).replace("\"1\"", &format!("\"{}\"", "1".repeat(70_000)));
    for (second, words) in [
        (row(&unknown), "unknown.drv is not here; upload it"),
        (row(&a).replace("\"1\"", "\"2\""), "disagrees with row 1"),
        ("hello\n".to_owned(), "not JSON"),
        (row(&b).replacen('{', "{\"timout\":7,", 1), "timout"),
        (long, "65536 bytes"),
    ] {
        let problem = submit(&client, "master", "r2", &[row(&a), second]).refused(Code::BadRow);
        assert!(problem.message.contains("row 2") && problem.message.contains(words), "{problem}");
    }
    let query = "?rows=10000000";
    let body = compressed(&row(&a));
    let many = client.0.post_bytes(&address("master", "r2", query), &body).refused(Code::BadRequest);
    assert!(many.message.contains("at most 1000000"), "{many}");
    for (query, words) in
        [("", "rows"), ("?rows=-1", "rows"), ("?rows=1&keep=perhaps", "keep"), ("?rows=2", "1 came")]
    {
        let problem = client.0.post_bytes(&address("master", "r2", query), &body).refused(Code::BadRequest);
        assert!(problem.message.contains(words), "{query}: {problem}");
    }
    submit(&client, "master", "r2", &[]).refused(Code::BadRequest);
    unchanged(&client);
}

#[test]
fn a_name_with_a_slash_or_control_characters_is_refused_with_the_reason() {
    let (_house, client, [a, _]) = house();
    for (name, why) in [
        ("wip%2Ffoo", "slash"),
        ("a%07b", "control"),
        ("a%0Ab", "control"),
        ("a%20b", "other characters"),
        ("..%2F..", "slash"),
        ("%2E%2E", "begins with a sign"),
        ("a%40b", "other characters"),
    ] {
        for (set, revision) in [(name, "r2"), ("master", name)] {
            let problem = submit(&client, set, revision, &[row(&a)]).refused(Code::BadRequest);
            assert!(problem.message.contains(why), "{name}: {problem}");
            assert!(!problem.message.chars().any(char::is_control), "{problem:?}");
        }
        client.0.post_bytes(&format!("/v1/sets/{name}/drop"), b"").refused(Code::BadRequest);
    }
    // Bytes that are no text at all, and an address with one part too many.
    submit(&client, "%ff", "r2", &[row(&a)]).refused(Code::BadRequest);
    submit(&client, "wip/foo", "r2", &[row(&a)]).refused(Code::NotFound);
    unchanged(&client);
}

#[test]
fn what_collides_with_what_is_there_is_a_conflict_and_what_is_not_there_not_found() {
    let (_house, client, [a, b]) = house();
    let other = submit(&client, "master", "r1", &[row(&a), row(&b)]).refused(Code::Conflict);
    assert!(other.message.contains("row 2, b,") && other.message.contains("another name"), "{other}");
    let other = submit(&client, "master", "r1", &[row(&b)]).refused(Code::Conflict);
    assert!(other.message.contains("row 1, b,"), "{other}");
    unchanged(&client);
    let same: SetSubmitted = submit(&client, "master", "r1", &[row(&a)]).value();
    assert!(!same.new && same.builds == 0);

    let _: SetSubmitted = submit(&client, "master", "r2", &[row(&b)]).value();
    let late = submit(&client, "master", "r1", &[row(&a)]).refused(Code::Conflict);
    assert!(late.message.contains("superseded by r2"), "{late}");
    let nothing = client.0.post_bytes("/v1/sets/nothing/drop", b"").refused(Code::NotFound);
    assert!(nothing.message.contains("no set nothing"), "{nothing}");
    let dropped: SetDropped = client.0.post_bytes("/v1/sets/master/drop", b"").value();
    assert_eq!((dropped.revisions, dropped.canceled), (2, 1));
    client.0.post_bytes("/v1/sets/master/drop", b"").refused(Code::NotFound);
}
