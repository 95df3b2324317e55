//! The agent's program, with a real daemon and a coordinator that can be made to misbehave.

#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;
mod stub;

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use drover_agent::config::DaemonSocket;

use drover_store::hash::{Sha256, Sha256Hash};
use drover_store::key::SecretKey;
use drover_store::nar::Node;
use drover_store::path::{self, StorePath};
use drover_store::{Derivation, export};
use drover_wire::agent::{Allocation, Closure, InputItem, Report, SetupStep, Text, TimeLimit};
use drover_wire::bundle::Kind;
use drover_wire::{BuildId, ItemInfo, LeaseId, Phase};
use ground::{Ground, Made, ground};
use stub::Stub;

/// An agent's process, which ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }

    fn wait(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

/// What stands between an agent and its daemon, and can cut them off from each other.
struct Line {
    socket: PathBuf,
    ends: Arc<Mutex<Vec<UnixStream>>>,
    is_cut: Arc<AtomicBool>,
}

impl Line {
    fn new(farm: &Farm) -> Self {
        let DaemonSocket::Unix(daemon) = farm.ground.socket.clone() else { panic!("no Unix socket") };
        let line =
            Self { socket: farm.state.path().join("line"), ends: Arc::default(), is_cut: Arc::default() };
        let listener = UnixListener::bind(&line.socket).unwrap();
        let (ends, is_cut) = (Arc::clone(&line.ends), Arc::clone(&line.is_cut));
        thread::spawn(move || {
            for here in listener.incoming() {
                let here = here.unwrap();
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let there = UnixStream::connect(&daemon).unwrap();
                for (from, to) in [(&here, &there), (&there, &here)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                ends.lock().unwrap().extend([here, there]);
            }
        });
        line
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for end in self.ends.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

/// A coordinator, a daemon, and a folder for the agent.
struct Farm {
    stub: Arc<Stub>,
    ground: Ground,
    state: tempfile::TempDir,
}

fn farm() -> Option<Farm> {
    let ground = ground()?;
    let state = tempfile::tempdir_in(ground.acl.parent().unwrap().parent().unwrap()).unwrap();
    Some(Farm { stub: Stub::start(), ground, state })
}

impl Farm {
    fn agent(&self, more: &[&str]) -> Agent {
        self.agent_under(Command::new(env!("CARGO_BIN_EXE_drover-agent")), more)
    }

    fn agent_under(&self, mut command: Command, more: &[&str]) -> Agent {
        let coordinator = format!("http://127.0.0.1:{}", self.stub.port);
        let socket = self.ground.socket.to_string();
        let more = if more.contains(&"--daemon-socket") {
            more.to_vec()
        } else {
            [more, &["--daemon-socket", &socket]].concat()
        };
        command
            .args(["--coordinator", &coordinator, "--name", "test", "--dynamic-auth-token", "token"])
            .args(["--state-dir", self.state.path().to_str().unwrap(), "--max-1min-load-average", "1000"])
            .args(more)
            .env_remove("GUIX_DAEMON_SOCKET")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        Agent(command.spawn().unwrap())
    }

    /// Has a build given out.
    fn give(&self, made: &Made, inputs: Vec<InputItem>) -> LeaseId {
        self.give_with(made, inputs, |_| {})
    }

    fn give_with(
        &self,
        made: &Made,
        inputs: Vec<InputItem>,
        change: impl FnOnce(&mut Allocation),
    ) -> LeaseId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let lease = LeaseId(NEXT.fetch_add(1, Ordering::Relaxed));
        let mut allocation = Allocation {
            lease,
            build: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse::<BuildId>().unwrap(),
            derivation: made.path.clone(),
            priority: 0,
            timeout: None,
            max_silent_time: None,
        };
        change(&mut allocation);
        self.stub.change(|told| {
            let texts = vec![Text::Derivation { path: made.path.clone() }];
            told.contents.insert(made.path.clone(), (Kind::Derivation, made.text.clone()));
            let closure = told.closures.entry(lease).or_insert(Closure { texts: Vec::new(), inputs });
            closure.texts.extend(texts);
            told.allocations.push(allocation);
        });
        lease
    }

    fn state_files(&self) -> usize {
        let count = |name: &str| std::fs::read_dir(self.state.path().join(name)).unwrap().count();
        count("leases") + count("roots")
    }

    fn log(&self, lease: LeaseId) -> Vec<u8> {
        self.stub.told().logs.get(&lease).cloned().unwrap_or_default()
    }
}

/// The nar that was uploaded for an item.
fn uploaded(farm: &Farm, item: &StorePath) -> Vec<u8> {
    zstd::decode_all(&farm.stub.told().uploads[item.base_name()][..]).unwrap()
}

fn wait_until_gone(path: &Path) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while path.exists() {
        assert!(std::time::Instant::now() < end, "{} is still there", path.display());
        std::thread::yield_now();
    }
}

#[test]
fn a_build_goes_from_allocation_to_report() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("works", "printf '\\377 log\\n'; echo result > $out", &[]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    let Report::Succeeded { outputs } = farm.stub.wait_for_report(lease) else { panic!("no success") };
    assert_eq!(outputs[0].path, made.out);
    assert_eq!(farm.log(lease), b"\xff log\n");
    let nar = uploaded(&farm, &made.out);
    assert_eq!(nar, Node::file("result\n").to_nar());
    assert_eq!(outputs[0].nar_hash, Sha256Hash::of(&nar));
    assert!(farm.stub.told().hellos[0].builtins.contains(&"download".to_owned()));
    wait_until_gone(&farm.state.path().join("leases").join(lease.to_string()));
    assert_eq!(farm.state_files(), 0);

    // Built again although its output is there.
    let lease = farm.give(&made, vec![]);
    assert!(matches!(farm.stub.wait_for_report(lease), Report::Succeeded { .. }));
    assert_eq!(farm.log(lease), b"\xff log\n");
}

#[test]
fn sources_of_every_kind_are_added() {
    let Some(farm) = farm() else { return };
    let salt = ground::unique();
    let text = format!("text {salt}").into_bytes();
    let first = path::text("first", &text, &[]).unwrap();
    let script = format!("script {salt}").into_bytes();
    let second = path::text("second", &script, std::slice::from_ref(&first)).unwrap();
    let folder = Node::Directory([(b"file".to_vec(), Node::file(salt.repeat(20_000)))].into()).to_nar();
    let third = path::source("third", &Sha256Hash::of(&folder)).unwrap();
    let made = farm.ground.derivation(
        "sources",
        &format!("cat {first} {second}; ln -s {third} $out"),
        &[first.clone(), second.clone(), third.clone()],
    );
    farm.stub.change(|told| {
        told.contents.insert(first.clone(), (Kind::Source, Node::file(text.clone()).to_nar()));
        told.contents.insert(second.clone(), (Kind::Source, Node::file(script.clone()).to_nar()));
        told.contents.insert(third.clone(), (Kind::Source, folder.clone()));
    });
    let texts = vec![
        Text::Text { path: first.clone(), references: vec![] },
        Text::Text { path: second, references: vec![first] },
        Text::File { path: third.clone(), recursive: true },
    ];
    let lease = farm.give(&made, vec![]);
    farm.stub.change(|told| {
        let closure = told.closures.get_mut(&lease).unwrap();
        closure.texts.splice(0..0, texts);
    });
    let _agent = farm.agent(&[]);
    let report = farm.stub.wait_for_report(lease);
    let Report::Succeeded { outputs } = report else { panic!("{report:?}") };
    assert_eq!(outputs[0].references, [third]);
    assert_eq!(farm.log(lease), [text, script].concat());
}

/// A derivation with an input from elsewhere, and that input as the coordinator would hold it.
fn with_input(farm: &Farm, key: &SecretKey) -> (Made, ItemInfo) {
    let nar = Node::file(ground::unique().repeat(10_000)).to_nar();
    // A source stands for an output: what the build needs is that it is valid.
    let item = path::output("out", &Sha256Hash::of(&nar), "input").unwrap();
    let mut state = Sha256::new();
    state.update(&nar);
    let signature = key.sign(&export::export_hash(state, &item, &[], None)).to_text();
    let compressed = zstd::encode_all(&nar[..], 3).unwrap();
    let info = ItemInfo {
        path: item.clone(),
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        file_size: compressed.len() as u64,
        references: vec![],
        deriver: None,
        import_signature: Some(signature),
    };
    farm.stub.change(|told| {
        told.nars.insert(item.base_name().to_owned(), compressed);
    });
    let made = farm.ground.derivation("user", "echo > $out", &[]);
    (made, info)
}

#[test]
fn inputs_are_imported_or_the_operator_is_told_about_the_key() {
    let Some(farm) = farm() else { return };
    let key = SecretKey::generate().unwrap();
    let (made, info) = with_input(&farm, &key);
    let input = InputItem { path: info.path.clone(), held: Some(info.clone()) };
    let lease = farm.give(&made, vec![input.clone()]);
    let _agent = farm.agent(&[]);
    let report = farm.stub.wait_for_report(lease);
    let Report::SetupFailed { step: SetupStep::ImportInputs, message } = report else { panic!("{report:?}") };
    assert!(message.contains("drover key show | guix archive --authorize"), "{message}");

    // The list of keys belongs to all tests of this daemon: add to it.
    let acl = std::fs::read_to_string(&farm.ground.acl).unwrap_or_else(|_| "(acl)".into());
    let entry = format!("\n(entry {} (tag (guix import))))", key.public().to_text());
    let end = acl.trim_end().strip_suffix(')').unwrap();
    std::fs::write(&farm.ground.acl, format!("{end}{entry}")).unwrap();
    let lease = farm.give(&made, vec![input]);
    let report = farm.stub.wait_for_report(lease);
    assert!(matches!(report, Report::Succeeded { .. }), "{report:?}");
    let valid = farm.ground.connect().valid_paths(std::slice::from_ref(&info.path)).unwrap();
    assert_eq!(valid, [info.path]);
}

#[test]
fn an_input_that_nobody_has_is_a_missing_input() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("lacks", "echo > $out", &[]);
    let missing = path::text("nowhere", ground::unique().as_bytes(), &[]).unwrap();
    let lease = farm.give(&made, vec![InputItem { path: missing.clone(), held: None }]);
    let _agent = farm.agent(&[]);
    let report = farm.stub.wait_for_report(lease);
    assert_eq!(report, Report::MissingInputs { paths: vec![missing] });
    assert!(farm.log(lease).is_empty());
}

#[test]
fn failures_and_timeouts_are_told_apart() {
    let Some(farm) = farm() else { return };
    let fails = farm.give(&farm.ground.derivation("fails", "echo sad; exit 9", &[]), vec![]);
    let silent = farm.ground.derivation("silent", "echo a; sleep 1000", &[]);
    let silent = farm.give_with(&silent, vec![], |allocation| allocation.max_silent_time = Some(1));
    let long = farm.ground.derivation("long", "while true; do echo a; sleep 0.2; done", &[]);
    let long = farm.give_with(&long, vec![], |allocation| allocation.timeout = Some(1));
    let _agent = farm.agent(&["--max-parallel-builds", "3"]);
    let report = farm.stub.wait_for_report(fails);
    assert!(matches!(&report, Report::Failed { message } if message.contains("exit code 9")), "{report:?}");
    assert!(farm.log(fails).starts_with(b"sad\n"));
    for (lease, limit) in [(silent, TimeLimit::Silence), (long, TimeLimit::Timeout)] {
        let report = farm.stub.wait_for_report(lease);
        assert!(matches!(&report, Report::TimedOut { limit: l, .. } if *l == limit), "{report:?}");
    }
}

#[test]
fn an_output_that_is_in_use_is_a_setup_failure() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("used", "echo > $out", &[]);
    let first = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    farm.stub.wait_for_report(first);
    let mut user = farm.ground.connect();
    user.add_temp_roots([&made.out].into_iter()).unwrap();
    let report = farm.stub.wait_for_report(farm.give(&made, vec![]));
    let Report::SetupFailed { step: SetupStep::DeleteOutputs, message } = report else {
        panic!("{report:?}")
    };
    assert!(message.contains("could not delete outputs"), "{message}");
}

