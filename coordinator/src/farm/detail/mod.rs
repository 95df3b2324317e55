//! Everything about one thing at a moment, for those who look at it: each is one job of the database.

mod agent;
mod build;
mod derivation;

pub use agent::{AgentDetails, AgentTries, Try};
pub use build::{Below, BuildAround, HeldUp, Log, LogState};
pub use derivation::{DerivationDetails, InputDerivation, Source};
