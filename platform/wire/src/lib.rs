//! What agents, clients and coordinator say to each other: one place to read the whole protocol.
//!
//! Everything goes over HTTP/1.1. Messages are JSON (the types of [`agent`], [`client`] and [`set`]), what happens is a stream of [`event`]s, bulk data are bytes
//! ([`bundle`] for derivations and sources, zstd-compressed nars for store items, raw bytes for logs), refusals are a
//! [`Problem`]. [`route`] is the table of every address. Two listeners speak it: one for agents, one for clients.

pub mod agent;
pub mod bundle;
pub mod client;
pub mod estimate;
pub mod event;
pub mod hook;
mod id;
pub mod import;
mod item;
pub mod key;
mod problem;
pub mod retention;
pub mod route;
pub mod rows;
pub mod set;
pub mod source;
mod state;
pub mod storage;

pub use id::{AgentId, BuildId, IdError, LeaseId};
pub use item::ItemInfo;
pub use problem::{Code, Problem};
pub use state::{BuildState, Phase, StateError};

/// The version of this protocol. Agent and coordinator say theirs in the first message; a coordinator speaks with
/// agents of its own version and refuses others in words ([`Code::ProtocolVersion`]).
pub const PROTOCOL: u32 = 1;

/// The header in which an agent that uses a dynamic token says its name.
pub const AGENT_NAME_HEADER: &str = "drover-agent-name";

/// The header with the name of a request, under which both sides' logs tell of it: [`is_request_id`] says what it can be.
/// Who asks says one, or finds one in the answer.
pub const REQUEST_HEADER: &str = "x-request-id";

/// Whether this can name a request: 1 to 64 letters, digits, `.`, `_` and `-`.
#[must_use]
pub fn is_request_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The header of a nar that is about to go from where it is: who looks whether it is there should not count on it.
pub const LEAVING_HEADER: &str = "drover-leaving";

/// The media type of a [`bundle`], which is always zstd-compressed as a whole.
pub const BUNDLE_TYPE: &str = "application/x-drover-bundle+zstd";

/// The media type of a zstd-compressed nar.
pub const NAR_TYPE: &str = "application/x-nix-nar+zstd";

/// The most bytes that a single log chunk may have.
pub const LOG_CHUNK_LIMIT: usize = 256 * 1024;

/// Milliseconds since 1970-01-01 00:00 UTC, by the coordinator's clock.
pub type Timestamp = u64;
