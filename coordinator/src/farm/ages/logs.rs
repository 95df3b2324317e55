//! Logs of tries that ended long ago.

use drover_wire::{BuildId, Timestamp};

use super::super::error::Error;
use super::super::{Farm, paths, sql};
use crate::storage::remove_if_there;

/// Logs that are removed before that is noted of them.
const BATCH: i64 = 500;
/// How tries end, as they are noted: builders that failed, and all others.
const FAILED: [&str; 2] = ["failed", "timed-out"];
const OTHERS: [&str; 6] =
    ["succeeded", "canceled", "setup-failed", "missing-inputs", "handed-back", "lease-lost"];

impl Farm {
    /// Removes the logs of tries that ended before: those of builders that failed, and others.
    pub(super) fn age_logs(
        &self,
        at: Timestamp,
        others: Option<Timestamp>,
        failed: Option<Timestamp>,
        gone: &mut u64,
    ) -> Result<(), Error> {
        for (outcomes, before) in [(&OTHERS[..], others), (&FAILED[..], failed)] {
            let Some(before) = before else { continue };
            for outcome in outcomes {
                while self.ages_on() {
                    let some = self.old_logs(outcome, before)?;
                    if some.is_empty() {
                        break;
                    }
                    *gone += some.len() as u64;
                    self.remove_logs(at, some)?;
                }
            }
        }
        Ok(())
    }

    fn old_logs(&self, outcome: &'static str, before: Timestamp) -> Result<Vec<OldLog>, Error> {
        self.database.read_blocking(|sql_| {
            let mut select = sql_.prepare_cached(
                "SELECT a.lease, b.uuid, a.number FROM attempts a JOIN builds b ON b.id = a.build \
                 WHERE a.outcome = ?1 AND a.ended_at < ?2 AND a.log_packed = 1 AND a.log_removed_at IS NULL LIMIT ?3",
            )?;
            let rows = select.query_map((outcome, sql(before), BATCH), |row| {
                Ok(OldLog { lease: row.get(0)?, build: paths::build_id(row, 1)?, attempt: row.get(2)? })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Removes the files first: a log that is noted as removed is.
    pub(super) fn remove_logs(&self, at: Timestamp, some: Vec<OldLog>) -> Result<(), Error> {
        for OldLog { build, attempt, .. } in &some {
            for file in [self.storage.packed_log(*build, *attempt), self.storage.log(*build, *attempt)] {
                remove_if_there(&file)
                    .map_err(|error| Error::io(format!("remove the old log {}", file.display()), error))?;
            }
        }
        self.database.write_alone_blocking(move |tx| {
            let mut update = tx.prepare_cached("UPDATE attempts SET log_removed_at = ?2 WHERE lease = ?1")?;
            for OldLog { lease, .. } in some {
                update.execute((lease, sql(at)))?;
            }
            Ok(())
        })
    }
}

/// The log of a try that ended.
#[derive(Debug)]
pub(super) struct OldLog {
    pub(super) lease: i64,
    pub(super) build: BuildId,
    pub(super) attempt: u32,
}
