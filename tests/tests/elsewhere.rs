//! What another server verifiably has goes, and Guix installs it all the same.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use drover_store::StorePath;
use drover_tests::farm::{Farm, program, words};
use drover_tests::graph::{Graph, Made, Recipe, host_system};
use drover_tests::ground::{self, Ground};
use drover_tests::hand::{Hand, declared, file_nar};
use drover_tests::public::{Public, authorize};
use drover_tests::wait;
use drover_wire::agent::Report;
use serde_json::Value;

const RULES: &str = "[[retention.sets]]\nnames = \"*\"\nunless-elsewhere = true\n\
                     [retention.others]\ndays = 30\nunless-elsewhere = true\n";

/// A farm that has built a program with what it refers to, and another one that has both from it.
struct Pair {
    here: Farm,
    there: Farm,
    hand: Hand,
    graph: Graph,
    library: Made,
    tool: Made,
}

impl Pair {
    fn new(name: &str) -> Self {
        let mut graph = Graph::new(name).unwrap();
        let library = graph.add(Recipe::new("library", "echo library >$out")).unwrap();
        let tool = graph.add(Recipe::new("tool", "echo $inputs >$out").input(&library)).unwrap();
        let here = Farm::with_flags(&["--narinfo-ttl-seconds", "0"]);
        let hand = Hand::new(&here, "hand");
        let pair = Self { here, there: Farm::start(), hand, graph, library, tool };
        pair.submit();
        pair.build(&pair.library);
        pair.build(&pair.tool);
        Public::of(&pair.here).wait_for(&pair.paths());
        pair.take_over();
        pair
    }

    fn paths(&self) -> [&StorePath; 2] {
        [self.library.out(), self.tool.out()]
    }

    /// A set wants the program; no client asked for it.
    fn submit(&self) {
        let folder = self.here.dir().join("graph");
        self.graph.write(&folder).unwrap();
        let row = serde_json::json!({
            "package": "tool", "version": "1", "system": host_system(), "derivation": self.tool.path.as_str(),
        });
        let rows = self.here.dir().join("rows");
        fs::write(&rows, format!("{row}\n")).unwrap();
        let mut submit = ["set", "submit", "all", "--revision", "1", "--from"].map(Into::into).to_vec();
        submit.extend([rows.into_os_string(), "--store".into(), folder.into_os_string()]);
        let output = self.here.drover(submit);
        assert!(output.status.success(), "{}", words(&output));
    }

    fn build(&self, made: &Made) {
        let allocation = self.hand.allocation();
        assert_eq!(allocation.derivation, made.path);
        let references =
            if made.path == self.tool.path { vec![self.library.out().clone()] } else { Vec::new() };
        let text = format!("{} {references:?}", made.out().name());
        let nar = file_nar(text.as_bytes());
        let output = declared(made.out(), &nar, &references);
        self.hand.deliver(allocation.lease, &output, &zstd::encode_all(&nar[..], 1).unwrap());
        let _ = self.hand.report(allocation.lease, &Report::Succeeded { outputs: vec![output] });
    }

    /// A file with the key of the first farm, which signed all of it.
    fn key(&self) -> String {
        let key = self.here.dir().join("key");
        fs::copy(self.here.state().join("signing-key.pub"), &key).unwrap();
        key.to_str().unwrap().to_owned()
    }

    fn take_over(&self) {
        let url = format!("http://{}", self.here.public);
        let [library, tool] = self.paths().map(StorePath::as_str);
        let output = self.there.drover(["import", &url, "--key", &self.key(), library, tool]);
        assert!(output.status.success(), "{}", words(&output));
        Public::of(&self.there).wait_for(&self.paths());
    }

    /// The other farm is named from now on.
    fn name_the_other(&mut self) {
        let (there, key) = (self.there_url(), self.key());
        let elsewhere =
            format!("[retention.elsewhere]\nservers = [\"{there}\"]\nkeys = [\"{key}\"]\nafter-days = 0\n");
        let config = self.here.dir().join("drover.toml");
        fs::write(&config, format!("{RULES}{elsewhere}")).unwrap();
        let start = self.here.coordinator.start_mut();
        *start = start.clone().arg("--config").arg(config);
        self.killed();
    }

    /// The other farm, by a name of its host that is not that of the first: Guix takes the same connection for a redirection
    /// to the same name, whatever its port.
    fn there_url(&self) -> String {
        format!("http://localhost:{}", self.there.public.port())
    }

    fn killed(&mut self) {
        self.here.coordinator.kill();
        self.here.restart();
    }

    /// Looks, and says what that came to.
    fn look(&self) -> Value {
        let output = self.here.drover(["retention", "run", "--json"]);
        assert!(output.status.success(), "{}", words(&output));
        json(&output.stdout)["last"].clone()
    }

    /// Files of nars in the farm's own place.
    fn nars(&self) -> usize {
        let folder = self.here.state().join("nars");
        let found = Command::new("find").arg(folder).args(["-type", "f"]).output().unwrap();
        let paths = self.paths();
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        found.lines().filter(|line| paths.iter().any(|path| line.contains(path.base_name()))).count()
    }

