//! What substitute servers have of that which items refer to.

use std::collections::HashSet;

use drover_store::StorePath;
use rusqlite::Connection;

use super::{forbid, hold, is_published, is_source, references};
use crate::farm::error::Error;
use crate::farm::provided::{FAILURES, MISS_MS, note_answers};
use crate::farm::{Farm, now, paths, sql};

/// How long it is believed that a server has something, in milliseconds: it may remove things, too.
const FOUND_MS: u64 = 24 * 60 * 60 * 1000;
/// How many things that are waited for are looked at in one round.
const ROUND: i64 = 200;

impl Farm {
    /// Asks the substitute servers for what an item refers to and is not to come from here. Blocks.
    pub(super) fn ask_for_references(&self, item: i64) -> Result<(), Error> {
        if self.substitutes.servers().is_empty() {
            return Ok(());
        }
        let open = self.database.read_blocking(|sql| open_references(sql, item))?;
        self.ask_servers(open).map(drop)
    }

    /// Asks the substitute servers again for some of what is waited for, those after `cursor`, and lets go on what they
    /// have by now. Gives where to go on. Blocks.
    pub(super) fn ask_again(&self, cursor: i64) -> Result<i64, Error> {
        let (next, open) = self.database.read_blocking::<_, Error>(|sql| {
            const WAITED: &str =
                "SELECT DISTINCT reference FROM withheld WHERE reference > ?1 ORDER BY reference LIMIT ?2";
            let mut select = sql.prepare_cached(WAITED)?;
            let waited = select.query_map([cursor, ROUND], |row| row.get(0))?;
            let waited = waited.collect::<rusqlite::Result<Vec<i64>>>()?;
            let full = i64::try_from(waited.len()).is_ok_and(|count| count >= ROUND);
            let next = if full { waited.last().copied().unwrap_or(0) } else { 0 };
            let mut open = Vec::new();
            for reference in waited {
                if !asked_lately(sql, reference)? {
                    open.push((reference, paths::path(sql, reference)?));
                }
            }
            Ok((next, open))
        })?;
        for found in self.ask_servers(open)? {
            while self.database.write_blocking(move |tx| hold::release(tx, found))? {}
        }
        Ok(next)
    }

    /// Asks for these, and notes the answers; gives those that some server has.
    fn ask_servers(&self, open: Vec<(i64, StorePath)>) -> Result<HashSet<i64>, Error> {
        let mut stopping = self.stopping();
        let mut failures = vec![0; self.substitutes.servers().len()];
        let mut found = HashSet::new();
        for (item, path) in open {
            if *stopping.borrow_and_update() {
                return Err(Error::Stopping);
            }
            let mut answers = Vec::new();
            for (server, failures) in self.substitutes.servers().iter().zip(&mut failures) {
                // One that is down would take its whole time for each of many.
                if *failures >= FAILURES {
                    continue;
                }
                match self.substitutes.has(server, &path) {
                    Ok(has) => {
                        *failures = 0;
                        answers.push((server.clone(), has));
                        if has {
                            found.insert(item);
                            break;
                        }
                    }
                    Err(error) => {
                        *failures += 1;
                        tracing::warn!(%error, left_out = *failures == FAILURES, "asking for a substitute failed");
                    }
                }
            }
            if !answers.is_empty() {
                self.database.write_blocking(move |tx| note_answers(tx, item, answers))?;
            }
        }
        Ok(found)
    }
}

/// What an item, or a source that would be published with it, refers to and is to come from elsewhere.
fn open_references(sql: &Connection, item: i64) -> Result<Vec<(i64, StorePath)>, Error> {
    const COMES: &str = "SELECT 1 FROM items i WHERE i.path = ?1 \
         AND NOT EXISTS (SELECT 1 FROM unpublishable u WHERE u.path = i.path)";
    let mut open = Vec::new();
    let mut seen = HashSet::from([item]);
    let mut stack = vec![item];
    while let Some(one) = stack.pop() {
        for reference in references(sql, one)? {
            if !seen.insert(reference) || is_published(sql, reference)? {
                continue;
            }
            if is_source(sql, reference)? && forbid::noted(sql, reference)?.is_none() {
                stack.push(reference);
            } else if !sql.prepare_cached(COMES)?.exists([reference])? && !asked_lately(sql, reference)? {
                open.push((reference, paths::path(sql, reference)?));
            }
        }
    }
    Ok(open)
}

/// Whether the servers' answers about it are still believed.
fn asked_lately(sql_: &Connection, path: i64) -> Result<bool, Error> {
    const LATELY: &str =
        "SELECT 1 FROM substitutes WHERE path = ?1 AND checked_at > CASE found WHEN 1 THEN ?2 ELSE ?3 END";
    let since = |ms: u64| sql(now().saturating_sub(ms));
    Ok(sql_.prepare_cached(LATELY)?.exists((path, since(FOUND_MS), since(MISS_MS)))?)
}
