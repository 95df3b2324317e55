//! The agent of the drover build farm: one small static program on every build machine.

pub mod config;
pub mod coordinator;
pub mod daemon;
pub mod http;
pub mod logging;
pub mod nar_stream;
mod options;
pub mod retry;

use std::process::ExitCode;

use config::Config;

/// Works until asked to stop.
pub fn run(config: Config) -> ExitCode {
    drop(config);
    ExitCode::SUCCESS
}
