//! Derivations that try to get out of the sandbox, or to bring something out that no store may have: each is a failed
//! build that says why, the next build is well, and nothing is left on the machine.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use drover_store::hash::HashingWriter;
use drover_store::nar;
use drover_tests::board::{self, Board, User};
use drover_tests::client::want;
use drover_tests::farm::Farm;
use drover_tests::graph::{Graph, Made, Recipe};
use drover_tests::ground;
use drover_tests::service::processes_with;
use drover_tests::wait;
use drover_wire::agent::SetupStep;
use drover_wire::client::Wanted;
use drover_wire::{BuildId, BuildState};

/// The limits that these tests try.
const FLAGS: [&str; 6] =
    ["--max-output-files", "10000", "--max-output-size", "1073741824", "--max-processes", "200"];

/// What all builders here have in their environment, by which they are found.
const MARKER: &str = "escaping-from-the-sandbox";

/// What a builder says that cannot try to connect to anything.
const NO_NC: &str = "there is no nc to try it with";

/// A derivation that must fail, and what is said of it: one of these in the reason or in the log.
struct Case {
    recipe: Recipe,
    reasons: &'static [&'static str],
}

fn case(name: &str, reasons: &'static [&'static str], script: impl Into<Vec<u8>>) -> Case {
    Case { recipe: Recipe::new(name, script), reasons }
}

/// What the builders go for: an input of theirs, a file and a folder of the machine, a port on which somebody listens.
struct Aims<'a> {
    input: &'a Made,
    folder: &'a Path,
    port: u16,
}

/// What a builder does to its surroundings.
fn intruders(aims: &Aims<'_>) -> Vec<Case> {
    let (input, folder, port) = (aims.input.out(), aims.folder.display(), aims.port);
    let read_only: &[_] = &["read-only", "not permitted", "permission denied"];
    let gone: &[_] = &["no such file", "nonexistent", "can't create", "cannot create", "read-only"];
    let with_input = |mut case: Case| {
        case.recipe = case.recipe.input(aims.input);
        case
    };
    vec![
        case(
            "opens-the-network",
            &["refused", "unreachable", NO_NC],
            format!(
                "if sed 1d /proc/net/route | grep .; then echo there is a way out; echo >$out; exit 0; fi\n\
                 if command -v nc >/dev/null; then nc 127.0.0.1 {port} </dev/null; echo >$out; exit 0; fi\n\
                 echo '{NO_NC}'; exit 1"
            ),
        ),
        with_input(case("writes-to-an-input", read_only, format!("echo changed >>{input}/file; echo >$out"))),
        with_input(case("opens-an-input", read_only, format!("chmod 777 {input}; echo >$out"))),
        with_input(case("removes-an-input", read_only, format!("rm -rf {input}/file; echo >$out"))),
        case("writes-to-the-machine", gone, format!("echo changed >{folder}/file; echo >$out")),
        case(
            "follows-its-own-link",
            gone,
            format!("mkdir $out; ln -s {folder} $out/link; echo changed >$out/link/file"),
        ),
        case(
            "reads-the-machine",
            &["nothing of the machine"],
            "for file in /etc/shadow /root /home /usr /sys/kernel /proc/1/root/etc/shadow; do\n\
                 [ ! -e $file ] || { echo \"there is $file\"; echo >$out; exit 0; }\n\
             done\necho 'nothing of the machine is here'; exit 1",
        ),
        case(
            "changes-the-kernel",
            &["read-only", "not permitted", "permission denied", "can't create", "cannot create"],
            "echo h >/proc/sysrq-trigger; echo >$out",
        ),
        case("stays", &["exit code 3"], "(trap '' HUP TERM; sleep 1000) & echo leaving; exit 3"),
        case(
            "has-too-many-processes",
            &["fork", "resource", "temporarily"],
            "i=0; while [ $i -lt 500 ]; do sleep 1000 & i=$((i + 1)); done; echo $i >$out",
        ),
        case("is-no-builder", &["no such file", "not found", "does not exist", "not there"], ""),
    ]
}

