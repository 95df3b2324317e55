//! What is published and what is not, and keys that are rotated, seen from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Output;

use drover_store::key::{Acl, PublicKey};
use drover_tests::farm::{Farm, words};
use drover_tests::graph::{Graph, Made, Recipe, host_system};
use drover_tests::ground::{self, Ground};
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::public::{Public, authorize};
use drover_tests::service::Service;
use drover_tests::site::Site;
use drover_tests::wait;
use drover_wire::agent::{Allocation, Report};
use drover_wire::client::{Publication, PublicationWait};
use drover_wire::key::{KeyInfo, KeyRotated, KeyState};

/// A farm with one agent.
// In the order in which they end: the farm's folder, in which the others are, goes last.
struct World {
    _agent: Service,
    builder: Ground,
    public: Public,
    farm: Farm,
}

impl World {
    fn new() -> Self {
        let farm = Farm::start();
        let builder = farm.ground("builder");
        let agent = farm.agent("builder", &builder, 2);
        Self { _agent: agent, builder, public: Public::of(&farm), farm }
    }

    /// A revision of a set with these, each with whether it may be published; waits until all of it is built.
    fn submit(&self, graph: &Graph, revision: &str, rows: &[(&Made, bool)]) {
        let folder = self.farm.dir().join("graph");
        graph.write(&folder).unwrap();
        let line = |(made, publish): &(&Made, bool)| {
            let row = serde_json::json!({
                "package": made.path.derivation_name(), "version": "1", "system": host_system(),
                "derivation": made.path.as_str(), "publish": publish,
            });
            format!("{row}\n")
        };
        let file = self.farm.dir().join("rows");
        fs::write(&file, rows.iter().map(line).collect::<String>()).unwrap();
        let mut words =
            ["set", "submit", "master", "--revision", revision, "--from"].map(Into::into).to_vec();
        words.extend([file.into_os_string(), "--store".into(), folder.into_os_string()]);
        success(&self.farm.drover(words));
        wait::until("all of it should be built", || {
            let builds = self.farm.client.by_derivation();
            let done = |(made, _): &(&Made, bool)| {
                builds.get(&made.path).is_some_and(|build| build.state == drover_wire::BuildState::Succeeded)
            };
            rows.iter().all(done).then_some(())
        });
    }

    fn publication(&self, made: &Made) -> Option<Publication> {
        let build = self.farm.client.by_derivation()[&made.path].build;
        self.farm.client.show(build).outputs[0].publication.clone()
    }

    fn is_public(&self, made: &Made) -> bool {
        self.public.narinfo(made.out()).is_some()
    }

