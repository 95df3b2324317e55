//! What differs between Linux and the Hurd: sockets with deadlines, process trees, sandboxes, load, disks, signals.
//!
//! Everything above asks this crate and never which system it is on. The few calls that really differ sit in
//! one module per system (`linux.rs` and `hurd.rs`) behind the same functions; all else is POSIX, or what both have.
//! `hurd.rs` runs on Linux, too: compiled with `--cfg drover_portable` the tests go through it, without sandboxes.
//!
//! Every wait takes a [`Deadline`]. Waiting is done by `poll` on non-blocking descriptors and never by socket
//! timeouts, which the Hurd does not have.

// The only crate of the workspace with `unsafe`: each block says why it is sound.
#![allow(unsafe_code)]

mod attributes;
mod deadline;
pub mod file;
pub mod lines;
pub mod machine;
mod malloc;
pub mod net;
pub mod poll;
mod posix;
pub mod process;
pub mod random;
pub mod sandbox;
pub mod signal;
pub mod tree;
pub mod user;

#[cfg(all(target_os = "linux", not(drover_portable)))]
#[path = "linux.rs"]
mod sys;

#[cfg(any(target_os = "hurd", drover_portable))]
#[path = "hurd.rs"]
mod sys;

#[cfg(not(any(target_os = "linux", target_os = "hurd")))]
compile_error!(
    "drover-os knows Linux and the Hurd: write a module with the functions of hurd.rs for this system"
);

pub use deadline::Deadline;

#[cfg(test)]
mod testing {
    use std::process::Command;

    /// Whether a test cannot find what has a session of its own, for QEMU plays its processor and adopts no orphans; says so.
    pub(crate) fn loses_orphans(test: &str) -> bool {
        let is_played = std::env::var_os("DROVER_TEST_RUNNER").is_some();
        if is_played {
            eprintln!("SKIPPED: {test}: QEMU plays the processor, and has no orphans adopted");
        }
        is_played
    }

    /// These tests once more, in a process of its own; played by what plays the processor for them, if something does.
    pub(crate) fn tests() -> Command {
        let tests = std::env::current_exe().unwrap();
        match std::env::var_os("DROVER_TEST_RUNNER") {
            Some(runner) => {
                let mut command = Command::new(runner);
                command.arg(tests);
                command
            }
            None => Command::new(tests),
        }
    }
}
