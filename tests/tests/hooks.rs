//! What hooks do, seen from outside: mirrors that any web server serves, and what operators are told of hooks.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use drover_store::path::StorePath;
use drover_tests::bucket::{BUCKET, BucketServer, CrookedServer, bucket_options};
use drover_tests::farm::{Farm, free_port, wait_listening, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::{self, Ground};
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::http::Peer;
use drover_tests::proxy::Proxy;
use drover_tests::public::{Public, authorize};
use drover_tests::random::Random;
use drover_tests::service::{Service, Start};
use drover_tests::wait;
use drover_wire::agent::Report;
use drover_wire::hook::{Event, FailedRuns, HookInput, HookKind, HookRetried, HookSummary};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// A farm whose configuration file, in this folder, has these hooks.
fn farm(folder: &TempDir, hooks: &str) -> Farm {
    let file = folder.path().join("drover.toml");
    fs::write(&file, hooks).unwrap();
    Farm::with_flags(&["--config", file.to_str().unwrap()])
}

/// Two items, of which the second refers to the first; so large that their nars are files.
struct Items {
    library: Made,
    program: Made,
    contents: Vec<u8>,
}

impl Items {
    /// Has an agent deliver them.
    fn build(farm: &Farm) -> Self {
        let mut graph = Graph::new("mirrored").unwrap();
        let library = graph.add(Recipe::new("library", "echo >$out")).unwrap();
        let program = graph.add(Recipe::new("program", "echo >$out").input(&library)).unwrap();
        let hand = Hand::new(farm, "hand");
        let builds = farm.client.submit(&graph, &[&program]);
        let mut random = Random::new(7);
        let noise: Vec<u8> = (0..40_000).flat_map(|_| random.number().to_le_bytes()).collect();
        let contents = [library.out().as_str().as_bytes(), &noise].concat();
        let all = [(&library, &noise, &[][..]), (&program, &contents, std::slice::from_ref(library.out()))];
        for (made, bytes, references) in all {
            let lease = hand.allocation().lease;
            let nar = file_nar(bytes);
            let output = declared(made.out(), &nar, references);
            hand.deliver(lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
            assert_eq!(hand.report(lease, &Report::Succeeded { outputs: vec![output] }).status, 200);
        }
        farm.client.wait_success(&builds);
        Self { library, program, contents }
    }
}

fn narinfo(path: &StorePath) -> String {
    format!("{}.narinfo", path.hash_part())
}

fn nar(path: &StorePath) -> String {
    format!("nar/zstd/{}", path.base_name())
}

/// A web server that knows nothing but files.
fn web_server(folder: &Path) -> (Service, String) {
    let address = free_port();
    let start = Start::new("python3")
        .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .arg(folder)
        .arg(address.port().to_string());
    let mut server = Service::start("python3 -m http.server", start);
    wait_listening(&mut server, &[address]);
    (server, format!("http://{address}"))
}

fn json_lines<T: DeserializeOwned>(farm: &Farm, command: &[&str]) -> Vec<T> {
    let output = farm.drover([command, &["--json"]].concat());
    assert!(output.status.success(), "{}", words(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn hook(farm: &Farm, name: &str) -> HookSummary {
    let all: Vec<HookSummary> = json_lines(farm, &["hooks"]);
    all.into_iter().find(|hook| hook.hook.as_str() == name).unwrap()
}

#[test]
fn what_is_pushed_is_had_from_any_web_server_by_guix_and_by_another_farm() {
    if !ground::available("a mirror") {
        return;
    }
    let Some(bucket) = BucketServer::start("a mirror") else { return };
    bucket.open_to_all();
    let folder = tempfile::tempdir().unwrap();
    let near = folder.path().join("near");
    let hooks = format!(
        "[hooks.near]\nkind = 'push'\nfolder = '{}'\n[hooks.far]\nkind = 'push'\n{}",
        near.display(),
        bucket_options("mirror", bucket.address, folder.path())
    );
    let farm = farm(&folder, &hooks);
    let items = Items::build(&farm);
    // moto itself would swallow the next request that Guix sends on the same connection, and Guix wait for its answer.
    let front = CrookedServer::before(bucket.address, "");
    let in_bucket = format!("http://{}/{BUCKET}/mirror", front.address);
    let far = Peer::stranger(&in_bucket);
    let (library, program) = (items.library.out(), items.program.out());
    for path in [library, program] {
        wait::until(&format!("{path} should be pushed"), || {
            let both =
                near.join(narinfo(path)).exists() && far.get(&format!("/{}", narinfo(path))).status == 200;
            both.then_some(())
        });
        for file in [narinfo(path), nar(path), "nix-cache-info".to_owned()] {
            let answer = far.get(&format!("/{file}"));
            assert_eq!((answer.status, answer.body), (200, fs::read(near.join(&file)).unwrap()), "{file}");
        }
    }

    let (_server, in_folder) = web_server(&near);
    let key = farm.client.key();
    let key_file = folder.path().join("farm.pub");
    fs::write(&key_file, &key).unwrap();
    for (name, url) in [("of-folder", in_folder), ("of-bucket", in_bucket)] {
        let client = Ground::start_with_network(&farm.dir().join(name));
        authorize(&client, &key);
        let flag = format!("--substitute-urls={url}");
        let output = client.run(&["guix", "build", &flag, program.as_str()]);
        assert!(output.status.success(), "{url}: {}", words(&output));
        assert!(client.has(library), "{url}");
        assert_eq!(fs::read(client.item(program)).unwrap(), items.contents, "{url}");

        let other = Farm::start();
        let imported =
            other.drover(["import", &url, program.as_str(), "--key", key_file.to_str().unwrap(), "--json"]);
        assert!(imported.status.success(), "{url}: {}", words(&imported));
        Public::of(&other).wait_for(&[library, program]);
    }
}

#[test]
fn a_mirror_that_breaks_off_has_nothing_that_is_not_whole_and_gets_all_of_it_when_it_is_back() {
    let Some(bucket) = BucketServer::start("a mirror that breaks off") else { return };
    bucket.open_to_all();
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::to(bucket.address);
    let hooks = format!(
        "[hooks.far]\nkind = 'push'\nfirst-wait-seconds = 1\nlongest-wait-seconds = 1\ntries = 1000\n{}",
        bucket_options("mirror", proxy.address(), folder.path())
    );
    let mut farm = farm(&folder, &hooks);
    // In the midst of the first nar, which has 320,000 bytes.
    proxy.cut_after(150_000);
    let items = Items::build(&farm);
    proxy.wait_cut();
    let failed = wait::until("the cause should be told", || hook(&farm, "far").last_error);
    assert!(failed.contains("s3://nars/mirror") || failed.contains("mirror"), "{failed}");
    let far = Peer::stranger(&format!("http://{}/{BUCKET}/mirror", bucket.address));
    let made = [items.library.out(), items.program.out()];
    for path in made {
        assert_eq!(far.get(&format!("/{}", narinfo(path))).status, 404);
        assert_eq!(far.get(&format!("/{}", nar(path))).status, 404);
    }
    Public::of(&farm).wait_for(&made);

    farm.coordinator.kill();
    proxy.restore();
    farm.restart();
    let public = Peer::stranger(&format!("http://{}", farm.public));
    for path in made {
        wait::until(&format!("{path} should be pushed"), || {
            (far.get(&format!("/{}", narinfo(path))).status == 200).then_some(())
        });
        let of = |peer: &Peer| peer.get(&format!("/{}", nar(path))).body;
        assert!(of(&far) == of(&public), "the nar of {path} is another one there");
    }
    wait::until("nothing should be left to push", || (hook(&farm, "far").waiting == 0).then_some(()));
    assert_eq!(hook(&farm, "far").failed, 0);
}

#[test]
fn a_program_is_told_what_becomes_of_builds_in_its_order_and_what_one_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let hooks = format!(
        "[hooks.tell]\nkind = 'command'\nprogram = '/bin/sh'\narguments = ['-c', 'cat >> {}']\n\
         on = ['build-submitted', 'build-started', 'build-success', 'missing-inputs']\n",
        told.display()
    );
    let farm = farm(&folder, &hooks);
    let mut graph = Graph::new("told").unwrap();
    let library = graph.add(Recipe::new("library", "echo >$out")).unwrap();
    let program = graph.add(Recipe::new("program", "echo >$out").input(&library)).unwrap();
    let hand = Hand::new(&farm, "hand");
    let deliver = |made: &Made| {
        // Neither a heartbeat nor a word of a log comes before its end.
        let lease = hand.allocation().lease;
        let nar = file_nar(b"built");
        let output = declared(made.out(), &nar, &[]);
        hand.deliver(lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
        assert_eq!(hand.report(lease, &Report::Succeeded { outputs: vec![output] }).status, 200);
    };
    let first = farm.client.submit(&graph, &[&library])[0];
    deliver(&library);
    farm.client.wait_success(&[first]);
    let second = farm.client.submit(&graph, &[&program])[0];
    let lease = hand.allocation().lease;
    let nowhere = StorePath::parse_base(&format!("{}-nowhere", "0".repeat(32))).unwrap();
    let missing = vec![nowhere.clone()];
    assert_eq!(hand.report(lease, &Report::MissingInputs { paths: missing }).status, 200);

    let lines = wait::until("the program should be told of all", || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let lines: Option<Vec<HookInput>> =
            text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        lines.filter(|lines| lines.iter().any(|line| line.event == Event::MissingInputs))
    });
    let all: Vec<_> =
        lines.iter().map(|line| (line.event, line.build.as_ref().unwrap().summary.build)).collect();
    let expected = [
        (Event::BuildSubmitted, first),
        (Event::BuildStarted, first),
        (Event::BuildSuccess, first),
        (Event::BuildSubmitted, second),
        (Event::MissingInputs, second),
    ];
    assert_eq!(all, expected);
    let missing: Vec<&[StorePath]> = lines.iter().map(|line| &line.missing[..]).collect();
    assert_eq!(missing, [&[], &[], &[], &[], std::slice::from_ref(&nowhere)] as [&[StorePath]; 5]);
}

#[test]
fn operators_see_how_hooks_do_and_why_some_failed_and_have_them_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let mended = folder.path().join("mended");
    let hooks = format!(
        "[hooks.tell]\nkind = 'command'\non = ['build-submitted']\nprogram = '/bin/sh'\ntries = 1\n\
         arguments = ['-c', 'test -e {} || {{ printf \"no \\033[31mroom\\n\" >&2; exit 7; }}']\n\
         [hooks.publish]\nenabled = false\n",
        mended.display()
    );
    let farm = farm(&folder, &hooks);
    let mut graph = Graph::new("told").unwrap();
    let made: Vec<Made> =
        (0..2).map(|n| graph.add(Recipe::new(&format!("made-{n}"), "echo >$out")).unwrap()).collect();
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    let tell =
        wait::until("both should be given up", || Some(hook(&farm, "tell")).filter(|tell| tell.failed == 2));
    assert_eq!((tell.kind, tell.on.as_slice()), (Some(HookKind::Command), &[Event::BuildSubmitted][..]));
    assert_eq!((tell.enabled, tell.waiting, tell.running), (true, 0, 0));
    assert!(!hook(&farm, "publish").enabled);

    let table = words(&farm.drover(["hooks"]));
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(table.contains("HOOK") && table.contains("FAILED"), "{table}");
    assert!(line("publish").contains("switched off") && line("tell").contains("command"), "{table}");
    assert!(line("tell").contains("code 7"), "{table}");
    let failed = words(&farm.drover(["hooks", "failed", "tell"]));
    for build in &builds {
        let line = failed.lines().find(|line| line.contains(&build.to_string())).unwrap();
        assert!(
            line.contains("build-submitted") && line.contains("1 try") && line.contains("code 7"),
            "{line}"
        );
        // What a program writes does not paint the operator's terminal.
        assert!(line.contains("room") && !line.contains('\u{1b}'), "{line}");
    }
    let failed: Vec<FailedRuns> = json_lines(&farm, &["hooks", "failed", "tell"]);
    assert_eq!((failed[0].failed, failed[0].runs.len()), (2, 2));

    fs::write(&mended, "").unwrap();
    let again: Vec<HookRetried> = json_lines(&farm, &["hooks", "retry", "tell"]);
    assert_eq!(again[0].runs, 2);
    wait::until("both should be done", || {
        let tell = hook(&farm, "tell");
        (tell.waiting + tell.failed == 0).then_some(())
    });
    let none = farm.drover(["hooks", "retry", "tell"]);
    assert!(none.status.success() && words(&none).contains("0 runs are tried again"), "{}", words(&none));

    for (given, code, said) in [
        (&["hooks", "failed", "nobody"][..], 4, "there is no hook nobody"),
        (&["hooks", "retry", "nobody"], 4, "there is no hook nobody"),
        (&["hooks", "retry", "No/Body"], 2, "name of a hook"),
        (&["hooks", "failed"], 2, "<HOOK>"),
        (&["hooks", "drop", "tell"], 2, "unrecognized subcommand"),
    ] {
        let output = farm.drover(given.iter().copied());
        assert_eq!(output.status.code(), Some(code), "{given:?}: {}", words(&output));
        assert!(words(&output).contains(said), "{given:?}: {}", words(&output));
    }
}

#[test]
fn keys_and_imports_are_listed_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let farm = Farm::start();
    assert!(farm.drover(["key", "rotate", "--after", "7d"]).status.success());
    let keys = words(&farm.drover(["key", "list"]));
    let words_of = |line: &str| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = keys.lines().skip(1).map(words_of).collect();
    assert_eq!(rows, [["KEY", "STATE"], ["2", "next"], ["1", "signs"]], "{keys}");

    let none = farm.drover(["import", "list"]);
    assert!(none.status.success(), "{}", words(&none));
    let source = folder.path().to_str().unwrap();
    // There is nothing in it.
    assert!(!farm.drover(["import", source, "--unsigned"]).status.success());
    assert!(!farm.drover(["import", "http://127.0.0.1:9"]).status.success());
    let list = words(&farm.drover(["import", "list"]));
    assert!(list.lines().any(|line| line.contains(source) && line.contains("failed")), "{list}");
    assert!(list.lines().any(|line| line.contains("127.0.0.1:9") && line.contains("failed")), "{list}");
    let list: Vec<drover_wire::import::ImportSummary> = json_lines(&farm, &["import", "list"]);
    assert_eq!(list.iter().map(|import| import.import).collect::<Vec<_>>(), [2, 1]);
    let shown = words(&farm.drover(["import", "show", "2"]));
    assert!(shown.contains("127.0.0.1:9") && shown.contains("was not had"), "{shown}");
}
