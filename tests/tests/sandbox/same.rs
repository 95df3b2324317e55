//! What is built in the sandbox is what a guix-daemon builds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use drover_store::hash::{HashingWriter, Sha256Hash};
use drover_store::nar;
use drover_store::path::StorePath;
use drover_tests::board::{self, Board, User};
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground;
use drover_tests::shell::Shell;
use drover_tests::wait;

use super::variety;

const DERIVATIONS: usize = 200;
const SALT: &str = "sandbox-same";

/// What a store knows of an item: the hash and the size of its nar, and its references.
type Known = (Sha256Hash, u64, Vec<StorePath>);

fn graph() -> (Graph, Vec<Made>) {
    let mut graph = Graph::new(SALT).unwrap();
    let made = variety::add(&mut graph, DERIVATIONS).unwrap();
    (graph, made)
}

/// Builds all of it with the one agent that the farm has: what came to the coordinator, which has hashed and scanned it.
fn build(farm: &Farm) -> BTreeMap<StorePath, Known> {
    let (graph, made) = graph();
    let builds = farm.client.submit(&graph, &made.iter().collect::<Vec<_>>());
    farm.client.wait_success(&builds);
    let outputs = builds.into_iter().flat_map(|build| farm.client.show(build).outputs);
    let known = outputs.map(|output| {
        let kept = output.kept.unwrap_or_else(|| panic!("{} is not there", output.path));
        (output.path, (kept.nar_hash, kept.nar_size, kept.references))
    });
    known.collect()
}

/// The same by a real daemon, built once for all tests.
fn by_daemon() -> &'static BTreeMap<StorePath, Known> {
    static BUILT: OnceLock<BTreeMap<StorePath, Known>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let farm = Farm::start();
        let ground = farm.ground("daemon");
        let _agent = farm.agent("daemon", &ground, 2);
        build(&farm)
    })
}

fn nar_of(item: &Path) -> (Sha256Hash, u64) {
    let mut hash = HashingWriter::new(io::sink());
    nar::pack(item, &mut hash).unwrap();
    let (_, digest, size) = hash.finish();
    (digest, size)
}

fn equal(user: User) {
    if !board::available("the same as a daemon's", user) {
        return;
    }
    let farm = Farm::start();
    let board = Board::new(&farm, "board", user);
    let _agent = board.agent(&farm, 2, &[]);
    let ours = build(&farm);
    for (path, (hash, size, references)) in &ours {
        // The store says what the coordinator found, and has it on disk as stores have things.
        let narinfo = board.narinfo(path).unwrap_or_else(|| panic!("{path} is not in the store"));
        assert_eq!((narinfo.nar_hash, narinfo.nar_size), (*hash, *size), "{path}");
        assert_eq!(&narinfo.references, references, "{path}");
        assert_eq!(nar_of(&board.item(path)), (*hash, *size), "{path}");
        assert_canonical(&board.item(path));
    }
    wait::until("nothing should be in the making", || board.making().is_empty().then_some(()));

    if !ground::available("a daemon to compare with") {
        return;
    }
    let theirs = by_daemon();
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (path, known) in theirs {
        assert_eq!(&ours[path], known, "{path}: the sandbox's is not the daemon's");
    }
}

fn assert_canonical(item: &Path) {
    let file = item.symlink_metadata().unwrap();
    assert_eq!(file.mtime(), 1, "{}", item.display());
    if !file.is_symlink() {
        assert!([0o444, 0o555].contains(&(file.mode() & 0o7777)), "{}: {:o}", item.display(), file.mode());
        assert_eq!(file.uid(), item.parent().unwrap().metadata().unwrap().uid(), "{}", item.display());
    }
    if file.is_dir() {
        fs::read_dir(item).unwrap().flatten().for_each(|entry| assert_canonical(&entry.path()));
    }
}

#[test]
fn two_hundred_derivations_are_the_same_by_the_daemon_and_in_the_sandbox() {
    let _alone = super::alone();
    equal(User::Same);
}

