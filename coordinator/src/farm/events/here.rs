//! Agents that come, and that are not heard of any more.

use std::sync::Arc;

use drover_wire::LeaseId;
use drover_wire::event::EventKind;

use super::Subject;
use crate::farm::change::AgentRow;
use crate::farm::error::Error;
use crate::farm::{Farm, Tx, now};

impl Farm {
    /// An agent was heard of, with these leases. Nobody waits for what is noted of it.
    pub(in crate::farm) fn heard_of(self: &Arc<Self>, agent: &AgentRow, leases: &[LeaseId]) {
        if !self.live.seen(agent.id, leases, now()) {
            return;
        }
        let (farm, agent) = (Arc::clone(self), agent.clone());
        tokio::spawn(async move {
            let noted = farm.database.write::<_, Error>(move |tx| {
                set(tx, agent.id, true)?;
                super::note(tx, EventKind::AgentSeen, Subject::Agent(agent.id), None)
            });
            if let Err(error) = noted.await {
                tracing::warn!(%error, "that an agent is there could not be noted");
            }
        });
    }

    /// Notes which agents have not been heard of for the time of a lease.
    pub(in crate::farm) async fn note_lost_agents(&self) -> Result<(), Error> {
        for agent in self.live.silent() {
            let live = Arc::clone(&self.live);
            let lost = self.database.write::<_, Error>(move |tx| {
                // It may have been heard of while this job waited.
                let Some(row) = live.take_silent(agent) else { return Ok(None) };
                set(tx, agent, false)?;
                super::note(tx, EventKind::AgentLost, Subject::Agent(agent), None)?;
                Ok(Some(row))
            });
            if let Some(row) = lost.await? {
                tracing::warn!(agent = %row.name, "an agent is not heard of any more");
            }
        }
        Ok(())
    }
}

fn set(tx: &Tx<'_>, agent: i64, here: bool) -> Result<(), Error> {
    tx.prepare_cached("UPDATE agents SET here = ?2 WHERE id = ?1")?.execute((agent, here))?;
    Ok(())
}
