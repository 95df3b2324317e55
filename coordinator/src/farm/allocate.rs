//! Who builds what: the most urgent builds that are ready go to the agent that asks.

use std::cmp::Reverse;
use std::time::Duration;

use drover_store::StorePath;
use drover_wire::agent::Allocation;
use drover_wire::event::EventKind;
use drover_wire::{BuildId, LeaseId};

use super::change::{AgentRow, Change, Opened};
use super::error::Error;
use super::events::{self, Subject};
use super::numbers::{Fact, Waited};
use super::{Tx, now, paths, sql, unsql};

/// A ready build.
struct Candidate {
    build: i64,
    priority: i64,
    platform: i64,
}

/// Gives the agent as many builds as it accepts, and notes them; those it holds count.
pub(super) fn allocate(
    tx: &mut Tx<'_>,
    agent: &AgentRow,
    platforms: &[i64],
    accepting: u32,
) -> Result<Vec<Allocation>, Error> {
    let held: i64 = tx
        .prepare_cached("SELECT count(*) FROM attempts WHERE agent = ?1 AND ended_at IS NULL")?
        .query_row([agent.id], |row| row.get(0))?;
    let free = i64::from(accepting).saturating_sub(held);
    if free <= 0 {
        return Ok(Vec::new());
    }
    let mut candidates = Vec::new();
    for platform in platforms {
        candidates.extend(ready(tx, agent.id, *platform, free)?);
    }
    candidates.sort_unstable_by_key(|candidate| (Reverse(candidate.priority), candidate.build));
    candidates.truncate(usize::try_from(free).unwrap_or(usize::MAX));
    candidates.into_iter().map(|candidate| open(tx, agent, &candidate)).collect()
}

/// The first builds in the queue of a platform that this agent may have.
fn ready(tx: &Tx<'_>, agent: i64, platform: i64, most: i64) -> Result<Vec<Candidate>, Error> {
    let mut statement = tx.prepare_cached(
        "SELECT b.id, b.priority FROM builds b WHERE b.platform = ?1 AND b.state = 'ready' \
         AND NOT EXISTS (SELECT 1 FROM avoided a WHERE a.build = b.id AND a.agent = ?2 AND a.until > ?3) \
         ORDER BY b.priority DESC, b.id LIMIT ?4",
    )?;
    let rows = statement.query_map((platform, agent, sql(now()), most), |row| {
        Ok(Candidate { build: row.get(0)?, priority: row.get(1)?, platform })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Opens a lease.
fn open(tx: &mut Tx<'_>, agent: &AgentRow, candidate: &Candidate) -> Result<Allocation, Error> {
    type Columns = (BuildId, StorePath, Option<i64>, Option<i64>, Waited);
    let now = sql(now());
    let since = |then: i64| Duration::from_millis(unsql(now.saturating_sub(then)));
    let (build, derivation, timeout, max_silent_time, mut waited): Columns = tx
        .prepare_cached(
            "UPDATE builds SET state = 'allocated', agent = ?2 WHERE id = ?1 \
             RETURNING uuid, (SELECT base FROM paths WHERE id = derivation), timeout, max_silent_time, \
             (SELECT name FROM platforms WHERE id = platform), submitted_at, ready_at",
        )?
        .query_row((candidate.build, agent.id), |row| {
            let waited = Waited {
                system: row.get(4)?,
                since_submission: Some(since(row.get(5)?)),
                since_ready: row.get::<_, Option<i64>>(6)?.map(since),
            };
            Ok((paths::build_id(row, 0)?, paths::base(row, 1)?, row.get(2)?, row.get(3)?, waited))
        })?;
    let (lease, number): (i64, u32) = tx
        .prepare_cached(
            "INSERT INTO attempts (build, number, agent, allocated_at) \
             VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM attempts WHERE build = ?1), ?2, ?3) \
             RETURNING lease, number",
        )?
        .query_row((candidate.build, agent.id, now), |row| Ok((row.get(0)?, row.get(1)?)))?;
    if number > 1 {
        waited.since_submission = None;
    }
    let allocation = Allocation {
        lease: LeaseId(unsql(lease)),
        build,
        derivation,
        priority: candidate.priority,
        timeout: timeout.map(unsql),
        max_silent_time: max_silent_time.map(unsql),
    };
    events::note(tx, EventKind::BuildAllocated, Subject::Build(candidate.build), None)?;
    tx.note(Change::Opened(Box::new(Opened {
        allocation: allocation.clone(),
        agent: agent.id,
        agent_name: agent.name.clone(),
        attempt: number,
        build: candidate.build,
        platform: candidate.platform,
        started: false,
        phase: None,
        canceled: false,
        log_size: 0,
    })));
    tx.note(Change::Measured(Fact::Allocated(waited)));
    Ok(allocation)
}