#[test]
fn a_canceled_build_is_killed_and_its_log_is_sent() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("endless", "trap '' TERM HUP; echo up; sleep 1000 & sleep 1000", &[]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    farm.stub
        .wait_for("the log", |told| told.logs.get(&lease).filter(|log| log.starts_with(b"up\n")).map(|_| ()));
    farm.stub.change(|told| told.cancel(lease));
    assert_eq!(farm.stub.wait_for_report(lease), Report::Canceled);
    ground::assert_none_with(&salt(&made));
}

fn salt(made: &Made) -> Vec<u8> {
    Derivation::parse(&made.text).unwrap().env(b"salt").unwrap().to_vec()
}

#[test]
fn a_coordinator_that_is_away_costs_nothing() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("patient", "echo before; sleep 1; echo after; echo > $out", &[]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    farm.stub.wait_for("the log", |told| told.logs.get(&lease).map(|_| ()));
    farm.stub.change(|told| told.away = true);
    // It ends while nobody listens.
    let report = farm.state.path().join("leases").join(lease.to_string()).join("report.json");
    let deadline = drover_os::Deadline::after(std::time::Duration::from_secs(60));
    deadline.ask(|| report.exists().then_some(())).expect("no report on disk");
    farm.stub.change(|told| told.away = false);
    assert!(matches!(farm.stub.wait_for_report(lease), Report::Succeeded { .. }));
    assert_eq!(farm.log(lease), b"before\nafter\n");
    farm.stub.wait_for("a second hello", |told| (told.hellos.len() > 1).then_some(()));
}

