//! What was built before there was anything to publish it: it is given to the hook, a few items at a time.

use rusqlite::{Connection, OptionalExtension};

use super::hold;
use crate::farm::error::Error;
use crate::farm::{Farm, Tx, hooks};

/// How many items one transaction looks at.
const AT_ONCE: i64 = 500;
/// While so many wait for the hook, it is given no more.
const ENOUGH: i64 = 2000;

/// What came of giving the hook some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::farm) enum Given {
    /// There is more.
    Some,
    /// It has enough to do for now.
    Enough,
    /// There is nothing to be given, or there is no such hook.
    Nothing,
}

impl Farm {
    /// Gives the hook some of what was held before. What was given stays given, whenever it is interrupted. Blocks.
    pub(in crate::farm) fn give_backlog(&self) -> Result<Given, Error> {
        // Switched on later, it gets all of it then.
        if !self.hooks.has(hold::HOOK) {
            return Ok(Given::Nothing);
        }
        let (left, waiting) = self.database.read_blocking::<_, Error>(|sql| {
            let left = left(sql)?.is_some();
            Ok((left, if left { hooks::waiting(sql, hold::HOOK, ENOUGH)? } else { 0 }))
        })?;
        if !left {
            return Ok(Given::Nothing);
        }
        if waiting >= ENOUGH {
            return Ok(Given::Enough);
        }
        let more = self.database.write_alone_blocking(give)?;
        if !more {
            tracing::info!("all that was built before this version was given to be published");
        }
        Ok(if more { Given::Some } else { Given::Nothing })
    }
}

fn left(sql: &Connection) -> Result<Option<(i64, i64)>, Error> {
    let select = "SELECT given, last FROM backlog";
    Ok(sql.prepare_cached(select)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// True: there is more.
fn give(tx: &mut Tx<'_>) -> Result<bool, Error> {
    let Some((given, last)) = left(tx)? else { return Ok(false) };
    // An output is held only when its build succeeded. Sources are published with what refers to them.
    let some: Vec<(i64, bool)> = {
        let mut select = tx.prepare_cached(
            "SELECT path, kind = 'output' AND NOT EXISTS (SELECT 1 FROM published u WHERE u.path = i.path) \
             FROM items i WHERE path > ?1 AND path <= ?2 ORDER BY path LIMIT ?3",
        )?;
        let rows = select.query_map([given, last, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    for (item, _) in some.iter().filter(|(_, is_due)| *is_due) {
        hold::run_later(tx, *item)?;
    }
    match some.last() {
        Some((item, _)) if *item < last => {
            tx.prepare_cached("UPDATE backlog SET given = ?1")?.execute([item])?;
            Ok(true)
        }
        _ => {
            tx.execute("DELETE FROM backlog", [])?;
            Ok(false)
        }
    }
}
