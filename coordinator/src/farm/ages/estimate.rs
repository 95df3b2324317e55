//! What logs, history and the like will take: what this farm's newest builds take, for as many days as they are kept.

use std::sync::Arc;

use drover_wire::estimate::{Estimate, EstimatedPart, Noted};
use rusqlite::Connection;

use super::super::error::Error;
use super::super::{Farm, now, paths, unsql};
use super::DAY_MS;
use crate::config::Ages;
use crate::storage::Storage;

/// The newest rows that are looked at for a pace, and the fewest that make one; and those whose bytes are looked at.
const NEWEST: i64 = 20_000;
const FEWEST: u64 = 100;
const SAMPLE: i64 = 500;

/// What is assumed of a farm that has not done much yet: builds each day, how many of them fail, events of each, runs of
/// hooks that are given up, derivations that come with each, and store paths that get a name.
const BUILDS_A_DAY: f64 = 10_000.0;
const FAILURES: f64 = 0.05;
const EVENTS: f64 = 5.0;
const HOOK_RUNS: f64 = 0.01;
const DERIVATIONS: f64 = 1.1;
const PATHS: f64 = 2.5;
/// Bytes of each, with the indexes: a compressed log, one of a failure, a build with its try, an event, a run of a hook,
/// a derivation, the name of a path.
const LOG_BYTES: f64 = 15_000.0;
const FAILED_LOG_BYTES: f64 = 25_000.0;
const BUILD_BYTES: f64 = 600.0;
const EVENT_BYTES: f64 = 70.0;
const HOOK_RUN_BYTES: f64 = 400.0;
const DERIVATION_BYTES: f64 = 4_000.0;
const PATH_BYTES: f64 = 175.0;
/// Of a derivation beside its text and its edges, and each of these, with the indexes.
const DERIVATION_ROW_BYTES: f64 = 300.0;
const INPUT_BYTES: f64 = 30.0;
const SOURCE_BYTES: f64 = 24.0;

impl Farm {
    /// What all that goes by its age takes, at the pace at which it comes.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn estimate_ages(&self) -> Result<Estimate, Error> {
        let ages = self.config.retention.ages.clone();
        let storage = Arc::clone(&self.storage);
        self.database.read(move |sql| estimate(sql, &storage, &ages)).await
    }
}

fn estimate(sql: &Connection, storage: &Storage, ages: &Ages) -> Result<Estimate, Error> {
    let pace = pace(
        sql,
        "SELECT count(*), min(submitted_at) FROM \
         (SELECT submitted_at FROM builds ORDER BY id DESC LIMIT ?1)",
    )?;
    let builds = pace.unwrap_or(BUILDS_A_DAY);
    let failing = failing(sql)?.unwrap_or(FAILURES);
    let events =
        self::pace(sql, "SELECT count(*), min(at) FROM (SELECT at FROM events ORDER BY id DESC LIMIT ?1)")?;
    let hook_runs = self::pace(
        sql,
        "SELECT count(*), min(queued_at) FROM \
         (SELECT queued_at FROM hook_runs WHERE state = 'failed' ORDER BY id DESC LIMIT ?1)",
    )?;
    let in_history = days_or_year(ages.history_days) + f64::from(ages.derivations_days);
    let part = |what, days: u32, now: &str, a_day: f64, bytes: Option<f64>, assumed: f64| {
        let bytes_each = bytes.unwrap_or(assumed);
        let steady = (days > 0).then_some(a_day * f64::from(days));
        Ok::<_, Error>(EstimatedPart {
            what,
            days,
            now: count(sql, now)?,
            a_day,
            bytes_each,
            measured: bytes.is_some(),
            steady: steady.map(|steady| steady as u64),
            bytes: (steady.unwrap_or(a_day * 365.0) * bytes_each) as u64,
        })
    };
    const LOGS: &str =
        "SELECT count(*) FROM attempts WHERE log_packed = 1 AND log_removed_at IS NULL AND outcome ";
    let logs = |which: &str| format!("{LOGS} {which} ('failed', 'timed-out')");
    let mut derivations = part(
        Noted::Derivations,
        ages.derivations_days,
        "SELECT count(*) FROM derivations",
        builds * DERIVATIONS,
        derivation_bytes(sql)?,
        DERIVATION_BYTES,
    )?;
    if ages.derivations_days > 0 && ages.history_days > 0 {
        // They are needed for as long as builds of them are noted.
        derivations.steady = Some((derivations.a_day * in_history) as u64);
        derivations.bytes = (derivations.a_day * in_history * derivations.bytes_each) as u64;
    } else {
        derivations.steady = None;
        derivations.bytes = (derivations.a_day * 365.0 * derivations.bytes_each) as u64;
    }
    let parts = vec![
        part(
            Noted::Logs,
            ages.logs_days,
            &logs("NOT IN"),
            builds * (1.0 - failing),
            log_bytes(sql, storage, "outcome = 'succeeded'")?,
            LOG_BYTES,
        )?,
        part(
            Noted::FailedLogs,
            ages.failed_logs_days,
            &logs("IN"),
            builds * failing,
            log_bytes(sql, storage, "outcome IN ('failed', 'timed-out')")?,
            FAILED_LOG_BYTES,
        )?,
        part(
            Noted::History,
            ages.history_days,
            "SELECT coalesce(sum(count), 0) FROM state_counts",
            builds,
            None,
            BUILD_BYTES,
        )?,
        part(
            Noted::Events,
            ages.events_days,
            "SELECT coalesce((SELECT max(id) FROM events) - (SELECT min(id) FROM events) + 1, 0)",
            events.unwrap_or(builds * EVENTS),
            None,
            EVENT_BYTES,
        )?,
        part(
            Noted::HookRuns,
            ages.hook_runs_days,
            "SELECT count(*) FROM hook_runs WHERE state = 'failed'",
            hook_runs.unwrap_or(builds * HOOK_RUNS),
            None,
            HOOK_RUN_BYTES,
        )?,
        derivations,
        part(Noted::Paths, 0, "SELECT coalesce(max(id), 0) FROM paths", builds * PATHS, None, PATH_BYTES)?,
    ];
    Ok(Estimate { builds_a_day: builds, measured: pace.is_some(), parts })
}

