//! Upstreams of fixed outputs: whether what was fetched once can still be fetched. What cannot is had here only.

mod look;
mod said;

use std::sync::Arc;
use std::time::Duration;

use drover_store::StorePath;
use drover_wire::source::{Source, SourceList, SourceQuestion, SourceState};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Semaphore;

use super::error::Error;
use super::{Farm, Tx, intake, now, paths, sql, unsql};
use crate::config::Config;
use look::{Looker, hex};
use said::Said;

/// How many fixed outputs a page has, and how many a page looks through.
const PAGE: i64 = 500;
/// How long a look may take: by itself, and when somebody waits for it, which is shorter than anybody is patient.
const LOOK_TIME: Duration = Duration::from_secs(1800);
const ASKED_TIME: Duration = Duration::from_secs(100);
/// How many looks that somebody waits for are taken at a time, and how long one waits for its turn.
const ASKED_AT_ONCE: usize = 8;
const TURN_TIME: Duration = Duration::from_secs(20);
/// Between two looks: at least, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));
/// One that is due is looked for among so many at a time.
const STEP: i64 = 200;
const DAY: u64 = 86_400;

/// Looks at upstreams: one at a time by itself, and a few beside that which somebody waits for.
#[derive(Debug)]
pub(super) struct Upstreams {
    looker: Arc<Looker>,
    asked: Semaphore,
}

impl Upstreams {
    pub(super) fn new(config: &Config) -> Self {
        let looker = Arc::new(Looker::new(config.sources_check_private));
        Self { looker, asked: Semaphore::new(ASKED_AT_ONCE) }
    }
}

/// Begins to look at upstreams, if the configuration wants that.
pub(super) fn start(farm: &Arc<Farm>) {
    if farm.config.sources_check_days == 0 {
        return;
    }
    let mut stopping = farm.stopping();
    let farm = Arc::downgrade(farm);
    tokio::spawn(async move {
        let mut after = 0;
        let mut pause = PAUSE.0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let Some(farm) = farm.upgrade() else { return };
            match farm.look_at_next(&mut after).await {
                Ok(next) => pause = next,
                Err(error) => {
                    tracing::error!(%error, "looking at upstreams failed; it is tried again");
                    pause = PAUSE.1;
                }
            }
        }
    });
}

