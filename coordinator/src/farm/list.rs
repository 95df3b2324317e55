//! Builds in lists, and waiting for their ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use drover_wire::client::{BuildFilter, BuildList, BuildSummary, Ended, WaitAnswer, WaitQuestion};
use drover_wire::{AgentId, BuildId, BuildState, Phase};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::change::Event;
use super::error::Error;
use super::live::Live;
use super::{Farm, paths, sets, show, unsql};

/// How many builds a page has, unless somebody asks for another number, and how many at most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1000;
/// How long a question may wait at most.
const WAIT_MAX: Duration = Duration::from_secs(60);

impl Farm {
    /// A page of the builds that the filter lets through, the newest first.
    ///
    /// # Errors
    /// When the page is to start after a build that there is not, or there is no such set.
    pub async fn builds(&self, filter: BuildFilter) -> Result<BuildList, Error> {
        let live = Arc::clone(&self.live);
        self.database.read(move |sql| page(sql, &Phases::of(&live), &filter)).await
    }

    /// Waits until one of the builds has ended, for the time that is asked for at most.
    ///
    /// # Errors
    /// When there is no such build.
    pub async fn wait(self: &Arc<Self>, question: WaitQuestion) -> Result<WaitAnswer, Error> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(question.seconds).min(WAIT_MAX);
        let mut stopping = self.stopping();
        // Listening begins before the first look, so nothing falls in between.
        let mut events = self.live.events();
        let all: HashSet<BuildId> = question.builds.iter().copied().collect();
        let mut look = question.builds;
        loop {
            let answer = self.database.read(move |sql| ended(sql, &look)).await?;
            if !answer.ended.is_empty() || all.is_empty() {
                return Ok(answer);
            }
            look = tokio::select! {
                () = tokio::time::sleep_until(deadline) => return Ok(answer),
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(answer),
                builds = next_ended(&mut events, &all) => builds,
            };
        }
    }
}

