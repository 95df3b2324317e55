//! Guix itself as a client of what the farm publishes: what agents built elsewhere is installed, counted and compared, and
//! what is not as it should be is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use drover_store::path::StorePath;
use drover_tests::authority::{Authority, Wanted};
use drover_tests::farm::{Farm, Setup, words};
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground::{self, Ground};
use drover_tests::http::Peer;
use drover_tests::public::{Public, authorize};
use drover_tests::service::Service;
use drover_tests::wait;
use drover_wire::client::Publication;

/// A farm that has built and published a program with what it refers to.
// In the order in which they end: the farm's folder, in which the others are, goes last.
struct Built {
    _agent: Service,
    builder: Ground,
    public: Public,
    library: Made,
    program: Made,
    farm: Farm,
}

/// Bytes that do not compress: they lie in the file as they are, and a changed byte of it is one of the contents.
const NOISE: &str = r#"n=0; while [ $n -lt 400 ]; do echo $n | sha256sum | cut -c 1-64 | sed 's/../\\x&/g'; n=$((n + 1)); done \
    | while read -r bytes; do printf "$bytes"; done"#;

impl Built {
    fn new(name: &str) -> Self {
        Self::with(name, &Setup::default(), |farm| format!("http://{}", farm.public))
    }

    /// With these flags, at that address.
    fn with(name: &str, setup: &Setup, url: impl Fn(&Farm) -> String) -> Self {
        let mut graph = Graph::new(name).unwrap();
        let library = Recipe::new("library", format!("mkdir $out; {{ {NOISE}; }} >$out/library"));
        let library = graph.add(library).unwrap();
        let script = "mkdir -p $out/bin; { echo \"$inputs $out\"; cat $inputs/library; } >$out/bin/program; ln -s program $out/bin/other";
        let program = graph.add(Recipe::new("program", script).input(&library)).unwrap();
        let farm = Farm::with(setup);
        let builder = farm.ground("builder");
        let agent = farm.agent("builder", &builder, 1);
        let builds = farm.client.submit(&graph, &[&program]);
        farm.client.wait_success(&builds);
        wait::until("all of it should be published", || {
            let all = farm.client.builds();
            let outputs = all.iter().flat_map(|build| farm.client.show(build.build).outputs);
            outputs
                .map(|output| output.publication)
                .all(|how| matches!(how, Some(Publication::Published { .. })))
                .then_some(())
        });
        let url = url(&farm);
        let public = Public { peer: Peer::stranger(&url), url };
        Self { _agent: agent, builder, public, library, program, farm }
    }

    /// A machine that has nothing of it, and knows no key.
    fn client(&self, name: &str) -> Ground {
        Ground::start_with_network(&self.farm.dir().join(name))
    }