#[test]
fn a_killed_agent_delivers_its_result_at_its_next_start() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("kept", "echo log; echo result > $out", &[]);
    let dies = farm.ground.derivation("dies", "echo log; sleep 1000", &[]);
    farm.stub.change(|told| told.hold_uploads = true);
    let kept = farm.give(&made, vec![]);
    let dies = farm.give(&dies, vec![]);
    let agent = farm.agent(&["--max-parallel-builds", "2"]);
    farm.stub.wait_for("an upload", |told| (told.uploaded > 0).then_some(()));
    farm.stub.wait_for("the other's log", |told| told.logs.get(&dies).map(|_| ()));
    agent.signal("-KILL");
    drop(agent);
    assert!(farm.stub.told().reports.is_empty());
    // Nothing but the root keeps it now.
    assert!(farm.ground.connect().delete(std::slice::from_ref(&made.out)).is_err());

    farm.stub.change(|told| {
        told.hold_uploads = false;
        told.hellos.clear();
    });
    let _agent = farm.agent(&[]);
    assert!(matches!(farm.stub.wait_for_report(kept), Report::Succeeded { .. }));
    assert_eq!(uploaded(&farm, &made.out), Node::file("result\n").to_nar());
    assert_eq!(farm.log(kept), b"log\n");
    assert_eq!(farm.stub.told().hellos[0].holding, [kept]);
}

