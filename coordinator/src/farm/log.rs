//! Logs: chunks come in from agents, and are read while they grow or afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_wire::agent::Received;
use drover_wire::client::LogQuery;
use drover_wire::{BuildId, LOG_CHUNK_LIMIT, LeaseId, Timestamp};
use rusqlite::OptionalExtension;
use tokio::sync::watch;

use super::change::{AgentRow, Event};
use super::error::Error;
use super::lease::LogLength;
use super::{Farm, paths, unsql};

/// How long a reader who follows waits for a build to start, before it has to ask again.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Where the log of a try is.
#[derive(Debug, Clone)]
pub struct LogPlace {
    /// The file while it grows.
    pub raw: PathBuf,
    /// The file afterwards, compressed.
    pub packed: PathBuf,
    /// How it grows; none if the try has ended.
    pub growing: Option<watch::Receiver<LogLength>>,
}

/// The newest try of a build, or the one that was asked for.
enum Try {
    Number(u32),
    NotYet,
    Never(&'static str),
    Removed(Timestamp),
}

impl Farm {
    /// Adds a chunk to the log of a lease.
    ///
    /// # Errors
    /// When the agent does not hold the lease, the chunk does not fit the end of the log, or it cannot be written.
    pub async fn append_log(
        self: &Arc<Self>,
        agent: &AgentRow,
        lease: LeaseId,
        offset: u64,
        chunk: Bytes,
    ) -> Result<Received, Error> {
        if chunk.len() > LOG_CHUNK_LIMIT {
            return Err(Error::TooLarge {
                what: "the chunk of a log".to_owned(),
                limit: LOG_CHUNK_LIMIT as u64,
            });
        }
        let held = self.live.lease(agent.id, lease).ok_or(Error::LeaseNotHeld(lease))?;
        if !self.storage.has_room(chunk.len() as u64) {
            return Err(Error::StorageFull(format!("a chunk of the log of the lease {lease}")));
        }
        self.note_progress(&held, None);
        self.numbers.log_came(chunk.len());
        let path = self.storage.log(held.build, held.attempt);
        let limit = self.config.max_log_mib.saturating_mul(1 << 20);
        let appended =
            crate::traced::spawn_blocking(move || held.log().append(lease, &path, offset, &chunk, limit))
                .await;
        let received = appended
            .map_err(|_| Error::Damaged("writing a log failed in a way that it must not".to_owned()))??;
        Ok(Received { received, complete: false })
    }

    /// Where the log of a build is. Who follows one that has not started waits here for that.
    ///
    /// # Errors
    /// When there is no such build or try, or it has no log.
    pub async fn log(self: &Arc<Self>, build: BuildId, query: LogQuery) -> Result<LogPlace, Error> {
        let mut events = self.live.events();
        let mut stopping = self.stopping();
        let deadline = tokio::time::Instant::now() + LONGEST_WAIT;
        loop {
            match self.find_try(build, query.attempt).await? {
                Try::Number(number) => {
                    let lease = self.live.lease_of(build).filter(|lease| lease.attempt == number);
                    return Ok(LogPlace {
                        raw: self.storage.log(build, number),
                        packed: self.storage.packed_log(build, number),
                        growing: lease.map(|lease| lease.log().length()),
                    });
                }
                Try::Never(why) => return Err(Error::NotFound { what: why, name: build.to_string() }),
                Try::Removed(at) => return Err(Error::LogRemoved { build, at }),
                Try::NotYet if !query.follow || *stopping.borrow() => {
                    return Err(Error::NotFound {
                        what: "log yet: nobody has started the build",
                        name: build.to_string(),
                    });
                }
                Try::NotYet => {}
            }
            let told = async {
                loop {
                    match events.recv().await {
                        Ok(Event::Opened(lease)) if lease.build == build => return,
                        Ok(Event::Ended(ended)) if ended == build => return,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            };
            tokio::select! {
                () = told => {}
                _ = stopping.changed() => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Error::NotFound { what: "log yet: nobody has started the build", name: build.to_string() });
                }
            }
        }
    }

    async fn find_try(&self, build: BuildId, wanted: Option<u32>) -> Result<Try, Error> {
        self.database
            .read(move |sql| {
                let found = sql
                    .prepare_cached("SELECT id, state FROM builds WHERE uuid = ?1")?
                    .query_row([build.0.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, paths::state(row, 1)?)))
                    .optional()?;
                let Some((id, state)) = found else {
                    return Err(Error::NotFound { what: "build", name: build.to_string() });
                };
                let found: Option<(u32, Option<i64>)> = sql
                    .prepare_cached(
                        "SELECT number, log_removed_at FROM attempts WHERE build = ?1 AND (?2 IS NULL OR number = ?2) \
                         ORDER BY number DESC LIMIT 1",
                    )?
                    .query_row((id, wanted), |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                Ok(match found {
                    Some((_, Some(at))) => Try::Removed(unsql(at)),
                    Some((number, None)) => Try::Number(number),
                    None if wanted.is_some() => Try::Never("such try at the build"),
                    None if state.is_final() => Try::Never("log: nobody started the build"),
                    None => Try::NotYet,
                })
            })
            .await
    }
}
