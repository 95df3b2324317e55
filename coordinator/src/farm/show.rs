//! Everything about one build, with words for why it is where it is.

use std::collections::HashSet;
use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::agent::Output;
use drover_wire::client::{Attempt, BuildDetails, BuildOutput, BuildSummary, WaitsFor};
use drover_wire::{BuildId, BuildState, Phase};
use rusqlite::{Connection, OptionalExtension};

use super::error::Error;
use super::list::{self, Phases};
use super::live::Live;
use super::{Farm, agents, now, paths, publish, unsql};

/// The most things that a build waits for that are named in the list, and in words.
const LISTED: usize = 100;
const IN_WORDS: usize = 3;

impl Farm {
    /// Everything about a build.
    ///
    /// # Errors
    /// When there is no such build.
    pub async fn show(&self, build: BuildId) -> Result<BuildDetails, Error> {
        let live = Arc::clone(&self.live);
        self.database.read(move |sql| details(sql, &live, build)).await
    }
}

/// Everything about a build.
pub(super) fn details(sql: &Connection, live: &Live, build: BuildId) -> Result<BuildDetails, Error> {
    let id = list::find(sql, build)?;
    let summary = list::summary(sql, &Phases::of(live), id)?;
    let (derivation, asked, timeout, max_silent_time): (i64, bool, Option<i64>, Option<i64>) = sql
        .prepare_cached(
            "SELECT derivation, asked IS NOT NULL OR EXISTS (SELECT 1 FROM set_rows r WHERE r.target = b.target \
             AND r.wanting = 1 AND r.target IS NOT NULL), timeout, max_silent_time FROM builds b WHERE id = ?1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let waits = match summary.state {
        BuildState::Waiting | BuildState::DependencyFailed => Waits::of(sql, id, derivation)?,
        _ => Waits::default(),
    };
    let why = why(sql, live, id, &summary, &waits)?;
    Ok(BuildDetails {
        why,
        wanted: asked,
        timeout: timeout.map(unsql),
        max_silent_time: max_silent_time.map(unsql),
        waits_for_count: (waits.inputs + waits.sources) as u64,
        waits_for: waits.named.into_iter().map(|(waits_for, _)| waits_for).collect(),
        outputs: outputs(sql, derivation)?,
        attempts: attempts(sql, live, id, build)?,
        summary,
    })
}

/// What a build waits for.
#[derive(Debug, Default)]
struct Waits {
    /// The first of them, inputs before sources; each with the agent that builds it.
    named: Vec<(WaitsFor, Option<String>)>,
    inputs: usize,
    sources: usize,
}

impl Waits {
    fn of(sql: &Connection, build: i64, derivation: i64) -> Result<Self, Error> {
        const INPUTS: &str = "SELECT i.output FROM derivation_inputs i JOIN paths p ON p.id = i.output \
             WHERE i.derivation = (SELECT derivation FROM builds WHERE id = ?1) AND p.provided = 0 \
             UNION SELECT path FROM awaited WHERE build = ?1";
        let mut waits = Self::default();
        let inputs = paths::numbers(sql, INPUTS, build)?;
        waits.inputs = inputs.len();
        for input in inputs.into_iter().take(LISTED) {
            waits.named.push(waits_for_input(sql, input)?);
        }
        let mut seen = HashSet::new();
        each_lacking(sql, derivation, |by, source| {
            if seen.insert(source) {
                waits.sources += 1;
                if waits.named.len() < LISTED {
                    let (path, derivation) = (paths::path(sql, source)?, paths::path(sql, by)?);
                    waits.named.push((WaitsFor::Source { path, derivation }, None));
                }
            }
            Ok(())
        })?;
        Ok(waits)
    }

