//! Who would build.

use drover_os::sandbox;

use super::{Finding, Glance, Outcome};
use crate::config::ExecutorKind;
use crate::executor::daemon::DaemonExecutor;
use crate::executor::{Executor, HAS_SANDBOX};

pub(super) fn examine(glance: &Glance) -> Outcome {
    let choice = glance.config.executor;
    let why = choice.why;
    let works = match choice.kind {
        ExecutorKind::Daemon => daemon(glance),
        ExecutorKind::Sandbox if HAS_SANDBOX => sandbox::available()
            .map(|()| "a sandbox of the agent's own".to_owned())
            .map_err(|error| error.to_string()),
        ExecutorKind::Sandbox => Err("this system has nothing to make a sandbox of".into()),
    };
    match works {
        Ok(what) => Ok(Finding::Works(format!("{what} ({why}); for {}", glance.config.systems.join(", ")))),
        Err(error) => Err(format!("{}: {error} ({why})", choice.kind)),
    }
}

fn daemon(glance: &Glance) -> Result<String, String> {
    let socket = &glance.config.daemon_socket;
    let builtins = DaemonExecutor::new(socket.clone()).builtins().map_err(|error| error.to_string())?;
    Ok(match &builtins[..] {
        [] => format!("the guix-daemon at {socket} answers"),
        some => format!("the guix-daemon at {socket} answers; it has {}", some.join(", ")),
    })
}