    /// Does something to the database of a farm that does not run meanwhile.
    fn change(farm: &mut Farm, what: &str) {
        farm.coordinator.kill();
        let database = farm.dir().join("coordinator/drover.sqlite");
        rusqlite::Connection::open(database).unwrap().execute_batch(what).unwrap();
        farm.restart();
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// The head of an answer, in small letters.
fn head(farm: &Farm, path: &str) -> String {
    let mut stream = TcpStream::connect(farm.public).unwrap();
    write!(stream, "HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    lines.map(|line| line.to_lowercase() + "\n").collect()
}

#[test]
fn what_another_farm_has_goes_through_kills_and_guix_installs_it_from_there() {
    if !ground::available("an item that is elsewhere") {
        return;
    }
    let mut pair = Pair::new("elsewhere");
    pair.name_the_other();
    assert_eq!(pair.nars(), 2);
    let nar = format!("/nar/zstd/{}", pair.tool.out().base_name());
    let announced = pair.look();
    assert_eq!(
        (&announced["announced_elsewhere"], &announced["redirected"]["items"]),
        (&2.into(), &0.into())
    );
    assert!(head(&pair.here, &nar).contains("200 ok") && head(&pair.here, &nar).contains("drover-leaving"));
    pair.killed();
    let said = pair.here.drover(["retention", "status"]);
    assert!(words(&said).contains("leaving, because another server has it: 2 items"), "{}", words(&said));
    assert_eq!(pair.look()["redirected"]["items"], 2);
    wait::until("its files should go", || (pair.nars() == 0).then_some(()));
    let moved = head(&pair.here, &nar);
    let there = format!("location: {}{nar}", pair.there_url()).to_lowercase();
    assert!(moved.contains("302 found") && moved.contains(&there) && moved.contains("max-age"), "{moved}");

    let client = Ground::start_with_network(&pair.here.dir().join("client"));
    authorize(&client, &fs::read_to_string(pair.key()).unwrap());
    let output = Public::of(&pair.here).install(&client, pair.tool.out());
    assert!(output.status.success(), "{}", words(&output));
    assert!(client.has(pair.library.out()) && client.has(pair.tool.out()));
    let output = client.run(&["guix", "gc", "--verify=contents"]);
    assert!(output.status.success(), "{}", words(&output));

    let plan = pair.here.drover(["retention", "--json", "--why", pair.tool.out().as_str()]);
    let plan = json(&plan.stdout);
    assert_eq!((&plan["elsewhere"], &plan["why"][0]["fate"]), (&2.into(), &"elsewhere".into()));
    let why = words(&pair.here.drover(["retention", "--why", pair.tool.out().as_str()]));
    assert!(why.contains(&format!("it is not here: {} has it", pair.there_url())), "{why}");
    assert!(why.contains("elsewhere, and not here: 2 items"), "{why}");
}

#[test]
fn what_the_other_farm_has_lost_is_withdrawn_and_built_again() {
    let mut pair = Pair::new("lost");
    pair.name_the_other();
    pair.look();
    pair.look();
    assert_eq!(pair.nars(), 0);
    let long_ago = "UPDATE redirects SET asked_at = 0";
    // As long as it only does not answer, all stays as it is.
    pair.there.coordinator.kill();
    Pair::change(&mut pair.here, long_ago);
    assert_eq!(pair.look()["lost"], 0);
    let public = Public::of(&pair.here);
    assert!(public.narinfo(pair.library.out()).is_some() && public.narinfo(pair.tool.out()).is_some());

    pair.there.restart();
    let library = format!("(SELECT id FROM paths WHERE base = '{}')", pair.library.out().base_name());
    let gone = ["published", "items"].map(|table| format!("DELETE FROM {table} WHERE path = {library};"));
    Pair::change(&mut pair.there, &gone.concat());
    Pair::change(&mut pair.here, long_ago);
    assert_eq!(pair.look()["lost"], 1);
    assert!(public.narinfo(pair.library.out()).is_none() && public.narinfo(pair.tool.out()).is_none());

    let builds = pair.here.client.submit(&pair.graph, &[&pair.library]);
    let _ = pair.hand.hello(&[]);
    pair.build(&pair.library);
    pair.here.client.wait_success(&builds);
    public.wait_for(&pair.paths());
    assert_eq!(pair.nars(), 1);
    assert!(head(&pair.here, &format!("/nar/zstd/{}", pair.tool.out().base_name())).contains("302 found"));
}

#[test]
fn a_configuration_that_cannot_be_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("drover.toml");
    let key = folder.path().join("key");
    let refused = |text: &str| {
        fs::write(&config, text).unwrap();
        let mut serve = Command::new(program("drover"));
        serve.arg("serve").arg("--state").arg(folder.path().join("state")).arg("--config").arg(&config);
        let output = serve.output().unwrap();
        assert!(!output.status.success(), "{text}");
        words(&output)
    };
    let said = refused(RULES);
    assert!(
        said.contains("retention.sets.unless-elsewhere") && said.contains("[retention.elsewhere]"),
        "{said}"
    );
    let elsewhere = |servers: &str, keys: &str| {
        refused(&format!("{RULES}[retention.elsewhere]\nservers = [{servers}]\nkeys = [{keys}]\n"))
    };
    assert!(elsewhere("\"bordeaux\"", "\"k\"").contains("retention.elsewhere.servers"));
    assert!(elsewhere("\"http://127.0.0.1:1\"", "").contains("retention.elsewhere.keys"));
    let named = format!("\"{}\"", key.display());
    for text in [None, Some(""), Some("(acl)"), Some("no key")] {
        if let Some(text) = text {
            fs::write(&key, text).unwrap();
        }
        let said = elsewhere("\"http://127.0.0.1:1\"", &named);
        assert!(said.contains("retention.elsewhere.keys") && said.contains(key.to_str().unwrap()), "{said}");
    }
}