/// A build of a fixed output failed. What it says of the upstream is noted, where it does.
pub(super) fn failed(tx: &Tx<'_>, build: i64, why: &str) -> Result<(), Error> {
    let state = if why.contains("hash mismatch") {
        SourceState::Changed
    } else if why.contains("download") || why.contains("fetch") || why.contains("checkout") {
        // The agent's own network may have been away.
        SourceState::Unknown
    } else {
        return Ok(());
    };
    let select =
        "SELECT d.target, d.id FROM builds b JOIN derivations d ON d.id = b.derivation WHERE b.id = ?1";
    let (path, derivation): (i64, i64) =
        tx.prepare_cached(select)?.query_row([build], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(text) = intake::contents(tx, derivation)? else { return Ok(()) };
    let is_fixed = drover_store::derivation::Derivation::parse(&text).is_ok_and(|d| d.is_fixed_output());
    if is_fixed {
        let words: String = why.chars().take(300).collect();
        // What a look at the upstream itself found is worth more than that something went wrong.
        let stronger = "SELECT 1 FROM upstreams WHERE path = ?1 AND state IN ('vanished', 'changed')";
        if state != SourceState::Unknown || !tx.prepare_cached(stronger)?.exists([path])? {
            note(tx, path, state, &format!("a build failed: {words}"))?;
        }
    }
    Ok(())
}

fn note(tx: &Tx<'_>, path: i64, state: SourceState, detail: &str) -> Result<(), Error> {
    tx.prepare_cached("INSERT OR REPLACE INTO upstreams VALUES (?1, ?2, ?3, ?4)")?.execute((
        path,
        sql(now()),
        state.as_str(),
        detail,
    ))?;
    Ok(())
}

impl Farm {
    /// A page of the fixed outputs, or of those whose upstream vanished or changed.
    ///
    /// # Errors
    /// When the database cannot be asked, or the page is to begin after something that is not known.
    pub async fn sources(&self, question: SourceQuestion) -> Result<SourceList, Error> {
        self.database
            .read(move |sql| {
                let after = match &question.after {
                    None => 0,
                    Some(path) => paths::find(sql, path)?
                        .ok_or_else(|| Error::NotFound { what: "source", name: path.to_string() })?,
                };
                let select = if question.vanished || question.changed {
                    "SELECT path FROM upstreams WHERE path > ?1 AND ((?3 AND state = 'vanished') \
                         OR (?4 AND state = 'changed')) ORDER BY path LIMIT ?2"
                } else {
                    "SELECT path FROM fixed_outputs WHERE path > ?1 AND ?3 = ?4 \
                     UNION SELECT path FROM upstreams WHERE path > ?1 ORDER BY path LIMIT ?2"
                };
                let found: Vec<i64> = sql
                    .prepare_cached(select)?
                    .query_map((after, PAGE + 1, question.vanished, question.changed), |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                let page = found.iter().take(usize::try_from(PAGE).unwrap_or(usize::MAX));
                let sources = page.map(|id| source(sql, *id)).collect::<Result<Vec<_>, Error>>()?;
                Ok(SourceList { more: found.len() > sources.len(), sources })
            })
            .await
    }

    /// Looks at the upstream of a fixed output now.
    ///
    /// # Errors
    /// When nothing is known of it as a fixed output, too many ask at once, or the database cannot be written.
    pub async fn check_source(self: &Arc<Self>, path: StorePath) -> Result<Source, Error> {
        let named = path.clone();
        let id = self.database.read(move |sql| paths::find(sql, &named)).await?;
        let unknown = || Error::NotFound { what: "source", name: path.to_string() };
        let id = id.ok_or_else(unknown)?;
        let turn = tokio::time::timeout(TURN_TIME, self.upstreams.asked.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Error::Busy("looks at upstreams")) };
        if !self.look_at(id, ASKED_TIME).await? {
            return Err(unknown());
        }
        self.database.read(move |sql| source(sql, id)).await
    }

    /// Looks at the next upstream that is due; how long to wait then.
    async fn look_at_next(self: &Arc<Self>, after: &mut i64) -> Result<Duration, Error> {
        let days = self.config.sources_check_days;
        let from = *after;
        let due = sql(now().saturating_sub(days.saturating_mul(DAY * 1000)));
        let step = "SELECT f.path, u.checked_at IS NULL OR u.checked_at < ?2, (SELECT count(*) FROM fixed_outputs) \
                    FROM fixed_outputs f LEFT JOIN upstreams u ON u.path = f.path \
                    WHERE f.path > ?1 ORDER BY f.path LIMIT ?3";
        let found = self.database.read(move |sql| {
            let mut select = sql.prepare_cached(step)?;
            let rows =
                select.query_map((from, due, STEP), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok::<Vec<(i64, bool, i64)>, Error>(rows.collect::<rusqlite::Result<_>>()?)
        });
        let found = found.await?;
        let Some((last, _, all)) = found.last().copied() else {
            // From the beginning, a while later.
            *after = 0;
            return Ok(PAUSE.1);
        };
        let Some((next, ..)) = found.iter().find(|(_, due, _)| *due).copied() else {
            *after = last;
            return Ok(PAUSE.0);
        };
        *after = next;
        if !self.has_addresses(next).await? {
            return Ok(Duration::from_millis(50));
        }
        self.look_at(next, LOOK_TIME).await?;
        // So that each has its turn in as many days as are configured.
        let pace = Duration::from_secs(days.saturating_mul(DAY) / unsql(all).max(1));
        Ok(pace.clamp(PAUSE.0, PAUSE.1))
    }

    async fn has_addresses(&self, id: i64) -> Result<bool, Error> {
        self.database.read(move |sql| Ok(!Said::of(sql, id)?.urls.is_empty())).await
    }

    /// Looks at one; false: no derivation says that it is fixed.
    async fn look_at(self: &Arc<Self>, id: i64, time: Duration) -> Result<bool, Error> {
        let farm = Arc::clone(self);
        let looking = crate::traced::spawn_blocking(move || farm.look_blocking(id, time));
        let found = looking.await.unwrap_or_else(|_| Err(crate::database::Error::Panicked.into()))?;
        let Some((state, detail)) = found else { return Ok(false) };
        self.database.write::<_, Error>(move |tx| note(tx, id, state, &detail)).await?;
        Ok(true)
    }

    fn look_blocking(&self, id: i64, time: Duration) -> Result<Option<look::Found>, Error> {
        let (said, mirrors, elsewhere) = self.database.read_blocking(|sql| {
            let said = Said::of(sql, id)?;
            let list = match &said.mirrors {
                Some(path) => {
                    paths::find(sql, path)?.map(|id| intake::contents(sql, id)).transpose()?.flatten()
                }
                None => None,
            };
            let select =
                "SELECT detail FROM upstreams WHERE state = 'there' ORDER BY checked_at DESC LIMIT 1";
            let elsewhere: Option<Option<String>> =
                sql.prepare_cached(select)?.query_row([], |row| row.get(0)).optional()?;
            Ok::<_, Error>((said, list.unwrap_or_default(), elsewhere.flatten()))
        })?;
        let Some(fixed) = &said.fixed else { return Ok(None) };
        let addresses = said.addresses(&mirrors);
        let looker = &self.upstreams.looker;
        Ok(Some(looker.look(&addresses, fixed, said.executable, elsewhere.as_deref(), time)))
    }
}

fn source(sql: &Connection, id: i64) -> Result<Source, Error> {
    let said = Said::of(sql, id)?;
    let select = "SELECT checked_at, state, detail FROM upstreams WHERE path = ?1";
    let found: Option<(i64, String, Option<String>)> = sql
        .prepare_cached(select)?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (checked_at, state, detail) = match found {
        Some((at, state, detail)) => (Some(unsql(at)), state, detail),
        None => (None, String::new(), None),
    };
    let all = [SourceState::There, SourceState::Vanished, SourceState::Changed, SourceState::Unknown];
    let state = all.into_iter().find(|one| one.as_str() == state).unwrap_or(SourceState::Unchecked);
    let hash = said.fixed.map(|fixed| {
        format!("{}{}:{}", if fixed.recursive { "r:" } else { "" }, fixed.algorithm, hex(&fixed.hash))
    });
    Ok(Source {
        path: paths::path(sql, id)?,
        held: sql.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([id])?,
        hash,
        urls: said.urls,
        state,
        checked_at,
        detail,
    })
}
