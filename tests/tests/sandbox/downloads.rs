//! Downloads in a sandbox that the farm itself answers.

use std::fs;

use drover_tests::board::{self, Board, User};
use drover_tests::farm::Farm;
use drover_tests::graph::Graph;
use drover_tests::site::Site;

#[test]
fn what_the_farm_has_is_had_from_it_whatever_became_of_all_its_addresses() {
    let _alone = super::alone();
    if !board::available("downloads from the farm", User::Same) {
        return;
    }
    // More than the coordinator keeps in its database.
    let contents = "the contents of a source\n".repeat(200_000);
    let site = Site::start();
    let url = site.put("first.tar", contents.as_bytes());
    let mut graph = Graph::new("farm-downloads").unwrap();
    let mut download =
        |name: &str, url: &str, contents: &str| graph.download(name, url, contents.as_bytes(), None).unwrap();
    let first = download("first.tar", &url, &contents);
    // The same under another name, so another item, at an address that never had it; and what nobody has.
    let second = download("second.tar", &format!("{}/gone", site.url), &contents);
    let lost = download("lost.tar", &format!("{}/lost", site.url), "nobody has this");
    let farm = Farm::start();
    let board = Board::new(&farm, "first", User::Same);
    let agent = board.agent(&farm, 1, &[]);
    let builds = farm.client.submit(&graph, &[&first]);
    farm.client.wait_success(&builds);
    drop(agent);
    site.remove("first.tar");

    let board = Board::new(&farm, "second", User::Same);
    let _agent = board.agent(&farm, 1, &[]);
    let builds = farm.client.submit(&graph, &[&second, &lost]);
    farm.client.wait_success(&builds[..1]);
    assert_eq!(fs::read_to_string(board.item(second.out())).unwrap(), contents);
    let log = |build| String::from_utf8(farm.client.log(build)).unwrap();
    let right =
        format!("downloading second.tar from the farm\n  {} bytes of the right hash\n", contents.len());
    assert_eq!(log(builds[0]), right);
    assert_eq!(site.asked("gone"), 0);
    farm.client.wait_state(builds[1], drover_wire::BuildState::Failed);
    let (said, asked) = (log(builds[1]), site.asked("lost"));
    assert!(said.contains("from the farm\n  not from there: it has no such file\n"), "{said}");
    assert_eq!(asked, 1, "{said}");
}
