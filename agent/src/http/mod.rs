//! HTTP over drover-os's sockets: ureq with a transport of our own, so that every wait is a poll with a deadline.

mod client;
mod eager;
#[cfg(target_os = "linux")]
mod pace;
#[cfg(target_os = "linux")]
mod remote;
#[cfg(target_os = "linux")]
mod stop;
#[cfg(test)]
pub(crate) mod testing;
mod transport;

pub use client::{Client, Patience, SendError};
pub(crate) use client::{IDLE_AGE, reason};
// For the sandbox, which is there on Linux only.
#[cfg(target_os = "linux")]
pub(crate) use remote::{Remote, RemoteError};
#[cfg(target_os = "linux")]
pub(crate) use stop::Wanted;
