//! What failed is built again, on another agent.

use std::time::Duration;

use drover_wire::BuildState;
use drover_wire::hook::HookKind;
use rusqlite::OptionalExtension;

use super::failure::Failure;
use super::queue::{self, Run};
use crate::farm::change::Change;
use crate::farm::error::Error;
use crate::farm::events::{Kind, Subject};
use crate::farm::plan::{self, Plan};
use crate::farm::{Farm, Tx, depend, now, paths, sql, submit, unsql, wants};

pub(super) fn run(
    farm: &Farm,
    run: &Run,
    times: u32,
    timeouts: bool,
    other_agents: Duration,
) -> Result<(), Failure> {
    let Some(build) = run.build else { return Ok(()) };
    let again = farm
        .database
        .write_alone_blocking::<_, Error>(move |tx| again(tx, build, times, timeouts, other_agents))?;
    if again {
        tracing::info!(build, "what failed is built again");
    }
    Ok(())
}

/// Has the hook look again at builds that failed and are wanted: it may have left them because nobody wanted them then.
pub(in crate::farm) fn reconsider(
    tx: &mut Tx<'_>,
    failed: impl IntoIterator<Item = i64>,
) -> Result<(), Error> {
    let name = HookKind::Retry.as_str();
    let mut on = None;
    for build in failed {
        let on = match on {
            Some(on) => on,
            None => *on.insert(queue::is_on(tx, name)?),
        };
        if on {
            queue::enqueue(tx, name, Kind::BuildFailure, Subject::Build(build), None)?;
        }
    }
    Ok(())
}

/// A build that failed.
struct Failed {
    derivation: i64,
    target: i64,
    state: BuildState,
    asked: Option<i64>,
    timeout: Option<u64>,
    max_silent_time: Option<u64>,
    retries: u32,
}

/// Makes a new build in the place of one that failed, unless there is one, or nobody wants it any more. It is wanted by
/// the same, and left for a while to agents that have not failed it.
fn again(
    tx: &mut Tx<'_>,
    build: i64,
    times: u32,
    timeouts: bool,
    other_agents: Duration,
) -> Result<bool, Error> {
    let Some(failed) = failed(tx, build)? else { return Ok(false) };
    let counts = match failed.state {
        BuildState::Failed => true,
        BuildState::TimedOut => timeouts,
        _ => false,
    };
    if !counts || failed.retries >= times {
        return Ok(false);
    }
    let newest = plan::newest(tx, failed.target)?.map(|(newest, _)| newest);
    if newest != Some(build) || plan::held(tx, failed.derivation)? {
        return Ok(false);
    }
    let above = depend::highest_above(tx, build, i64::MAX, |_| true)?;
    let Some(wish) = failed.asked.max(wants::row_wish(tx, failed.target)?).max(above) else {
        return Ok(false);
    };
    let mut plan = Plan::default();
    plan.try_again(failed.target);
    let new = plan.need(tx, failed.derivation, wish)?.build();
    tx.prepare_cached("UPDATE builds SET asked = ?2, retries = ?3 WHERE id = ?1")?.execute((
        new,
        failed.asked,
        failed.retries + 1,
    ))?;
    submit::allow(tx, new, failed.timeout, failed.max_silent_time)?;
    tx.prepare_cached(
        "INSERT OR IGNORE INTO build_tags SELECT ?1, key, value FROM build_tags WHERE build = ?2",
    )?
    .execute([new, build])?;
    let until = now().saturating_add(u64::try_from(other_agents.as_millis()).unwrap_or(u64::MAX));
    // Those of the tries that this one follows.
    tx.prepare_cached(
        "INSERT OR IGNORE INTO avoided SELECT ?1, agent, ?4, 1 FROM \
         (SELECT DISTINCT agent FROM (SELECT agent FROM builds WHERE target = ?2 AND id < ?1 \
          AND state IN ('failed', 'timed-out') ORDER BY id DESC LIMIT ?3) WHERE agent IS NOT NULL)",
    )?
    .execute((new, failed.target, failed.retries + 1, sql(until)))?;
    // Whoever was woken for it may have failed it.
    let platform = paths::numbers(tx, "SELECT platform FROM builds WHERE id = ?1", new)?;
    platform.into_iter().for_each(|platform| tx.note(Change::Requeued { platform }));
    plan.settle(tx)?;
    wants::gone(tx, [failed.target])?;
    Ok(true)
}

fn failed(tx: &Tx<'_>, build: i64) -> Result<Option<Failed>, Error> {
    let select = "SELECT derivation, target, state, asked, timeout, max_silent_time, retries FROM builds \
                  WHERE id = ?1";
    let failed = tx
        .prepare_cached(select)?
        .query_row([build], |row| {
            Ok(Failed {
                derivation: row.get(0)?,
                target: row.get(1)?,
                state: paths::state(row, 2)?,
                asked: row.get(3)?,
                timeout: row.get::<_, Option<i64>>(4)?.map(unsql),
                max_silent_time: row.get::<_, Option<i64>>(5)?.map(unsql),
                retries: row.get(6)?,
            })
        })
        .optional()?;
    Ok(failed)
}
