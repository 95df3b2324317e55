//! What agents say about themselves, and what they are told: hello, poll, heartbeat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drover_wire::agent::{Heartbeat, Hello, Orders, Poll, Welcome};
use drover_wire::event::{Detail, EventKind};
use drover_wire::{LeaseId, PROTOCOL, Phase};
use rusqlite::OptionalExtension;

use super::allocate::allocate;
use super::change::{AgentRow, Change};
use super::error::Error;
use super::events::{self, Kind, Subject};
use super::lease::Lease;
use super::{Farm, Tx, agents, now, requeue, sql};

/// The most systems, builtins or leases that one agent may name.
const NAMED: usize = 10_000;
/// The longest time that a poll sleeps without looking, in case a wake-up was missed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Farm {
    /// An agent starts, or comes back. What it does not hold any more goes back to the queue.
    ///
    /// # Errors
    /// When it speaks another version of the protocol, or says too much.
    pub async fn hello(self: &Arc<Self>, agent: &AgentRow, hello: Hello) -> Result<Welcome, Error> {
        if hello.protocol != PROTOCOL {
            return Err(Error::Protocol { agent: hello.protocol, agent_version: hello.version });
        }
        bounded("systems", hello.systems.len())?;
        bounded("builtins", hello.builtins.len())?;
        bounded("leases", hello.holding.len())?;
        let gone: Vec<Arc<Lease>> = self
            .live
            .leases()
            .into_iter()
            .filter(|lease| lease.agent == agent.id && !hello.holding.contains(&lease.id))
            .collect();
        let given_up: Vec<LeaseId> = gone.iter().map(|lease| lease.id).collect();
        let row = agent.clone();
        let systems = serde_json::to_string(&hello.systems).unwrap_or_default();
        let builtins = serde_json::to_string(&hello.builtins).unwrap_or_default();
        tracing::info!(
            agent = %agent.name, version = %hello.version, ?hello.systems, holding = hello.holding.len(),
            gone = gone.len(), "an agent says hello"
        );
        let version = hello.version.clone();
        self.database
            .write::<_, Error>(move |tx| {
                let platforms = agents::platforms_of(tx, &hello.systems, &hello.builtins)?;
                tx.prepare_cached(
                    "UPDATE agents SET seen_at = ?2, version = ?3, systems = ?4, builtins = ?5 WHERE id = ?1",
                )?
                .execute((row.id, sql(now()), version, systems, builtins))?;
                for lease in &gone {
                    let bytes = lease.log().length().borrow().bytes;
                    let open = "SELECT 1 FROM attempts WHERE lease = ?1 AND ended_at IS NULL";
                    if tx.prepare_cached(open)?.exists([sql(lease.id.0)])? {
                        requeue::lose(tx, sql(lease.id.0), bytes, "the agent came back without the build")?;
                    }
                }
                tx.note(Change::Agent { row, platforms, here: false });
                Ok(())
            })
            .await?;
        for lease in given_up {
            self.clean_uploads_later(lease);
        }
        self.heard_of(agent, &hello.holding).await;
        let held = |lease: &LeaseId| self.live.lease(agent.id, *lease).is_some();
        Ok(Welcome {
            agent: agent.uuid,
            name: agent.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lease_seconds: self.config.lease_seconds,
            heartbeat_seconds: self.config.heartbeat_seconds,
            poll_seconds: self.config.poll_seconds,
            public_key: self.public_key(),
            give_up: hello.holding.iter().filter(|lease| !held(lease)).copied().collect(),
        })
    }

    /// Waits for something that the agent is to do.
    ///
    /// # Errors
    /// When the agent is not known, says too much, polls elsewhere meanwhile, or the database fails.
    pub async fn poll(self: &Arc<Self>, agent: &AgentRow, poll: Poll) -> Result<Orders, Error> {
        bounded("leases", poll.holding.len())?;
        self.heard_of(agent, &poll.holding).await;
        let unknown = || {
            Error::Conflict("say hello first: this coordinator does not know what you build for".to_owned())
        };
        let turn = self.live.poll(agent.id, poll.accepting).ok_or_else(unknown)?;
        let mut stopping = self.stopping();
        let end = Instant::now() + Duration::from_secs(self.config.poll_seconds);
        loop {
            let Some(waiting) = turn.look(&poll.holding) else { return Err(replaced(agent)) };
            let mut allocations: Vec<_> =
                waiting.unlisted.iter().map(|lease| lease.allocation.clone()).collect();
            let platforms = self.live.platforms(agent.id);
            if waiting.free > 0 && !platforms.is_empty() && !*stopping.borrow() {
                let (row, accepting) = (agent.clone(), self.live.view(agent.id).accepting);
                let new = self.database.write(move |tx| allocate(tx, &row, &platforms, accepting)).await?;
                for allocation in &new {
                    tracing::info!(
                        build = %allocation.build, lease = %allocation.lease, agent = %agent.name,
                        derivation = allocation.derivation.base_name(), "allocated"
                    );
                }
                allocations.extend(new);
            }
            if !allocations.is_empty() || !waiting.give_up.is_empty() {
                return Ok(Orders { allocations, give_up: waiting.give_up });
            }
            let now = Instant::now();
            if now >= end || *stopping.borrow() {
                return Ok(Orders::default());
            }
            let until = waiting.again.unwrap_or(end).min(end).min(now + LOOK_AGAIN);
            tokio::select! {
                () = turn.woken() => {}
                () = tokio::time::sleep_until(until.into()) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    /// An agent is there, with these leases.
    ///
    /// # Errors
    /// When it says too much.
    pub async fn heartbeat(
        self: &Arc<Self>,
        agent: &AgentRow,
        heartbeat: Heartbeat,
    ) -> Result<Orders, Error> {
        bounded("leases", heartbeat.leases.len())?;
        let holding: Vec<LeaseId> = heartbeat.leases.iter().map(|progress| progress.lease).collect();
        self.heard_of(agent, &holding).await;
        self.live.heartbeat(agent.id, heartbeat.accepting, heartbeat.machine);
        for progress in &heartbeat.leases {
            if let Some(lease) = self.live.lease(agent.id, progress.lease) {
                self.note_progress(&lease, Some(progress.phase));
            }
        }
        Ok(Orders { allocations: Vec::new(), give_up: self.live.give_up(agent.id, &holding) })
    }

    /// An agent says what it does with a build, or else the builder was seen to run. Nobody waits for the commit: what is
    /// lost of it is a time.
    pub(super) fn note_progress(self: &Arc<Self>, lease: &Arc<Lease>, phase: Option<Phase>) {
        let runs = phase.is_none_or(|phase| !matches!(phase, Phase::Queued | Phase::FetchingInputs));
        let is_other = phase.is_some_and(|phase| lease.set_phase(phase));
        let starts = runs && lease.set_started();
        if !is_other && !starts {
            return;
        }
        let (farm, lease) = (Arc::clone(self), Arc::clone(lease));
        crate::traced::spawn(async move {
            let (id, of_job) = (lease.id, Arc::clone(&lease));
            let noted = farm.database.write::<_, Error>(move |tx| {
                if starts {
                    mark_started(tx, sql(id.0))?;
                }
                // Out of the lease: jobs may come in another order than heartbeats.
                while let Some(phase) = of_job.untold_phase() {
                    mark_phase(tx, sql(id.0), phase)?;
                }
                Ok(())
            });
            if let Err(error) = noted.await {
                tracing::warn!(lease = %id, %error, "the progress of a build could not be noted; it is when it is said again");
                lease.tell_again(starts);
            }
        });
    }
}

fn mark_started(tx: &mut Tx<'_>, lease: i64) -> Result<(), Error> {
    let build: Option<i64> = tx
        .prepare_cached(
            "UPDATE attempts SET started_at = ?2 WHERE lease = ?1 AND ended_at IS NULL RETURNING build",
        )?
        .query_row((lease, sql(now())), |row| row.get(0))
        .optional()?;
    let Some(build) = build else { return Ok(()) };
    let running =
        "UPDATE builds SET state = 'running', started_at = ?2 WHERE id = ?1 AND state = 'allocated'";
    if tx.prepare_cached(running)?.execute((build, sql(now())))? == 1 {
        events::note(tx, Kind::BuildStarted, Subject::Build(build), None)?;
    }
    Ok(())
}

fn mark_phase(tx: &mut Tx<'_>, lease: i64, phase: Phase) -> Result<(), Error> {
    let other = "UPDATE attempts SET phase = ?2 WHERE lease = ?1 AND ended_at IS NULL AND phase IS NOT ?2 RETURNING build";
    let build = tx.prepare_cached(other)?.query_row((lease, phase.as_str()), |row| row.get(0)).optional()?;
    let detail = Detail { phase: Some(phase), ..Detail::default() };
    build.map_or(Ok(()), |build| events::note_with(tx, EventKind::BuildPhase, Subject::Build(build), &detail))
}

/// The agent asks elsewhere, too. Whoever merely lost a connection does not hear this; two machines that go by the same
/// UUID would push each other aside again and again if they were not told to wait.
fn replaced(agent: &AgentRow) -> Error {
    tracing::warn!(agent = %agent.name, "an agent polls twice at a time: is its UUID in use on two machines?");
    Error::Conflict(format!(
        "something else polls as the agent {} now: if its UUID is in use on two machines, make one of them an agent of its \
         own (drover agent new)",
        agent.name
    ))
}

fn bounded(what: &str, count: usize) -> Result<(), Error> {
    if count <= NAMED {
        return Ok(());
    }
    Err(Error::BadRequest(format!("{count} {what} are more than the {NAMED} that one agent may name")))
}
