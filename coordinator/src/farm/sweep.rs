//! What is done from time to time: leases that ran out, logs that are compressed, times that are noted.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use drover_wire::{BuildId, LeaseId};
use tokio::sync::mpsc;

use super::error::Error;
use super::lease::Lease;
use super::{Farm, ages, events, hooks, import, now, paths, publish, requeue, retention, sql, upstreams};
use crate::storage::pack_log;

/// How often it is looked for leases that ran out, at most; short leases are looked at more often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked how much room there is.
const ROOM_EVERY: Duration = Duration::from_secs(30);
/// How often it is noted when agents were heard of.
const NOTE_EVERY: Duration = Duration::from_secs(60);

impl Farm {
    /// Starts what is done from time to time; it ends with the farm, or when that stops.
    pub fn start_tasks(self: &Arc<Self>) {
        events::start(self);
        publish::start(self);
        import::start(self);
        hooks::start(self);
        ages::start(self);
        retention::start(self);
        upstreams::start(self);
        let farm = Arc::downgrade(self);
        let mut stopping = self.stopping();
        let pause = LOOK_EVERY.min(Duration::from_secs(self.config.lease_seconds) / 8);
        tokio::spawn(async move {
            let mut noted = Instant::now();
            let mut looked = now();
            let mut room: Option<Instant> = None;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stopping.changed() => {}
                }
                let Some(farm) = farm.upgrade() else { return };
                let note = noted.elapsed() >= NOTE_EVERY || *stopping.borrow();
                if note {
                    noted = Instant::now();
                }
                if let Err(error) = farm.sweep(&mut looked, note).await {
                    tracing::error!(%error, "looking after leases failed; it is tried again");
                }
                if room.is_none_or(|room| room.elapsed() >= ROOM_EVERY) {
                    room = Some(Instant::now());
                    if let Err(error) = farm.note_room().await {
                        tracing::warn!(%error, "how much room there is could not be noted; it is tried again");
                    }
                }
                if *stopping.borrow() {
                    return;
                }
            }
        });
    }

    pub(super) async fn sweep(self: &Arc<Self>, looked: &mut u64, note: bool) -> Result<(), Error> {
        for held in self.live.run_out() {
            let lease = held.id;
            let lost = self
                .database
                .write_alone::<_, Error>(move |tx| {
                    // The agent may have been heard of while this job waited.
                    let over = held.deadline() <= Instant::now();
                    let open = "SELECT 1 FROM attempts WHERE lease = ?1 AND ended_at IS NULL";
                    if !over || !tx.prepare_cached(open)?.exists([sql(lease.0)])? {
                        return Ok(false);
                    }
                    let bytes = held.log().length().borrow().bytes;
                    requeue::lose(
                        tx,
                        sql(lease.0),
                        bytes,
                        "the agent was not heard of and the lease ran out",
                    )?;
                    Ok(true)
                })
                .await?;
            if lost {
                tracing::warn!(%lease, "a lease ran out; its build goes back to the queue");
                self.clean_uploads_later(lease);
            }
        }
        self.wake_for_avoided(looked).await?;
        self.note_lost_agents().await?;
        if note {
            let seen = self.live.all_seen();
            self.database
                .write::<_, Error>(move |tx| {
                    for (agent, at) in seen {
                        tx.prepare_cached("UPDATE agents SET seen_at = ?2 WHERE id = ?1")?
                            .execute((agent, sql(at)))?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    /// Agents that may have a build again after a while are woken for it.
    async fn wake_for_avoided(&self, looked: &mut u64) -> Result<(), Error> {
        let (from, to) = (*looked, now());
        let over = self
            .database
            .read::<_, Error>(move |sql_| {
                let select = "SELECT 1 FROM avoided a JOIN builds b ON b.id = a.build AND b.state = 'ready' \
                              WHERE a.until > ?1 AND a.until <= ?2 LIMIT 1";
                Ok(sql_.prepare_cached(select)?.exists((sql(from), sql(to)))?)
            })
            .await?;
        *looked = to;
        if over {
            self.live.wake_all();
        }
        Ok(())
    }

    /// Compresses the log of a try that has ended. Blocks.
    fn pack(&self, lease: LeaseId, build: BuildId, attempt: u32) -> Result<(), Error> {
        let raw = self.storage.log(build, attempt);
        let size = pack_log(&raw, &self.storage.packed_log(build, attempt))
            .map_err(|error| Error::io(format!("compress the log {}", raw.display()), error))?;
        self.database.write_blocking::<_, Error>(move |tx| {
            tx.prepare_cached("UPDATE attempts SET log_packed = 1, log_size = ?2 WHERE lease = ?1")?
                .execute((sql(lease.0), sql(size.unwrap_or(0))))?;
            Ok(())
        })
    }
}

/// Compresses logs as their tries end, on a thread of its own. One that could not be is tried again at the next start.
pub(super) fn pack_logs(farm: &Arc<Farm>, mut ended: mpsc::UnboundedReceiver<Arc<Lease>>) {
    let farm: Weak<Farm> = Arc::downgrade(farm);
    let started = thread::Builder::new().name("logs".to_owned()).spawn(move || {
        if let Some(farm) = farm.upgrade() {
            if let Err(error) = pack_left_logs(&farm) {
                tracing::warn!(%error, "logs that were left could not be looked for; they stay as they are");
            }
        }
        while let Some(lease) = ended.blocking_recv() {
            let Some(farm) = farm.upgrade() else { return };
            if let Err(error) = farm.pack(lease.id, lease.build, lease.attempt) {
                tracing::warn!(lease = %lease.id, %error, "a log could not be compressed; it stays as it is");
            }
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread for compressing logs; they stay as they are");
    }
}

/// Compresses the logs of tries that ended just before the coordinator did.
fn pack_left_logs(farm: &Farm) -> Result<(), Error> {
    let left = farm.database.read_blocking::<_, Error>(|sql_| {
        let mut select = sql_.prepare(
            "SELECT a.lease, b.uuid, a.number FROM attempts a JOIN builds b ON b.id = a.build \
             WHERE a.ended_at IS NOT NULL AND a.log_packed = 0",
        )?;
        let rows = select.query_map([], |row| {
            Ok((LeaseId(super::unsql(row.get(0)?)), paths::build_id(row, 1)?, row.get::<_, u32>(2)?))
        })?;
        Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
    })?;
    for (lease, build, attempt) in left {
        if let Err(error) = farm.pack(lease, build, attempt) {
            tracing::warn!(%lease, %error, "a log could not be compressed; it stays as it is");
        }
    }
    Ok(())
}
