//! What must be refused, over HTTP and on the command line: with the right status, in a sentence, and without a trace.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use drover_store::path::{self, StorePath};
use drover_tests::client::bundle;
use drover_tests::farm::{Farm, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::hand::{Hand, declared, file_nar, hello};
use drover_tests::http::Peer;
use drover_wire::agent::{Allocation, Hello, Output, Received, Report, Reported};
use drover_wire::bundle::{Kind, Writer};
use drover_wire::client::{MissingAnswer, MissingQuestion, Submission, Uploaded};
use drover_wire::route::{agents, clients};
use drover_wire::{BuildState, Code, LeaseId, PROTOCOL};

fn compressed(nar: &[u8]) -> Vec<u8> {
    zstd::encode_all(nar, 3).unwrap()
}

fn one_entry(kind: Kind, path: &StorePath, bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.entry(kind, path, bytes.len() as u64, bytes).unwrap();
    writer.finish().unwrap()
}

/// Nothing of these is there.
#[track_caller]
fn assert_absent(farm: &Farm, paths: &[&StorePath]) {
    let paths: Vec<StorePath> = paths.iter().map(|path| (*path).clone()).collect();
    let answer: MissingAnswer =
        farm.client.peer.post(&clients::MISSING.path(&[]), &MissingQuestion { paths: paths.clone() }).value();
    assert_eq!(answer.missing, paths);
}

/// A farm in which an agent by hand holds a build.
fn holding(salt: &str) -> (Farm, Hand, Graph, Made, Allocation) {
    let farm = Farm::start();
    let hand = Hand::new(&farm, "hand");
    let mut graph = Graph::new(salt).unwrap();
    let made = graph.add(Recipe::new("thing", "echo >$out")).unwrap();
    let _ = farm.client.submit(&graph, &[&made]);
    let allocation = hand.allocation();
    assert_eq!(allocation.derivation, made.path);
    (farm, hand, graph, made, allocation)
}

#[test]
fn a_malformed_derivation_is_refused_and_not_kept() {
    let farm = Farm::start();
    let text = b"Derive([(\"out\",\"\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"unfinished";
    let path = path::text("bad.drv", text, &[]).unwrap();
    let problem =
        farm.client.upload(&one_entry(Kind::Derivation, &path, text)).refused(422, Code::BadDerivation);
    assert!(problem.message.contains("bad.drv"), "{problem}");
    assert_absent(&farm, &[&path]);

    let file = farm.dir().join(path.base_name());
    std::fs::write(&file, text).unwrap();
    let output = farm.drover(["build".as_ref(), file.as_os_str()]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("bad.drv"), "{}", words(&output));
}

#[test]
fn a_derivation_whose_name_does_not_belong_to_its_bytes_is_refused() {
    let farm = Farm::start();
    let mut graph = Graph::new("name").unwrap();
    let made = graph.add(Recipe::new("one", "echo >$out")).unwrap();
    let other = graph.add(Recipe::new("two", "echo >$out")).unwrap();
    let text = graph.bytes(&made.path).unwrap().to_vec();
    farm.client.upload(&one_entry(Kind::Derivation, &other.path, &text)).refused(422, Code::BadDerivation);
    assert_absent(&farm, &[&made.path, &other.path]);

    // One whose own name is right, and whose output's path is not that of what it builds.
    let wrong = String::from_utf8(text)
        .unwrap()
        .replace(made.out().hash_part(), other.out().hash_part())
        .into_bytes();
    let path = drover_store::derivation::text_path("one.drv", &wrong).unwrap();
    farm.client.upload(&one_entry(Kind::Derivation, &path, &wrong)).refused(422, Code::BadDerivation);
    assert_absent(&farm, &[&path]);
}

#[test]
fn a_derivation_without_its_inputs_is_refused_with_the_missing_name() {
    let farm = Farm::start();
    let mut graph = Graph::new("missing-input").unwrap();
    let below = graph.add(Recipe::new("below", "echo >$out")).unwrap();
    let above = graph.add(Recipe::new("above", "echo >$out").input(&below)).unwrap();
    let text = graph.bytes(&above.path).unwrap().to_vec();
    let problem = farm
        .client
        .upload(&one_entry(Kind::Derivation, &above.path, &text))
        .refused(422, Code::MissingDerivation);
    assert!(problem.message.contains("below.drv") || problem.paths.contains(&below.path), "{problem:?}");
    assert_absent(&farm, &[&above.path]);
    // And to build what was never uploaded is refused as well.
    let builds = vec![drover_tests::client::want(&above)];
    let answer = farm.client.peer.post(&clients::SUBMIT.path(&[]), &Submission { builds });
    answer.refused(422, Code::MissingDerivation);
    assert!(farm.client.builds().is_empty());
}

#[test]
fn a_source_whose_contents_do_not_belong_to_its_name_is_refused() {
    let farm = Farm::start();
    let mut graph = Graph::new("bad-source").unwrap();
    let source = graph.add_source("patch", b"what it should be").unwrap();
    let nar = file_nar(b"what it is");
    let problem = farm.client.upload(&one_entry(Kind::Source, &source, &nar)).refused(422, Code::BadSource);
    assert!(problem.message.contains("patch"), "{problem}");
    let cut = &file_nar(b"what it should be")[..80];
    farm.client.upload(&one_entry(Kind::Source, &source, cut)).refused(422, Code::BadSource);
    assert_absent(&farm, &[&source]);
    let right: Uploaded =
        farm.client.upload(&one_entry(Kind::Source, &source, &file_nar(b"what it should be"))).value();
    assert_eq!(right.sources, 1);
}

#[test]
fn a_bundle_that_is_cut_off_or_no_bundle_is_refused_and_can_be_sent_again() {
    let farm = Farm::start();
    let mut graph = Graph::new("cut").unwrap();
    let made = graph.add(Recipe::new("one", "echo >$out")).unwrap();
    let whole = bundle(&graph);
    farm.client.upload(&whole[..whole.len() - 1]).refused(400, Code::BadRequest);
    farm.client.upload(b"no bundle at all").refused(400, Code::BadRequest);
    farm.client
        .peer
        .send("POST", &clients::UPLOAD.path(&[]), b"not even compressed")
        .refused(400, Code::BadRequest);
    let _ = farm.client.submit(&graph, &[&made]);
}

#[test]
fn without_the_right_token_nothing_is_said() {
    let farm = Farm::start();
    let (clients_url, agents_url) = (format!("http://{}", farm.clients), format!("http://{}", farm.agents));
    let token = std::fs::read_to_string(farm.state().join("client-token")).unwrap();
    let token = token.trim();
    let stranger = Peer::stranger(&clients_url);
    let mut wrong = token.to_owned();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'a' { 'b' } else { 'a' });
    let uuid = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    for peer in [
        stranger.clone(),
        stranger.token(""),
        stranger.token(&wrong),
        stranger.token(&token[..token.len() - 1]),
        stranger.password(uuid, token),
        stranger.header("authorization", "Bearer\t"),
        stranger.header("authorization", "Digest x"),
        stranger.header("authorization", "Basic ????"),
    ] {
        for route in clients::ALL {
            let path = route.path(&[&uuid, &uuid]);
            let method = match route.method {
                drover_wire::route::Method::Get => "GET",
                drover_wire::route::Method::Post => "POST",
                drover_wire::route::Method::Patch => "PATCH",
            };
            let problem = peer.send(method, &path, b"{}").refused(401, Code::Unauthorized);
            assert!(!problem.message.contains(token));
        }
    }
    // A client's token is no agent's, and the other way round.
    let (uuid, password) = farm.client.new_agent("one");
    let agents_side = Peer::stranger(&agents_url);
    let path = agents::HELLO.path(&[]);
    let body = serde_json::to_vec(&hello(&[])).unwrap();
    for peer in [
        agents_side.clone(),
        agents_side.token(token).header("drover-agent-name", "one"),
        agents_side.password(&uuid, token),
        agents_side.password(&uuid, ""),
        agents_side.password("7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11", &password),
    ] {
        peer.send("POST", &path, &body).refused(401, Code::Unauthorized);
    }
    assert_eq!(agents_side.password(&uuid, &password).send("POST", &path, &body).status, 200);
    stranger.password(&uuid, &password).get(&clients::BUILDS.path(&[])).refused(401, Code::Unauthorized);

    let output = farm
        .drover_command(["builds"])
        .env_remove("DROVER_TOKEN_FILE")
        .env("DROVER_TOKEN", &wrong)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
}

