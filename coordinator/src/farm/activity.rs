//! What goes on in the farm, at a glance: one look at the database for all of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::agent::Machine;
use drover_wire::client::BuildSummary;
use drover_wire::{AgentId, BuildId, Phase, Timestamp};
use rusqlite::Connection;

use super::error::Error;
use super::list::{self, Phases};
use super::queue::{self, Count};
use super::{Farm, agents, paths, unsql};

/// How many of those that ended last, and of those that come next.
const FEW: usize = 12;

/// What goes on.
#[derive(Debug)]
pub struct Activity {
    /// How many builds there are, by state and system.
    pub counts: Vec<Count>,
    /// All agents: those that are there, and then those that are not, by name.
    pub agents: Vec<Worker>,
    /// What ended last, the newest first.
    pub ended: Vec<BuildSummary>,
    /// What is ready for one of the agents that are there, in the order in which it will go.
    pub next: Vec<BuildSummary>,
}

/// An agent, with what it does.
#[derive(Debug)]
pub struct Worker {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Whether it has been heard of within the lease time.
    pub online: bool,
    /// When it was last heard of.
    pub seen_at: Option<Timestamp>,
    /// The systems that it said it builds for.
    pub systems: Vec<String>,
    /// How many builds it wants to hold now.
    pub accepting: u32,
    /// What its machine does.
    pub machine: Machine,
    /// The builds that it holds, the oldest first.
    pub tasks: Vec<Task>,
}

/// A build that an agent holds.
#[derive(Debug)]
pub struct Task {
    /// The build.
    pub build: BuildId,
    /// Its derivation.
    pub derivation: StorePath,
    /// What the agent does with it.
    pub phase: Option<Phase>,
    /// Since when the agent has it.
    pub allocated_at: Timestamp,
    /// When the builder was first seen to run.
    pub started_at: Option<Timestamp>,
}

impl Farm {
    /// What goes on.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn activity(&self) -> Result<Activity, Error> {
        let live = Arc::clone(&self.live);
        self.database
            .read(move |sql| {
                let phases = Phases::of(&live);
                let mut tasks = tasks(sql, &phases)?;
                let (mut systems, mut builtins) = (BTreeSet::new(), BTreeSet::new());
                let mut agents: Vec<Worker> = Vec::new();
                for saved in agents::saved(sql)? {
                    let view = live.view(saved.row.id);
                    if view.online {
                        systems.extend(saved.systems.iter().cloned());
                        builtins.extend(saved.builtins);
                    }
                    agents.push(Worker {
                        agent: saved.row.uuid,
                        name: saved.row.name,
                        online: view.online,
                        seen_at: view.seen_at.or(saved.seen_at),
                        systems: saved.systems,
                        accepting: view.accepting,
                        machine: view.machine,
                        tasks: tasks.remove(&saved.row.id).unwrap_or_default(),
                    });
                }
                // Most agents build for the same few.
                let (systems, builtins): (Vec<_>, Vec<_>) =
                    (systems.into_iter().collect(), builtins.into_iter().collect());
                let platforms: Vec<i64> =
                    agents::platforms_of(sql, &systems, &builtins)?.into_iter().collect();
                agents.sort_by_key(|agent| !agent.online);
                let all = |ids: Vec<i64>| -> Result<_, Error> {
                    ids.into_iter().map(|id| list::summary(sql, &phases, id)).collect()
                };
                Ok(Activity {
                    counts: queue::counts(sql)?,
                    agents,
                    ended: all(ended(sql)?)?,
                    next: all(queue::next(sql, &platforms, FEW)?)?,
                })
            })
            .await
    }
}

/// What agents hold, by the agents' numbers.
fn tasks(sql: &Connection, phases: &Phases) -> Result<HashMap<i64, Vec<Task>>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT a.agent, b.uuid, p.base, a.allocated_at, a.started_at \
         FROM attempts a INDEXED BY attempts_open_by_agent JOIN builds b ON b.id = a.build \
         JOIN paths p ON p.id = b.derivation WHERE a.ended_at IS NULL ORDER BY a.agent, a.lease",
    )?;
    let mut rows = statement.query([])?;
    let mut tasks: HashMap<i64, Vec<Task>> = HashMap::new();
    while let Some(row) = rows.next()? {
        let build = paths::build_id(row, 1)?;
        let task = Task {
            build,
            derivation: paths::base(row, 2)?,
            phase: phases.of_build(build),
            allocated_at: unsql(row.get(3)?),
            started_at: row.get::<_, Option<i64>>(4)?.map(unsql),
        };
        tasks.entry(row.get(0)?).or_default().push(task);
    }
    Ok(tasks)
}

/// The numbers of the builds that ended last. One whose dependency failed may go on: it has not ended.
fn ended(sql: &Connection) -> Result<Vec<i64>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT id FROM builds WHERE ended_at IS NOT NULL AND state <> 'dependency-failed' \
         ORDER BY ended_at DESC LIMIT ?1",
    )?;
    let rows = statement.query_map([FEW as i64], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
