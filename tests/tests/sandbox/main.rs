//! Builds in the agent's own sandbox, as root and as a plain user: the same results as a guix-daemon's, and nothing gets
//! out of it, whatever it tries.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod downloads;
mod endings;
mod escapes;
mod same;
mod variety;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// These tests look at the machine as a whole (processes, control groups, mounts), so they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}
