//! Fixed outputs: what was fetched once can be had by its hash, and it is known whose upstream has vanished or changed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Output;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use drover_store::{Sha256Hash, StorePath};
use drover_tests::farm::{Farm, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::{self, Ground};
use drover_tests::public::Public;
use drover_tests::site::Site;
use drover_tests::wait;
use drover_wire::source::{Source, SourceState};

/// The file that says which servers have things by their hash, as Guix's own does.
fn mirrors(url: &str) -> String {
    format!(
        "(begin (use-modules (guix base16) (guix base32)) (list (lambda (file algo hash) (string-append \"{url}/file/\" \
         file \"/\" (symbol->string algo) \"/\" (bytevector->nix-base32-string hash)))))"
    )
}

fn sources(farm: &Farm, flags: &[&str]) -> Vec<Source> {
    let output = farm.drover([&["sources", "--json"], flags].concat());
    assert!(output.status.success(), "{}", words(&output));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn paths(sources: &[Source]) -> Vec<&StorePath> {
    sources.iter().map(|source| &source.path).collect()
}

/// What a look at an upstream now comes to.
fn check(farm: &Farm, made: &Made) -> Source {
    let found = sources(farm, &["--check", made.out().as_str()]);
    assert_eq!(paths(&found), [made.out()]);
    found.into_iter().next().unwrap()
}

/// Has Guix itself build a derivation of a graph, into a store that has nothing.
fn guix_builds(ground: &Ground, graph: &Graph, made: &Made) -> Output {
    let folder = ground.dir.join("graph");
    graph.write(&folder).unwrap();
    let script = ground.dir.join("build.scm");
    let text = |path: &StorePath| format!("\"{}\"", folder.join(path.base_name()).display());
    let drv = drover_store::Derivation::parse(graph.bytes(&made.path).unwrap()).unwrap();
    let named = drv.sources.iter().map(|path| format!("(cons \"{}\" {})", path.name(), text(path)));
    let named: Vec<String> = named.collect();
    let scheme = format!(
        "(use-modules (guix store) (rnrs io ports))\n\
         (define (bytes file) (call-with-input-file file get-bytevector-all #:binary #t))\n\
         (with-store store\n\
           (for-each (lambda (source) (add-to-store store (car source) #f \"sha256\" (cdr source))) (list {}))\n\
           (build-things store (list (add-data-to-store store \"{}\" (bytes {}) '({})))))\n",
        named.join(" "),
        made.path.name(),
        text(&made.path),
        drv.sources.iter().map(|path| format!("\"{}\"", path.full())).collect::<Vec<_>>().join(" "),
    );
    fs::write(&script, scheme).unwrap();
    ground.run(&["guix", "repl", script.to_str().unwrap()])
}

#[test]
fn what_was_fetched_once_can_be_had_by_its_hash_when_its_upstream_has_vanished_or_changed() {
    if !ground::available("sources") {
        return;
    }
    let site = Site::start();
    let mut graph = Graph::new("sources").unwrap();
    let mut fetch = |name: &str| {
        let contents = format!("the contents of {name}");
        let url = site.put(name, contents.as_bytes());
        graph.download(name, &url, contents.as_bytes(), None).unwrap()
    };
    let all = [fetch("stays.tar"), fetch("vanishes.tar"), fetch("changes.tar")];
    let [stays, vanishes, changes] = &all;
    let mut farm = Farm::with_flags(&["--sources-check-days", "1", "--sources-check-private"]);
    let ground = farm.ground_with_network("builder");
    let agent = farm.agent("builder", &ground, 2);
    let builds = farm.client.submit(&graph, &[stays, vanishes, changes]);
    farm.client.wait_success(&builds);
    drop(agent);
    let public = Public::of(&farm);
    public.wait_for(&[stays.out(), vanishes.out(), changes.out()]);

    site.remove("vanishes.tar");
    site.put("changes.tar", b"something else");
    // Soon after its start the coordinator looks at one that it has not seen for long; so that a test need not wait for the
    // next, it starts again for each.
    for seen in 1..=all.len() {
        farm.coordinator.kill();
        farm.restart();
        wait::until("an upstream should be looked at", || {
            let all = sources(&farm, &[]);
            (all.iter().filter(|source| source.checked_at.is_some()).count() >= seen).then_some(())
        });
    }
    let states = |made: &Made| {
        let all = sources(&farm, &[]);
        let found = all.iter().find(|source| source.path == *made.out()).unwrap();
        assert!(found.held && found.hash.is_some());
        found.state
    };
    assert_eq!(all.each_ref().map(states), [SourceState::There, SourceState::Vanished, SourceState::Changed]);
    assert_eq!(paths(&sources(&farm, &["--vanished"])), [vanishes.out()]);
    assert_eq!(paths(&sources(&farm, &["--changed"])), [changes.out()]);
    assert_eq!(sources(&farm, &["--vanished", "--changed"]).len(), 2);
    let table = farm.drover(["sources", "--vanished"]);
    assert!(words(&table).contains("vanished") && words(&table).contains("404"), "{}", words(&table));

    for (made, name) in [(vanishes, "vanishes.tar"), (changes, "changes.tar")] {
        let contents = format!("the contents of {name}");
        let hash = Sha256Hash::of(contents.as_bytes());
        for hash in [hash.base32(), hash.hex()] {
            let answer = public.peer.get(&format!("/file/{name}/sha256/{hash}"));
            assert_eq!((answer.status, answer.text().as_str()), (200, contents.as_str()), "{}", made.out());
        }
    }
    let none = Sha256Hash::of(b"something else").base32();
    assert_eq!(public.peer.get(&format!("/file/changes.tar/sha256/{none}")).status, 404);

    // Guix's own download finds it here, by the hash, when nobody else has it any more.
    let mut graph = Graph::new("lost").unwrap();
    let mirrors = graph.add_flat("content-addressed-mirrors", mirrors(&public.url).as_bytes()).unwrap();
    let contents = b"the contents of vanishes.tar";
    let lost =
        graph.download("vanishes.tar", &format!("{}/lost", site.url), contents, Some(&mirrors)).unwrap();
    assert_eq!(lost.out(), vanishes.out());
    let other = Ground::start_with_network(&farm.dir().join("other"));
    let output = guix_builds(&other, &graph, &lost);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(fs::read(other.item(lost.out())).unwrap(), contents);
    assert!(site.asked("lost") > 0, "its own address was not asked first");
}

#[test]
fn an_upstream_is_looked_at_when_it_is_asked_for_and_what_cannot_be_is_said() {
    let site = Site::start();
    let mut graph = Graph::new("checked").unwrap();
    let url = site.put("x.tar", b"right");
    let made = graph.download("x.tar", &url, b"right", None).unwrap();
    let built = graph.add(Recipe::new("built", "echo built >$out")).unwrap();
    let farm = Farm::with_flags(&["--sources-check-private", "--sources-check-days", "0"]);
    let _ = farm.client.submit(&graph, &[&made, &built]);
    assert_eq!(check(&farm, &made).state, SourceState::There);
    site.put("x.tar", b"wrong");
    let changed = check(&farm, &made);
    assert_eq!(changed.state, SourceState::Changed);
    assert!(changed.detail.unwrap().contains(&Sha256Hash::of(b"wrong").hex()));
    site.remove("x.tar");
    assert_eq!(check(&farm, &made).state, SourceState::Vanished);
    site.answer_all(Some("500 Oops"));
    assert_eq!(check(&farm, &made).state, SourceState::Unknown);
    site.answer_all(None);
    site.put("x.tar", b"right");
    assert_eq!(check(&farm, &made).state, SourceState::There);
    assert!(sources(&farm, &["--vanished", "--changed"]).is_empty());

    let out = made.out().as_str();
    for (line, code, word) in [
        (vec!["sources", "--check", "../etc/passwd"], 2, "PATH"),
        (vec!["sources", "--check"], 2, "--check"),
        (vec!["sources", "--vanished", "--check", out], 2, "cannot be used with"),
        (vec!["sources", "nonsense"], 2, "nonsense"),
        (vec!["sources", "--check", "/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-no"], 4, "source"),
        (vec!["sources", "--check", built.out().as_str()], 4, "source"),
    ] {
        let output = farm.drover(line.clone());
        assert_eq!(output.status.code(), Some(code), "{line:?}: {}", words(&output));
        assert!(words(&output).contains(word), "{line:?}: {}", words(&output));
    }
}

#[test]
fn a_look_that_is_asked_for_does_not_wait_for_one_at_a_slow_upstream() {
    let site = Site::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/slow.tar", listener.local_addr().unwrap());
    let ((asked, was_asked), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let _ = lines.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).count();
        asked.send(()).unwrap();
        released.recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow").unwrap();
    });
    let mut graph = Graph::new("slow").unwrap();
    let slow = graph.download("slow.tar", &address, b"slow", None).unwrap();
    let url = site.put("x.tar", b"right");
    let quick = graph.download("x.tar", &url, b"right", None).unwrap();
    let farm = Farm::with_flags(&["--sources-check-private", "--sources-check-days", "0"]);
    let _ = farm.client.submit(&graph, &[&slow, &quick]);
    thread::scope(|scope| {
        let looking = scope.spawn(|| check(&farm, &slow).state);
        was_asked.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(check(&farm, &quick).state, SourceState::There);
        release.send(()).unwrap();
        assert_eq!(looking.join().unwrap(), SourceState::There);
    });
}

#[test]
fn nobody_on_this_machine_is_asked_because_a_derivation_says_so() {
    let site = Site::start();
    let mut graph = Graph::new("private").unwrap();
    let url = site.put("secret", b"right");
    let made = graph.download("secret", &url, b"right", None).unwrap();
    let farm = Farm::start();
    let _ = farm.client.submit(&graph, &[&made]);
    let found = check(&farm, &made);
    assert_eq!(found.state, SourceState::Unknown);
    let detail = found.detail.unwrap();
    assert!(detail.contains("private network") && detail.contains("sources-check-private"), "{detail}");
    assert_eq!(site.asked("secret"), 0);
}
