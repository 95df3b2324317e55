//! Store items of others: from a real `guix publish`, from folders, and from another coordinator.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use drover_store::key::SecretKey;
use drover_store::narinfo::{NarInfo, Url};
use drover_store::{Sha256Hash, StorePath, path};
use drover_tests::farm::{Farm, free_port, wait_listening, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::{self, Ground};
use drover_tests::hand::file_nar;
use drover_tests::http::Peer;
use drover_tests::service::Service;
use drover_tests::site::Site;
use drover_tests::wait;
use drover_wire::BuildState;
use drover_wire::import::{ImportDetails, ImportState};

/// Something that others built, and what needs it: in their store, which is published.
struct Elsewhere {
    publish: Service,
    ground: Ground,
    url: String,
    graph: Graph,
    input: Made,
    needs: Made,
    _farm: Farm,
}

impl Elsewhere {
    /// In the flags, `{}` stands for the folder of the daemon.
    fn with(name: &str, flags: &[&str]) -> Self {
        let mut graph = Graph::new(name).unwrap();
        let input = graph.add(Recipe::new("input", "echo input >$out")).unwrap();
        let needs = graph.add(Recipe::new("needs", "cat $inputs; echo $inputs >$out").input(&input)).unwrap();
        let farm = Farm::start();
        let ground = farm.ground("elsewhere");
        let agent = farm.agent("elsewhere", &ground, 1);
        let builds = farm.client.submit(&graph, &[&needs]);
        farm.client.wait_success(&builds);
        drop(agent);
        let output = ground.run(&["guix", "archive", "--generate-key"]);
        assert!(output.status.success(), "{}", words(&output));
        let address = free_port();
        let port = format!("--port={}", address.port());
        let dir = ground.dir.to_str().unwrap();
        let flags: Vec<String> = flags.iter().map(|flag| flag.replace("{}", dir)).collect();
        let mut publish = vec!["guix", "publish", "--listen=127.0.0.1", &port];
        publish.extend(flags.iter().map(String::as_str));
        let mut publish = Service::start("guix publish", ground.beside(&publish));
        wait_listening(&mut publish, &[address]);
        Self { publish, ground, url: format!("http://{address}"), graph, input, needs, _farm: farm }
    }

    /// The file with the key that signs there.
    fn key(&self) -> PathBuf {
        self.ground.dir.join("etc-guix/signing-key.pub")
    }
}

/// Imports, and waits for the end.
fn import(farm: &Farm, source: &str, key: &Path, more: &[&str]) -> ImportDetails {
    let key = key.to_str().unwrap();
    let output = farm.drover([&["import", source, "--key", key, "--json"], more].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", words(&output)))
}

fn show(farm: &Farm, import: u64) -> ImportDetails {
    let output = farm.drover(["import", "show", &import.to_string(), "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", words(&output)))
}

fn number(output: &Output) -> u64 {
    let started: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    started["import"].as_u64().unwrap_or_else(|| panic!("{}", words(output)))
}

/// What the public is told of an item; none: it cannot have it.
fn narinfo(farm: &Farm, path: &StorePath) -> Option<NarInfo> {
    let public = Peer::stranger(&format!("http://{}", farm.public));
    let answer = public.get(&format!("/{}.narinfo", path.hash_part()));
    (answer.status == 200).then(|| NarInfo::parse(answer.text().as_bytes()).unwrap())
}

/// An agent builds what needs the input, which was imported and is not built.
fn builds_with_it(farm: &Farm, elsewhere: &Elsewhere) {
    let ground = farm.ground("here");
    let _agent = farm.agent("here", &ground, 1);
    let builds = farm.client.submit(&elsewhere.graph, &[&elsewhere.needs]);
    farm.client.wait_success(&builds);
    assert_eq!(farm.client.builds().len(), 1, "the input was built");
    assert_eq!(farm.client.show(builds[0]).summary.state, BuildState::Succeeded);
    assert_eq!(farm.client.log(builds[0]), b"input\n");
}

fn from_publish(compression: &str) {
    if !ground::available(&format!("an import of {compression}")) {
        return;
    }
    let elsewhere = Elsewhere::with(&format!("from-{compression}"), &["-C", compression]);
    let farm = Farm::start();
    let (input, needs) = (elsewhere.input.out().clone(), elsewhere.needs.out().clone());
    let said = Peer::stranger(&elsewhere.url).get(&format!("/{}.narinfo", input.hash_part()));
    let said = NarInfo::parse(&said.body).unwrap();
    assert_eq!(said.urls[0].file_size, None, "it says how long the file is: this is about one that does not");
    let refused =
        import(&farm, &elsewhere.url, &elsewhere.key(), &["/gnu/store/00a3xasf5iyzfv23danwy7pilf2yyxjz-no"]);
    assert_eq!((refused.summary.taken, refused.summary.refused), (0, 1), "{refused:?}");
    let taken = import(&farm, &elsewhere.url, &elsewhere.key(), &[input.as_str()]);
    assert_eq!((taken.summary.taken, taken.summary.refused), (1, 0), "{taken:?}");
    let info = narinfo(&farm, &input).unwrap();
    // Those that do not know zstd are offered the nar uncompressed, too.
    assert_eq!(info.urls.len(), if compression == "zstd" { 2 } else { 1 });
    assert_eq!(info.urls[0].compression, compression);
    builds_with_it(&farm, &elsewhere);
    // What was built here is here already, and what was built there is the same.
    let known = import(&farm, &elsewhere.url, &elsewhere.key(), &[needs.as_str()]);
    assert_eq!((known.summary.taken, known.summary.known), (0, 1), "{known:?}");
}

#[test]
fn gzip_from_a_running_guix_publish_is_kept_and_agents_build_with_it() {
    from_publish("gzip");
}

#[test]
fn lzip_from_a_running_guix_publish_is_kept_and_agents_build_with_it() {
    from_publish("lzip");
}

#[test]
fn zstd_from_a_running_guix_publish_which_says_no_length_is_kept_and_agents_build_with_it() {
    from_publish("zstd");
}

#[test]
fn the_cache_of_a_guix_publish_is_used_where_it_lies_and_agents_build_with_it() {
    if !ground::available("a cache in place") {
        return;
    }
    let mut elsewhere = Elsewhere::with(
        "in-place",
        &["--cache={}/cache", "--cache-bypass-threshold=0", "-C", "lzip", "-C", "gzip"],
    );
    let input = elsewhere.input.out().clone();
    let server = Peer::stranger(&elsewhere.url);
    wait::until("the cache should be filled", || {
        (server.get(&format!("/{}.narinfo", input.hash_part())).status == 200).then_some(())
    });
    let cache = elsewhere.ground.dir.join("cache");
    elsewhere.publish.kill();

    let farm = Farm::with_flags(&["--check-mib-per-second", "0"]);
    let taken = import(&farm, cache.to_str().unwrap(), &elsewhere.key(), &["--in-place"]);
    assert_eq!((taken.summary.taken, taken.summary.refused), (1, 0), "{taken:?}");
    let mut forms: Vec<String> =
        narinfo(&farm, &input).unwrap().urls.iter().map(|url| url.compression.clone()).collect();
    forms.sort();
    assert_eq!(forms, ["gzip", "lzip"]);
    let public = Peer::stranger(&format!("http://{}", farm.public));
    let nar = public.get(&format!("/nar/lzip/{}", input.base_name()));
    assert!(nar.status == 200 && nar.body.starts_with(b"LZIP"), "{}", nar.status);
    let nars = fs::read_dir(farm.state().join("nars")).unwrap().count();
    assert_eq!(nars, 0, "something was copied");
    builds_with_it(&farm, &elsewhere);
}

/// A folder in the plain layout, with items that refer to the one before.
struct Shelf {
    key: SecretKey,
    dir: tempfile::TempDir,
    items: Vec<StorePath>,
}

impl Shelf {
    fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        fs::create_dir(dir.path().join("nar")).unwrap();
        let shelf = Self { key: SecretKey::generate().unwrap(), dir, items: Vec::new() };
        fs::write(shelf.key_file(), shelf.key.public().to_text()).unwrap();
        shelf
    }

    fn key_file(&self) -> PathBuf {
        self.dir.path().join("key.pub")
    }

    fn source(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn put(&mut self, count: usize) {
        for _ in 0..count {
            let name = format!("item-{}", self.items.len());
            let references: Vec<StorePath> = self.items.last().into_iter().cloned().collect();
            let nar = file_nar(format!("{name} {references:?}").as_bytes());
            let store_path = path::text(&name, self.source().as_bytes(), &[]).unwrap();
            let packed = zstd::encode_all(&nar[..], 1).unwrap();
            let url = format!("nar/{}", store_path.base_name());
            fs::write(self.dir.path().join(&url), &packed).unwrap();
            let mut info = NarInfo {
                urls: vec![Url { url, compression: "zstd".into(), file_size: Some(packed.len() as u64) }],
                nar_hash: Sha256Hash::of(&nar),
                nar_size: nar.len() as u64,
                references,
                deriver: Some(path::text(&format!("{name}.drv"), b"", &[]).unwrap()),
                system: None,
                signature: None,
                store_path: store_path.clone(),
            };
            info.sign("elsewhere", &self.key);
            let file = self.dir.path().join(format!("{}.narinfo", store_path.hash_part()));
            fs::write(file, info.print()).unwrap();
            self.items.push(store_path);
        }
    }
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was() {
    is_killed("killed", 400, &[]);
}

#[test]
fn an_import_in_place_that_is_killed_goes_on() {
    is_killed("killed-in-place", 1500, &["--in-place"]);
}

fn is_killed(name: &str, items: usize, flags: &[&str]) {
    let mut shelf = Shelf::new(name);
    shelf.put(items);
    let mut farm = Farm::start();
    let key = shelf.key_file();
    let line = ["import", shelf.source(), "--key", key.to_str().unwrap(), "--detach", "--json"];
    let started = farm.drover([&line, flags].concat());
    let id = number(&started);
    wait::until("something should be taken", || (show(&farm, id).summary.taken >= 10).then_some(()));
    farm.coordinator.kill();
    farm.restart();
    let ended = wait::until("the import should come to its end", || {
        Some(show(&farm, id)).filter(|import| import.summary.state != ImportState::Running)
    });
    assert_eq!(ended.summary.state, ImportState::Done, "{ended:?}");
    assert_eq!((ended.summary.taken, ended.summary.refused), (items as u64, 0), "{ended:?}");
    for item in &shelf.items {
        assert!(narinfo(&farm, item).is_some(), "{item} is not published");
    }
}

/// Has what a derivation makes, as a server that is no drover does.
fn offer(site: &Site, key: &SecretKey, made: &Made) {
    let nar = file_nar(made.out().name().as_bytes());
    let url = format!("nar/zstd/{}", made.out().base_name());
    let packed = zstd::encode_all(&nar[..], 1).unwrap();
    let mut info = NarInfo {
        urls: vec![Url {
            url: url.clone(),
            compression: "zstd".into(),
            file_size: Some(packed.len() as u64),
        }],
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        references: Vec::new(),
        deriver: Some(made.path.clone()),
        system: None,
        signature: None,
        store_path: made.out().clone(),
    };
    info.sign("elsewhere", key);
    site.put(&url, &packed);
    site.put(&format!("{}.narinfo", made.out().hash_part()), info.print().as_bytes());
}

#[test]
fn what_sets_here_want_is_taken_from_a_server_that_says_nothing_of_what_it_has() {
    let (site, key, farm) = (Site::start(), SecretKey::generate().unwrap(), Farm::start());
    let key_file = farm.dir().join("elsewhere.pub");
    fs::write(&key_file, key.public().to_text()).unwrap();
    let mut graph = Graph::new("wanted").unwrap();
    let [wanted, late, other] =
        ["wanted", "late", "other"].map(|name| graph.add(Recipe::new(name, "echo >$out")).unwrap());
    let folder = farm.dir().join("graph");
    graph.write(&folder).unwrap();
    let rows = [&wanted, &late].map(|made| {
        serde_json::json!({"derivation": made.path.as_str(), "package": "x", "version": "1", "system": "x86_64-linux"})
            .to_string()
    });
    let file = farm.dir().join("rows");
    fs::write(&file, rows.join("\n")).unwrap();
    let mut line: Vec<OsString> =
        ["set", "submit", "all", "--revision", "1", "--from"].map(Into::into).to_vec();
    line.extend([file.into_os_string(), "--store".into(), folder.into_os_string()]);
    let submitted = farm.drover(line);
    assert!(submitted.status.success(), "{}", words(&submitted));
    offer(&site, &key, &wanted);
    offer(&site, &key, &other);
    let once = import(&farm, &site.url, &key_file, &[]);
    assert_eq!((once.summary.state, once.summary.taken), (ImportState::Done, 1), "{once:?}");
    assert!(narinfo(&farm, wanted.out()).is_some());
    offer(&site, &key, &late);
    let again = import(&farm, &site.url, &key_file, &[]);
    assert_eq!((again.summary.taken, again.summary.refused), (1, 0), "{again:?}");
    assert!(narinfo(&farm, late.out()).is_some() && narinfo(&farm, other.out()).is_none());
}

#[test]
fn a_mirror_takes_all_that_another_coordinator_publishes_and_goes_on_after_a_restart() {
    let mut shelf = Shelf::new("mirrored");
    shelf.put(3);
    let first = Farm::start();
    let taken = import(&first, shelf.source(), &shelf.key_file(), &["--sign"]);
    assert_eq!(taken.summary.taken, 3, "{taken:?}");

    let mut second = Farm::start();
    let key = second.dir().join("first.pub");
    fs::write(&key, first.client.key()).unwrap();
    let url = format!("http://{}", first.public);
    let mirror = second.drover(["mirror", &url, "--every", "600", "--key", key.to_str().unwrap(), "--json"]);
    let id = number(&mirror);
    let has = |farm: &Farm, item: &StorePath| narinfo(farm, item).is_some();
    for item in &shelf.items {
        wait::until(&format!("the mirror should have {item}"), || has(&second, item).then_some(()));
        let signed = |farm: &Farm| narinfo(farm, item).unwrap().signature;
        assert_eq!(signed(&first), signed(&second), "it has another signature");
    }
    let again = second.drover(["mirror", &url]);
    assert!(!again.status.success() && words(&again).contains("already"), "{}", words(&again));

    shelf.put(2);
    import(&first, shelf.source(), &shelf.key_file(), &["--sign"]);
    second.coordinator.kill();
    second.restart();
    for item in &shelf.items {
        wait::until(&format!("the mirror should have {item}"), || has(&second, item).then_some(()));
    }
    let summary = show(&second, id).summary;
    assert_eq!((summary.taken, summary.known, summary.refused), (5, 0, 0), "{summary:?}");

    let stopped = second.drover(["mirror", "stop", &id.to_string(), "--json"]);
    assert!(stopped.status.success(), "{}", words(&stopped));
    let list = second.drover(["mirror", "list"]);
    assert!(words(&list).contains("stopped"), "{}", words(&list));
}

#[test]
fn what_cannot_be_imported_is_refused_in_words() {
    let farm = Farm::start();
    let file = farm.dir().join("no-key");
    fs::write(&file, "(nothing)").unwrap();
    let file = file.to_str().unwrap();
    let here = farm.dir().to_str().unwrap();
    for (line, word) in [
        (vec!["import", "ftp://farm"], "neither an address"),
        (vec!["import", "http://"], "no address"),
        (vec!["import", "/no/such/folder"], "no folder"),
        (vec!["import", "http://127.0.0.1:9", "--in-place"], "only the files of a folder"),
        (vec!["import", here, "--key", file], "key"),
        (vec!["import", here, "--key", "/no/such/key"], "cannot read the key"),
        (vec!["import", here, "../etc/passwd"], "PATH"),
        (vec!["import", here, "--herder", "/no/such.db"], "no database"),
        (vec!["import", "http://127.0.0.1:9", "--herder", file], "goes with the folder"),
        (vec!["import", here, "--paths-from", "/no/such/list"], "cannot read"),
        (vec!["mirror", here], "only a server"),
        (vec!["mirror", "http://127.0.0.1:9", "--every", "0"], "every 0"),
        (vec!["import", "show", "77"], "there is no import"),
        (vec!["import", "stop", "77"], "there is no import"),
    ] {
        let output = farm.drover(line.clone());
        assert!(!output.status.success(), "{line:?} was taken");
        assert!(words(&output).contains(word), "{line:?}: {}", words(&output));
    }
    let down = farm.drover(["import", "http://127.0.0.1:9", "--json"]);
    let import: ImportDetails = serde_json::from_slice(&down.stdout).unwrap();
    assert_eq!(import.summary.state, ImportState::Failed);
    assert!(import.summary.error.unwrap().contains("was not had"));
}
