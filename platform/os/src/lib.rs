//! What differs between Linux and the Hurd: sockets with deadlines, process trees, sandboxes, load, disks, signals.
//!
//! Everything above asks this crate and never which system it is on. The few calls that really differ sit in
//! one module per system (`linux.rs`; `hurd.rs` goes beside it) behind the same functions; all else is POSIX.
//!
//! Every wait takes a [`Deadline`]. Waiting is done by `poll` on non-blocking descriptors and never by socket
//! timeouts, which the Hurd does not have.

// The only crate of the workspace with `unsafe`: each block says why it is sound.
#![allow(unsafe_code)]

mod deadline;
pub mod file;
pub mod machine;
pub mod net;
pub mod poll;
pub mod process;
pub mod sandbox;
pub mod signal;
pub mod tree;
pub mod user;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod sys;

#[cfg(not(target_os = "linux"))]
compile_error!("drover-os knows Linux so far: write a module with the functions of linux.rs for this system");

pub use deadline::Deadline;
