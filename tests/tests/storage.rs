//! Nars in folders and buckets: full, far away, being emptied, and killed in the midst of it. Nothing is lost, and nothing
//! that is not whole is given to anybody.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use drover_store::{Sha256Hash, StorePath};
use drover_tests::bucket::{BucketServer, CrookedServer, Manner, bucket_place};
use drover_tests::farm::{Farm, Setup, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground;
use drover_tests::http::{Answer, Peer};
use drover_tests::proxy::Proxy;
use drover_tests::wait;
use drover_wire::ItemInfo;
use drover_wire::storage::PlaceSummary;
use tempfile::TempDir;

/// A farm with this beside its flags in a configuration file.
fn farm(folder: &TempDir, configuration: &str) -> Farm {
    configure(folder.path(), configuration);
    let file = folder.path().join("drover.toml").display().to_string();
    let flags = vec!["--config".to_owned(), file, "--placement".to_owned(), "in-order".to_owned()];
    Farm::with(&Setup { flags, ..Setup::default() })
}

fn configure(folder: &Path, configuration: &str) {
    std::fs::write(folder.join("drover.toml"), configuration).unwrap();
}

/// A place in a folder, of so many bytes.
fn folder_place(name: &str, folder: &Path, capacity: Option<u64>) -> String {
    let at = folder.join(name).display().to_string();
    let capacity = capacity.map_or_else(String::new, |bytes| {
        format!("capacity-gib = {:.9}\n", bytes as f64 / f64::from(1 << 30))
    });
    format!("[[places]]\nname = '{name}'\nfolder = '{at}'\n{capacity}")
}

fn places(farm: &Farm) -> Vec<PlaceSummary> {
    let output = farm.drover(["storage", "--json"]);
    assert!(output.status.success(), "{}", words(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn place(farm: &Farm, name: &str) -> PlaceSummary {
    places(farm).into_iter().find(|place| place.name == name).unwrap()
}

fn info(farm: &Farm, path: &StorePath) -> ItemInfo {
    farm.client.peer.get(&format!("/v1/items/{}", path.base_name())).value()
}

/// What everybody gets, once it is published.
fn from_public(farm: &Farm, path: &StorePath) -> Answer {
    let public = Peer::stranger(&format!("http://{}", farm.public));
    wait::until(&format!("{path} should be published"), || {
        let answer = public.get(&format!("/{}.narinfo", path.hash_part()));
        (answer.status == 200).then_some(())
    });
    public.get(&format!("/nar/zstd/{}", path.base_name()))
}

fn is_whole(farm: &Farm, made: &Made, nar: &[u8]) {
    let info = info(farm, made.out());
    let nar = zstd::decode_all(nar).unwrap();
    assert_eq!((nar.len() as u64, Sha256Hash::of(&nar)), (info.nar_size, info.nar_hash));
}

/// Bytes that cannot be compressed, as many as said.
fn random(name: &str, bytes: u64) -> Recipe {
    Recipe::new(name, format!("head -c {bytes} /dev/urandom >$out"))
}

#[test]
fn what_is_built_goes_into_a_bucket_and_agents_and_everybody_get_it_from_there() {
    if !ground::available("a bucket") {
        return;
    }
    let Some(server) = BucketServer::start("a bucket") else { return };
    let folder = tempfile::tempdir().unwrap();
    let farm = farm(&folder, &bucket_place("far", server.address, folder.path()));
    let mut graph = Graph::new("bucket").unwrap();
    // More than one part, and so little that it is one.
    let large = graph.add(random("large", 21_000_000)).unwrap();
    let small = graph.add(random("small", 1000)).unwrap();
    let needs = graph.add(Recipe::new("needs", "cat $inputs >$out").input(&large).input(&small)).unwrap();
    let first = farm.ground("one");
    let mut one = farm.agent("one", &first, 2);
    let builds = farm.client.submit(&graph, &[&large, &small]);
    farm.client.wait_success(&builds);
    one.kill();
    // Another store has to fetch what the first one built.
    let second = farm.ground("two");
    let _two = farm.agent("two", &second, 1);
    let build = farm.client.submit(&graph, &[&needs]);
    farm.client.wait_success(&build);

    let far = place(&farm, "far");
    assert!(far.files >= 3 && far.bytes > 42_000_000, "{far:?}");
    assert_eq!((place(&farm, "state").files, far.room), (0, None));
    for made in [&large, &small, &needs] {
        let answer = from_public(&farm, made.out());
        assert_eq!(answer.status, 200, "{}", answer.text());
        is_whole(&farm, made, &answer.body);
    }
    let whole = from_public(&farm, large.out()).body;
    let part = Peer::stranger(&format!("http://{}", farm.public))
        .header("range", "bytes=9000000-9000099")
        .get(&format!("/nar/zstd/{}", large.out().base_name()));
    assert_eq!((part.status, &part.body[..]), (206, &whole[9_000_000..9_000_100]));
    let to = folder.path().join("fetched");
    let fetched =
        farm.drover(["fetch".as_ref(), large.out().as_str().as_ref(), "--to".as_ref(), to.as_os_str()]);
    assert!(fetched.status.success(), "{}", words(&fetched));
}

#[test]
fn a_bucket_that_is_away_makes_agents_wait_and_nothing_is_lost_also_by_a_kill() {
    if !ground::available("a bucket that is away") {
        return;
    }
    let Some(server) = BucketServer::start("a bucket that is away") else { return };
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::to(server.address);
    // There is no other place that could take what that does not.
    let full = "[[places]]\nname = 'state'\ncapacity-gib = 0\n";
    let mut farm = farm(&folder, &(bucket_place("far", proxy.address(), folder.path()) + full));
    let ground = farm.ground("one");
    let agent = farm.agent("one", &ground, 1);
    let mut graph = Graph::new("away").unwrap();
    let first = graph.add(random("first", 1000)).unwrap();
    let large = graph.add(random("large", 20_000_000)).unwrap();
    farm.client.wait_success(&farm.client.submit(&graph, &[&first]));

    // Within the second of its three parts.
    proxy.cut_after(12_000_000);
    let build = farm.client.submit(&graph, &[&large])[0];
    proxy.wait_cut();
    wait::until("the agent should be told to wait", || {
        agent.text().contains("places for nars").then_some(())
    });
    assert!(!farm.client.show(build).summary.state.is_final());
    let refused = farm.client.peer.get(&format!("/v1/nars/{}", large.out().base_name()));
    assert_eq!(refused.status, 404, "{}", refused.text());
    // What cannot be read is an error, and not an empty nar.
    let unread = farm.client.peer.get(&format!("/v1/nars/{}", first.out().base_name()));
    assert_eq!(unread.status, 503, "{}", unread.text());

    // It is killed while it puts the file, and starts without the bucket.
    proxy.restore();
    proxy.cut_after(10_000_000);
    proxy.wait_cut();
    farm.coordinator.kill();
    farm.restart();
    proxy.restore();
    farm.client.wait_success(&[build]);
    assert_eq!(farm.client.show(build).attempts.len(), 1);
    for made in [&first, &large] {
        let answer = farm.client.peer.get(&format!("/v1/nars/{}", made.out().base_name()));
        is_whole(&farm, made, &answer.body);
    }
}

#[test]
fn a_build_waits_for_room_and_goes_on_when_there_is_some() {
    if !ground::available("places that are full") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let full = "[[places]]\nname = 'state'\ncapacity-gib = 0\n";
    let with = |bytes| folder_place("near", folder.path(), Some(bytes)) + full;
    let mut farm = farm(&folder, &with(6_000_000));
    let ground = farm.ground("one");
    let agent = farm.agent("one", &ground, 2);
    let mut graph = Graph::new("room").unwrap();
    let made: Vec<Made> =
        (0..2).map(|n| graph.add(random(&format!("output-{n}"), 4_000_000)).unwrap()).collect();
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    wait::until("an agent should be told that it is full", || {
        agent.text().to_lowercase().contains("full").then_some(())
    });
    let near = place(&farm, "near");
    assert!(near.bytes <= 6_000_000, "{near:?}");
    assert!(near.capacity.is_some_and(|capacity| (5_999_000..=6_000_000).contains(&capacity)));

    farm.coordinator.kill();
    configure(folder.path(), &with(60_000_000));
    farm.restart();
    farm.client.wait_success(&builds);
    for (build, made) in builds.iter().zip(&made) {
        assert_eq!(farm.client.show(*build).attempts.len(), 1);
        is_whole(&farm, made, &from_public(&farm, made.out()).body);
    }
}

#[test]
fn a_place_is_emptied_while_it_serves_however_often_it_is_killed() {
    if !ground::available("a place that is emptied") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let both = folder_place("old", folder.path(), None) + &folder_place("new", folder.path(), None);
    let mut farm = farm(&folder, &both);
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 4);
    let mut graph = Graph::new("emptied").unwrap();
    let made: Vec<Made> =
        (0..12).map(|n| graph.add(random(&format!("output-{n}"), 3_000_000)).unwrap()).collect();
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    farm.client.wait_success(&builds);
    for made in &made {
        assert_eq!(from_public(&farm, made.out()).status, 200);
    }
    let before = place(&farm, "old").files;

    let moving = farm.drover(["storage", "move", "old", "new"]);
    assert!(moving.status.success(), "{}", words(&moving));
    for kills in 1..=3 {
        wait::until("some should have been moved", || {
            let moved = place(&farm, "old").moving.unwrap().moved;
            (moved >= kills * 2).then_some(())
        });
        farm.coordinator.kill();
        farm.restart();
        for made in &made {
            is_whole(&farm, made, &from_public(&farm, made.out()).body);
        }
    }
    wait::until("it should be empty", || place(&farm, "old").moving.unwrap().ended_at);
    let (old, new) = (place(&farm, "old"), place(&farm, "new"));
    assert_eq!((old.files, old.bytes, new.files), (0, 0, before));
    let shown = farm.drover(["storage"]);
    assert!(words(&shown).contains("old is empty"), "{}", words(&shown));
    // It can be taken out of the configuration now.
    farm.coordinator.kill();
    configure(folder.path(), &folder_place("new", folder.path(), None));
    farm.restart();
    for made in &made {
        is_whole(&farm, made, &from_public(&farm, made.out()).body);
    }
}

#[test]
fn a_place_is_emptied_into_a_bucket_while_it_serves_also_when_that_is_away_and_after_kills() {
    if !ground::available("a place that is emptied into a bucket") {
        return;
    }
    let Some(server) = BucketServer::start("a place that is emptied into a bucket") else { return };
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::to(server.address);
    let far = bucket_place("far", proxy.address(), folder.path());
    let mut farm = farm(&folder, &(folder_place("old", folder.path(), None) + &far));
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 4);
    let mut graph = Graph::new("to-a-bucket").unwrap();
    // Among them some that are put in parts.
    let made: Vec<Made> = (0..10)
        .map(|n| {
            graph
                .add(random(&format!("output-{n}"), if n % 4 == 0 { 20_000_000 } else { 2_000_000 }))
                .unwrap()
        })
        .collect();
    farm.client.wait_success(&farm.client.submit(&graph, &made.iter().collect::<Vec<_>>()));
    let all_are_whole = |farm: &Farm| {
        for made in &made {
            is_whole(farm, made, &from_public(farm, made.out()).body);
        }
    };
    all_are_whole(&farm);
    let before = place(&farm, "old").files;

    // It is killed with some of a file in the bucket, and some files.
    proxy.cut_after(30_000_000);
    let moving = farm.drover(["storage", "move", "old", "far"]);
    assert!(moving.status.success(), "{}", words(&moving));
    proxy.wait_cut();
    farm.coordinator.kill();
    farm.restart();
    assert!(place(&farm, "old").files > 0);
    proxy.restore();
    wait::until("it should go on by itself", || {
        let old = place(&farm, "old");
        (old.files < before).then_some(())
    });
    all_are_whole(&farm);

    // The bucket goes away: what was not moved is served, nothing is lost, and it goes on when it is back.
    if place(&farm, "old").files > 0 {
        proxy.cut();
        for made in &made {
            let answer = farm.client.peer.get(&format!("/v1/nars/{}", made.out().base_name()));
            assert!([200, 503].contains(&answer.status), "{}", answer.text());
            if answer.status == 200 {
                is_whole(&farm, made, &answer.body);
            }
        }
        farm.coordinator.kill();
        farm.restart();
        proxy.restore();
    }
    wait::until("it should be empty", || place(&farm, "old").moving.unwrap().ended_at);
    let (old, far) = (place(&farm, "old"), place(&farm, "far"));
    assert_eq!((old.files, old.bytes, far.files), (0, 0, before));
    all_are_whole(&farm);
    // Nothing but these is there, and what says whose the bucket is, whatever was broken off.
    let bucket = Peer::stranger(&format!("http://{}", server.address));
    wait::until("what is not whole should be removed", || {
        let listed = bucket.get("/nars?list-type=2&max-keys=1000").text();
        (listed.matches("<Key>").count() as u64 == before + 1).then_some(())
    });
}

#[test]
fn whatever_a_bucket_s_server_does_nobody_gets_a_whole_nar_that_is_wrong_and_others_are_served() {
    if !ground::available("a crooked bucket") {
        return;
    }
    let Some(server) = BucketServer::start("a crooked bucket") else { return };
    let folder = tempfile::tempdir().unwrap();
    let crooked = CrookedServer::before(server.address, "crooked");
    let mut farm = farm(&folder, &bucket_place("far", crooked.address, folder.path()));
    let ground = farm.ground("one");
    let _agent = farm.agent("one", &ground, 2);
    let mut graph = Graph::new("crooked").unwrap();
    let bad = graph.add(random("crooked", 6_000_000)).unwrap();
    let good = graph.add(random("straight", 1_000_000)).unwrap();
    farm.client.wait_success(&farm.client.submit(&graph, &[&bad, &good]));
    for made in [&bad, &good] {
        is_whole(&farm, made, &from_public(&farm, made.out()).body);
    }
    let public = Peer::stranger(&format!("http://{}", farm.public));
    let path = format!("/nar/zstd/{}", bad.out().base_name());
    for manner in [Manner::Fails, Manner::Short, Manner::Lies] {
        crooked.be(manner);
        match public.try_send("GET", &path, b"") {
            // It broke off.
            Err(_) => {}
            Ok(answer) => {
                assert!(answer.status >= 500, "{manner:?}: {} {}", answer.status, answer.body.len())
            }
        }
        // Uncompressed, it is no different.
        let plain = public.try_send("GET", &format!("/nar/none/{}", bad.out().base_name()), b"");
        assert!(
            plain.is_err() || plain.as_ref().is_ok_and(|answer| answer.status >= 500),
            "{manner:?}: {plain:?}"
        );
        is_whole(&farm, &good, &from_public(&farm, good.out()).body);
    }
    // More stand still than there are threads, and come to their ends when the server does what it should.
    crooked.be(Manner::Stalls);
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (public, path) = (public.clone(), path.clone());
            std::thread::spawn(move || public.try_send("GET", &path, b""))
        })
        .collect();
    is_whole(&farm, &good, &from_public(&farm, good.out()).body);
    assert!(farm.coordinator.exited().is_none());
    crooked.be(Manner::Honest);
    for one in asking {
        let answer = one.join().unwrap().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        is_whole(&farm, &bad, &answer.body);
    }
}

#[test]
fn what_is_asked_of_places_in_a_wrong_way_is_said_in_words() {
    let farm = Farm::start();
    for (words_given, said) in [
        (&["storage", "move", "nowhere"][..], "there is no place nowhere"),
        (&["storage", "move", "state"], "no other that nars could go to"),
        (&["storage", "move", "state", "state"], "into itself"),
        (&["storage", "move", "state", "--stop"], "not being emptied"),
        (&["storage", "move", "a/../b"], "letters, digits, dots and dashes"),
        (&["storage", "move", "state", "two", "--stop"], "cannot be used with"),
    ] {
        let output = farm.drover(words_given.iter().copied());
        assert!(!output.status.success(), "{words_given:?}");
        assert!(words(&output).contains(said), "{words_given:?}: {}", words(&output));
    }
    let shown = farm.drover(["storage"]);
    assert!(shown.status.success() && words(&shown).contains("state"), "{}", words(&shown));
}
