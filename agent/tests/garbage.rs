//! Garbage collection by a real daemon that an agent asks for. Alone in its program: what nobody holds at this moment goes,
//! that of other tests, too.

#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;
mod stub;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drover_agent::daemon::{Connection, NewText};
use drover_agent::executor::Executor;
use drover_agent::executor::daemon::DaemonExecutor;
use drover_os::Deadline;
use drover_store::path::{self, StorePath};
use drover_wire::agent::{Allocation, Closure, Report, Text};
use drover_wire::bundle::Kind;
use drover_wire::{BuildId, LeaseId};
use ground::{Ground, Made, ground};
use stub::Stub;

/// As much as there is.
const ALL: u64 = 1 << 62;

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tests of one collection must not meet another.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_valid(ground: &Ground, path: &StorePath) -> bool {
    !ground.connect().valid_paths(std::slice::from_ref(path)).unwrap().is_empty()
}

/// Builds something that nothing holds.
fn garbage(ground: &Ground, size: u64) -> Made {
    let mut connection = ground.connect();
    let made = ground.made(&mut connection, "garbage", &format!("head -c {size} /dev/urandom > $out"));
    build(&mut connection, &made);
    // The daemon's process for a connection ends a moment later than the connection, and its roots with it.
    let text = ground::unique().into_bytes();
    let marker = path::text("marker", &text, &[]).unwrap();
    connection.add_texts([NewText { path: &marker, text: &text, references: &[] }].into_iter()).unwrap();
    drop(connection);
    let deleted = || ground.connect().delete(std::slice::from_ref(&marker)).ok().map(drop);
    assert!(Deadline::after(PATIENCE).ask(deleted).is_some(), "the daemon keeps what nobody holds");
    made
}

fn build(connection: &mut Connection, made: &Made) {
    connection.build(&made.path, Some(Duration::from_secs(60)), |_| Ok(())).unwrap();
}

/// Has the daemon collect until this is gone: its process for a connection, and the roots with it, end a moment later
/// than the connection.
fn collect_until_gone(ground: &Ground, executor: &dyn Executor, path: &StorePath) -> u64 {
    let gone = Deadline::after(PATIENCE).ask(|| {
        let freed = executor.tidy(ALL).unwrap();
        (!is_valid(ground, path)).then_some(freed)
    });
    gone.unwrap_or_else(|| panic!("{path} stays"))
}

#[test]
fn garbage_goes_and_what_is_rooted_or_in_a_workplace_stays() {
    let _turn = one_at_a_time();
    let Some(ground) = ground() else { return };
    let executor = DaemonExecutor::new(ground.socket.clone());
    let folder = tempfile::tempdir_in(ground.acl.parent().unwrap().parent().unwrap()).unwrap();
    let mut connection = ground.connect();
    let rooted = ground.made(&mut connection, "rooted", "echo > $out");
    build(&mut connection, &rooted);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(rooted.out.full(), &link).unwrap();
    connection.add_indirect_root(&link).unwrap();
    let held = ground.made(&mut connection, "held", "echo > $out");
    build(&mut connection, &held);
    let mut place = executor.open().unwrap();
    place.protect(&mut [&held.out].into_iter()).unwrap();
    drop(connection);

    let garbage = garbage(&ground, 3_000_000);
    let freed = collect_until_gone(&ground, &executor, &garbage.out);
    assert!(freed >= 3_000_000, "{freed}");
    assert!(is_valid(&ground, &rooted.out) && is_valid(&ground, &held.out));
    assert!(!is_valid(&ground, &garbage.path));

    // The link gone and the place closed, they are garbage.
    fs::remove_file(&link).unwrap();
    drop(place);
    collect_until_gone(&ground, &executor, &rooted.out);
    collect_until_gone(&ground, &executor, &held.out);
}

