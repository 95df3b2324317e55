//! Agents, their passwords and tokens.

use drover_wire::AgentId;
use drover_wire::client::{AgentSummary, NewAgent, NewToken, Secret};
use drover_wire::route::clients;

use super::{ClientError, Coordinator};

/// Every agent.
///
/// # Errors
/// A refusal or an unreachable coordinator, here and below.
pub fn list(coordinator: &Coordinator) -> Result<Vec<AgentSummary>, ClientError> {
    coordinator.ask("listing agents", &clients::AGENTS, &[])
}

/// A new agent of this name.
///
/// # Errors
/// As [`list`]; the name is taken or is none.
pub fn create(coordinator: &Coordinator, name: &str) -> Result<AgentSummary, ClientError> {
    let agent = NewAgent { name: name.to_owned() };
    coordinator.tell(&format!("creating the agent {name}"), &clients::NEW_AGENT, &[], &agent)
}

/// One more password for this agent.
///
/// # Errors
/// As [`list`]; there is no such agent.
pub fn new_password(coordinator: &Coordinator, agent: AgentId) -> Result<Secret, ClientError> {
    coordinator.ask(&format!("making a password for the agent {agent}"), &clients::PASSWORD, &[&agent])
}

/// A token with which agents enrol themselves.
///
/// # Errors
/// As [`list`].
pub fn new_token(coordinator: &Coordinator, note: &str) -> Result<Secret, ClientError> {
    let token = NewToken { note: note.to_owned() };
    coordinator.tell("making a token for agents", &clients::AGENT_TOKEN, &[], &token)
}
