//! Agents: made by operators, or by themselves with a dynamic token.

use std::collections::HashSet;
use std::sync::Arc;

use drover_wire::client::{AgentSummary, NewAgent, NewToken, Secret};
use drover_wire::{AgentId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};
use uuid::Uuid;

use super::change::{AgentRow, Change};
use super::error::Error;
use super::list::{self, Phases};
use super::live::Live;
use super::secrets::{hash, keep_token, new_secret};
use super::{Farm, Tx, now, paths, sql, unsql};

const NAME_MAX: usize = 64;
const NOTE_MAX: usize = 1024;

impl Farm {
    /// Makes an agent, which has no password yet.
    ///
    /// # Errors
    /// When the name cannot be one, or is taken.
    pub async fn new_agent(&self, new: NewAgent) -> Result<AgentSummary, Error> {
        check_name(&new.name)?;
        let row = self
            .database
            .write(move |tx| match find(tx, &new.name)? {
                Some(_) => {
                    Err(Error::Conflict(format!("there is an agent with the name {} already", new.name)))
                }
                None => make(tx, &new.name, None, None),
            })
            .await?;
        tracing::info!(agent = row.name, uuid = %row.uuid, "agent made");
        Ok(AgentSummary {
            agent: row.uuid,
            name: row.name,
            online: false,
            seen_at: None,
            version: None,
            systems: Vec::new(),
            builtins: Vec::new(),
            accepting: 0,
            machine: drover_wire::agent::Machine::default(),
            hardware: None,
            builds: Vec::new(),
        })
    }

    /// One more password for an agent.
    ///
    /// # Errors
    /// When there is no such agent.
    pub async fn new_password(&self, agent: AgentId) -> Result<Secret, Error> {
        let secret = new_secret()?;
        let hash = hash(&secret);
        let name = self
            .database
            .write(move |tx| {
                let row = tx
                    .prepare_cached("SELECT id, uuid, name FROM agents WHERE uuid = ?1")?
                    .query_row([agent.0.as_bytes()], row)
                    .optional()?;
                let row = row.ok_or_else(|| Error::NotFound { what: "agent", name: agent.to_string() })?;
                tx.prepare_cached(
                    "INSERT INTO agent_passwords (hash, agent, created_at) VALUES (?1, ?2, ?3)",
                )?
                .execute((hash, row.id, sql(now())))?;
                Ok::<_, Error>(row.name)
            })
            .await?;
        tracing::info!(agent = name, "password made");
        Ok(Secret { secret })
    }

    /// A dynamic token, with which agents enrol themselves.
    ///
    /// # Errors
    /// When the note is too long.
    pub async fn new_agent_token(&self, new: NewToken) -> Result<Secret, Error> {
        if new.note.len() > NOTE_MAX {
            return Err(Error::BadRequest(format!("the note of a token may have {NOTE_MAX} bytes at most")));
        }
        let secret = new_secret()?;
        let kept = secret.clone();
        self.database.write(move |tx| keep_token(tx, &kept, "agent", &new.note)).await?;
        tracing::info!("token for agents made");
        Ok(Secret { secret })
    }

    /// All agents, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn agents(&self) -> Result<Vec<AgentSummary>, Error> {
        let live = Arc::clone(&self.live);
        self.database.read(move |sql| summaries(sql, &live)).await
    }
}

/// All agents, by name, with the builds that they hold.
pub(super) fn summaries(sql: &Connection, live: &Live) -> Result<Vec<AgentSummary>, Error> {
    let phases = Phases::of(live);
    saved(sql)?.into_iter().map(|saved| summary(sql, live, &phases, saved)).collect()
}

/// An agent as lists show it.
pub(super) fn summary(
    sql: &Connection,
    live: &Live,
    phases: &Phases,
    saved: Saved,
) -> Result<AgentSummary, Error> {
    const HELD: &str = "SELECT build FROM attempts WHERE agent = ?1 AND ended_at IS NULL ORDER BY lease";
    let view = live.view(saved.row.id);
    let builds = paths::numbers(sql, HELD, saved.row.id)?;
    Ok(AgentSummary {
        agent: saved.row.uuid,
        name: saved.row.name,
        online: view.online,
        seen_at: view.seen_at.or(saved.seen_at),
        version: saved.version,
        systems: saved.systems,
        builtins: saved.builtins,
        accepting: view.accepting,
        machine: view.machine,
        hardware: saved.hardware,
        builds: builds
            .into_iter()
            .map(|build| list::summary(sql, phases, build))
            .collect::<Result<_, _>>()?,
    })
}

/// An agent as the database has it.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) row: AgentRow,
    pub(super) seen_at: Option<Timestamp>,
    version: Option<String>,
    pub(super) systems: Vec<String>,
    pub(super) builtins: Vec<String>,
    hardware: Option<String>,
    here: bool,
}