#[test]
fn no_more_goes_than_was_asked_for() {
    const PIECE: u64 = 4_000_000;
    let _turn = one_at_a_time();
    let Some(ground) = ground() else { return };
    let executor = DaemonExecutor::new(ground.socket.clone());
    executor.tidy(ALL).unwrap();
    let Some(ground) = self::ground() else { return };
    let pieces: Vec<_> = (0..10).map(|_| garbage(&ground, PIECE)).collect();
    let freed = executor.tidy(3 * PIECE).unwrap();
    assert!(freed >= 3 * PIECE, "{freed}");
    // The daemon ends after the item that is too much; the shell, of two megabytes, may be among what went.
    let left = pieces.iter().filter(|made| is_valid(&ground, &made.out)).count();
    assert!((6..=8).contains(&left), "{left} of 10 are left, {freed} bytes went");
}

/// An agent's process, which ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent to which no disk is large enough, beside the daemon, so that it sees the disk of its store.
fn agent(stub: &Stub, ground: &Ground, daemon: &str, state: &Path) -> Agent {
    let program = state.join("program");
    fs::copy(env!("CARGO_BIN_EXE_drover-agent"), &program).unwrap();
    let mut command = Command::new("nsenter");
    command
        .args(["--target", daemon, "--mount", "--root", "--wd", "--"])
        .arg(program)
        .args(["--coordinator", &format!("http://127.0.0.1:{}", stub.port)])
        .args(["--name", "test", "--dynamic-auth-token", "token", "--max-1min-load-average", "1000"])
        .args(["--daemon-socket", &ground.socket.to_string(), "--gc-below", "1000T"])
        .args(["--state-dir", state.to_str().unwrap()])
        .stdin(Stdio::null());
    Agent(command.spawn().unwrap())
}

fn wait_until_gone(ground: &Ground, path: &StorePath) {
    let gone = Deadline::after(PATIENCE).ask(|| (!is_valid(ground, path)).then_some(()));
    assert!(gone.is_some(), "{path} stays");
}

#[test]
fn an_agent_has_garbage_collected_while_it_builds_and_keeps_what_it_still_has_to_upload() {
    let _turn = one_at_a_time();
    let Some(ground) = ground() else { return };
    // ci/guix-root notes the daemon's process, by way of which its view of the disk is entered.
    let folder = ground.acl.parent().unwrap().parent().unwrap();
    let Ok(daemon) = fs::read_to_string(folder.join("daemon.pid")) else {
        return ground::skipped("a guix-daemon of ci/guix-root");
    };
    let daemon = daemon.trim();
    let state = tempfile::tempdir_in(folder).unwrap();
    let stub = Stub::start();
    let before = garbage(&ground, 1000);
    let made = ground.derivation("kept", "echo result > $out", &[]);
    let lease = LeaseId(1);
    // The agent's connection holds the shell from when it is told of it on; until then we do.
    let mut holds = ground.connect();
    holds.add_temp_roots([&ground.shell].into_iter()).unwrap();
    stub.change(|told| {
        told.hold_uploads = true;
        told.contents.insert(made.path.clone(), (Kind::Derivation, made.text.clone()));
        let texts = vec![Text::Derivation { path: made.path.clone() }];
        told.closures.insert(lease, Closure { texts, inputs: vec![] });
        told.allocations.push(Allocation {
            lease,
            build: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse::<BuildId>().unwrap(),
            derivation: made.path.clone(),
            priority: 0,
            timeout: None,
            max_silent_time: None,
        });
    });
    let first = agent(&stub, &ground, daemon, state.path());
    stub.wait_for("an upload", |told| (told.uploaded > 0).then_some(()));
    wait_until_gone(&ground, &before.out);
    drop(first);

    // Only the link keeps it now.
    let after = garbage(&ground, 1000);
    stub.change(|told| {
        told.uploads.clear();
        told.uploaded = 0;
    });
    let _second = agent(&stub, &ground, daemon, state.path());
    wait_until_gone(&ground, &after.out);
    stub.wait_for("an upload", |told| (told.uploaded > 0).then_some(()));
    assert!(is_valid(&ground, &made.out));
    stub.change(|told| told.hold_uploads = false);
    assert!(matches!(stub.wait_for_report(lease), Report::Succeeded { .. }));
}
