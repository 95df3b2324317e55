//! HTTP over drover-os's sockets: ureq with a transport of our own, so that every wait is a poll with a deadline.

mod client;
mod eager;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod pace;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod remote;
#[cfg(all(target_os = "linux", not(drover_portable)))]
mod stop;
#[cfg(test)]
pub(crate) mod testing;
mod transport;

pub use client::{Client, Patience, SendError};
pub(crate) use client::{IDLE_AGE, reason};
// For the sandbox, which is there on Linux only.
#[cfg(all(target_os = "linux", not(drover_portable)))]
pub(crate) use remote::{Remote, RemoteError};
#[cfg(all(target_os = "linux", not(drover_portable)))]
pub(crate) use stop::Wanted;
