//! Events that the hooks have seen, and runs of hooks that were given up, or that no hook is there for any more.

use drover_wire::Timestamp;
use rusqlite::Params;

use super::super::error::Error;
use super::super::{Farm, sql};

/// Rows of one batch: each is a few bytes.
const BATCH: i64 = 2_000;

impl Farm {
    /// Removes events of before, but for those that the hooks have not seen.
    pub(super) fn age_events(&self, before: Option<Timestamp>, gone: &mut u64) -> Result<(), Error> {
        // Only from the first on, so that those that stay have no gap: a clock may have been wrong for a while.
        const DELETE: &str = "WITH first AS (SELECT id, at FROM events ORDER BY id LIMIT ?2) \
             DELETE FROM events WHERE id IN (SELECT id FROM first) \
             AND id < (SELECT coalesce(min(id), 9223372036854775807) FROM first WHERE at >= ?1) \
             AND id <= (SELECT coalesce(min(event), 0) FROM hook_cursor)";
        let Some(before) = before else { return Ok(()) };
        self.age_rows(DELETE, (sql(before), BATCH), gone)
    }

    /// Removes runs of hooks that were given up and were due before, and those that wait for a hook which is not in the
    /// configuration any more: nobody would ever run them, and they keep the history of their builds.
    pub(super) fn age_hook_runs(&self, before: Option<Timestamp>, gone: &mut u64) -> Result<(), Error> {
        const FAILED: &str = "DELETE FROM hook_runs WHERE id IN \
             (SELECT id FROM hook_runs WHERE state = 'failed' AND due < ?1 LIMIT ?2)";
        const WAITING: &str = "DELETE FROM hook_runs WHERE id IN (SELECT id FROM hook_runs \
             WHERE state = 'waiting' AND hook NOT IN (SELECT value FROM json_each(?3)) AND due < ?1 LIMIT ?2)";
        let Some(before) = before else { return Ok(()) };
        self.age_rows(FAILED, (sql(before), BATCH), gone)?;
        let known = serde_json::json!(self.hooks.names().collect::<Vec<_>>()).to_string();
        self.age_rows(WAITING, (sql(before), BATCH, known), gone)
    }

    fn age_rows(
        &self,
        delete: &'static str,
        which: impl Params + Clone + Send + 'static,
        gone: &mut u64,
    ) -> Result<(), Error> {
        while self.ages_on() {
            let which = which.clone();
            let count = self.database.write_alone_blocking::<_, Error>(move |tx| {
                Ok(tx.prepare_cached(delete)?.execute(which)?)
            })?;
            *gone += count as u64;
            if count == 0 {
                break;
            }
        }
        Ok(())
    }
}
