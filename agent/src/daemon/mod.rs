//! A client of guix-daemon's worker protocol.
//!
//! A [`Connection`] is one conversation: requests and replies in turn over a Unix or TCP socket, with the daemon's log
//! messages in between. What the daemon does for a connection lasts as long as the connection: temporary roots vanish
//! with it, and a running build is killed. Everything is bytes in both directions; lengths that the daemon announces
//! are limits for loops, never sizes of allocations.

mod channel;
mod connection;
mod error;
mod import;
mod nar;
mod operations;
mod options;
mod trace;

pub use connection::{Connection, HangUp};
pub use error::Error;
pub use import::{Import, ImportItem};
pub use nar::ExportedNar;
pub use operations::{NewText, PathInfo};
pub use options::Options;
pub use trace::{Event, TraceParser};