/// What a builder makes that cannot be taken.
fn outputs(aims: &Aims<'_>) -> Vec<Case> {
    let input = aims.input.out();
    let denied: &[_] = &["not permitted", "permission denied"];
    let fixed = |name: &str, script: &str| {
        let mut case = case(name, &["must be a file that is not executable"], script);
        case.recipe.fixed = Some(b"fixed\n".to_vec());
        case
    };
    let mut refers =
        case("refers-to-what-it-must-not", &["allowedreferences"], format!("echo {input} >$out"));
    refers.recipe = refers.recipe.input(aims.input).env("allowedReferences", "");
    let mut disallowed =
        case("refers-to-what-is-forbidden", &["disallowedreferences"], format!("echo {input} >$out"));
    disallowed.recipe = disallowed.recipe.input(aims.input).env("disallowedReferences", input.full());
    let mut wrong = fixed("has-another-hash", "echo other >$out");
    wrong.reasons = &["hash mismatch"];
    vec![
        case("makes-itself-setuid", denied, "cp $PATH/sh $out; chmod 4755 $out"),
        case("makes-itself-setgid", denied, "mkdir -m 2755 $out; chmod g+s $out; echo done >$out/file"),
        case("makes-a-device", denied, "mknod $out c 1 3"),
        case("makes-a-pipe", &["a named pipe"], "mkdir $out; mkfifo $out/pipe"),
        case("is-anybodys", &["written by others"], "mkdir $out; echo >$out/file; chmod 777 $out"),
        refers,
        disallowed,
        case("makes-too-many-files", &["10000"], "mkdir $out; cd $out; seq 1 10001 | xargs touch"),
        case(
            "is-larger-than-it-looks",
            &["1073741824", "too large", "file size limit", "signal 25"],
            "dd if=/dev/zero of=$out bs=1 count=1 seek=1073741824",
        ),
        case(
            "is-larger-together",
            &["1073741824"],
            "mkdir $out; for n in 1 2 3; do dd if=/dev/zero of=$out/$n bs=1 count=1 seek=500000000; done",
        ),
        case("makes-nothing", &["failed to produce output"], "echo 'all done'"),
        fixed("is-a-folder-instead", "mkdir $out"),
        fixed("is-a-link-instead", "ln -s /etc/passwd $out"),
        fixed("is-executable-instead", "echo fixed >$out; chmod 755 $out"),
        wrong,
    ]
}

fn nar_hash(item: &Path) -> String {
    let mut hash = HashingWriter::new(io::sink());
    nar::pack(item, &mut hash).unwrap();
    hash.finish().1.hex()
}

/// Everything that is said of a build's end, in small letters; but for its name, which is no reason.
fn said(farm: &Farm, build: BuildId, name: &str) -> String {
    let details = farm.client.show(build);
    let messages: Vec<_> = details.attempts.iter().filter_map(|attempt| attempt.message.clone()).collect();
    let log = farm.client.log(build);
    let said = format!("{}\n{}\n{}", details.why, messages.join("\n"), String::from_utf8_lossy(&log));
    said.replace(name, "NAME").to_lowercase()
}

