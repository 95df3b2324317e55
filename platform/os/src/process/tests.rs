//! Programs and what they start, run for real.

use super::*;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// How a program leaves its process group: where that is all by which it is found, it does not.
const LEAVE: &str = if cfg!(all(target_os = "linux", not(drover_portable))) { "setsid" } else { "" };

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script])
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn is_alive(id: u32) -> bool {
    // A zombie of somebody else's still has an entry, and does not live.
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

fn first_number(stream: &mut impl Read) -> u32 {
    let mut text = String::new();
    let mut byte = [0; 1];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    text.trim().parse().unwrap()
}

#[test]
fn output_and_exit_code_are_the_programs() {
    let mut tree = shell("read word; echo $word; echo bad >&2; exit 7").pipes().spawn().unwrap();
    tree.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(read_all(tree.stdout.take().unwrap(), 100).unwrap(), b"hello\n");
    assert_eq!(read_all(tree.stderr.take().unwrap(), 100).unwrap(), b"bad\n");
    assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(7)));
    assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(7)));
}

#[test]
fn a_program_that_a_signal_ended_says_which() {
    let mut tree = shell("kill -9 $$").spawn().unwrap();
    assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
}

#[test]
fn a_missing_program_is_an_error_with_its_name() {
    let error = Program::new("/no/such/program").spawn().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[test]
fn waiting_for_a_program_that_goes_on_ends_at_the_deadline() {
    let mut tree = shell("read forever").pipes().spawn().unwrap();
    assert_eq!(tree.wait(Deadline::after(Duration::from_millis(10))).unwrap(), None);
    assert!(is_alive(tree.id()));
    tree.kill(soon()).unwrap();
    assert!(!is_alive(tree.id()));
}

#[test]
fn terminating_reaches_the_program() {
    let mut tree =
        shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done").pipes().spawn().unwrap();
    let mut ready = [0; 6];
    tree.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    tree.terminate();
    assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(3)));
}

#[test]
fn a_grandchild_that_forked_twice_into_its_own_session_dies_with_its_tree() {
    if crate::testing::loses_orphans("a_grandchild_that_forked_twice_into_its_own_session_dies_with_its_tree")
    {
        return;
    }
    let script = format!("({LEAVE} sh -c 'echo $$; exec sleep 1000' &) ; exit 0");
    let mut tree = shell(&script).pipes().spawn().unwrap();
    let grandchild = first_number(tree.stdout.as_mut().unwrap());
    assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(0)));
    assert!(is_alive(grandchild));
    tree.kill(soon()).unwrap();
    assert!(!is_alive(grandchild));
}

#[test]
fn dropping_a_tree_kills_what_the_program_left_behind() {
    if crate::testing::loses_orphans("dropping_a_tree_kills_what_the_program_left_behind") {
        return;
    }
    let script = format!("{LEAVE} sh -c '(echo $$; exec sleep 1000)' & wait");
    let mut tree = shell(&script).pipes().spawn().unwrap();
    let grandchild = first_number(tree.stdout.as_mut().unwrap());
    assert!(is_alive(grandchild));
    drop(tree);
    assert!(!is_alive(grandchild));
}

/// For [`what_a_program_started_ends_with_the_process_that_started_the_program_even_if_that_is_killed`], which runs
/// this as a process of its own, with a folder to write to.
#[test]
fn starts_trees_and_waits_to_be_killed() {
    let Some(folder) = std::env::var_os("DROVER_TEST_TREES") else { return };
    // Below one that ignores what it can, in a session of its own; and left by its parent.
    let deep = format!(
        "trap '' TERM HUP PIPE INT; {LEAVE} sh -c 'echo $$ >deep; exec sleep 1000' & echo $$ >top; wait"
    );
    let left = "(sh -c 'echo $$ >left; exec sleep 1000' &) ; exit 0";
    let folder = Path::new(&folder);
    // Started by a thread that does not live as long as they do.
    let start = |script: &str| {
        let program = shell(script).folder(folder);
        std::thread::spawn(move || program.spawn().unwrap()).join().unwrap()
    };
    let _trees = [&deep, left].map(start);
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn what_a_program_started_ends_with_the_process_that_started_the_program_even_if_that_is_killed() {
    if crate::testing::loses_orphans(
        "what_a_program_started_ends_with_the_process_that_started_the_program_even_if_that_is_killed",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "process::tests::starts_trees_and_waits_to_be_killed";
    let mut starter = crate::testing::tests()
        .args(["--exact", name, "--nocapture"])
        .env("DROVER_TEST_TREES", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut read = |name: &str| {
        let id = soon().ask(|| {
            assert_eq!(starter.try_wait().unwrap(), None, "it should wait to be killed");
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
            text.strip_suffix('\n')?.parse::<u32>().ok()
        });
        id.unwrap_or_else(|| panic!("{name} should be started"))
    };
    let all = ["deep", "top", "left"].map(&mut read);
    assert!(all.iter().all(|id| is_alive(*id)));
    starter.kill().unwrap();
    starter.wait().unwrap();
    let gone = soon().ask(|| all.iter().all(|id| !is_alive(*id)).then_some(()));
    assert!(gone.is_some(), "{all:?} should be gone");
}

#[test]
fn killing_one_tree_spares_the_others() {
    let mut doomed = shell("read forever").pipes().spawn().unwrap();
    let other = shell("read forever").pipes().spawn().unwrap();
    doomed.kill(soon()).unwrap();
    assert!(is_alive(other.id()));
}

#[test]
fn the_supervisor_keeps_none_of_our_descriptors_open() {
    // Whoever reads from the program's output sees its end although the supervisor, which the sleeping child
    // keeps busy, goes on.
    let mut tree = shell("sleep 1000 >/dev/null 2>&1 & echo done").pipes().spawn().unwrap();
    assert_eq!(read_all(tree.stdout.take().unwrap(), 100).unwrap(), b"done\n");
    tree.kill(soon()).unwrap();
}

#[test]
fn more_output_than_allowed_is_an_error() {
    let error = read_all(&[0_u8; 11][..], 10).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}
