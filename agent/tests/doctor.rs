//! `drover-agent doctor`, as its operator starts it.

#![allow(clippy::unwrap_used)]

mod ground;

use std::process::{Command, Output};

use serde_json::Value;

/// What only looks at the machine, and works on every one that can run these tests.
const EVERYWHERE: [&str; 10] = [
    "threads",
    "random",
    "clock",
    "deadlines",
    "tcp-sockets",
    "unix-sockets",
    "processes",
    "files",
    "codecs",
    "tls-roots",
];

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_drover-agent"))
        .arg("doctor")
        .args(arguments)
        .args(["--config", "/dev/null"])
        .env_remove("GUIX_DAEMON_SOCKET")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The state and the words of a check in the lines of a doctor.
fn line<'a>(said: &'a str, name: &str) -> (&'a str, &'a str) {
    let line = said.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
    line[13..].split_once(' ').unwrap()
}

#[test]
fn without_a_daemon_all_but_the_builder_works_and_the_code_is_1() {
    let Output { status, stdout, stderr } = doctor(&["--daemon-socket=/no/such/socket"]);
    let said = text(&stdout);
    assert_eq!((status.code(), text(&stderr).as_str()), (Some(1), ""), "{said}");
    for name in EVERYWHERE {
        assert_eq!(line(&said, name).0, "works", "{said}");
    }
    let (state, words) = line(&said, "executor");
    assert!(state == "fails" && words.contains("/no/such/socket"), "{said}");
    assert_eq!(line(&said, "coordinator").0, "unknown", "{said}");
}

#[test]
fn what_kills_one_check_is_told_and_the_others_are_done() {
    // Who writes to a file is killed by a signal, then.
    let Output { stdout, .. } = Command::new("/bin/sh")
        .args(["-c", "ulimit -c 0; ulimit -f 0; exec \"$0\" doctor --config /dev/null"])
        .arg(env!("CARGO_BIN_EXE_drover-agent"))
        .output()
        .unwrap();
    let said = text(&stdout);
    let (state, words) = line(&said, "files");
    assert!(state == "fails" && words.contains("broke off, ended by signal"), "{said}");
    for name in EVERYWHERE.iter().filter(|name| **name != "files") {
        assert_eq!(line(&said, name).0, "works", "{said}");
    }
}

#[test]
fn programs_read_the_same_as_one_object() {
    let Output { status, stdout, .. } = doctor(&["--json", "--daemon-socket=/no/such/socket"]);
    assert_eq!(status.code(), Some(1));
    let report: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(report["works"], false);
    let state = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert!(check["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{check}");
        check["state"].as_str().unwrap().to_owned()
    };
    assert!(EVERYWHERE.iter().all(|name| state(name) == "works"), "{report}");
    assert_eq!(state("executor"), "fails");
}

#[test]
fn a_machine_with_a_daemon_is_well() {
    let Some(ground) = ground::ground() else { return };
    let socket = format!("--daemon-socket={}", ground.socket);
    let Output { status, stdout, .. } = doctor(&[&socket]);
    let said = text(&stdout);
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(line(&said, "executor").0, "works", "{said}");
}

#[test]
fn what_is_no_option_is_refused_with_code_2() {
    let Output { status, stdout, stderr } = doctor(&["--nonsense"]);
    assert_eq!(status.code(), Some(2));
    assert!(stdout.is_empty());
    assert!(text(&stderr).contains("--nonsense"));
    let help = text(&doctor(&["--help"]).stdout);
    assert!(help.contains("Exit codes: 0 nothing fails, 1 something does, 2 configuration refused."));
}
