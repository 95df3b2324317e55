//! Tries that end without ending their build.

use std::time::Duration;

use drover_wire::agent::SetupStep;
use drover_wire::event::{Detail, EventKind};
use drover_wire::{BuildState, LeaseId};
use rusqlite::OptionalExtension;
use serde::Serialize;

use super::change::Change;
use super::error::Error;
use super::events::{self, Subject};
use super::numbers::Fact;
use super::{Tx, depend, now, paths, sql, unsql, wants};

/// The longest that an agent is kept from a build that it could not set up.
const LONGEST_MS: u64 = 5 * 60 * 1000;
/// The shortest; it doubles each time.
const SHORTEST_MS: u64 = 2 * 1000;

/// The most letters of a reason that an event has.
const WHY: usize = 300;

/// The outcomes of tries whose builder has run.
const RAN: [&str; 3] = ["succeeded", "failed", "timed-out"];

/// How a try ended.
#[derive(Debug, Default)]
pub(super) struct Outcome<'a> {
    /// A report's outcome, or `lease-lost`.
    pub(super) word: &'static str,
    /// The step of the setup that failed.
    pub(super) step: Option<SetupStep>,
    /// What the agent said.
    pub(super) message: Option<&'a str>,
    /// What is answered to the agent; none if it did not report.
    pub(super) answer: Option<BuildState>,
    /// The bytes of its log.
    pub(super) log_size: u64,
}

/// Ends a try, and with it the lease.
pub(super) fn close(tx: &mut Tx<'_>, lease: i64, outcome: &Outcome<'_>) -> Result<(), Error> {
    let now = sql(now());
    let closed: Option<(i64, String)> = tx
        .prepare_cached(
            "UPDATE attempts SET ended_at = ?2, outcome = ?3, step = ?4, message = ?5, answer = ?6, log_size = ?7 \
             WHERE lease = ?1 AND ended_at IS NULL RETURNING coalesce(started_at, allocated_at), \
             (SELECT p.name FROM builds b JOIN platforms p ON p.id = b.platform WHERE b.id = build)",
        )?
        .query_row(
            (
                lease,
                now,
                outcome.word,
                outcome.step.as_ref().map(word),
                outcome.message,
                outcome.answer.map(BuildState::as_str),
                sql(outcome.log_size),
            ),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    tx.note(Change::Closed(LeaseId(unsql(lease))));
    let Some((started, system)) = closed else { return Ok(()) };
    tx.note(Change::Measured(Fact::Closed { outcome: outcome.word }));
    if RAN.contains(&outcome.word) {
        let time = Duration::from_millis(unsql(now.saturating_sub(started)));
        tx.note(Change::Measured(Fact::Built { system, outcome: outcome.word, time }));
    }
    Ok(())
}

/// A unit variant as the word that it is on the wire.
pub(super) fn word(value: &impl Serialize) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Some(word),
        _ => None,
    }
}

/// A build goes back to the queue, unless it has ended or nobody wants it any more; gives its state. Why is told to those
/// who read events.
pub(super) fn back(tx: &mut Tx<'_>, build: i64, why: &str) -> Result<BuildState, Error> {
    type Columns = (BuildState, i64, i64, i64, Option<i64>);
    let (state, missing, platform, target, agent): Columns = tx
        .prepare_cached("SELECT state, missing, platform, target, agent FROM builds WHERE id = ?1")?
        .query_row([build], |row| {
            Ok((paths::state(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
    if !matches!(state, BuildState::Allocated | BuildState::Running) {
        return Ok(state);
    }
    let state = if missing == 0 { BuildState::Ready } else { BuildState::Waiting };
    let ready_at = (state == BuildState::Ready).then(|| sql(now()));
    tx.prepare_cached(
        "UPDATE builds SET state = ?2, started_at = NULL, agent = NULL, ready_at = ?3 WHERE id = ?1",
    )?
    .execute((build, state.as_str(), ready_at))?;
    let subject = agent.map_or(Subject::Build(build), |agent| Subject::GivenBack(build, agent));
    let text = Some(why.chars().take(WHY).collect());
    events::note_with(tx, EventKind::BuildRequeued, subject, &Detail { text, ..Detail::default() })?;
    if wants::gone(tx, [target])? > 0 {
        return Ok(BuildState::Canceled);
    }
    if state == BuildState::Ready {
        tx.note(Change::Requeued { platform });
        return Ok(state);
    }
    depend::wait_again(tx, build)
}

/// Keeps an agent from a build for a while that grows each time.
pub(super) fn avoid(tx: &Tx<'_>, build: i64, agent: i64) -> Result<(), Error> {
    let times: u32 = tx
        .prepare_cached(
            "INSERT INTO avoided (build, agent, until, times) VALUES (?1, ?2, 0, 1) \
             ON CONFLICT (build, agent) DO UPDATE SET times = times + 1 RETURNING times",
        )?
        .query_row([build, agent], |row| row.get(0))?;
    let wait = SHORTEST_MS.saturating_mul(1 << times.clamp(1, 20).saturating_sub(1)).min(LONGEST_MS);
    tx.prepare_cached("UPDATE avoided SET until = ?3 WHERE build = ?1 AND agent = ?2")?.execute((
        build,
        agent,
        sql(now().saturating_add(wait)),
    ))?;
    Ok(())
}

/// A lease is lost: its try ends, and its build goes back to the queue.
pub(super) fn lose(tx: &mut Tx<'_>, lease: i64, log_size: u64, message: &str) -> Result<(), Error> {
    let build: i64 = tx
        .prepare_cached("SELECT build FROM attempts WHERE lease = ?1")?
        .query_row([lease], |row| row.get(0))?;
    close(
        tx,
        lease,
        &Outcome { word: "lease-lost", message: Some(message), log_size, ..Outcome::default() },
    )?;
    back(tx, build, message)?;
    Ok(())
}