#[test]
fn a_result_that_the_store_has_lost_is_handed_back() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("lost-output", "echo result > $out", &[]);
    farm.stub.change(|told| told.hold_uploads = true);
    let lease = farm.give(&made, vec![]);
    let agent = farm.agent(&[]);
    farm.stub.wait_for("an upload", |told| (told.uploaded > 0).then_some(()));
    agent.signal("-KILL");
    drop(agent);
    // As a loss of power may do.
    for entry in std::fs::read_dir(farm.state.path().join("roots")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    farm.ground.connect().delete(std::slice::from_ref(&made.out)).unwrap();
    farm.stub.change(|told| told.hold_uploads = false);
    let _agent = farm.agent(&[]);
    let report = farm.stub.wait_for_report(lease);
    assert!(matches!(&report, Report::HandedBack { message } if message.contains("vanished")), "{report:?}");
}

#[test]
fn a_cut_upload_goes_on_where_it_was_cut() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("large", "head -c 6000000 /dev/urandom > $out", &[]);
    farm.stub.change(|told| told.cuts = vec![1_000_000, 3_500_000]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    let Report::Succeeded { outputs } = farm.stub.wait_for_report(lease) else { panic!("no success") };
    let nar = uploaded(&farm, &made.out);
    assert_eq!(Sha256Hash::of(&nar), outputs[0].nar_hash);
    let told = farm.stub.told();
    let size = told.uploads[made.out.base_name()].len() as u64;
    assert!(told.uploaded < 2 * size, "{} of {size}", told.uploaded);
    assert!(told.declared.len() >= 3);
}

#[test]
fn a_lost_lease_is_dropped_without_a_word() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("lost", "echo up; sleep 1000", &[]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    farm.stub.wait_for("the log", |told| told.logs.get(&lease).map(|_| ()));
    let lost = drover_wire::agent::GiveUp { lease, reason: drover_wire::agent::GiveUpReason::Lost };
    farm.stub.change(|told| told.give_up.push(lost));
    wait_until_gone(&farm.state.path().join("leases").join(lease.to_string()));
    ground::assert_none_with(&salt(&made));
    assert!(farm.stub.told().reports.is_empty());
}

#[test]
fn an_agent_that_is_told_to_stop_finishes_what_ends_in_time() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("ends", "echo up; sleep 1; echo done; echo > $out", &[]);
    let waits = farm.ground.derivation("waits", "echo > $out", &[]);
    let lease = farm.give(&made, vec![]);
    let waits = farm.give(&waits, vec![]);
    let mut agent = farm.agent(&["--max-allocated-builds", "2"]);
    farm.stub.wait_for("the log", |told| told.logs.get(&lease).map(|_| ()));
    agent.signal("-TERM");
    assert!(matches!(farm.stub.wait_for_report(waits), Report::HandedBack { .. }));
    assert!(matches!(farm.stub.wait_for_report(lease), Report::Succeeded { .. }));
    assert_eq!(farm.log(lease), b"up\ndone\n");
    assert_eq!(agent.wait(), Some(0));
    assert_eq!(farm.stub.told().heartbeats.last().unwrap().accepting, 0);
}

