//! What there was before a hook was switched on: it is given to it, a few items at a time. For the hook that publishes
//! these are outputs that are held, for one that pushes, what is published.

use std::collections::HashMap;

use rusqlite::Connection;

use super::hold;
use crate::farm::error::Error;
use crate::farm::events::{Kind, Subject};
use crate::farm::hooks::{self, Past};
use crate::farm::{Farm, Tx};

/// How many items one transaction looks at.
const AT_ONCE: i64 = 500;
/// While so many wait for a hook, it is given no more.
const ENOUGH: i64 = 2000;

/// What came of giving hooks some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::farm) enum Given {
    /// There is nothing to be given.
    Nothing,
    /// They have enough to do for now.
    Enough,
    /// There is more.
    Some,
}

impl Farm {
    /// Takes note of the hooks that are switched on. Those that were not before, or pushed to somewhere else, are to get
    /// what there is. Blocks.
    pub(in crate::farm) fn note_hooks(&self) -> Result<(), Error> {
        let before: HashMap<String, String> = self.database.read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare("SELECT hook, target FROM hooks_on")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })?;
        let mut on = Vec::new();
        for (hook, past, target) in self.hooks.with_past() {
            let is_new = before.get(hook.as_str()) != Some(&target);
            let made = !is_new || self.hooks.make_new(self, hook);
            on.push((hook.to_string(), past, target, is_new, made));
        }
        let others: Vec<String> = self.hooks.without_past().map(ToString::to_string).collect();
        let names: Vec<&String> = on.iter().map(|(hook, ..)| hook).chain(&others).collect();
        let names = serde_json::json!(names).to_string();
        self.database.write_alone_blocking::<_, Error>(move |tx| {
            for off in [
                "DELETE FROM hooks_on WHERE hook NOT IN (SELECT value FROM json_each(?1))",
                "DELETE FROM backlog WHERE hook NOT IN (SELECT value FROM json_each(?1))",
            ] {
                tx.execute(off, [&names])?;
            }
            for (hook, past, target, is_new, made) in on {
                if is_new {
                    give_anew(tx, &hook, past)?;
                }
                if made {
                    tx.execute("INSERT OR REPLACE INTO hooks_on VALUES (?1, ?2)", [hook, target])?;
                } else {
                    // It is as new at the next start.
                    tx.execute("DELETE FROM hooks_on WHERE hook = ?1", [hook])?;
                }
            }
            for hook in others {
                tx.execute("INSERT OR REPLACE INTO hooks_on VALUES (?1, '')", [hook])?;
            }
            Ok(())
        })
    }

    /// Gives hooks some of what there was before. What was given stays given, whenever it is interrupted. Blocks.
    pub(in crate::farm) fn give_backlog(&self) -> Result<Given, Error> {
        let mut all = Given::Nothing;
        for (hook, past, _) in self.hooks.with_past() {
            let hook = hook.to_string();
            let (left, waiting) = self.database.read_blocking::<_, Error>(|sql| {
                let left = left(sql, &hook)?.is_some();
                Ok((left, if left { hooks::waiting(sql, &hook, ENOUGH)? } else { 0 }))
            })?;
            let given = if !left {
                Given::Nothing
            } else if waiting >= ENOUGH {
                Given::Enough
            } else if self.database.write_alone_blocking({
                let hook = hook.clone();
                move |tx| give(tx, &hook, past)
            })? {
                Given::Some
            } else {
                tracing::info!(hook, "all that there was before this hook was given to it");
                Given::Nothing
            };
            all = all.max(given);
        }
        Ok(all)
    }
}

/// All that is published has changed: those who push it get it anew.
pub(super) fn push_anew(tx: &Tx<'_>, hooks: &[String]) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| give_anew(tx, hook, Past::Published))
}

/// A hook is to get all that there is.
fn give_anew(tx: &Tx<'_>, hook: &str, past: Past) -> Result<(), Error> {
    tx.prepare_cached(match past {
        Past::Held => {
            "INSERT OR REPLACE INTO backlog SELECT ?1, 0, max(path) FROM items HAVING max(path) IS NOT NULL"
        }
        Past::Published => {
            "INSERT OR REPLACE INTO backlog SELECT ?1, 0, max(number) FROM publications \
             HAVING max(number) IS NOT NULL"
        }
    })?
    .execute([hook])?;
    Ok(())
}

fn left(sql: &Connection, hook: &str) -> Result<Option<(i64, i64)>, Error> {
    use rusqlite::OptionalExtension;
    let mut select = sql.prepare_cached("SELECT given, last FROM backlog WHERE hook = ?1")?;
    Ok(select.query_row([hook], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// True: there is more.
fn give(tx: &mut Tx<'_>, hook: &str, past: Past) -> Result<bool, Error> {
    let Some((given, last)) = left(tx, hook)? else { return Ok(false) };
    // An output is held only when its build succeeded. Sources are published with what refers to them.
    let some: Vec<(i64, i64, bool)> = {
        let mut select = tx.prepare_cached(match past {
            Past::Held => {
                "SELECT path, path, kind = 'output' \
                     AND NOT EXISTS (SELECT 1 FROM published u WHERE u.path = i.path) \
                 FROM items i WHERE path > ?1 AND path <= ?2 ORDER BY path LIMIT ?3"
            }
            // The run finds out whether it is still to be pushed.
            Past::Published => {
                "SELECT number, path, 1 FROM publications WHERE number > ?1 AND number <= ?2 \
                 ORDER BY number LIMIT ?3"
            }
        })?;
        let rows =
            select.query_map([given, last, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    for (_, item, _) in some.iter().filter(|(.., is_due)| *is_due) {
        match past {
            Past::Held => hold::run_later(tx, *item)?,
            Past::Published => hooks::enqueue(tx, hook, Kind::Published, Subject::Item(*item), None)?,
        }
    }
    match some.last() {
        Some((number, ..)) if *number < last => {
            tx.prepare_cached("UPDATE backlog SET given = ?2 WHERE hook = ?1")?.execute((hook, number))?;
            Ok(true)
        }
        _ => {
            tx.prepare_cached("DELETE FROM backlog WHERE hook = ?1")?.execute([hook])?;
            Ok(false)
        }
    }
}
