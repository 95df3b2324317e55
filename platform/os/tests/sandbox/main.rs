//! Programs in sandboxes, for real: as root where the tests are run as root, and as a plain user.
#![cfg(all(target_os = "linux", not(drover_portable)))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code)] // probes make system calls that programs are not to make

mod ground;
mod inside;
mod life;
mod probe;
mod start;