#[test]
fn a_builder_that_fails_as_its_agent_stops_is_not_told_to_have_failed() {
    let Some(farm) = farm() else { return };
    // As one does whose own processes were told to stop as well.
    let made = farm.ground.derivation("killed", "echo up; sleep 1; exit 143", &[]);
    let lease = farm.give(&made, vec![]);
    let mut agent = farm.agent(&[]);
    farm.stub.wait_for("the log", |told| told.logs.get(&lease).map(|_| ()));
    agent.signal("-TERM");
    assert!(matches!(farm.stub.wait_for_report(lease), Report::HandedBack { .. }));
    assert_eq!(agent.wait(), Some(0));
}

#[test]
fn an_agent_that_is_told_twice_hands_back_at_once() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("long", "echo up; sleep 1000", &[]);
    let lease = farm.give(&made, vec![]);
    let mut agent = farm.agent(&[]);
    farm.stub.wait_for("the log", |told| told.logs.get(&lease).map(|_| ()));
    agent.signal("-TERM");
    farm.stub
        .wait_for("nothing accepted", |told| told.heartbeats.last().filter(|h| h.accepting == 0).map(|_| ()));
    agent.signal("-TERM");
    assert_eq!(agent.wait(), Some(0));
    assert!(matches!(farm.stub.wait_for_report(lease), Report::HandedBack { .. }));
    assert_eq!(farm.log(lease), b"up\n");
    ground::assert_none_with(&salt(&made));
}

#[test]
fn phases_are_told_as_they_change() {
    let Some(farm) = farm() else { return };
    let made = farm.ground.derivation("phases", "echo up; sleep 1; echo > $out", &[]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&[]);
    farm.stub.wait_for("the phase", |told| {
        told.phases.get(&lease).filter(|p| p.contains(&Phase::Building)).map(|_| ())
    });
    farm.stub.wait_for_report(lease);
    farm.stub.wait_for("a heartbeat without it", |told| {
        told.heartbeats.last().filter(|heartbeat| heartbeat.leases.is_empty()).map(|_| ())
    });
}

#[test]
fn a_daemon_that_goes_away_gives_the_build_back_and_no_new_ones_are_taken_until_it_is_there() {
    let Some(farm) = farm() else { return };
    let line = Line::new(&farm);
    let made = farm.ground.derivation("cut-off", "echo up; sleep 1000", &[]);
    let lease = farm.give(&made, vec![]);
    let _agent = farm.agent(&["--daemon-socket", line.socket.to_str().unwrap()]);
    farm.stub.wait_for("the log", |told| told.logs.get(&lease).map(|_| ()));
    line.cut();
    let report = farm.stub.wait_for_report(lease);
    assert!(matches!(&report, Report::HandedBack { message } if message.contains("went away")), "{report:?}");
    assert_eq!(farm.log(lease), b"up\n");
    farm.stub
        .wait_for("nothing accepted", |told| told.heartbeats.last().filter(|h| h.accepting == 0).map(|_| ()));
    line.mend();
    farm.stub
        .wait_for("work accepted", |told| told.heartbeats.last().filter(|h| h.accepting > 0).map(|_| ()));
    let made = farm.ground.derivation("after", "echo > $out", &[]);
    assert!(matches!(farm.stub.wait_for_report(farm.give(&made, vec![])), Report::Succeeded { .. }));
}

#[test]
fn a_full_disk_ends_the_try_and_the_agent_lives() {
    let Some(farm) = farm() else { return };
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        ground::skipped("to mount a small disk, as root");
        return;
    }
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=80m none \"$1\" && shift && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(farm.state.path());
    command.arg(env!("CARGO_BIN_EXE_drover-agent"));
    let large = farm.ground.derivation("large-log", "head -c 120000000 /dev/zero; echo > $out", &[]);
    let lease = farm.give(&large, vec![]);
    let _agent = farm.agent_under(command, &[]);
    let report = farm.stub.wait_for_report(lease);
    assert!(
        matches!(&report, Report::SetupFailed { step: SetupStep::DiskFull, message } if message.contains("No space left")),
        "{report:?}"
    );
    let made = farm.ground.derivation("small-log", "echo small; echo > $out", &[]);
    let lease = farm.give(&made, vec![]);
    assert!(matches!(farm.stub.wait_for_report(lease), Report::Succeeded { .. }));
    assert_eq!(farm.log(lease), b"small\n");
}
