//! The agent of the drover build farm: one small static program on every build machine.

pub mod build;
pub mod config;
pub mod coordinator;
pub mod daemon;
mod decompress;
pub mod doctor;
pub mod executor;
pub mod http;
mod json;
pub mod logging;
pub mod nar_stream;
mod options;
pub mod retry;
pub mod session;
pub mod store;

use std::process::ExitCode;

use config::Config;

/// Works until asked to stop, and says why if it cannot.
pub fn run(config: Config) -> ExitCode {
    match session::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
