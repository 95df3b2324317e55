//! Agents that come, and that are not heard of any more.

use std::sync::Arc;

use drover_wire::LeaseId;
use drover_wire::event::EventKind;

use super::Subject;
use crate::farm::change::AgentRow;
use crate::farm::error::Error;
use crate::farm::{Farm, Tx, now};

impl Farm {
    /// An agent was heard of, with these leases. That it is there is noted before what it gets and does.
    pub(in crate::farm) async fn heard_of(self: &Arc<Self>, agent: &AgentRow, leases: &[LeaseId]) {
        if !self.live.seen(agent.id, leases, now()) {
            return;
        }
        let (farm, agent) = (Arc::clone(self), agent.id);
        // To its end, although the agent may hang up.
        let noted = crate::traced::spawn(async move {
            if let Err(error) = farm.database.write(move |tx| set(tx, agent, true)).await {
                tracing::warn!(%error, "that an agent is there could not be noted; it is tried again");
                farm.live.set_here(agent, false);
            }
        });
        // It does not fail but by an error in this program.
        let _ = noted.await;
    }

    /// Notes which agents have not been heard of for the time of a lease.
    pub(in crate::farm) async fn note_lost_agents(&self) -> Result<(), Error> {
        for agent in self.live.silent() {
            let live = Arc::clone(&self.live);
            let lost = self.database.write::<_, Error>(move |tx| {
                // It may have been heard of while this job waited.
                let Some(row) = live.take_silent(agent) else { return Ok(None) };
                set(tx, agent, false)?;
                Ok(Some(row))
            });
            match lost.await {
                Ok(Some(row)) => tracing::warn!(agent = %row.name, "an agent is not heard of any more"),
                Ok(None) => {}
                Err(error) => {
                    self.live.set_here(agent, true);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Notes whether an agent is there, and tells of it if that is new.
fn set(tx: &mut Tx<'_>, agent: i64, here: bool) -> Result<(), Error> {
    let other = "UPDATE agents SET here = ?2 WHERE id = ?1 AND here <> ?2";
    if tx.prepare_cached(other)?.execute((agent, here))? == 0 {
        return Ok(());
    }
    let kind = if here { EventKind::AgentSeen } else { EventKind::AgentLost };
    super::note(tx, kind, Subject::Agent(agent), None)
}
