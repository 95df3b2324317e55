//! HTTP over drover-os's sockets: ureq with a transport of our own, so that every wait is a poll with a deadline.

mod client;
mod eager;
#[cfg(test)]
pub(crate) mod testing;
mod transport;

pub use client::{Client, Patience, SendError};