    /// In words, as far as there is something.
    fn words(&self) -> String {
        let mut parts = Vec::new();
        if self.inputs > 0 {
            let what = if self.inputs == 1 { "1 input" } else { &format!("{} inputs", self.inputs) };
            parts.push(format!(
                "{what}: {}",
                self.some(self.inputs, |one| matches!(one, WaitsFor::Input { .. }))
            ));
        }
        if self.sources > 0 {
            let what = if self.sources == 1 { "1 source" } else { &format!("{} sources", self.sources) };
            let named = self.some(self.sources, |one| matches!(one, WaitsFor::Source { .. }));
            parts.push(format!("{what} that nobody has uploaded: {named}"));
        }
        parts.join("; and ")
    }

    fn some(&self, count: usize, is_one: impl Fn(&WaitsFor) -> bool) -> String {
        let these = self.named.iter().filter(|(one, _)| is_one(one)).take(IN_WORDS);
        let mut names: Vec<String> = these.map(|(one, agent)| name(one, agent.as_deref())).collect();
        if count > names.len() {
            names.push(format!("{} more", count - names.len()));
        }
        names.join(", ")
    }
}

fn name(waits_for: &WaitsFor, agent: Option<&str>) -> String {
    match waits_for {
        // One that succeeded made what is not here any more.
        WaitsFor::Input { path, state: None | Some(BuildState::Succeeded), .. } => {
            format!("{} (nobody builds it; submit its derivation)", path.base_name())
        }
        WaitsFor::Input { path, state: Some(state), .. } => match agent {
            Some(agent) if !state.is_final() => format!("{} ({state} on {agent})", path.base_name()),
            _ => format!("{} ({state})", path.base_name()),
        },
        WaitsFor::Source { path, .. } => path.base_name().to_owned(),
    }
}

/// An input that nobody provides, with the newest build that makes it and that build's agent.
fn waits_for_input(sql: &Connection, input: i64) -> Result<(WaitsFor, Option<String>), Error> {
    const MAKER: &str = "SELECT b.uuid, b.state, a.name FROM derivation_outputs o \
         JOIN derivations d ON d.id = o.derivation JOIN builds b ON b.target = d.target \
         LEFT JOIN agents a ON a.id = b.agent WHERE o.path = ?1 ORDER BY b.id DESC LIMIT 1";
    let path = paths::path(sql, input)?;
    let made: Option<(BuildId, BuildState, Option<String>)> = sql
        .prepare_cached(MAKER)?
        .query_row([input], |row| Ok((paths::build_id(row, 0)?, paths::state(row, 1)?, row.get(2)?)))
        .optional()?;
    let (build, state, agent) = match made {
        Some((build, state, agent)) => (Some(build), Some(state), agent),
        None => (None, None, None),
    };
    Ok((WaitsFor::Input { path, build, state }, agent))
}

/// Calls `found` with each derivation that lacks sources, from this one downwards, and each of these.
fn each_lacking(
    sql: &Connection,
    derivation: i64,
    mut found: impl FnMut(i64, i64) -> Result<(), Error>,
) -> Result<(), Error> {
    const LACKING: &str = "SELECT 1 FROM derivations WHERE id = ?1 AND lacking > 0";
    const OWN: &str = "SELECT s.path FROM derivation_sources s WHERE s.derivation = ?1 \
         AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = s.path AND i.kind = 'source')";
    const BELOW: &str = "SELECT DISTINCT i.maker FROM derivation_inputs i JOIN derivations d ON d.id = i.maker \
         WHERE i.derivation = ?1 AND d.lacking > 0";
    if !sql.prepare_cached(LACKING)?.exists([derivation])? {
        return Ok(());
    }
    let mut seen = HashSet::from([derivation]);
    let mut open = vec![derivation];
    while let Some(derivation) = open.pop() {
        for source in paths::numbers(sql, OWN, derivation)? {
            found(derivation, source)?;
        }
        open.extend(paths::numbers(sql, BELOW, derivation)?.into_iter().filter(|id| seen.insert(*id)));
    }
    Ok(())
}