#[test]
fn they_are_the_same_in_the_sandbox_of_a_plain_user() {
    let _alone = super::alone();
    equal(User::Plain);
}

/// Says what a builder has around it; what differs from machine to machine is left away.
const LOOK: &str = r#"
{
    echo "== variables"; env | grep -v ^NIX_BUILD_CORES= | sort
    echo "== words"; tr '\0' '\n' </proc/$$/cmdline
    echo "== process $$ in $(pwd), mask $(umask), host $(cat /proc/sys/kernel/hostname)"
    echo "== folders"; ls -a / /etc /dev; ls -A . /tmp
    echo "== links"; for link in /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx; do readlink $link || true; done
    echo "== files"; cat /etc/hosts; sed 's/:[0-9]*:[0-9]*:/:U:G:/' /etc/passwd; sed 's/:[0-9]*:/:G:/' /etc/group
    echo "== network"; sed 1,2d /proc/net/dev | cut -d : -f 1
    echo "== store"; ls -A /gnu/store
} >$out
"#;

/// What a builder says that looks around.
fn look(farm: &Farm) -> String {
    let mut graph = Graph::new("look").unwrap();
    let input = graph.add(Recipe::new("input", "echo >$out")).unwrap();
    let made = graph.add(Recipe::new("look", LOOK).input(&input)).unwrap();
    let builds = farm.client.submit(&graph, &[&input, &made]);
    farm.client.wait_success(&builds);
    let to = farm.dir().join("looked");
    fs::create_dir(&to).unwrap();
    let output = farm.drover(["fetch", made.out().as_str(), "--to", to.to_str().unwrap()]);
    assert!(output.status.success(), "{}", drover_tests::farm::words(&output));
    fs::read_to_string(to.join(made.out().base_name())).unwrap()
}

#[test]
fn a_builder_in_the_sandbox_sees_what_it_sees_in_a_daemons() {
    let _alone = super::alone();
    let test = "what a builder sees";
    if !board::available(test, User::Same) || !ground::available(test) {
        return;
    }
    let daemons = {
        let farm = Farm::start();
        let ground = farm.ground("daemon");
        let _agent = farm.agent("daemon", &ground, 1);
        look(&farm)
    };
    for user in [User::Same, User::Plain] {
        if !board::available(test, user) {
            continue;
        }
        let farm = Farm::start();
        let board = Board::new(&farm, "board", user);
        let _agent = board.agent(&farm, 1, &[]);
        let ours = look(&farm);
        assert_eq!(
            ours, daemons,
            "as {user:?} user; the sandbox's is the first:\n{ours}\n---- the daemon's:\n{daemons}"
        );
    }
}

#[test]
fn the_machines_own_shell_and_tools_build_in_a_sandbox() {
    let _alone = super::alone();
    if !board::available("the machine's own shell", User::Same) {
        return;
    }
    let farm = Farm::start();
    let board = Board::new(&farm, "board", User::Same);
    let _agent = board.agent(&farm, 1, &[]);
    let mut graph = Graph::with_shell(Shell::of_machine().unwrap(), "machine-shell");
    let script = r#"mkdir -p $out/bin; seq 1 20 | sort -r | sed 's/^/n /' | sha256sum >$out/digest
        cp $out/digest $out/bin/copy; chmod 755 $out/bin/copy; ln -s bin/copy $out/copy; tail -n 1 $out/copy"#;
    let one = graph.add(Recipe::new("one", script)).unwrap();
    let two = graph.add(Recipe::new("two", "cat $inputs/digest >$out").input(&one)).unwrap();
    let builds = farm.client.submit(&graph, &[&one, &two]);
    farm.client.wait_success(&builds);
    assert_eq!(
        fs::read(board.item(two.out())).unwrap(),
        fs::read(board.item(one.out()).join("digest")).unwrap()
    );
}
