//! Nothing that a program in a sandbox starts lives longer than it is to.

use std::fs;
use std::process::{Command, Stdio};

use drover_os::process::{Exit, Tree};
use drover_os::sandbox::cgroup::{Amounts, Cgroups};

use crate::ground::{Ground, both, hears, mark, skipped, sleepers, soon};
use crate::probe::prober;

/// Started into a session of its own, left by its parent, and deaf to requests.
fn hidden(mark: &str) -> String {
    format!("trap '' TERM HUP INT; (setsid sleep {mark} >/dev/null 2>&1 &) ; echo ready;")
}

fn sleeping(mark: &str, count: usize) {
    let reached = soon().ask(|| (sleepers(mark) == count).then_some(()));
    assert!(reached.is_some(), "{} instead of {count}", sleepers(mark));
}

#[test]
fn what_a_program_leaves_behind_has_ended_when_its_end_is_told() {
    both("life::what_a_program_leaves_behind_has_ended_when_its_end_is_told", || {
        let ground = Ground::new();
        let time = mark();
        let mut tree =
            ground.start(&format!("{} until grep -q sleep /proc/[0-9]*/comm; do :; done", hidden(&time)));
        assert_eq!(tree.wait(soon()).unwrap(), Some(Exit::Code(0)));
        assert_eq!(sleepers(&time), 0);
    });
}

#[test]
fn killing_or_dropping_its_tree_ends_all_of_it() {
    both("life::killing_or_dropping_its_tree_ends_all_of_it", || {
        let ground = Ground::new();
        let time = mark();
        let start = || {
            let mut tree = ground.start(&format!("{} while :; do sleep 1; done", hidden(&time)));
            hears(&mut tree, "ready");
            sleeping(&time, 1);
            tree
        };
        start().kill(soon()).unwrap();
        assert_eq!(sleepers(&time), 0);
        drop(start());
        assert_eq!(sleepers(&time), 0);
    });
}

#[test]
fn all_of_it_ends_with_its_supervisor() {
    both("life::all_of_it_ends_with_its_supervisor", || {
        let ground = Ground::new();
        let time = mark();
        let mut tree = ground.start(&format!("{} while :; do sleep 1; done", hidden(&time)));
        hears(&mut tree, "ready");
        sleeping(&time, 1);
        kill_supervisor(&tree);
        sleeping(&time, 0);
        assert!(tree.wait(soon()).is_err());
    });
}

/// The state and the parent of a process, if there is one.
fn stat(process: u32) -> Option<(String, i32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// The keeper and the supervisor of a program.
fn guards(tree: &Tree) -> [i32; 2] {
    let (_, keeper) = stat(tree.id()).unwrap();
    let (_, supervisor) = stat(keeper.try_into().unwrap()).unwrap();
    let (_, ourselves) = stat(supervisor.try_into().unwrap()).unwrap();
    assert_eq!(u32::try_from(ourselves).unwrap(), std::process::id());
    [keeper, supervisor]
}

/// Kills it, and does nothing else, as if we were killed, too.
fn kill_supervisor(tree: &Tree) {
    let [_, supervisor] = guards(tree);
    // SAFETY: takes numbers; the process is a child of ours that nobody has waited for.
    assert_eq!(unsafe { libc::kill(supervisor, libc::SIGKILL) }, 0);
}

/// Whether we have CAP_SYS_RESOURCE, which in a container root may lack.
fn may_use_more() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(rights.trim(), 16).unwrap() >> 24 & 1 == 1
}

#[test]
fn when_memory_runs_out_it_goes_before_those_who_look_after_it() {
    both("life::when_memory_runs_out_it_goes_before_those_who_look_after_it", || {
        let ground = Ground::new();
        let mut tree = ground.start("(cat /proc/self/oom_score_adj); echo ready; while :; do sleep 1; done");
        hears(&mut tree, "1000\nready");
        let score = |process: &str| fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
        for guard in guards(&tree) {
            assert_eq!(score(&guard.to_string()), score("self"));
        }
        // It comes back to what we have at most, and not even there where we have the right to say so.
        let back = if may_use_more() { "999" } else { "-1000" };
        let (exit, said) = ground.run(&format!("echo {back} >/proc/self/oom_score_adj"));
        assert!(!exit.is_success(), "{said}");
    });
}

#[test]
fn nobody_takes_back_to_end_with_its_supervisor() {
    both("life::nobody_takes_back_to_end_with_its_supervisor", || {
        let mut ground = Ground::new();
        let mut tree = prober(&mut ground, "outlive", "").spawn().unwrap();
        hears(&mut tree, "it stays");
        kill_supervisor(&tree);
        let is_dead = || stat(tree.id()).is_none_or(|(state, _)| state == "Z" || state == "X");
        assert!(soon().ask(|| is_dead().then_some(())).is_some());
    });
}

/// For [`all_of_it_ends_with_who_started_it`], which runs this as a process of its own.
#[test]
fn starts_one_and_waits_to_be_killed() {
    let Some(mark) = std::env::var_os("DROVER_TEST_MARK") else { return };
    let ground = Ground::new();
    let tree = ground.start(&format!("{} while :; do sleep 1; done", hidden(mark.to_str().unwrap())));
    fs::write(std::env::var_os("DROVER_TEST_STARTED").unwrap(), tree.id().to_string()).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn all_of_it_ends_with_who_started_it() {
    both("life::all_of_it_ends_with_who_started_it", || {
        let time = mark();
        let folder = tempfile::tempdir().unwrap();
        let mut starter = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "life::starts_one_and_waits_to_be_killed", "--nocapture"])
            .env("DROVER_TEST_MARK", &time)
            .env("DROVER_TEST_STARTED", folder.path().join("started"))
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        sleeping(&time, 1);
        starter.kill().unwrap();
        starter.wait().unwrap();
        sleeping(&time, 0);
    });
}

#[test]
fn a_control_group_holds_a_program_and_is_gone_after_it() {
    let name = "life::a_control_group_holds_a_program_and_is_gone_after_it";
    let groups = match Cgroups::find() {
        Ok(groups) => groups,
        Err(why) => return skipped(name, &why),
    };
    let amounts = Amounts { memory: Some(64 << 20), processors: Some(0.5), processes: Some(16) };
    let mut ground = Ground::new();
    ground.sandbox.cgroup = Some(groups.make("test", &amounts).unwrap());
    assert!(ground.says("cat /proc/self/cgroup").contains("/test"));
    if !groups.lacking(&amounts).contains(&"memory") {
        assert!(
            !ground
                .run("head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null; echo lived")
                .1
                .contains("lived")
        );
        assert!(ground.sandbox.cgroup.take().unwrap().was_out_of_memory());
    }
    ground.sandbox.cgroup = None;
    assert!(groups.make("test", &amounts).is_ok());
}
