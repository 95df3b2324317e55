//! How removal stands, and what would go: for those who ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use drover_wire::retention::{Amount, KeptFor, RetentionPlan, RetentionQuestion, RetentionStatus, WHY_LIMIT};
use rusqlite::Connection;

use super::super::error::Error;
use super::super::{Farm, now, unsql};
use super::mark::mark;
use super::reason::Reason;
use super::walk::{Bits, each, paths};
use super::{next_due, revisions, why};
use crate::config::RetentionConfig;

impl Farm {
    /// How removal stands.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn retention(self: &Arc<Self>) -> Result<RetentionStatus, Error> {
        let removes = self.config.retention.removes();
        let (running, runs, last) =
            self.sweeps.change(|state| (state.running, state.runs, state.last.clone()));
        self.database
            .read(move |sql| {
                Ok(RetentionStatus {
                    removes,
                    running,
                    runs,
                    last,
                    announced: amount(sql, "announced")?,
                    withdrawn: amount(sql, "withdrawn")?,
                    leaving: leaving(sql)?,
                    elsewhere: elsewhere(sql)?,
                    not_found: not_found(sql)?,
                    next_due: next_due(sql)?,
                })
            })
            .await
    }

    /// What would stay and go, and why.
    ///
    /// # Errors
    /// When too much is asked, or the database cannot be asked.
    pub async fn retention_plan(
        self: &Arc<Self>,
        question: RetentionQuestion,
    ) -> Result<RetentionPlan, Error> {
        if question.why.len() > WHY_LIMIT {
            let count = question.why.len();
            return Err(Error::BadRequest(format!(
                "{count} paths are more than the {WHY_LIMIT} that can be asked about at once"
            )));
        }
        let config = self.config.retention.clone();
        self.database.read(move |sql| plan(sql, &config, &question)).await
    }
}

fn amount(sql: &Connection, step: &str) -> Result<Amount, Error> {
    let select = "SELECT count(*), coalesce(sum(i.file_size), 0) FROM removals r LEFT JOIN items i ON i.path = r.path \
                  WHERE r.step = ?1 AND r.reason <> 'elsewhere'";
    Ok(sql.prepare_cached(select)?.query_row([step], amount_of)?)
}

/// What is to go because another server has it.
fn leaving(sql: &Connection) -> Result<Amount, Error> {
    let select = "SELECT count(*), coalesce(sum(i.file_size), 0) FROM removals r JOIN items i ON i.path = r.path \
                  WHERE r.reason = 'elsewhere'";
    Ok(sql.prepare_cached(select)?.query_row([], amount_of)?)
}

fn amount_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Amount> {
    Ok(Amount { items: unsql(row.get(0)?), bytes: unsql(row.get(1)?) })
}

/// What is not here because another server has it.
fn elsewhere(sql: &Connection) -> Result<u64, Error> {
    let select = "SELECT count(*) FROM redirects r WHERE r.until IS NULL \
                  AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = r.path)";
    Ok(unsql(sql.prepare_cached(select)?.query_row([], |row| row.get(0))?))
}

/// Of that, what was not found there at the last look.
fn not_found(sql: &Connection) -> Result<u64, Error> {
    let select = "SELECT count(*) FROM redirects r WHERE r.until IS NULL AND r.asked_at > r.found_at \
                  AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = r.path)";
    Ok(unsql(sql.prepare_cached(select)?.query_row([], |row| row.get(0))?))
}

fn plan(
    sql: &Connection,
    config: &RetentionConfig,
    question: &RetentionQuestion,
) -> Result<RetentionPlan, Error> {
    let at = now();
    let sets = revisions::kept(sql, config, at)?;
    let mark = mark(sql, config, at, !question.why.is_empty())?;
    let mut fixed = Bits::new(paths(sql)?);
    each(sql, "SELECT path FROM fixed_outputs", |path| {
        fixed.put(path);
    })?;
    let mut kept: BTreeMap<u8, (Reason, Amount)> = BTreeMap::new();
    let (mut fixed_outputs, mut others) = (Amount::default(), Amount::default());
    let mut unless_elsewhere = Amount::default();
    let mut select = sql.prepare_cached("SELECT path, file_size FROM items")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let Ok(path) = row.get(0) else { continue };
        let bytes = unsql(row.get(1)?);
        let reason = mark.reached.reason(path);
        if reason.is_some_and(|reason| reason.is_weak(config)) {
            unless_elsewhere.items += 1;
            unless_elsewhere.bytes += bytes;
        }
        let amount = match reason {
            Some(reason) => &mut kept.entry(reason.number()).or_insert((reason, Amount::default())).1,
            None if fixed.has(path) => &mut fixed_outputs,
            None => &mut others,
        };
        amount.items += 1;
        amount.bytes += bytes;
    }
    let why = question.why.iter().map(|path| why::why(sql, config, &sets, &mark.reached, path));
    Ok(RetentionPlan {
        removes: config.removes(),
        kept: kept
            .into_values()
            .map(|(reason, amount)| KeptFor { ground: reason.ground(config), amount })
            .collect(),
        fixed_outputs,
        others,
        unless_elsewhere,
        leaving: leaving(sql)?,
        elsewhere: elsewhere(sql)?,
        revisions: sets.iter().map(|set| set.others.len() as u64).sum(),
        why: why.collect::<Result<_, _>>()?,
    })
}
