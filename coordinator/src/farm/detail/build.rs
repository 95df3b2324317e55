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

/// A build and what is around it.
#[derive(Debug, Clone)]
pub struct BuildAround {
    /// The build.
    pub details: BuildDetails,
    /// The build that failed, where this one failed for the sake of it.
    pub root: Option<HeldUp>,
    /// A newer build of the same outputs.
    pub newest: Option<HeldUp>,
    /// Builds that wait for this one, the first of them by their names.
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
    let (mut above, more) = match details.summary.state {
        BuildState::Succeeded => (Vec::new(), false),
        _ => above(sql, id)?,
    };
    let above_count = above.len() as u64;
    above.truncate(NAMED);
    let log = log(sql, farm, &details, None)?;
    Ok(BuildAround { details, root, newest, above, above_count, above_more: more, log })
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
