//! The program's entry: reads the configuration, everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use drover_agent::config::{self, EXIT_REFUSED, Request, Surroundings};
use drover_agent::doctor;

fn main() -> ExitCode {
    drover_os::signal::ignore_broken_pipes();
    if let Some(code) = doctor::command(std::env::args_os().skip(1)) {
        return code;
    }
    match config::read(std::env::args_os().skip(1), &Surroundings::here()) {
        Ok(Request::Print(text)) => {
            // A reader that has seen enough is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Request::Run(config)) => {
            drover_agent::logging::start(config.log.clone());
            if !config.coordinator.is_https() && !config.coordinator.is_loopback() {
                let url = &config.coordinator;
                tracing::warn!(
                    "{url} is not encrypted: whoever is on the way can read what proves who this agent is"
                );
            }
            drover_agent::run(*config)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "drover-agent: {error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}