/// The builds of `all` that ended since: all of them, when that cannot be said.
async fn next_ended(
    events: &mut tokio::sync::broadcast::Receiver<Event>,
    all: &HashSet<BuildId>,
) -> Vec<BuildId> {
    let everything = || all.iter().copied().collect();
    let mut ended = Vec::new();
    while ended.is_empty() {
        match events.recv().await {
            Ok(Event::Ended(build)) if all.contains(&build) => ended.push(build),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return everything(),
            // The farm is gone: nothing more happens.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
    loop {
        match events.try_recv() {
            Ok(Event::Ended(build)) if all.contains(&build) => ended.push(build),
            Ok(_) => {}
            Err(TryRecvError::Lagged(_)) => return everything(),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return ended,
        }
    }
}

fn ended(sql: &Connection, builds: &[BuildId]) -> Result<WaitAnswer, Error> {
    let mut seen = HashSet::new();
    let mut ended = Vec::new();
    for build in builds.iter().filter(|build| seen.insert(**build)) {
        let id = find(sql, *build)?;
        let (derivation, state) = sql
            .prepare_cached(
                "SELECT p.base, b.state FROM builds b JOIN paths p ON p.id = b.derivation WHERE b.id = ?1",
            )?
            .query_row([id], |row| Ok((paths::base(row, 0)?, paths::state(row, 1)?)))?;
        if state.is_final() {
            let why = match state {
                BuildState::Succeeded => None,
                _ => Some(show::why_ended(sql, id)?),
            };
            ended.push(Ended { build: *build, derivation, state, why });
        }
    }
    Ok(WaitAnswer { ended, counts: counts(sql)? })
}

/// How many builds are in each state.
pub(super) fn counts(sql: &Connection) -> Result<BTreeMap<BuildState, u64>, Error> {
    let mut statement = sql.prepare_cached("SELECT state, count FROM state_counts WHERE count > 0")?;
    let rows = statement.query_map([], |row| Ok((paths::state(row, 0)?, unsql(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The number of a build that must be there.
pub(super) fn find(sql: &Connection, build: BuildId) -> Result<i64, Error> {
    let mut select = sql.prepare_cached("SELECT id FROM builds WHERE uuid = ?1")?;
    let id = select.query_row([build.0.as_bytes()], |row| row.get(0)).optional()?;
    id.ok_or_else(|| Error::NotFound { what: "build", name: build.to_string() })
}

/// What agents do with the builds that they hold.
#[derive(Debug)]
pub(super) struct Phases(HashMap<BuildId, Option<Phase>>);

impl Phases {
    /// At this moment.
    pub(super) fn of(live: &Live) -> Self {
        Self(live.leases().iter().map(|lease| (lease.build, lease.phase())).collect())
    }

    /// Of one build, if an agent said it.
    pub(super) fn of_build(&self, build: BuildId) -> Option<Phase> {
        self.0.get(&build).copied().flatten()
    }
}

const COLUMNS: &str = "SELECT b.id, b.uuid, p.base, s.name, b.state, b.priority, a.name, b.submitted_at, \
     b.started_at, b.ended_at FROM builds b JOIN paths p ON p.id = b.derivation \
     JOIN derivations d ON d.id = b.derivation JOIN platforms s ON s.id = d.system \
     LEFT JOIN agents a ON a.id = b.agent";

fn read(row: &Row<'_>) -> rusqlite::Result<(i64, BuildSummary)> {
    let time = |column| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(unsql));
    let summary = BuildSummary {
        build: paths::build_id(row, 1)?,
        derivation: paths::base(row, 2)?,
        system: row.get(3)?,
        state: paths::state(row, 4)?,
        phase: None,
        priority: row.get(5)?,
        tags: BTreeMap::new(),
        agent: row.get(6)?,
        submitted_at: unsql(row.get(7)?),
        started_at: time(8)?,
        ended_at: time(9)?,
    };
    Ok((row.get(0)?, summary))
}

/// Adds what has more than one row, or is not in the database.
fn complete(sql: &Connection, phases: &Phases, id: i64, summary: &mut BuildSummary) -> Result<(), Error> {
    let mut statement = sql.prepare_cached("SELECT key, value FROM build_tags WHERE build = ?1")?;
    let tags = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    summary.tags = tags.collect::<rusqlite::Result<_>>()?;
    if !summary.state.is_final() {
        summary.phase = phases.of_build(summary.build);
    }
    Ok(())
}

/// A build as lists show it.
pub(super) fn summary(sql: &Connection, phases: &Phases, id: i64) -> Result<BuildSummary, Error> {
    let mut statement = sql.prepare_cached(&format!("{COLUMNS} WHERE b.id = ?1"))?;
    let (_, mut summary) = statement.query_row([id], read)?;
    complete(sql, phases, id, &mut summary)?;
    Ok(summary)
}

/// Conditions, with the values of their question marks.
#[derive(Default)]
struct Conditions {
    text: Vec<&'static str>,
    values: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, condition: &'static str, values: impl IntoIterator<Item = Value>) {
        self.text.push(condition);
        self.values.extend(values);
    }
}

/// A page of the builds that the filter lets through, the newest first.
pub(super) fn page(sql: &Connection, phases: &Phases, filter: &BuildFilter) -> Result<BuildList, Error> {
    let limit = filter.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let mut conditions = Conditions::default();
    if let Some(before) = filter.before {
        conditions.add("b.id < ?", [find(sql, before)?.into()]);
    }
    if let Some(state) = filter.state {
        conditions.add("b.state = ?", [state.as_str().to_owned().into()]);
    }
    if let Some(system) = &filter.system {
        conditions.add("d.system = (SELECT id FROM platforms WHERE name = ?)", [system.clone().into()]);
    }
    if let Some(agent) = &filter.agent {
        match agent.parse::<AgentId>() {
            Ok(uuid) => {
                let bytes = uuid.0.as_bytes().to_vec();
                conditions.add(
                    "b.agent IN (SELECT id FROM agents WHERE uuid = ? OR name = ?)",
                    [bytes.into(), agent.clone().into()],
                );
            }
            Err(_) => {
                conditions.add("b.agent = (SELECT id FROM agents WHERE name = ?)", [agent.clone().into()])
            }
        }
    }
    match filter.tag.as_deref().map(|tag| tag.split_once('=').ok_or(tag)) {
        Some(Ok((key, value))) => conditions.add(
            "b.id IN (SELECT build FROM build_tags WHERE key = ? AND value = ?)",
            [key.to_owned().into(), value.to_owned().into()],
        ),
        Some(Err(key)) => {
            conditions.add("b.id IN (SELECT build FROM build_tags WHERE key = ?)", [key.to_owned().into()]);
        }
        None => {}
    }
    if let Some(name) = &filter.name {
        // The name begins after 32 digits and a dash.
        conditions.add("instr(substr(p.base, 34), ?) > 0", [name.clone().into()]);
    }
    if let Some(set) = &filter.set {
        let revision = sets::find(sql, set)?;
        conditions.add(
            "b.target IN (SELECT target FROM set_rows WHERE in_set = ? AND last >= ? AND first <= ?)",
            [revision.set.into(), revision.id.into(), revision.id.into()],
        );
    }
    let mut query = COLUMNS.to_owned();
    for (n, condition) in conditions.text.iter().enumerate() {
        query.push_str(if n == 0 { " WHERE " } else { " AND " });
        query.push_str(condition);
    }
    query.push_str(" ORDER BY b.id DESC LIMIT ?");
    conditions.values.push((i64::from(limit) + 1).into());
    let mut statement = sql.prepare_cached(&query)?;
    let rows = statement.query_map(params_from_iter(conditions.values), read)?;
    let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let most = limit as usize;
    let more = found.len() > most;
    found.truncate(most);
    let mut builds = Vec::with_capacity(found.len());
    for (id, mut summary) in found {
        complete(sql, phases, id, &mut summary)?;
        builds.push(summary);
    }
    Ok(BuildList { builds, more })
}
