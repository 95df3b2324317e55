//! Events that the hooks have seen, and runs of hooks that were given up.

use drover_wire::Timestamp;

use super::super::error::Error;
use super::super::{Farm, sql};

/// Rows of one batch: each is a few bytes.
const BATCH: i64 = 2_000;

impl Farm {
    /// Removes events of before, but for those that the hooks have not seen.
    pub(super) fn age_events(&self, before: Option<Timestamp>, gone: &mut u64) -> Result<(), Error> {
        // Their numbers are in the order of time: when none of the first is old enough, none is.
        const DELETE: &str = "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?2) AND at < ?1 \
             AND id <= (SELECT coalesce(min(event), 0) FROM hook_cursor)";
        self.age_rows(DELETE, before, gone)
    }

    /// Removes runs of hooks that were given up and were due before.
    pub(super) fn age_hook_runs(&self, before: Option<Timestamp>, gone: &mut u64) -> Result<(), Error> {
        const DELETE: &str = "DELETE FROM hook_runs WHERE id IN \
             (SELECT id FROM hook_runs WHERE state = 'failed' AND due < ?1 LIMIT ?2)";
        self.age_rows(DELETE, before, gone)
    }

    fn age_rows(&self, delete: &'static str, before: Option<Timestamp>, gone: &mut u64) -> Result<(), Error> {
        let Some(before) = before else { return Ok(()) };
        while self.ages_on() {
            let count = self.database.write_alone_blocking::<_, Error>(move |tx| {
                Ok(tx.prepare_cached(delete)?.execute((sql(before), BATCH))?)
            })?;
            *gone += count as u64;
            if count == 0 {
                break;
            }
        }
        Ok(())
    }
}
