//! A build, with what is around it.

use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::client::{Attempt, BuildDetails};
use drover_wire::{BuildId, BuildState, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::farm::error::Error;
use crate::farm::{Farm, LogPlace, list, open_states, paths, show, unsql};

/// The most builds that wait for one that are named.
const NAMED: usize = 24;
/// The most derivations that need a build's outputs among which those that wait are looked for.
const LOOKED_AT: i64 = 5000;
/// The same of a build that succeeded, for whose sake nobody waits any more.
const LOOKED_AT_AFTER: i64 = 1000;

/// A build and what is around it.
#[derive(Debug, Clone)]
pub struct BuildAround {
    /// The build.
    pub details: BuildDetails,
    /// The build that failed, where this one failed for the sake of it.
    pub root: Option<HeldUp>,
    /// A newer build of the same outputs.
    pub newest: Option<HeldUp>,
    /// The derivations whose outputs it takes, the first of them by their names, where it does not wait for any.
    pub below: Vec<Below>,
    /// How many there are.
    pub below_count: u64,
    /// Builds that wait for this one, or, when it succeeded, that take its outputs; the first of them by their names.
    pub above: Vec<HeldUp>,
    /// How many there are.
    pub above_count: u64,
    /// Whether there may be more than were counted.
    pub above_more: bool,
    /// The log of the newest try.
    pub log: Log,
}

/// A build beside another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUp {
    /// It.
    pub build: BuildId,
    /// Its derivation.
    pub derivation: StorePath,
    /// Its state.
    pub state: BuildState,
}

/// A derivation whose outputs a build takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// It.
    pub derivation: StorePath,
    /// Its newest build, if it has one, and how that stands.
    pub build: Option<(BuildId, BuildState)>,
}

/// A log of a build.
#[derive(Debug, Clone)]
pub struct Log {
    /// The try; none if there was none.
    pub attempt: Option<Attempt>,
    /// How it stands with it.
    pub state: LogState,
}

/// How it stands with a log.
#[derive(Debug, Clone)]
pub enum LogState {
    /// Nobody has started the build.
    NotYet,
    /// It was removed by its age.
    Removed(Timestamp),
    /// It is there.
    There(LogPlace),
}

impl Farm {
    /// A build with what is around it.
    ///
    /// # Errors
    /// When there is no such build.
    pub async fn build_around(self: &Arc<Self>, build: BuildId) -> Result<BuildAround, Error> {
        let farm = Arc::clone(self);
        self.database.read(move |sql| around(sql, &farm, build)).await
    }

    /// A build, and the log of one of its tries: of the newest, if none is said.
    ///
    /// # Errors
    /// When there is no such build or try.
    pub async fn build_log(
        self: &Arc<Self>,
        build: BuildId,
        attempt: Option<u32>,
    ) -> Result<(BuildDetails, Log), Error> {
        let farm = Arc::clone(self);
        let read = move |sql: &Connection| {
            let details = show::details(sql, &farm.live, build)?;
            let log = log(sql, &farm, &details, attempt)?;
            Ok((details, log))
        };
        self.database.read(read).await
    }
}

fn around(sql: &Connection, farm: &Farm, build: BuildId) -> Result<BuildAround, Error> {
    const ROOT: &str = "SELECT r.uuid, p.base, r.state FROM builds b JOIN builds r ON r.id = b.failed_dependency \
         JOIN paths p ON p.id = r.derivation WHERE b.id = ?1";
    const NEWEST: &str = "SELECT n.uuid, p.base, n.state FROM builds n JOIN paths p ON p.id = n.derivation \
         WHERE n.target = (SELECT target FROM builds WHERE id = ?1) AND n.id > ?1 ORDER BY n.id DESC LIMIT 1";
    let details = show::details(sql, &farm.live, build)?;
    let id = list::find(sql, build)?;
    let one = |select: &str| sql.prepare_cached(select)?.query_row([id], held_up).optional();
    let root = match details.summary.state {
        BuildState::DependencyFailed => one(ROOT)?,
        _ => None,
    };
    let newest = one(NEWEST)?;
    let (mut above, above_more) = match details.summary.state {
        BuildState::Succeeded => taking(sql, id)?,
        _ => above(sql, id)?,
    };
    let above_count = above.len() as u64;
    above.truncate(NAMED);
    let mut below = if details.waits_for.is_empty() { below(sql, id)? } else { Vec::new() };
    let below_count = below.len() as u64;
    below.truncate(NAMED);
    let log = log(sql, farm, &details, None)?;
    Ok(BuildAround { details, root, newest, below, below_count, above, above_count, above_more, log })
}

/// The derivations whose outputs a build takes.
fn below(sql: &Connection, build: i64) -> Result<Vec<Below>, Error> {
    const BELOW: &str = "SELECT p.base, b.uuid, b.state FROM (SELECT DISTINCT i.maker FROM builds m \
         CROSS JOIN derivation_inputs i ON i.derivation = m.derivation WHERE m.id = ?1) \
         CROSS JOIN derivations d ON d.id = maker CROSS JOIN paths p ON p.id = d.id \
         LEFT JOIN builds b ON b.id = (SELECT max(n.id) FROM builds n WHERE n.target = d.target)";
    let mut statement = sql.prepare_cached(BELOW)?;
    let rows = statement.query_map([build], |row| {
        let build = match paths::state_if_any(row, 2)? {
            Some(state) => Some((paths::build_id(row, 1)?, state)),
            None => None,
        };
        Ok(Below { derivation: paths::base(row, 0)?, build })
    })?;
    let mut below = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    below.sort_by(|one, other| one.derivation.name().cmp(other.derivation.name()));
    Ok(below)
}

