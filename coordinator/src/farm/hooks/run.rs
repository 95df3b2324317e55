//! One run of a hook, on a thread of its own.

use std::sync::Arc;

use super::failure::Failure;
use super::queue::Run;
use super::{Lane, command, push, retry};
use crate::config::Task;
use crate::farm::error::Error;
use crate::farm::{Farm, paths};

/// Does what a hook is to do. Blocks; that it was done before does no harm.
pub(super) fn run(farm: &Arc<Farm>, lane: &Lane, run: &Run) -> Result<(), Failure> {
    match &lane.hook.task {
        Task::Publish => {
            for item in outputs(farm, run)? {
                // What has to wait is asked for again when it needs not any more.
                farm.publish_item(item)?;
            }
            Ok(())
        }
        // Done where it is found out.
        Task::SubmitMissingInputs => Ok(()),
        Task::Retry { times, timeouts, other_agents } => {
            retry::run(farm, run, *times, *timeouts, *other_agents)
        }
        Task::Push { to, reserve } => push::run(farm, lane, run, to, *reserve),
        Task::Command { program, arguments } => command::run(farm, &lane.hook, run, program, arguments),
    }
}

/// The store items that a run is about: one, or the outputs of a build.
pub(super) fn outputs(farm: &Farm, run: &Run) -> Result<Vec<i64>, Error> {
    match (run.path, run.build) {
        (Some(path), _) => Ok(vec![path]),
        (None, Some(build)) => farm.database.read_blocking(|sql| {
            let select = "SELECT o.path FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation \
                          WHERE b.id = ?1 ORDER BY o.path";
            paths::numbers(sql, select, build)
        }),
        (None, None) => Ok(Vec::new()),
    }
}
