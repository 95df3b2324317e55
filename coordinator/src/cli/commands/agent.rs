//! `drover agent …`

use drover_wire::client::AgentSummary;

use crate::cli::out::Out;
use crate::cli::table::{Column, Table};
use crate::cli::text::{ago, clean, now, size};
use crate::cli::{AgentArgs, AgentCommand, Exit, PasswordCommand, TokenCommand};
use crate::client::{ClientError, agents};

pub(in crate::cli) fn run(args: &AgentArgs, out: &mut Out) -> Result<Exit, ClientError> {
    match (&args.command, args.agent) {
        (AgentCommand::Password { command: PasswordCommand::New }, Some(agent)) => {
            let secret = agents::new_password(&args.connection.coordinator()?, agent)?;
            out.value(&secret, |out| out.line(&secret.secret))?;
        }
        (AgentCommand::Password { .. }, None) => {
            return Err(ClientError::Usage(
                "whose password? Say it as in: drover agent UUID password new (drover agent list has the UUIDs)"
                    .to_owned(),
            ));
        }
        (_, Some(agent)) => {
            return Err(ClientError::Usage(format!(
                "only password is about one agent; leave {agent} out, or say: drover agent {agent} password new"
            )));
        }
        (AgentCommand::New { name }, None) => {
            let agent = agents::create(&args.connection.coordinator()?, name)?;
            out.value(&agent, |out| out.line(agent.agent.to_string()))?;
        }
        (AgentCommand::List, None) => {
            let agents = agents::list(&args.connection.coordinator()?)?;
            if out.is_json() {
                agents.iter().try_for_each(|agent| out.json(agent))?;
            } else {
                out.table(&table(&agents))?;
            }
        }
        (AgentCommand::Token { command: TokenCommand::New { note } }, None) => {
            let secret = agents::new_token(&args.connection.coordinator()?, note)?;
            out.value(&secret, |out| out.line(&secret.secret))?;
        }
    }
    Ok(Exit::Success)
}

fn table(agents: &[AgentSummary]) -> Table {
    let mut table = Table::new(&[
        Column::new("AGENT"),
        Column::new("NAME"),
        Column::new("SEEN"),
        Column::new("BUILDS").right(),
        Column::new("LOAD").right().dispensable(1),
        Column::new("STORE FREE").right().dispensable(2),
        Column::new("VERSION").dispensable(3),
        Column::new("SYSTEMS"),
    ]);
    let now = now();
    for agent in agents {
        let seen = match agent.seen_at {
            None => "never".to_owned(),
            Some(_) if agent.online => "online".to_owned(),
            Some(at) => ago(at, now),
        };
        table.row([
            agent.agent.to_string(),
            clean(&agent.name).into_owned(),
            seen,
            format!("{}/{}", agent.builds.len(), agent.accepting),
            agent.machine.load_1min.map_or_else(|| "-".to_owned(), |load| format!("{load:.1}")),
            agent.machine.store_free.map_or_else(|| "-".to_owned(), size),
            agent.version.as_deref().map_or_else(|| "-".into(), clean).into_owned(),
            clean(&agent.systems.join(" ")).into_owned(),
        ]);
    }
    table
}