fn why(
    sql: &Connection,
    live: &Live,
    id: i64,
    summary: &BuildSummary,
    waits: &Waits,
) -> Result<String, Error> {
    let agent = summary.agent.as_deref().unwrap_or("an agent");
    Ok(match summary.state {
        BuildState::Waiting => format!("waits for {}", waits.words()),
        BuildState::Ready => why_ready(sql, live, id)?,
        BuildState::Allocated | BuildState::Running => match summary.phase {
            Some(phase) => format!("{agent} has it and {}", doing(phase)),
            None => format!("{agent} has it, and has not said yet how far it is"),
        },
        BuildState::Succeeded => match &summary.agent {
            Some(agent) => format!("built by {agent}; its outputs are here"),
            None => "its outputs are here".to_owned(),
        },
        BuildState::Failed | BuildState::TimedOut | BuildState::DependencyFailed | BuildState::Canceled => {
            why_ended(sql, id)?
        }
    })
}

fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "starts it when one of its other builds is done",
        Phase::FetchingInputs => "fetches what it needs",
        Phase::Building => "builds it",
        Phase::UploadQueued => "has built it and waits to upload the outputs",
        Phase::Uploading => "has built it and uploads the outputs",
    }
}

/// Why a build that everything is there for is with no agent.
fn why_ready(sql: &Connection, live: &Live, id: i64) -> Result<String, Error> {
    let platform: String = sql
        .prepare_cached("SELECT p.name FROM builds b JOIN platforms p ON p.id = b.platform WHERE b.id = ?1")?
        .query_row([id], |row| row.get(0))?;
    let mut avoided: Vec<(i64, i64)> = Vec::new();
    let mut statement = sql.prepare_cached("SELECT agent, until FROM avoided WHERE build = ?1")?;
    for row in statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))? {
        avoided.push(row?);
    }
    let takes = |saved: &agents::Saved| match platform.strip_prefix("builtin:") {
        Some(builtin) => saved.builtins.iter().any(|one| one == builtin),
        None => saved.systems.contains(&platform),
    };
    let now = super::sql(now());
    let later = |agent: i64| avoided.iter().any(|(one, until)| *one == agent && *until > now);
    let (mut fitting, mut online, mut at_once) = (0, 0, 0);
    for saved in agents::saved(sql)?.iter().filter(|saved| takes(saved)) {
        fitting += 1;
        if live.view(saved.row.id).online {
            online += 1;
            at_once += u32::from(!later(saved.row.id));
        }
    }
    let mut why = match (fitting, online, at_once) {
        (0, ..) => format!("everything is there, but no agent builds for {platform}; start one that does"),
        (_, 0, _) => {
            format!("everything is there, but no agent that builds for {platform} is online; start one")
        }
        (_, _, 0) => {
            "everything is there; it could not be set up where it was tried, and is tried there again in \
                      some minutes unless another agent takes it before"
                .to_owned()
        }
        _ => format!("everything is there; it goes to the next agent for {platform} that has room"),
    };
    if let Some(message) = last_trouble(sql, id)? {
        why.push_str(&format!("; the try before: {message}"));
    }
    Ok(why)
}

/// What the newest try said, if it did not get to the build itself.
fn last_trouble(sql: &Connection, id: i64) -> Result<Option<String>, Error> {
    let last: Option<(String, String, Option<String>)> = sql
        .prepare_cached(
            "SELECT a.name, t.outcome, t.message FROM attempts t JOIN agents a ON a.id = t.agent \
             WHERE t.build = ?1 AND t.outcome IS NOT NULL ORDER BY t.number DESC LIMIT 1",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(last.map(|(agent, outcome, message)| match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{outcome} on {agent}: {message}"),
        None => format!("{outcome} on {agent}"),
    }))
}