    fn keys(&self) -> Vec<KeyInfo> {
        let output = self.farm.drover(["key", "list", "--json"]);
        success(&output);
        output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

/// Delivers what this build has made: a file that refers to these.
#[track_caller]
fn finish(hand: &Hand, allocation: &Allocation, made: &Made, references: &[&Made]) {
    assert_eq!(allocation.derivation, made.path);
    let references: Vec<_> = references.iter().map(|made| made.out().clone()).collect();
    let nar = file_nar(format!("{} {references:?}", made.out().name()).as_bytes());
    let output = declared(made.out(), &nar, &references);
    hand.deliver(allocation.lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
    let answer = hand.report(allocation.lease, &Report::Succeeded { outputs: vec![output] });
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// What the output of a build waits for, when it does.
#[track_caller]
fn waits_for(farm: &Farm, made: &Made) -> Vec<PublicationWait> {
    wait::until(&format!("{} should wait to be published", made.out()), || {
        let build = farm.client.by_derivation()[&made.path].build;
        match farm.client.show(build).outputs[0].publication.clone() {
            Some(Publication::Waiting { waits_for, .. }) => Some(waits_for),
            _ => None,
        }
    })
}

#[track_caller]
fn success(output: &Output) {
    assert!(output.status.success(), "{}", words(output));
}

#[test]
fn what_a_row_or_a_derivation_forbids_is_kept_for_the_farm_and_not_published() {
    if !ground::available("what is not published") {
        return;
    }
    let mut graph = Graph::new("forbidden").unwrap();
    let secret = graph.add(Recipe::new("secret", "echo secret >$out")).unwrap();
    let above = graph.add(Recipe::new("above", "echo $inputs >$out").input(&secret)).unwrap();
    let plain = graph.add(Recipe::new("plain", "echo plain >$out")).unwrap();
    let zfs = graph.add(Recipe::new("zfs", "echo zfs >$out").env("allowSubstitutes", "0")).unwrap();
    let world = World::new();
    world.submit(&graph, "1", &[(&secret, false), (&above, true), (&plain, true), (&zfs, true)]);
    world.public.wait_for(&[plain.out()]);
    wait::until("what cannot be published should be noted", || {
        matches!(world.publication(&zfs), Some(Publication::Never { .. })).then_some(())
    });
    let waits = wait::until("what is above should wait", || match world.publication(&above) {
        Some(Publication::Waiting { waits_for, .. }) => Some(waits_for),
        _ => None,
    });
    assert_eq!(waits[0].path, *secret.out());
    assert!(waits[0].never.as_deref().is_some_and(|why| why.contains("master")), "{waits:?}");
    assert!(![&secret, &above, &zfs].iter().any(|made| world.is_public(made)));
    let build = world.farm.client.by_derivation()[&above.path].build;
    let shown = world.farm.drover(["show", &build.to_string()]);
    assert!(
        words(&shown).contains(secret.out().as_str()) && words(&shown).contains("never published here"),
        "{}",
        words(&shown)
    );

    // Allowed later, and forbidden again.
    world.submit(&graph, "2", &[(&secret, true), (&above, true), (&plain, true), (&zfs, true)]);
    world.public.wait_for(&[secret.out(), above.out()]);
    world.submit(&graph, "3", &[(&secret, false), (&above, true), (&plain, true), (&zfs, true)]);
    assert!(
        !world.is_public(&secret) && !world.is_public(&above),
        "it went in the moment in which it was forbidden"
    );
    assert!(world.is_public(&plain) && !world.is_public(&zfs));
}

#[test]
fn an_output_is_not_served_while_a_reference_is_missing_and_is_as_soon_as_an_agent_here_has_built_that() {
    let site = Site::start();
    let mut graph = Graph::new("missing").unwrap();
    let library = graph.add(Recipe::new("library", "echo library >$out")).unwrap();
    let needs = |name: &str| Recipe::new(name, "echo $inputs >$out").input(&library);
    let pair = [graph.add(needs("one")).unwrap(), graph.add(needs("other")).unwrap()];
    // A server promises it, so that both are built without it.
    let narinfo = format!("{}.narinfo", library.out().hash_part());
    site.put(&narinfo, format!("StorePath: {}\n", library.out()).as_bytes());
    let farm = Farm::with_flags(&["--substitute-servers", &site.url]);
    let public = Public::of(&farm);
    let (hand, unlucky) = (Hand::new(&farm, "hand"), Hand::new(&farm, "unlucky"));
    let _ = farm.client.submit(&graph, &[&pair[0], &pair[1]]);
    let (first, second) = (hand.allocation(), unlucky.allocation());
    let (done, waiting) =
        if first.derivation == pair[0].path { (&pair[0], &pair[1]) } else { (&pair[1], &pair[0]) };
    // It breaks the promise to the second agent, after the first has got it.
    site.remove(&narinfo);
    let missing = Report::MissingInputs { paths: vec![library.out().clone()] };
    assert_eq!(unlucky.report(second.lease, &missing).status, 200);
    finish(&hand, &first, done, &[&library]);
    let waits = waits_for(&farm, done);
    assert_eq!(waits.iter().map(|reference| &reference.path).collect::<Vec<_>>(), [library.out()]);
    assert!(public.narinfo(done.out()).is_none() && public.narinfo(library.out()).is_none());

    finish(&unlucky, &unlucky.allocation(), &library, &[]);
    public.wait_for(&[library.out(), done.out()]);
    finish(&unlucky, &unlucky.allocation(), waiting, &[&library]);
    public.wait_for(&[waiting.out()]);
}

#[test]
fn an_output_is_not_served_while_a_reference_is_missing_and_is_as_soon_as_a_substitute_server_has_that() {
    let site = Site::start();
    site.answer_all(Some("503 Not Yet"));
    let mut graph = Graph::new("not-yet").unwrap();
    let secret = Recipe::new("secret", "echo secret >$out").env("allowSubstitutes", "0");
    let secret = graph.add(secret).unwrap();
    let above = graph.add(Recipe::new("above", "echo $inputs >$out").input(&secret)).unwrap();
    let farm = Farm::with_flags(&["--substitute-servers", &site.url]);
    let (public, hand) = (Public::of(&farm), Hand::new(&farm, "hand"));
    let _ = farm.client.submit(&graph, &[&above]);
    finish(&hand, &hand.allocation(), &secret, &[]);
    finish(&hand, &hand.allocation(), &above, &[&secret]);
    let waits = waits_for(&farm, &above);
    assert_eq!(waits.iter().map(|reference| &reference.path).collect::<Vec<_>>(), [secret.out()]);
    assert!(public.narinfo(above.out()).is_none());

    let narinfo = format!("StorePath: {}\n", secret.out());
    site.put(&format!("{}.narinfo", secret.out().hash_part()), narinfo.as_bytes());
    site.answer_all(None);
    public.wait_for(&[above.out()]);
    assert!(public.narinfo(secret.out()).is_none(), "it is not published here all the same");
}

#[test]
fn keys_are_rotated_while_clients_and_agents_go_on() {
    if !ground::available("a rotation of keys") {
        return;
    }
    let mut graph = Graph::new("rotated").unwrap();
    let input = graph.add(Recipe::new("input", "echo input >$out")).unwrap();
    let needs = graph.add(Recipe::new("needs", "echo $inputs >$out").input(&input)).unwrap();
    let world = World::new();
    let builds = world.farm.client.submit(&graph, &[&input]);
    world.farm.client.wait_success(&builds);
    world.public.wait_for(&[input.out()]);
    let client = Ground::start_with_network(&world.farm.dir().join("client"));
    authorize(&client, &world.farm.client.key());

    // A key as Guix makes them.
    let output = world.builder.run(&["guix", "archive", "--generate-key"]);
    success(&output);
    let secret = world.builder.dir.join("etc-guix/signing-key.sec");
    let from = secret.to_str().unwrap();
    let public = secret.with_extension("pub");
    let refused = world.farm.drover(["key", "rotate", "--from", public.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    assert!(words(&refused).contains("public half"), "{}", words(&refused));
    let output = world.farm.drover(["key", "rotate", "--after", "1h", "--from", from, "--json"]);
    success(&output);
    let rotated: KeyRotated = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((rotated.old.key, rotated.new.state), (1, KeyState::Next));
    let theirs = PublicKey::parse(&fs::read_to_string(&public).unwrap()).unwrap();
    assert_eq!(PublicKey::parse(&rotated.new.public_key).unwrap(), theirs);
    let next = world.farm.drover(["key", "show", "--next"]);
    assert_eq!(String::from_utf8(next.stdout).unwrap().trim(), rotated.new.public_key);
    let again = world.farm.drover(["key", "rotate"]);
    assert_eq!(again.status.code(), Some(4), "{}", words(&again));
    success(&world.farm.drover(["key", "retire", "2"]));

    // One that signs at once.
    let output = world.farm.drover(["key", "rotate"]);
    success(&output);
    let said = words(&output);
    assert!(said.contains("guix archive --authorize") && said.contains("key retire 1"), "{said}");
    let key = world.farm.client.key();
    let new: Acl = [PublicKey::parse(&key).unwrap()].into_iter().collect();
    wait::until("what is published should be signed anew", || {
        world.public.narinfo(input.out()).unwrap().verify(&new).ok()
    });
    let output = world.public.install(&client, input.out());
    assert!(!client.has(input.out()), "{}", words(&output));
    authorize(&client, &key);
    success(&world.public.install(&client, input.out()));
    assert!(client.has(input.out()));

    // An agent takes inputs that the new key signs.
    let other = world.farm.ground("other");
    drop(world._agent);
    let _agent = world.farm.agent("other", &other, 1);
    let builds = world.farm.client.submit(&graph, &[&needs]);
    world.farm.client.wait_success(&builds);
}

#[test]
fn an_old_key_goes_when_nothing_that_it_signed_is_about() {
    if !ground::available("an old key") {
        return;
    }
    let world = World::new();
    for (words_of, code, word) in [
        (vec!["key", "retire", "1"], 4, "signs"),
        (vec!["key", "retire", "7"], 4, "no key 7"),
        (vec!["key", "show", "--next"], 2, "rotate"),
        (vec!["key", "rotate", "--after", "30000d"], 4, "ten years"),
    ] {
        let output = world.farm.drover(words_of.clone());
        assert_eq!(output.status.code(), Some(code), "{words_of:?}: {}", words(&output));
        assert!(words(&output).contains(word), "{}", words(&output));
    }
    success(&world.farm.drover(["key", "rotate"]));
    wait::until("nothing should be signed by the old key", || {
        world.keys().iter().find(|key| key.key == 1)?.may_go_at
    });
    let early = world.farm.drover(["key", "retire", "1"]);
    assert_eq!(early.status.code(), Some(4), "{}", words(&early));
    let valid = |world: &World| world.public.peer.get("/signing-keys").text().lines().count();
    assert_eq!(valid(&world), 2);
    success(&world.farm.drover(["key", "retire", "1", "--now"]));
    assert_eq!(valid(&world), 1);
    let states: Vec<_> = world.keys().iter().map(|key| (key.key, key.state)).collect();
    assert_eq!(states, [(2, KeyState::Signs), (1, KeyState::Retired)]);
}