fn days_or_year(days: u32) -> f64 {
    if days == 0 { 365.0 } else { f64::from(days) }
}

fn count(sql: &Connection, select: &str) -> Result<u64, Error> {
    Ok(unsql(sql.prepare_cached(select)?.query_row([], |row| row.get(0))?))
}

/// How many come each day, from how many of the newest there are and when the first of these came; none if there are too
/// few, or all came within a day.
fn pace(sql: &Connection, select: &str) -> Result<Option<f64>, Error> {
    let (count, first): (i64, Option<i64>) =
        sql.prepare_cached(select)?.query_row([NEWEST], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(first) = first else { return Ok(None) };
    let days = now().saturating_sub(unsql(first)) as f64 / DAY_MS as f64;
    Ok((unsql(count) >= FEWEST && days >= 1.0).then(|| count as f64 / days))
}

/// Which part of the newest tries failed.
fn failing(sql: &Connection) -> Result<Option<f64>, Error> {
    let select = "SELECT count(*), coalesce(sum(outcome IN ('failed', 'timed-out')), 0) FROM \
         (SELECT outcome FROM attempts WHERE outcome IS NOT NULL ORDER BY lease DESC LIMIT ?1)";
    let (all, failed): (i64, i64) =
        sql.prepare_cached(select)?.query_row([NEWEST], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((unsql(all) >= FEWEST).then(|| failed as f64 / all as f64))
}

/// The bytes of the newest such logs, as they are kept.
fn log_bytes(sql: &Connection, storage: &Storage, which: &str) -> Result<Option<f64>, Error> {
    let select = format!(
        "SELECT b.uuid, a.number FROM (SELECT build, number FROM attempts WHERE log_packed = 1 \
         AND log_removed_at IS NULL AND {which} ORDER BY lease DESC LIMIT ?1) a JOIN builds b ON b.id = a.build"
    );
    let mut select = sql.prepare_cached(&select)?;
    let rows = select.query_map([SAMPLE], |row| Ok((paths::build_id(row, 0)?, row.get(1)?)))?;
    let mut sizes = Vec::new();
    for row in rows {
        let (build, attempt) = row?;
        sizes.extend(std::fs::metadata(storage.packed_log(build, attempt)).map(|file| file.len()));
    }
    Ok(mean(&sizes))
}

/// The bytes of the newest derivations, with all that belongs to them.
fn derivation_bytes(sql: &Connection) -> Result<Option<f64>, Error> {
    let mut select = sql.prepare_cached(
        "SELECT (SELECT length(c.bytes) FROM contents c WHERE c.path = d.id), \
         (SELECT count(*) FROM derivation_inputs i WHERE i.derivation = d.id), \
         (SELECT count(*) FROM derivation_sources s WHERE s.derivation = d.id) \
         FROM (SELECT id FROM derivations ORDER BY id DESC LIMIT ?1) d",
    )?;
    let rows = select.query_map([SAMPLE], |row| {
        let (text, inputs, sources): (Option<i64>, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let edges = inputs as f64 * INPUT_BYTES + sources as f64 * SOURCE_BYTES;
        Ok((text.unwrap_or(0) as f64 + edges + DERIVATION_ROW_BYTES) as u64)
    })?;
    Ok(mean(&rows.collect::<rusqlite::Result<Vec<u64>>>()?))
}

fn mean(sizes: &[u64]) -> Option<f64> {
    let count = sizes.len() as u64;
    (count >= FEWEST).then(|| sizes.iter().sum::<u64>() as f64 / count as f64)
}