/// Why a build ended as it did, in words.
pub(super) fn why_ended(sql: &Connection, id: i64) -> Result<String, Error> {
    let end = |id: i64| -> Result<_, Error> {
        Ok(sql
            .prepare_cached(
                "SELECT b.state, b.why, b.failed_dependency, b.uuid, p.base FROM builds b \
                 JOIN paths p ON p.id = b.target WHERE b.id = ?1",
            )?
            .query_row([id], |row| {
                Ok(Ended {
                    state: paths::state(row, 0)?,
                    why: row.get(1)?,
                    root: row.get(2)?,
                    build: paths::build_id(row, 3)?,
                    output: paths::base(row, 4)?,
                })
            })?)
    };
    let ended = end(id)?;
    match ended.root {
        Some(root) if ended.state == BuildState::DependencyFailed => {
            let root = end(root)?;
            Ok(format!(
                "not built: its input {} could not be had: build {}: {}",
                root.output.base_name(),
                root.build,
                root.own_words()
            ))
        }
        _ => Ok(ended.own_words()),
    }
}

struct Ended {
    state: BuildState,
    why: Option<String>,
    root: Option<i64>,
    build: BuildId,
    output: StorePath,
}

impl Ended {
    fn own_words(&self) -> String {
        let word = match self.state {
            BuildState::TimedOut => "timed out",
            BuildState::DependencyFailed => "not built: an input could not be had",
            state => state.as_str(),
        };
        match &self.why {
            Some(why) if !why.is_empty() => format!("{word}: {why}"),
            _ => word.to_owned(),
        }
    }
}

/// The outputs of a derivation, as far as they are here.
pub(super) fn outputs(sql: &Connection, derivation: i64) -> Result<Vec<BuildOutput>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT o.name, o.path, p.base, i.nar_hash, i.nar_size FROM derivation_outputs o \
         JOIN paths p ON p.id = o.path LEFT JOIN items i ON i.path = o.path \
         WHERE o.derivation = ?1 ORDER BY o.name",
    )?;
    let mut rows = statement.query([derivation])?;
    let mut outputs = Vec::new();
    while let Some(row) = rows.next()? {
        let path = paths::base(row, 2)?;
        let id = row.get(1)?;
        let kept = match row.get::<_, Option<i64>>(4)? {
            Some(size) => Some(Output {
                path: path.clone(),
                nar_hash: paths::hash(row, 3)?,
                nar_size: unsql(size),
                references: paths::bases(
                    sql,
                    "SELECT p.base FROM item_references r JOIN paths p ON p.id = r.reference \
                     WHERE r.item = ?1 ORDER BY p.base",
                    id,
                )?,
            }),
            None => None,
        };
        let publication = kept.as_ref().map(|_| publish::view(sql, id)).transpose()?;
        outputs.push(BuildOutput { name: row.get(0)?, path, kept, publication });
    }
    Ok(outputs)
}

fn attempts(sql: &Connection, live: &Live, id: i64, build: BuildId) -> Result<Vec<Attempt>, Error> {
    let open = live.lease_of(build);
    let mut statement = sql.prepare_cached(
        "SELECT t.number, a.name, t.allocated_at, t.started_at, t.ended_at, t.outcome, t.step, t.message, \
         t.log_size FROM attempts t JOIN agents a ON a.id = t.agent WHERE t.build = ?1 ORDER BY t.number",
    )?;
    let rows = statement.query_map([id], |row| {
        let number: u32 = row.get(0)?;
        let ended_at = row.get::<_, Option<i64>>(4)?.map(unsql);
        let growing = open.as_ref().filter(|lease| ended_at.is_none() && lease.attempt == number);
        let step: Option<String> = row.get(6)?;
        Ok(Attempt {
            number,
            agent: row.get(1)?,
            allocated_at: unsql(row.get(2)?),
            started_at: row.get::<_, Option<i64>>(3)?.map(unsql),
            ended_at,
            outcome: row.get(5)?,
            step: step.and_then(|step| serde_json::from_value(step.into()).ok()),
            message: row.get(7)?,
            log_size: growing.map_or(unsql(row.get(8)?), |lease| lease.log().length().borrow().bytes),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
