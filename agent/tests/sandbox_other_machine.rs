//! The agent's program, told to build in its sandbox for a system whose builders its machine cannot run.

#![cfg(all(target_os = "linux", not(drover_portable)))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod ground;
mod stub;
mod yard;

use std::fs;
use std::process::{Command, Stdio};

use drover_wire::agent::{Allocation, Closure, Report, SetupStep, Text};
use drover_wire::bundle::Kind;
use drover_wire::{BuildId, LeaseId};
use stub::Stub;
use yard::{Made, Recipe, Yard, yard};

/// Has a build given out, with the shell that it is for.
fn give(stub: &Stub, yard: &Yard, made: &Made, lease: LeaseId) {
    stub.change(|told| {
        told.contents.insert(made.path.clone(), (Kind::Derivation, made.text.clone()));
        told.contents.insert(yard.shell.clone(), (Kind::Source, yard.shell_nar().to_vec()));
        let texts = vec![
            Text::File { path: yard.shell.clone(), recursive: true },
            Text::Derivation { path: made.path.clone() },
        ];
        told.closures.insert(lease, Closure { texts, inputs: Vec::new() });
        told.allocations.push(Allocation {
            lease,
            build: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse::<BuildId>().unwrap(),
            derivation: made.path.clone(),
            priority: 0,
            timeout: None,
            max_silent_time: None,
        });
    });
}

#[test]
fn a_build_that_this_machine_cannot_run_is_handed_back_in_words_and_the_next_one_is_built() {
    let Some(yard) = yard() else { return };
    let own = drover_os::machine::system().unwrap();
    let other = if own == "riscv64-linux" { "aarch64-linux" } else { "riscv64-linux" };
    let stub = Stub::start();
    let make = |name, system| {
        let script = "echo result >$out".to_owned();
        yard.made(&Recipe { name, script, system: Some(system), ..Recipe::default() })
    };
    let (foreign, native) = (make("foreign", other), make("native", &*own));
    give(&stub, &yard, &foreign, LeaseId(1));
    give(&stub, &yard, &native, LeaseId(2));
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let log = fs::File::create(at("log")).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_drover-agent"))
        .args(["--coordinator", &format!("http://127.0.0.1:{}", stub.port)])
        .args([
            "--name=test",
            "--dynamic-auth-token=token",
            "--executor=sandbox",
            "--max-1min-load-average=1000",
        ])
        .args(["--system", &own, "--system", other])
        .arg("--state-dir")
        .arg(at("state"))
        .arg("--store-root")
        .arg(at("root"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let report = stub.wait_for_report(LeaseId(1));
    let Report::SetupFailed { step: SetupStep::UnsupportedPlatform, message } = report else {
        panic!("{report:?}")
    };
    assert!(message.contains(&format!("{other} builder on")), "{message}");
    let report = stub.wait_for_report(LeaseId(2));
    assert!(matches!(report, Report::Succeeded { .. }), "{report:?}");
    agent.kill().unwrap();
    agent.wait().unwrap();
    let log = fs::read_to_string(at("log")).unwrap();
    let told = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(told(&format!("the builders of {other}, for which this agent is configured")), 1, "{log}");
    assert_eq!(told(&format!("the builders of {own},")), 0, "{log}");
    assert_eq!(told(&format!("not built: {message}")), 1, "{log}");
}
