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
