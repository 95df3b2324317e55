//! The client: everything that the operators' commands do, without a word printed.
//!
//! [`Coordinator`] speaks HTTP; the modules beside it each do one thing with it. What takes long tells a [`Watch`].

pub mod agents;
pub mod builds;
pub mod check;
pub mod closure;
mod error;
pub mod estimate;
pub mod events;
pub mod fetch;
pub mod hooks;
mod http;
pub mod imports;
pub mod keys;
mod lacks;
pub mod log;
mod pipe;
pub mod retention;
mod retry;
pub mod rows;
pub mod sets;
pub mod sources;
pub mod storage;
mod token;
pub mod upload;
mod watch;

pub use error::ClientError;
pub use http::Coordinator;
pub use token::{Token, TokenPlaces};
pub use watch::{Nobody, Unit, Watch};