/// All agents, by name.
pub(super) fn saved(sql: &Connection) -> Result<Vec<Saved>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT id, uuid, name, seen_at, version, systems, builtins, hardware, here FROM agents ORDER BY name",
    )?;
    let rows = statement.query_map([], |columns| {
        Ok(Saved {
            row: row(columns)?,
            seen_at: columns.get::<_, Option<i64>>(3)?.map(unsql),
            version: columns.get(4)?,
            systems: words(columns, 5)?,
            builtins: words(columns, 6)?,
            hardware: columns.get(7)?,
            here: columns.get(8)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn words(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    // The coordinator wrote them itself; a list that does not parse is that of an agent that says it again soon.
    Ok(serde_json::from_str(row.get_ref(column)?.as_str()?).unwrap_or_default())
}

/// The columns id, uuid, name.
pub(super) fn row(columns: &Row<'_>) -> rusqlite::Result<AgentRow> {
    Ok(AgentRow { id: columns.get(0)?, uuid: paths::agent_id(columns, 1)?, name: columns.get(2)? })
}

/// What makes all agents known, with what they build for.
pub(super) fn load(sql: &Connection) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    for saved in saved(sql)? {
        let platforms = platforms_of(sql, &saved.systems, &saved.builtins)?;
        changes.push(Change::Agent { row: saved.row, platforms, here: saved.here });
    }
    Ok(changes)
}

/// The platforms of these systems and builtins (without their prefix), which get numbers if they have none.
pub(super) fn platforms_of(
    sql: &Connection,
    systems: &[String],
    builtins: &[String],
) -> Result<HashSet<i64>, Error> {
    let mut platforms = HashSet::new();
    for system in systems {
        platforms.insert(paths::platform(sql, system)?);
    }
    for builtin in builtins {
        platforms.insert(paths::platform(sql, &format!("builtin:{builtin}"))?);
    }
    Ok(platforms)
}

/// The agent of that name, which a dynamic token speaks for: made by it, now or earlier.
pub(super) fn by_name(tx: &mut Tx<'_>, token: i64, name: &str) -> Result<AgentRow, Error> {
    check_name(name)?;
    match find(tx, name)? {
        Some(known) if known.token == Some(token) && known.hardware.is_none() => Ok(known.row),
        Some(known) if known.token == Some(token) => Err(Error::Forbidden(format!(
            "the agent {name} is that of a machine that enrolled itself, and speaks with its own password; a token alone \
             does not speak for it"
        ))),
        Some(_) => Err(taken(name)),
        None => {
            let row = make(tx, name, Some(token), None)?;
            tracing::info!(agent = row.name, uuid = %row.uuid, "agent enrolled itself");
            Ok(row)
        }
    }
}

/// The agent of a machine that has come with this token, or came with another one before: made now, if none is there, by this
/// name.
pub(super) fn by_hardware(
    tx: &mut Tx<'_>,
    token: i64,
    name: &str,
    hardware: &str,
) -> Result<AgentRow, Error> {
    let known = tx
        .prepare_cached("SELECT id, uuid, name FROM agents WHERE hardware = ?1")?
        .query_row([hardware], row)
        .optional()?;
    if let Some(known) = known {
        tx.prepare_cached("UPDATE agents SET token = ?2 WHERE id = ?1")?.execute((known.id, token))?;
        return Ok(known);
    }
    check_name(name)?;
    if find(tx, name)?.is_some() {
        return Err(taken(name));
    }
    make(tx, name, Some(token), Some(hardware))
}

fn taken(name: &str) -> Error {
    Error::Forbidden(format!(
        "the name {name} is taken: that agent was made otherwise, or for another machine; choose another name"
    ))
}

/// An agent that was found by its name.
struct Known {
    row: AgentRow,
    token: Option<i64>,
    hardware: Option<String>,
}

fn find(sql: &Connection, name: &str) -> Result<Option<Known>, Error> {
    let mut select =
        sql.prepare_cached("SELECT id, uuid, name, token, hardware FROM agents WHERE name = ?1")?;
    let known = |columns: &Row<'_>| {
        Ok(Known { row: row(columns)?, token: columns.get(3)?, hardware: columns.get(4)? })
    };
    Ok(select.query_row([name], known).optional()?)
}

fn make(tx: &mut Tx<'_>, name: &str, token: Option<i64>, hardware: Option<&str>) -> Result<AgentRow, Error> {
    let uuid = AgentId(Uuid::new_v4());
    let id = tx
        .prepare_cached(
            "INSERT INTO agents (uuid, name, token, hardware, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .insert((uuid.0.as_bytes(), name, token, hardware, sql(now())))?;
    let row = AgentRow { id, uuid, name: name.to_owned() };
    tx.note(Change::Agent { row: row.clone(), platforms: HashSet::new(), here: false });
    Ok(row)
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(fits) {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_MAX).collect();
    Err(Error::BadRequest(format!(
        "“{shown}” cannot be an agent's name: 1 to {NAME_MAX} characters out of letters, digits, “.”, “_” and “-”"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "sparky-2.example_org", &"x".repeat(64)] {
            check_name(good).unwrap();
        }
        for bad in ["", "a b", "ü", "a/b", &"x".repeat(65)] {
            assert!(matches!(check_name(bad), Err(Error::BadRequest(_))), "{bad}");
        }
    }
}
