//! The snapshot: how the farm stands, and the event that this is true at.

use std::sync::Arc;

use drover_wire::event::FarmState;

use super::page::Kept;
use crate::farm::error::Error;
use crate::farm::{Farm, agents, fullness, list, now};

impl Farm {
    /// How the farm stands. What the database knows is of one moment; what only the memory knows (when agents were heard
    /// of, in which phase they are) is of that moment or a little later.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn state(self: &Arc<Self>) -> Result<FarmState, Error> {
        let farm = Arc::clone(self);
        self.database
            .read(move |sql| {
                Ok(FarmState {
                    event: Kept::read(sql)?.last,
                    at: now(),
                    builds: list::counts(sql)?,
                    agents: agents::summaries(sql, &farm.live)?,
                    hooks: farm.hook_summaries(sql)?,
                    places: fullness::all(sql, &farm)?,
                })
            })
            .await
    }
}