/// The newest builds of the derivations that take the outputs of a build; and whether there are more of these than were
/// looked at.
fn taking(sql: &Connection, build: i64) -> Result<(Vec<HeldUp>, bool), Error> {
    const TAKING: &str = "SELECT b.uuid, p.base, b.state FROM (SELECT DISTINCT i.derivation AS takes FROM builds m \
         CROSS JOIN derivation_outputs o ON o.derivation = m.derivation \
         CROSS JOIN derivation_inputs i ON i.output = o.path WHERE m.id = ?1 LIMIT ?2) \
         LEFT JOIN builds b ON b.id = (SELECT max(n.id) FROM builds n WHERE n.derivation = takes) \
         LEFT JOIN paths p ON p.id = b.derivation";
    let mut statement = sql.prepare_cached(TAKING)?;
    let rows = statement.query_map((build, LOOKED_AT_AFTER + 1), |row| {
        // What takes them may never have been asked for.
        Ok(if paths::state_if_any(row, 2)?.is_some() { Some(held_up(row)?) } else { None })
    })?;
    let mut looked_at = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = looked_at.len() as i64 > LOOKED_AT_AFTER;
    looked_at.truncate(LOOKED_AT_AFTER as usize);
    let mut taking: Vec<HeldUp> = looked_at.into_iter().flatten().collect();
    taking.sort_by(|one, other| one.derivation.name().cmp(other.derivation.name()));
    Ok((taking, more))
}

fn held_up(row: &Row<'_>) -> rusqlite::Result<HeldUp> {
    Ok(HeldUp {
        build: paths::build_id(row, 0)?,
        derivation: paths::base(row, 1)?,
        state: paths::state(row, 2)?,
    })
}

/// Open builds that wait for outputs of this one; and whether not all derivations were looked at that need them.
fn above(sql: &Connection, build: i64) -> Result<(Vec<HeldUp>, bool), Error> {
    const NEEDING: &str = "SELECT count(*) FROM (SELECT DISTINCT i.derivation FROM builds m \
         CROSS JOIN derivation_outputs o ON o.derivation = m.derivation \
         CROSS JOIN derivation_inputs i ON i.output = o.path WHERE m.id = ?1 LIMIT ?2)";
    const WAITING: &str = concat!(
        "SELECT b.uuid, p.base, b.state FROM (SELECT DISTINCT i.derivation AS needs FROM builds m \
         CROSS JOIN derivation_outputs o ON o.derivation = m.derivation \
         CROSS JOIN derivation_inputs i ON i.output = o.path WHERE m.id = ?1 LIMIT ?2) \
         CROSS JOIN builds b ON b.derivation = needs AND b.state IN ",
        open_states!(),
        " CROSS JOIN paths p ON p.id = b.derivation UNION \
         SELECT b.uuid, p.base, b.state FROM builds m \
         CROSS JOIN derivation_outputs o ON o.derivation = m.derivation \
         CROSS JOIN awaited w ON w.path = o.path CROSS JOIN builds b ON b.id = w.build \
         CROSS JOIN paths p ON p.id = b.derivation WHERE m.id = ?1"
    );
    let needing: i64 = sql.prepare_cached(NEEDING)?.query_row((build, LOOKED_AT + 1), |row| row.get(0))?;
    let mut statement = sql.prepare_cached(WAITING)?;
    let rows = statement.query_map((build, LOOKED_AT), held_up)?;
    let mut above = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    above.sort_by(|one, other| one.derivation.name().cmp(other.derivation.name()));
    Ok((above, needing > LOOKED_AT))
}

fn log(sql: &Connection, farm: &Farm, details: &BuildDetails, attempt: Option<u32>) -> Result<Log, Error> {
    let build = details.summary.build;
    let found = match attempt {
        Some(number) => details.attempts.iter().find(|attempt| attempt.number == number),
        None => details.attempts.last(),
    };
    let Some(attempt) = found else {
        return match attempt {
            Some(_) => Err(Error::NotFound { what: "such try at the build", name: build.to_string() }),
            None => Ok(Log { attempt: None, state: LogState::NotYet }),
        };
    };
    let removed: Option<i64> = sql
        .prepare_cached(
            "SELECT t.log_removed_at FROM attempts t JOIN builds b ON b.id = t.build \
             WHERE b.uuid = ?1 AND t.number = ?2",
        )?
        .query_row((build.0.as_bytes(), attempt.number), |row| row.get(0))?;
    let state = match removed {
        Some(at) => LogState::Removed(unsql(at)),
        None => LogState::There(farm.log_of_try(build, attempt.number)),
    };
    Ok(Log { attempt: Some(attempt.clone()), state })
}