#[test]
fn tokens_and_passwords_are_kept_as_hashes_only() {
    let farm = Farm::start();
    let (_, password) = farm.client.new_agent("one");
    let token = std::fs::read(farm.state().join("client-token")).unwrap();
    let token = token.trim_ascii();
    for file in ["drover.sqlite", "drover.sqlite-wal"] {
        let bytes = std::fs::read(farm.state().join(file)).unwrap_or_default();
        for secret in [token, password.as_bytes()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{file} has a secret in it");
        }
    }
    assert!(!farm.coordinator.text().contains(&password));
    use std::os::unix::fs::PermissionsExt as _;
    let keys = std::fs::read_dir(farm.state().join("keys")).unwrap().map(|entry| entry.unwrap().path());
    let secret: Vec<_> = keys.filter(|path| path.extension().is_some_and(|end| end == "sec")).collect();
    assert_eq!(secret.len(), 1, "{secret:?}");
    for file in secret.into_iter().chain([farm.state().join("client-token")]) {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn only_the_agent_that_holds_a_build_may_say_anything_about_it() {
    let (farm, hand, _graph, made, allocation) = holding("not-held");
    let other = Hand::new(&farm, "other");
    let nar = file_nar(b"\n");
    let output = declared(made.out(), &nar, &[]);
    let done = Report::Succeeded { outputs: vec![output.clone()] };
    let failed = Report::Failed { message: "not mine".to_owned() };
    for lease in [allocation.lease, LeaseId(allocation.lease.0 + 1000)] {
        other.report(lease, &done).refused(409, Code::LeaseNotHeld);
        other.report(lease, &failed).refused(409, Code::LeaseNotHeld);
        other.log(lease, 0, b"not mine").refused(409, Code::LeaseNotHeld);
        other.declare(lease, &output).refused(409, Code::LeaseNotHeld);
        other.upload(lease, made.out(), 0, &compressed(&nar)).refused(409, Code::LeaseNotHeld);
        other.peer.get(&agents::CLOSURE.path(&[&lease])).refused(409, Code::LeaseNotHeld);
    }
    assert!(!farm.client.show(allocation.build).summary.state.is_final());
    assert!(farm.client.log(allocation.build).is_empty());
    // The one who holds it may, and what is repeated gets the same answer and changes nothing.
    hand.deliver(allocation.lease, &output, &compressed(&nar));
    let first: Reported = hand.report(allocation.lease, &done).value();
    let second: Reported = hand.report(allocation.lease, &done).value();
    assert_eq!((first.state, second.state), (BuildState::Succeeded, BuildState::Succeeded));
    hand.log(allocation.lease, 0, b"too late").refused(409, Code::LeaseNotHeld);
    other.report(allocation.lease, &failed).refused(409, Code::LeaseNotHeld);
    assert_eq!(farm.client.show(allocation.build).summary.state, BuildState::Succeeded);
}

#[test]
fn an_output_is_taken_only_if_it_is_the_derivations_and_what_was_said() {
    let (farm, hand, graph, made, allocation) = holding("bad-output");
    let lease = allocation.lease;
    let nar = file_nar(b"contents\n");
    let good = declared(made.out(), &nar, &[]);

    // A name that is not the derivation's.
    let stranger = path::text("stranger", b"x", &[]).unwrap();
    hand.declare(lease, &Output { path: stranger.clone(), ..good.clone() }).refused(422, Code::BadOutput);
    hand.upload(lease, &stranger, 0, &compressed(&nar)).refused(422, Code::BadOutput);

    // Success without the outputs, or with one too many, or with other words than were declared.
    hand.report(lease, &Report::Succeeded { outputs: vec![good.clone()] }).refused(422, Code::BadOutput);
    hand.report(lease, &Report::Succeeded { outputs: vec![] }).refused(422, Code::BadOutput);

    let wrong_hash = declared(made.out(), &file_nar(b"something\n"), &[]);
    let shell = graph.shell().clone();
    let mut with_reference = b"#!".to_vec();
    with_reference.extend_from_slice(shell.as_str().as_bytes());
    let with_reference = file_nar(&with_reference);
    let mut padded = nar.clone();
    padded.extend_from_slice(&[0; 8]);
    let mut dirty = nar.clone();
    let byte = dirty.len() - 17;
    dirty[byte] = 1;
    let cases: Vec<(&str, Output, Vec<u8>)> = vec![
        ("another hash", Output { nar_size: nar.len() as u64, ..wrong_hash }, compressed(&nar)),
        ("another size", Output { nar_size: nar.len() as u64 + 8, ..good.clone() }, compressed(&nar)),
        ("less than its size", Output { nar_size: nar.len() as u64 - 8, ..good.clone() }, compressed(&nar)),
        (
            "a truncated nar",
            declared(made.out(), &nar[..nar.len() - 16], &[]),
            compressed(&nar[..nar.len() - 16]),
        ),
        ("a padded nar", declared(made.out(), &padded, &[]), compressed(&padded)),
        ("padding that is not zero", declared(made.out(), &dirty, &[]), compressed(&dirty)),
        (
            "a reference that is there and not declared",
            declared(made.out(), &with_reference, &[]),
            compressed(&with_reference),
        ),
        (
            "a reference that is declared and not there",
            declared(made.out(), &nar, std::slice::from_ref(&shell)),
            compressed(&nar),
        ),
        ("no zstd at all", good.clone(), nar.clone()),
        ("more behind the end", good.clone(), [compressed(&nar), compressed(&nar)].concat()),
    ];
    for (what, output, bytes) in cases {
        let declared = hand.declare(lease, &output);
        if declared.status != 200 {
            declared.refused(422, Code::BadOutput);
            continue;
        }
        let received: Received = declared.value();
        assert_eq!(received.received, 0, "{what}: something was kept of the one before");
        let answer = hand.upload(lease, made.out(), 0, &bytes);
        let problem = answer.refused(422, Code::BadOutput);
        assert!(
            !farm.state().join("nars").exists() || !has_nar(&farm, made.out()),
            "{what} was kept: {problem}"
        );
    }
    let uploads = std::fs::read_dir(farm.state().join("uploads")).unwrap().count();
    assert_eq!(uploads, 0, "half an upload stayed behind");

    // After all of that the right one is taken.
    hand.deliver(lease, &good, &compressed(&nar));
    let mut lie = good.clone();
    lie.nar_size += 8;
    hand.report(lease, &Report::Succeeded { outputs: vec![lie] }).refused(422, Code::BadOutput);
    let reported: Reported = hand.report(lease, &Report::Succeeded { outputs: vec![good] }).value();
    assert_eq!(reported.state, BuildState::Succeeded);
    assert!(has_nar(&farm, made.out()));
}

fn has_nar(farm: &Farm, path: &StorePath) -> bool {
    fn found(folder: &std::path::Path, base: &str) -> bool {
        let Ok(entries) = std::fs::read_dir(folder) else { return false };
        entries.flatten().any(|entry| {
            entry.file_name().to_string_lossy().starts_with(base)
                || entry.path().is_dir() && found(&entry.path(), base)
        })
    }
    found(&farm.state().join("nars"), path.base_name())
}

#[test]
fn a_fixed_output_must_be_what_its_derivation_says() {
    let farm = Farm::start();
    let hand = Hand::new(&farm, "hand");
    let mut graph = Graph::new("fixed").unwrap();
    let recipe =
        Recipe { fixed: Some(b"the one\n".to_vec()), ..Recipe::new("download", "echo the one >$out") };
    let made = graph.add(recipe).unwrap();
    let _ = farm.client.submit(&graph, &[&made]);
    let lease = hand.allocation().lease;
    let other = file_nar(b"another\n");
    let output = declared(made.out(), &other, &[]);
    let _: Received = hand.declare(lease, &output).value();
    hand.upload(lease, made.out(), 0, &compressed(&other)).refused(422, Code::BadOutput);
    let right = file_nar(b"the one\n");
    hand.deliver(lease, &declared(made.out(), &right, &[]), &compressed(&right));
}

#[test]
fn chunks_at_a_wrong_offset_are_refused_with_the_right_one() {
    let (farm, hand, _graph, made, allocation) = holding("offsets");
    let lease = allocation.lease;
    let first: Received = hand.log(lease, 0, b"first ").value();
    assert_eq!(first.received, 6);
    for wrong in [0, 3, 7, u64::MAX] {
        let problem = hand.log(lease, wrong, b"xxx").refused(416, Code::WrongOffset);
        assert_eq!(problem.received, Some(6));
    }
    let second: Received = hand.log(lease, 6, b"second \xff\n").value();
    assert_eq!(second.received, 15);
    assert_eq!(farm.client.log(allocation.build), b"first second \xff\n");

    let nar = file_nar(&[b'x'; 10_000]);
    let bytes = compressed(&nar);
    let output = declared(made.out(), &nar, &[]);
    let _: Received = hand.declare(lease, &output).value();
    for wrong in [1, bytes.len() as u64, u64::MAX] {
        let problem = hand.upload(lease, made.out(), wrong, &bytes).refused(416, Code::WrongOffset);
        assert_eq!(problem.received, Some(0));
    }
    hand.deliver(lease, &output, &bytes);
}

#[test]
fn what_is_not_of_the_protocol_is_refused_in_words() {
    let (farm, hand, _graph, _made, allocation) = holding("protocol");
    let newer = Hello { protocol: PROTOCOL + 1, ..hello(&[]) };
    hand.peer.post(&agents::HELLO.path(&[]), &newer).refused(426, Code::ProtocolVersion);
    for peer in [&farm.client.peer, &hand.peer] {
        peer.get("/v1/no-such-thing").refused(404, Code::NotFound);
        peer.get("/v1").refused(404, Code::NotFound);
    }
    hand.peer.get("/").refused(404, Code::NotFound);
    farm.client.peer.send("PATCH", &clients::BUILDS.path(&[]), b"").refused(405, Code::MethodNotAllowed);
    for body in ["", "{", "[]", "{\"builds\":[{\"derivation\":\"/gnu/store/../etc/passwd\"}]}", "\u{0}"] {
        farm.client
            .peer
            .send("POST", &clients::SUBMIT.path(&[]), body.as_bytes())
            .refused(400, Code::BadRequest);
    }
    let deep = "[".repeat(100_000);
    farm.client.peer.send("POST", &clients::SUBMIT.path(&[]), deep.as_bytes()).refused(400, Code::BadRequest);
    for path in ["/v1/builds/none", "/v1/builds/..%2f..", "/v1/items/%ff", "/v1/nars/x"] {
        let answer = farm.client.peer.get(path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.text());
    }
    let unknown = "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11";
    farm.client.peer.get(&clients::BUILD.path(&[&unknown])).refused(404, Code::NotFound);
    farm.client
        .peer
        .get(&format!("{}?state=asleep", clients::BUILDS.path(&[])))
        .refused(400, Code::BadRequest);
    hand.log(allocation.lease, 0, &vec![b'x'; 2 << 20]).refused(413, Code::TooLarge);
    let large = vec![b' '; 40 << 20];
    let answer = farm.client.peer.try_send("POST", &clients::SUBMIT.path(&[]), &large);
    assert!(answer.is_ok_and(|answer| answer.status == 413));
    // It is all still there.
    assert!(!farm.client.show(allocation.build).summary.state.is_final());
    assert!(farm.client.log(allocation.build).is_empty());
}

#[test]
fn a_dynamic_token_speaks_only_for_the_agents_that_were_made_through_it() {
    let farm = Farm::start();
    let token = |note: &str| {
        let secret: drover_wire::client::Secret = farm
            .client
            .peer
            .post(&clients::AGENT_TOKEN.path(&[]), &drover_wire::client::NewToken { note: note.to_owned() })
            .value();
        Peer::stranger(&format!("http://{}", farm.agents)).token(&secret.secret)
    };
    let (one, two) = (token("one"), token("two"));
    let say = |peer: &Peer, name: &str| {
        peer.header("drover-agent-name", name).post(&agents::HELLO.path(&[]), &hello(&[]))
    };
    assert_eq!(say(&one, "sparky").status, 200);
    assert_eq!(say(&one, "sparky").status, 200);
    say(&two, "sparky").refused(403, Code::Forbidden);
    let _ = farm.client.new_agent("by-password");
    say(&one, "by-password").refused(403, Code::Forbidden);
    for name in ["", "a b", "../x", &"x".repeat(65)] {
        let answer = say(&one, name);
        assert!(matches!(answer.status, 400 | 401), "“{name}”: {}", answer.text());
    }
    assert_eq!(farm.client.agents().len(), 2);
}
