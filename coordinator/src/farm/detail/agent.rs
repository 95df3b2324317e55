//! An agent, with its last tries.

use std::collections::BTreeMap;
use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::client::{AgentSummary, Attempt};
use drover_wire::{AgentId, BuildId, BuildState, Timestamp};
use rusqlite::{Connection, OptionalExtension};

use crate::farm::error::Error;
use crate::farm::list::Phases;
use crate::farm::live::Live;
use crate::farm::{Farm, agents, paths, unsql};

/// How many tries are told at a time, and of how many it is counted how they ended.
const TRIES: i64 = 50;
const COUNTED: i64 = 1000;

/// An agent.
#[derive(Debug, Clone)]
pub struct AgentDetails {
    /// What a list shows.
    pub summary: AgentSummary,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its tries.
    pub tries: AgentTries,
    /// How its last thousand tries that have ended did, by their outcome.
    pub outcomes: BTreeMap<String, u64>,
}

/// Tries of an agent.
#[derive(Debug, Clone)]
pub struct AgentTries {
    /// The newest first.
    pub tries: Vec<Try>,
    /// From where on there are more.
    pub more: Option<u64>,
}

/// A try at a build by an agent.
#[derive(Debug, Clone)]
pub struct Try {
    /// The try.
    pub attempt: Attempt,
    /// The build.
    pub build: BuildId,
    /// Its derivation.
    pub derivation: StorePath,
    /// The state that the build has now.
    pub state: BuildState,
}

impl Farm {
    /// An agent, by its UUID or its name, with its tries before one, or its last ones.
    ///
    /// # Errors
    /// When there is no such agent.
    pub async fn agent(self: &Arc<Self>, named: String, before: Option<u64>) -> Result<AgentDetails, Error> {
        let farm = Arc::clone(self);
        self.database.read(move |sql| agent(sql, &farm, named, before)).await
    }
}

fn agent(sql: &Connection, farm: &Farm, named: String, before: Option<u64>) -> Result<AgentDetails, Error> {
    const FIND: &str = "SELECT id, created_at FROM agents WHERE uuid = ?1 OR name = ?2";
    let uuid = named.parse::<AgentId>().ok().map(|uuid| uuid.0.as_bytes().to_vec());
    let found: Option<(i64, i64)> = sql
        .prepare_cached(FIND)?
        .query_row((uuid, &named), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let saved = agents::saved(sql)?;
    let found =
        found.and_then(|(id, made)| Some((saved.into_iter().find(|saved| saved.row.id == id)?, made)));
    let Some((saved, made)) = found else { return Err(Error::NotFound { what: "agent", name: named }) };
    let id = saved.row.id;
    Ok(AgentDetails {
        summary: agents::summary(sql, &farm.live, &Phases::of(&farm.live), saved)?,
        created_at: unsql(made),
        tries: tries(sql, &farm.live, id, before)?,
        outcomes: outcomes(sql, id)?,
    })
}

fn tries(sql: &Connection, live: &Live, agent: i64, before: Option<u64>) -> Result<AgentTries, Error> {
    const TRIES_OF: &str = "SELECT t.lease, t.number, a.name, t.allocated_at, t.started_at, t.ended_at, t.outcome, \
             t.step, t.message, t.log_size, b.uuid, p.base, b.state \
         FROM attempts t CROSS JOIN agents a ON a.id = t.agent CROSS JOIN builds b ON b.id = t.build \
         CROSS JOIN paths p ON p.id = b.derivation \
         WHERE t.agent = ?1 AND t.lease < ?2 ORDER BY t.lease DESC LIMIT ?3";
    let before = before.map_or(i64::MAX, crate::farm::sql);
    let mut statement = sql.prepare_cached(TRIES_OF)?;
    let mut rows = statement.query((agent, before, TRIES + 1))?;
    let (mut tries, mut more) = (Vec::new(), None);
    let mut last = None;
    while let Some(row) = rows.next()? {
        if tries.len() as i64 == TRIES {
            more = last;
            break;
        }
        last = Some(unsql(row.get(0)?));
        let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(unsql));
        let step: Option<String> = row.get(7)?;
        let (build, number) = (paths::build_id(row, 10)?, row.get(1)?);
        let ended_at = time(5)?;
        let growing = match ended_at {
            None => live.lease_of(build).filter(|lease| lease.attempt == number),
            Some(_) => None,
        };
        let log_size = growing.map_or(unsql(row.get(9)?), |lease| lease.log().length().borrow().bytes);
        tries.push(Try {
            attempt: Attempt {
                number,
                agent: row.get(2)?,
                allocated_at: unsql(row.get(3)?),
                started_at: time(4)?,
                ended_at,
                outcome: row.get(6)?,
                step: step.and_then(|step| serde_json::from_value(step.into()).ok()),
                message: row.get(8)?,
                log_size,
            },
            build,
            derivation: paths::base(row, 11)?,
            state: paths::state(row, 12)?,
        });
    }
    Ok(AgentTries { tries, more })
}

fn outcomes(sql: &Connection, agent: i64) -> Result<BTreeMap<String, u64>, Error> {
    const OUTCOMES: &str = "SELECT outcome, count(*) FROM (SELECT outcome FROM attempts \
         WHERE agent = ?1 ORDER BY lease DESC LIMIT ?2) WHERE outcome IS NOT NULL GROUP BY outcome";
    let mut statement = sql.prepare_cached(OUTCOMES)?;
    let rows = statement.query_map((agent, COUNTED), |row| Ok((row.get(0)?, unsql(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