    /// What `drover key show` prints.
    fn key(&self) -> String {
        let output = self.farm.drover(["key", "show"]);
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The file of an item's nar.
    fn nar(&self, path: &StorePath) -> std::path::PathBuf {
        let base = path.base_name();
        self.farm.state().join("nars").join(&base[..2]).join(format!("{base}.nar.zst"))
    }
}

/// Whether a daemon takes an item for one of its store; what it refused may lie there.
fn is_valid(ground: &Ground, path: &StorePath) -> bool {
    ground.run(&["guix", "gc", "--references", path.as_str()]).status.success()
}

#[test]
fn what_agents_built_is_installed_by_guix_counted_and_the_same() {
    if !ground::available("Guix as a client") {
        return;
    }
    let built = Built::new("installed");
    let (library, program) = (built.library.out(), built.program.out());
    let client = built.client("client");
    authorize(&client, &built.key());
    let output = built.public.install(&client, program);
    assert!(output.status.success(), "{}", words(&output));
    assert!(client.has(library) && client.has(program));
    for file in ["bin/program", "bin/other"] {
        let read = |ground: &Ground| fs::read(ground.item(program).join(file)).unwrap();
        assert_eq!(read(&client), read(&built.builder));
    }
    let output = client.run(&["guix", "gc", "--verify=contents"]);
    assert!(output.status.success(), "{}", words(&output));
    let output = client.run(&["guix", "gc", "--references", program.as_str()]);
    let references = String::from_utf8(output.stdout).unwrap();
    assert!(references.contains(library.as_str()) && references.contains(program.as_str()), "{references}");

    // What was built there and what is served here are the same.
    let output = built.builder.run(&[
        "guix",
        "challenge",
        &built.public.flag(),
        "--verbose",
        program.as_str(),
        library.as_str(),
    ]);
    let said = words(&output);
    assert!(output.status.success() && said.contains("2 (100.0%) were identical"), "{said}");

    // The builder's store has the derivation; a manifest may name it like a package.
    let manifest = built.builder.dir.join("manifest.scm");
    let entry = |made: &Made| {
        let file = made.path.as_str();
        format!(
            "(manifest-entry (name \"{}\") (version \"1\") (item (read-derivation-from-file \"{file}\")))",
            made.path.derivation_name()
        )
    };
    let text = format!(
        "(use-modules (guix profiles) (guix derivations))\n(manifest (list {} {}))\n",
        entry(&built.library),
        entry(&built.program)
    );
    fs::write(&manifest, text).unwrap();
    let named = format!("--manifest={}", manifest.display());
    let output = built.builder.run(&["guix", "weather", &built.public.flag(), &named]);
    let said = words(&output);
    assert!(said.contains("100.0% substitutes available (2 out of 2)"), "{said}");
}

#[test]
fn what_agents_built_is_installed_by_guix_through_tls() {
    if !ground::available("Guix as a client through TLS") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pair = Authority::new(folder.path(), "ours").certify(folder.path(), Wanted::default());
    let setup = Setup { flags: pair.flags("public"), ..Setup::default() };
    let built = Built::with("tls", &setup, |farm| format!("https://localhost:{}", farm.public.port()));
    let program = built.program.out();
    let client = built.client("client");
    authorize(&client, &built.key());
    // Guix takes substitutes from whoever has signed them, whatever the server's certificate is.
    let output = built.public.install(&client, program);
    assert!(output.status.success(), "{}", words(&output));
    assert!(client.has(program) && client.has(built.library.out()));
    let output = client.run(&["guix", "gc", "--verify=contents"]);
    assert!(output.status.success(), "{}", words(&output));

    // What else it fetches, it takes only from those that somebody vouches for whom it trusts.
    let certificates = client.dir.join("certificates");
    fs::create_dir(&certificates).unwrap();
    let url = format!("{}/signing-key.pub", built.public.url);
    let download = || {
        let folder = format!("SSL_CERT_DIR={}", certificates.display());
        client.run(&["env", "-u", "SSL_CERT_FILE", &folder, "guix", "download", &url])
    };
    let output = download();
    assert!(!output.status.success() && words(&output).contains("certificate"), "{}", words(&output));
    fs::copy(folder.path().join("ours.pem"), certificates.join("ours.pem")).unwrap();
    let output = download();
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn the_key_that_is_served_is_authorized_by_guix_also_while_there_are_two() {
    if !ground::available("two keys") {
        return;
    }
    let built = Built::new("keys");
    let output = built.farm.drover(["key", "rotate", "--after", "7d"]);
    assert!(output.status.success(), "{}", words(&output));
    let fetch = |path: &str| {
        let answer = built.public.peer.get(path);
        assert_eq!(answer.status, 200, "{path}");
        answer.text()
    };
    let all = fetch("/signing-keys");
    assert_eq!(all.lines().count(), 2, "{all}");
    // Guix reads one key at a time; this is why there are two addresses.
    let client = built.client("client");
    let file = client.dir.join("both");
    fs::write(&file, &all).unwrap();
    let output = client.run(&["sh", "-c", &format!("guix archive --authorize <{}", file.display())]);
    assert!(!output.status.success(), "{}", words(&output));
    authorize(&client, &fetch("/signing-key.pub"));
    let output = built.public.install(&client, built.program.out());
    assert!(output.status.success() && is_valid(&client, built.program.out()), "{}", words(&output));
    for key in all.lines() {
        authorize(&client, key);
    }
    let acl = fs::read_to_string(&client.acl).unwrap();
    assert_eq!(acl.matches("(entry").count(), 2, "{acl}");
}

#[test]
fn a_nar_with_one_flipped_byte_is_refused_by_guix() {
    if !ground::available("a flipped byte") {
        return;
    }
    let built = Built::new("flipped");
    let client = built.client("client");
    authorize(&client, &built.key());
    let file = built.nar(built.library.out());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    // It is what the file holds there, and not what zstd has made of that: what is unpacked is as long as it was.
    let before = zstd::decode_all(&bytes[..]).unwrap();
    bytes[middle] ^= 1;
    let after = zstd::decode_all(&bytes[..]).unwrap();
    let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!((before.len(), changed), (after.len(), 1));
    fs::write(&file, bytes).unwrap();
    let output = built.public.install(&client, built.program.out());
    let said = words(&output);
    assert!(!output.status.success() && said.contains("hash mismatch"), "{said}");
    assert!(said.contains(built.library.out().as_str()), "{said}");
    assert!(!is_valid(&client, built.library.out()) && !is_valid(&client, built.program.out()));
}

#[test]
fn a_key_that_was_not_authorized_is_refused_by_guix() {
    if !ground::available("a strange key") {
        return;
    }
    let built = Built::new("strange");
    let client = built.client("client");
    // Guix says that nobody has it, and ends well.
    let output = built.public.install(&client, built.program.out());
    assert!(!is_valid(&client, built.program.out()), "{}", words(&output));
    // Nor is one that does not belong to it.
    let secret = client.dir.join("other.sec");
    let output = built.farm.drover(["key".into(), "generate".into(), secret.clone().into_os_string()]);
    assert!(output.status.success(), "{}", words(&output));
    authorize(&client, &fs::read_to_string(secret.with_extension("pub")).unwrap());
    // Guix says that nobody has it, and ends well.
    let output = built.public.install(&client, built.program.out());
    assert!(!is_valid(&client, built.program.out()), "{}", words(&output));
}
