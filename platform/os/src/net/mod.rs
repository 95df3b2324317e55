//! TCP and Unix sockets whose every operation ends by a deadline.

mod connect;
mod listener;
mod piece;
mod resolve;
mod stream;

pub use crate::Deadline;
pub use connect::{connect_any, connect_tcp, connect_unix};
pub use listener::{DeafPort, Listener};
pub use resolve::resolve;
pub use stream::{Canceller, DEFAULT_TIMEOUT, Stream};

/// Whether a local program that does not read just then, such as a daemon while it builds, hears of it when we say that we
/// are done; else, only that nobody reads any more, when it next writes.
pub const IS_HANG_UP_HEARD: bool = crate::sys::IS_HANG_UP_HEARD;
