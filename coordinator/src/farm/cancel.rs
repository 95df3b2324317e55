//! Builds are canceled.

use drover_wire::client::BuildDetails;
use drover_wire::{BuildId, BuildState, LeaseId};
use rusqlite::OptionalExtension;

use super::change::Change;
use super::depend::{self, End};
use super::error::Error;
use super::{Farm, Tx, list, paths, unsql};

impl Farm {
    /// Cancels a build, and so all that wait for it. It counts as canceled at once; an agent that holds it is told,
    /// and its try ends when it says that it has stopped.
    ///
    /// # Errors
    /// When there is no such build, or it has ended in another way.
    pub async fn cancel(&self, build: BuildId) -> Result<BuildDetails, Error> {
        if self.database.write_alone(move |tx| cancel(tx, build)).await? {
            tracing::info!(%build, "build canceled");
        }
        self.show(build).await
    }
}

/// Whether it was not canceled before.
fn cancel(tx: &mut Tx<'_>, build: BuildId) -> Result<bool, Error> {
    let id = list::find(tx, build)?;
    let state = tx
        .prepare_cached("SELECT state FROM builds WHERE id = ?1")?
        .query_row([id], |row| paths::state(row, 0))?;
    if state == BuildState::Canceled {
        return Ok(false);
    }
    if state.is_final() {
        return Err(Error::Conflict(format!(
            "the build {build} cannot be canceled: it has ended already, as {state}"
        )));
    }
    let lease: Option<i64> = tx
        .prepare_cached("SELECT lease FROM attempts WHERE build = ?1 AND ended_at IS NULL")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    depend::end(tx, id, &End { state: BuildState::Canceled, why: Some("a client canceled it") })?;
    if let Some(lease) = lease {
        tx.note(Change::Canceled(LeaseId(unsql(lease))));
    }
    Ok(true)
}