fn escapes(user: User) {
    if !board::available("escapes", user) {
        return;
    }
    let farm = Farm::start();
    let board = Board::new(&farm, "board", user);
    let mut agent = board.agent(&farm, 1, &FLAGS);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let folder = farm.dir().join("of-the-machine");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "of the machine").unwrap();
    let before = fs::metadata(folder.join("file")).unwrap();

    let salt = format!("escapes-{user:?}");
    let mut graph = Graph::new(&salt).unwrap();
    let script = "mkdir $out; echo unchanged >$out/file";
    let input = graph.add(Recipe::new("input", script).env("marker", MARKER)).unwrap();
    let build = farm.client.submit(&graph, &[&input]);
    farm.client.wait_success(&build);
    let (item, traces) = (nar_hash(&board.item(input.out())), settled(&board, &agent));

    let aims = Aims { input: &input, folder: &folder, port: listener.local_addr().unwrap().port() };
    let mut cases = intruders(&aims);
    cases.extend(outputs(&aims));
    for Case { mut recipe, reasons } in cases {
        let name = recipe.name.clone();
        recipe = recipe.env("marker", MARKER);
        if name == "is-no-builder" {
            recipe.builder = Some(format!("{}/bin/no-such-program", graph.shell()).into_bytes());
        }
        let made = graph.add(recipe).unwrap();
        let next = Recipe::new(&format!("after-{name}"), "cat $inputs/file >$out").input(&input);
        let next = graph.add(next).unwrap();
        let builds = farm.client.submit(&graph, &[&made, &next]);
        farm.client.wait_success(&builds[1..]);
        let _ = farm.client.wait_ends(&builds);
        let state = farm.client.show(builds[0]).summary.state;
        let said = said(&farm, builds[0], &name);
        assert_eq!(state, BuildState::Failed, "{name}: {said}");
        assert!(
            reasons.iter().any(|reason| said.contains(reason)),
            "{name} does not say {reasons:?}: {said}"
        );
        if said.contains(NO_NC) {
            ground::skipped(&format!("{name} as {user:?} user"), "the builders' shell has no nc");
        }
        assert!(board.narinfo(made.out()).is_none(), "{name}: its output counts as an item");
        assert_eq!(fs::read(board.item(next.out())).unwrap(), b"unchanged\n", "after {name}");
        wait::until(&format!("no process of {name} should be left"), || {
            processes_with("marker", MARKER).is_empty().then_some(())
        });
        assert!(agent.exited().is_none(), "{name} has ended the agent: {}", agent.text());
    }

    wait::until("nothing should be left on the machine", || (board.traces(&agent) == traces).then_some(()));
    assert_eq!(nar_hash(&board.item(input.out())), item, "an input was changed");
    assert_eq!(fs::read(folder.join("file")).unwrap(), b"of the machine");
    let after = fs::metadata(folder.join("file")).unwrap();
    assert_eq!((before.mode(), before.mtime(), before.uid()), (after.mode(), after.mtime(), after.uid()));
    assert!(listener.accept().is_err(), "somebody came out by the network");
}

/// What there is of an agent at rest.
fn settled(board: &Board, agent: &drover_tests::service::Service) -> board::Traces {
    wait::until("nothing should be in the making", || board.making().is_empty().then_some(()));
    board.traces(agent)
}

#[test]
fn what_tries_to_get_out_fails_and_leaves_nothing_behind() {
    let _alone = super::alone();
    escapes(User::Same);
}

#[test]
fn it_gets_no_further_in_the_sandbox_of_a_plain_user() {
    let _alone = super::alone();
    escapes(User::Plain);
}

#[test]
fn what_breeds_until_it_is_full_is_ended_with_all_its_kin() {
    let _alone = super::alone();
    for user in [User::Same, User::Plain] {
        if !board::available("a fork bomb", user) {
            continue;
        }
        let farm = Farm::start();
        let board = Board::new(&farm, "board", user);
        let mut agent = board.agent(&farm, 1, &FLAGS);
        let mut graph = Graph::new("bomb").unwrap();
        let script = "breed() { (breed) & (breed) & sleep 1000; }; breed";
        let bomb = graph.add(Recipe::new("bomb", script).env("marker", "a-bomb")).unwrap();
        let next = graph.add(Recipe::new("next", "echo >$out")).unwrap();
        let wanted = vec![Wanted { timeout: Some(3), ..want(&bomb) }, want(&next)];
        let builds = farm.client.submit_as(&graph, wanted);
        let mut most = 0;
        wait::until("the bomb should end", || {
            // Those that are there before and after were there at the same time.
            let before = processes_with("marker", "a-bomb");
            let after = processes_with("marker", "a-bomb");
            most = most.max(before.iter().filter(|process| after.contains(process)).count());
            farm.client.show(builds[0]).summary.state.is_final().then_some(())
        });
        assert!((50..=200).contains(&most), "there were {most} processes");
        let ends = farm.client.wait_ends(&builds);
        // It is its time that ends it, if it does not run aground before.
        assert!([BuildState::TimedOut, BuildState::Failed].contains(&ends[&builds[0]]), "{ends:?}");
        assert_eq!(ends[&builds[1]], BuildState::Succeeded);
        assert!(processes_with("marker", "a-bomb").is_empty());
        assert!(agent.exited().is_none());
    }
}

