//! How hooks do, and another chance for what they gave up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_wire::hook::{FailedRun, FailedRuns, HookName, HookRetried, HookSummary};
use rusqlite::{Connection, OptionalExtension};

use super::{Hooks, Lane, queue};
use crate::farm::error::Error;
use crate::farm::{Farm, paths, unsql};

/// The most runs that are named.
const NAMED: i64 = 100;
/// Runs that are tried again in one transaction.
const AT_ONCE: i64 = 5000;

impl Farm {
    /// Every hook of the configuration, and every other one that has runs in the queue.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_hooks(self: &Arc<Self>) -> Result<Vec<HookSummary>, Error> {
        let farm = Arc::clone(self);
        self.database.read(move |sql| farm.hook_summaries(sql)).await
    }

    /// The same.
    pub(in crate::farm) fn hook_summaries(&self, sql: &Connection) -> Result<Vec<HookSummary>, Error> {
        let counts = counts(sql)?;
        let lanes = self.hooks.by_name();
        let names: BTreeSet<&str> = lanes.keys().copied().chain(counts.keys().map(String::as_str)).collect();
        let nothing = Counts::default();
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let lane = lanes.get(name);
            let counts = counts.get(name).unwrap_or(&nothing);
            all.push(HookSummary {
                hook: name.parse().map_err(|error| Error::Damaged(format!("the queue of hooks: {error}")))?,
                kind: lane.map(|lane| lane.hook.task.kind()),
                on: lane.map_or_else(Vec::new, |lane| lane.hook.on.clone()),
                enabled: lane.is_some_and(|lane| lane.hook.enabled),
                waiting: counts.waiting,
                running: lane.map_or(0, |lane| lane.running()),
                failed: counts.failed,
                last_error: lane.and_then(|lane| lane.last_error()).or_else(|| counts.error.clone()),
            });
        }
        Ok(all)
    }

    /// The newest runs that a hook gave up.
    ///
    /// # Errors
    /// When there is no such hook.
    pub async fn failed_runs(&self, hook: HookName) -> Result<FailedRuns, Error> {
        self.known(&hook).await?;
        self.database.read(move |sql| failed(sql, hook.as_str())).await
    }

    /// Has all runs that a hook gave up tried again.
    ///
    /// # Errors
    /// When there is no such hook.
    pub async fn retry_runs(&self, hook: HookName) -> Result<HookRetried, Error> {
        self.known(&hook).await?;
        let mut runs = 0;
        // What fails again meanwhile has a lower number than where this is by then, or was seen to.
        let mut below = Some(i64::MAX);
        while let Some(from) = below {
            let hook = hook.clone();
            let (count, next) =
                self.database.write_alone(move |tx| queue::revive(tx, hook.as_str(), from, AT_ONCE)).await?;
            runs += count;
            below = next;
        }
        tracing::info!(%hook, runs, "what a hook gave up is tried again");
        Ok(HookRetried { runs })
    }

    async fn known(&self, hook: &HookName) -> Result<(), Error> {
        if self.hooks.by_name().contains_key(hook.as_str()) {
            return Ok(());
        }
        let name = hook.to_string();
        let any = self.database.read::<_, Error>(move |sql| {
            let waiting = "SELECT 1 FROM hook_runs WHERE hook = ?1 AND state = 'waiting'";
            let failed = "SELECT 1 FROM hook_runs WHERE hook = ?1 AND state = 'failed'";
            Ok(sql.prepare_cached(waiting)?.exists([&name])?
                || sql.prepare_cached(failed)?.exists([&name])?)
        });
        if any.await? {
            return Ok(());
        }
        Err(Error::NotFound { what: "hook", name: hook.to_string() })
    }
}

impl Hooks {
    /// How many runs of each hook of the configuration wait, are under way, and were given up.
    pub(in crate::farm) fn runs(&self, sql: &Connection) -> Result<Vec<(String, u64, u64, u64)>, Error> {
        let counts = counts(sql)?;
        let none = Counts::default();
        let row = |(name, lane): (&str, &Arc<Lane>)| {
            let counts = counts.get(name).unwrap_or(&none);
            (name.to_owned(), counts.waiting, lane.running(), counts.failed)
        };
        Ok(self.by_name().into_iter().map(row).collect())
    }
}

#[derive(Debug, Default)]
struct Counts {
    waiting: u64,
    failed: u64,
    error: Option<String>,
}

fn counts(sql: &Connection) -> Result<BTreeMap<String, Counts>, Error> {
    let mut all: BTreeMap<String, Counts> = BTreeMap::new();
    for (hook, count) in
        count(sql, "SELECT hook, count(*) FROM hook_runs WHERE state = 'waiting' GROUP BY hook")?
    {
        all.entry(hook).or_default().waiting = count;
    }
    for (hook, count) in
        count(sql, "SELECT hook, count(*) FROM hook_runs WHERE state = 'failed' GROUP BY hook")?
    {
        all.entry(hook).or_default().failed = count;
    }
    for (hook, counts) in &mut all {
        let last =
            "SELECT error FROM hook_runs WHERE hook = ?1 AND state = 'failed' ORDER BY id DESC LIMIT 1";
        counts.error = sql.prepare_cached(last)?.query_row([hook], |row| row.get(0)).optional()?.flatten();
    }
    Ok(all)
}

/// By hook; each question has an index of its own.
fn count(sql: &Connection, select: &str) -> Result<Vec<(String, u64)>, Error> {
    let mut select = sql.prepare_cached(select)?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, unsql(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn failed(sql: &Connection, hook: &str) -> Result<FailedRuns, Error> {
    let count = "SELECT count(*) FROM hook_runs WHERE hook = ?1 AND state = 'failed'";
    let failed: i64 = sql.prepare_cached(count)?.query_row([hook], |row| row.get(0))?;
    let select = "SELECT kind, build, path, tries, queued_at, error FROM hook_runs \
                  WHERE hook = ?1 AND state = 'failed' ORDER BY id DESC LIMIT ?2";
    let mut select = sql.prepare_cached(select)?;
    let mut rows = select.query((hook, NAMED))?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        let kind: String = row.get(0)?;
        let build: Option<i64> = row.get(1)?;
        let path: Option<i64> = row.get(2)?;
        runs.push(FailedRun {
            event: kind.parse().map_err(|error| Error::Damaged(format!("the queue of hooks: {error}")))?,
            build: build.map(|build| paths::build_of_number(sql, build)).transpose()?.flatten(),
            item: path.map(|path| paths::path(sql, path)).transpose()?,
            tries: row.get(3)?,
            queued_at: unsql(row.get(4)?),
            error: row.get::<_, Option<String>>(5)?.unwrap_or_default(),
        });
    }
    Ok(FailedRuns { failed: unsql(failed), runs })
}
