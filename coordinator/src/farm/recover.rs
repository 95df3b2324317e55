//! The work is taken up where it was left: what is only known in memory is made again out of the database.

use std::sync::Arc;

use drover_wire::agent::Allocation;
use drover_wire::{BuildState, LeaseId};

use super::change::{Change, Opened};
use super::error::Error;
use super::{Farm, agents, paths, provided, retention, unsql, upload};
use crate::storage::remove_if_there;

impl Farm {
    /// Agents, open leases (each with its full time), and an end to what was on its way when the process ended.
    pub(super) fn recover(self: &Arc<Self>) -> Result<(), Error> {
        // It writes where an agent names a system that no derivation has named yet.
        let mut changes = self.database.write_blocking::<_, Error>(|tx| agents::load(tx))?;
        changes.extend(self.open_leases()?);
        let ttl = self.config.narinfo_ttl_seconds;
        self.database.write_blocking(move |tx| retention::promise(tx, ttl))?;
        let leases = changes.iter().filter(|change| matches!(change, Change::Opened(_))).count();
        self.live.apply(changes);
        let servers = self.substitutes.clone();
        self.database.write_blocking(move |tx| provided::forget_others(tx, servers.servers()))?;
        let farm = Arc::clone(self);
        self.database.write_blocking::<_, Error>(move |tx| upload::recover(tx, &farm.storage))?;
        self.remove_strays()?;
        tracing::info!(leases, "the work is taken up again");
        Ok(())
    }

    fn open_leases(&self) -> Result<Vec<Change>, Error> {
        let mut all = self.database.read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare(
                "SELECT a.lease, a.number, a.agent, g.name, a.started_at IS NOT NULL, a.build, b.uuid, b.state, \
                 b.platform, p.base, b.priority, b.timeout, b.max_silent_time, a.phase FROM attempts a \
                 JOIN agents g ON g.id = a.agent JOIN builds b ON b.id = a.build JOIN paths p ON p.id = b.derivation \
                 WHERE a.ended_at IS NULL",
            )?;
            let rows = select.query_map([], |row| {
                Ok(Opened {
                    allocation: Allocation {
                        lease: LeaseId(unsql(row.get(0)?)),
                        build: paths::build_id(row, 6)?,
                        derivation: paths::base(row, 9)?,
                        priority: row.get(10)?,
                        timeout: row.get::<_, Option<i64>>(11)?.map(unsql),
                        max_silent_time: row.get::<_, Option<i64>>(12)?.map(unsql),
                    },
                    attempt: row.get(1)?,
                    agent: row.get(2)?,
                    agent_name: row.get(3)?,
                    started: row.get(4)?,
                    // A word of a later version is none that was told.
                    phase: row.get::<_, Option<String>>(13)?.and_then(|phase| phase.parse().ok()),
                    build: row.get(5)?,
                    canceled: paths::state(row, 7)? == BuildState::Canceled,
                    platform: row.get(8)?,
                    log_size: 0,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })?;
        for opened in &mut all {
            let log = self.storage.log(opened.allocation.build, opened.attempt);
            opened.log_size = std::fs::metadata(log).map_or(0, |file| file.len());
        }
        Ok(all.into_iter().map(|opened| Change::Opened(Box::new(opened))).collect())
    }

    /// Files that were on their way and belong to nobody.
    fn remove_strays(&self) -> Result<(), Error> {
        let failed = |error| Error::io(format!("look through {}", self.storage.uploads().display()), error);
        for entry in std::fs::read_dir(self.storage.uploads()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if self.belongs_to_upload(name)? {
                continue;
            }
            remove_if_there(&entry.path()).map_err(failed)?;
        }
        Ok(())
    }

    fn belongs_to_upload(&self, name: &str) -> Result<bool, Error> {
        let Some((lease, base)) = name.split_once('-') else { return Ok(false) };
        let Ok(lease) = lease.parse::<i64>() else { return Ok(false) };
        self.database.read_blocking(|sql| {
            // What is whole has its place, and this is a copy that was about to be removed.
            let select = "SELECT 1 FROM uploads u JOIN paths p ON p.id = u.path \
                          WHERE u.lease = ?1 AND p.base = ?2 AND u.complete = 0";
            Ok(sql.prepare_cached(select)?.exists((lease, base))?)
        })
    }
}