#[test]
fn a_process_that_stays_does_not_hold_up_a_build_that_succeeds() {
    let _alone = super::alone();
    if !board::available("a process that stays", User::Same) {
        return;
    }
    let farm = Farm::start();
    let board = Board::new(&farm, "board", User::Same);
    let _agent = board.agent(&farm, 1, &[]);
    let mut graph = Graph::new("stays").unwrap();
    let made = graph.add(Recipe::new("stays", "sleep 1000 & echo >$out").env("marker", "it-stays")).unwrap();
    let build = farm.client.submit(&graph, &[&made]);
    farm.client.wait_success(&build);
    assert!(processes_with("marker", "it-stays").is_empty());
}

#[test]
fn links_in_outputs_are_kept_and_not_followed() {
    let _alone = super::alone();
    for user in [User::Same, User::Plain] {
        if !board::available("links", user) {
            continue;
        }
        let farm = Farm::start();
        let board = Board::new(&farm, "board", user);
        let _agent = board.agent(&farm, 1, &[]);
        let victim = board.dir.join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("file"), "left alone").unwrap();
        let before = fs::metadata(victim.join("file")).unwrap();
        let mut graph = Graph::new("links").unwrap();
        let out = victim.display();
        let script =
            format!("mkdir $out; ln -s {out} $out/folder; ln -s {out}/file $out/file; ln -s ../.. $out/up");
        let within = graph.add(Recipe::new("within", script)).unwrap();
        let itself = graph.add(Recipe::new("itself", format!("ln -s {out} $out"))).unwrap();
        let builds = farm.client.submit(&graph, &[&within, &itself]);
        farm.client.wait_success(&builds);
        assert_eq!(fs::read_link(board.item(itself.out())).unwrap(), victim);
        assert_eq!(fs::read_link(board.item(within.out()).join("folder")).unwrap(), victim);
        let after = fs::metadata(victim.join("file")).unwrap();
        let seen = |file: &fs::Metadata| (file.mode(), file.mtime(), file.uid(), file.len());
        assert_eq!(seen(&before), seen(&after));
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    }
}

#[test]
fn a_builder_for_another_processor_is_a_setup_failure_and_fails_no_dependent() {
    let _alone = super::alone();
    if !board::available("another processor", User::Same) {
        return;
    }
    // One that this machine is not.
    let (number, name) = if cfg!(target_arch = "aarch64") { (243, "riscv64") } else { (183, "aarch64") };
    let system = format!("{name}-linux");
    let farm = Farm::start();
    let board = Board::new(&farm, "board", User::Same);
    let _agent = board.agent(&farm, 1, &["--system", &system]);
    let mut graph = Graph::new("processor").unwrap();
    // A derivation that says so, and one whose builder shows it: the head of a program is enough for that.
    let says = graph.add(Recipe::new("says", "echo >$out").system(&system)).unwrap();
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend_from_slice(&[2, 0, number, 0, 1, 0, 0, 0]);
    head.resize(64, 0);
    let builder = graph.add_program("foreign", &head).unwrap();
    let shows = Recipe::new("shows", "");
    let shows = Recipe { builder: Some(builder.full().into_bytes()), sources: vec![builder], ..shows };
    let shows = graph.add(shows).unwrap();
    let shown = format!("{name} builder on ");
    for (made, words) in [(says, system.as_str()), (shows, shown.as_str())] {
        let above = Recipe::new("above", "cat $inputs >$out").input(&made);
        let above = graph.add(above).unwrap();
        let build = farm.client.submit(&graph, &[&made, &above]);
        let attempt = wait::until("the try should end", || {
            farm.client.show(build[0]).attempts.into_iter().find(|attempt| attempt.outcome.is_some())
        });
        assert_eq!(attempt.outcome.as_deref(), Some("setup-failed"), "{attempt:?}");
        assert_eq!(attempt.step, Some(SetupStep::UnsupportedPlatform), "{attempt:?}");
        assert!(attempt.message.as_ref().is_some_and(|message| message.contains(words)), "{attempt:?}");
        for build in build {
            assert!(!farm.client.show(build).summary.state.is_final());
        }
    }
}
