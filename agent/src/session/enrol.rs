//! A machine that enrols itself: it has a password made for it once, and keeps that in the state folder.

use std::io;
use std::path::{Path, PathBuf};

use drover_os::file::{self, Access};
use drover_os::signal::{Stage, Stop};
use drover_store::hash::Sha256Hash;
use drover_wire::AgentId;
use drover_wire::agent::Enrolment;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Credentials, Secret};
use crate::coordinator::{self, Coordinator};
use crate::json;
use crate::retry::{self, Pauses};

const FILE: &str = "enrolled.json";

/// Why a machine is no agent.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The coordinator does not want it.
    #[error("the coordinator does not enrol this machine: {0}")]
    Refused(#[source] coordinator::Error),
    /// What it answered cannot be kept.
    #[error("keep the password that this machine enrolled with: {0}; see --state-dir")]
    Keep(#[source] io::Error),
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// By which configuration: with another coordinator or token, or on other hardware, it counts for nothing.
    by: String,
    agent: AgentId,
    password: String,
}

/// The credentials that an agent speaks with: those of the configuration, or those that it enrols for. None when it is
/// stopped before it has any.
pub(super) fn credentials(config: &Config, stop: &Stop) -> Result<Option<Credentials>, EnrolError> {
    let Credentials::Token { name, token, hardware: Some(hardware) } = &config.credentials else {
        return Ok(Some(config.credentials.clone()));
    };
    let by = Sha256Hash::of(format!("{}\n{}\n{hardware}", config.coordinator, token.expose()).as_bytes());
    let by = by.to_string();
    let file = place(&config.state_dir);
    if let Some(kept) = read(&file).filter(|kept| kept.by == by) {
        return Ok(own(kept.agent, &kept.password));
    }
    let coordinator = Coordinator::new(config);
    let enrolment = Enrolment { hardware: hardware.clone() };
    let what = "enrol this machine";
    let enrolled = match retry::until_it_works(what, stop, Stage::Drain, Pauses::default(), || {
        coordinator.enrol(&enrolment)
    }) {
        Ok(enrolled) => enrolled,
        Err(_) if stop.is_requested() => return Ok(None),
        Err(error) => return Err(EnrolError::Refused(error)),
    };
    let kept = Kept { by, agent: enrolled.agent, password: enrolled.password };
    let text = serde_json::to_vec(&kept).map_err(|error| EnrolError::Keep(error.into()))?;
    file::replace(&file, &text, Access::Private).map_err(EnrolError::Keep)?;
    let given = enrolled.name.chars().filter(|c| !c.is_control()).collect::<String>();
    if given == *name {
        tracing::info!("this machine, {hardware}, enrolled as {given}");
    } else {
        tracing::info!(
            "this machine, {hardware}, enrolled as {given}, the name that it came with first; {name} is not used"
        );
    }
    Ok(own(kept.agent, &kept.password))
}

/// Forgets what was kept, which the coordinator does not accept, and says so; whether there was something.
pub(super) fn forget(state_dir: &Path) -> bool {
    let forgotten = std::fs::remove_file(place(state_dir)).is_ok();
    if forgotten {
        tracing::warn!(
            "the password that this machine enrolled with is not accepted any more: the same machine enrolled itself anew since, \
             or somebody in its place, or the coordinator has lost it; it is forgotten, and the next start enrols anew"
        );
    }
    forgotten
}

fn place(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn own(agent: AgentId, password: &str) -> Option<Credentials> {
    // A coordinator's passwords are digits.
    let password = Secret::new(password).ok()?;
    Some(Credentials::Password { uuid: agent.0, password })
}

/// What cannot be read is as good as nothing: the machine enrols itself anew.
fn read(file: &Path) -> Option<Kept> {
    json::read(&mut std::fs::File::open(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use drover_wire::agent::Enrolled;

    use super::*;
    use crate::config::{self, Request, Surroundings};
    use crate::http::testing::{Exchange, Server};

    fn config(url: &str, state: &Path, hardware: &str) -> Config {
        let state = state.to_str().unwrap();
        let words = ["--coordinator", url, "--state-dir", state, "--dynamic-auth-token=t", "--name=board"];
        let hardware = format!("--hardware={hardware}");
        let words = words.into_iter().chain([&*hardware]).map(Into::into);
        match config::read(words, &Surroundings::here()).unwrap() {
            Request::Run(config) => *config,
            Request::Print(text) => panic!("{text}"),
        }
    }

    /// A coordinator that gives each enrolment the next number as its password, and counts them.
    fn server() -> (Server, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counting = Arc::clone(&count);
        let server = Server::start(move |mut exchange: Exchange<'_>| {
            let enrolment: Enrolment = serde_json::from_slice(&exchange.body().unwrap()).unwrap();
            assert_eq!((&*exchange.target, exchange.header("authorization")), ("POST /v1/enrol", "Bearer t"));
            let number = counting.fetch_add(1, Ordering::SeqCst) + 1;
            let agent = AgentId(uuid::Uuid::from_u128(enrolment.hardware.len() as u128));
            let enrolled = Enrolled { agent, name: "board".to_owned(), password: number.to_string() };
            exchange.respond(200, "", &serde_json::to_vec(&enrolled).unwrap());
        });
        (server, count)
    }

    #[track_caller]
    fn password(config: &Config) -> String {
        match credentials(config, &Stop::new().unwrap()).unwrap().unwrap() {
            Credentials::Password { password, .. } => password.expose().to_owned(),
            Credentials::Token { .. } => panic!("a token"),
        }
    }

    #[test]
    fn a_machine_enrols_once_and_again_when_it_has_forgotten_or_is_another() {
        let (state, (server, count)) = (tempfile::tempdir().unwrap(), server());
        let board = config(server.url(), state.path(), "serial:1");
        assert_eq!((password(&board), password(&board)), ("1".to_owned(), "1".to_owned()));
        assert!(forget(state.path()));
        assert_eq!(password(&board), "2");
        // Its disk came to another machine.
        let other = config(server.url(), state.path(), "serial:22");
        assert_eq!(password(&other), "3");
        // What is there was torn.
        std::fs::write(place(state.path()), "{\"by\":\"").unwrap();
        assert_eq!((password(&other), password(&other)), ("4".to_owned(), "4".to_owned()));
        assert_eq!(count.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn who_has_a_token_and_no_hardware_speaks_with_the_token() {
        let state = tempfile::tempdir().unwrap();
        let mut config = config("http://localhost:1", state.path(), "x");
        if let Credentials::Token { hardware, .. } = &mut config.credentials {
            *hardware = None;
        }
        let found = credentials(&config, &Stop::new().unwrap()).unwrap();
        assert!(matches!(found, Some(Credentials::Token { .. })), "{found:?}");
        assert!(!forget(state.path()));
    }
}
