//! Derivations by their names. Builds by theirs are found with a filter; see `list`.

use std::sync::Arc;

use drover_store::StorePath;
use drover_wire::client::{BuildFilter, BuildList};
use rusqlite::Connection;

use super::error::Error;
use super::list::{self, Phases};
use super::{Farm, paths};

/// The most derivations that are found.
const MOST: i64 = 100;

/// What was found for a part of a name.
#[derive(Debug)]
pub struct Found {
    /// Builds, a page of them.
    pub builds: BuildList,
    /// Derivations, the newest first, whether they were ever to be built or not.
    pub derivations: Vec<StorePath>,
    /// Whether there are more derivations.
    pub more: bool,
}

impl Farm {
    /// Builds and derivations whose names contain something.
    ///
    /// # Errors
    /// When too many search at once, or the page is to start after a build that there is not.
    pub async fn search(&self, filter: BuildFilter) -> Result<Found, Error> {
        // All names are looked through: a few at a time, so that others are answered, too.
        let turn = self.turns.search.take().await?;
        let live = Arc::clone(&self.live);
        self.database
            .read(move |sql| {
                let builds = list::page(sql, &Phases::of(&live), &filter)?;
                // A derivation has no state of its own.
                let mut derivations = match &filter.name {
                    Some(name) if filter.state.is_none() => derivations(sql, name)?,
                    _ => Vec::new(),
                };
                let more = derivations.len() as i64 > MOST;
                derivations.truncate(MOST as usize);
                // Here and not outside: the work goes on when nobody waits for it any more.
                drop(turn);
                Ok(Found { builds, derivations, more })
            })
            .await
    }
}

fn derivations(sql: &Connection, name: &str) -> Result<Vec<StorePath>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT p.base FROM paths p WHERE substr(p.base, -4) = '.drv' \
         AND instr(substr(p.base, 34, length(p.base) - 37), ?1) > 0 \
         AND EXISTS (SELECT 1 FROM derivations d WHERE d.id = p.id) ORDER BY p.id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map((name, MOST + 1), |row| paths::base(row, 0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
