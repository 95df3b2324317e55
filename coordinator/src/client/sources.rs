//! Fixed outputs and their upstreams.

use drover_store::path::StorePath;
use drover_wire::route::clients;
use drover_wire::source::{Source, SourceList, SourceQuestion};

use super::{ClientError, Coordinator};

/// Gives every page of what the question asks for to `each`.
///
/// # Errors
/// A refusal, an unreachable coordinator, or those of `each`.
pub fn list(
    coordinator: &Coordinator,
    mut question: SourceQuestion,
    mut each: impl FnMut(&[Source]) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    loop {
        let page: SourceList = coordinator.ask_query("listing sources", &clients::SOURCES, &[], &question)?;
        each(&page.sources)?;
        match page.sources.last() {
            Some(last) if page.more => question.after = Some(last.path.clone()),
            _ => return Ok(()),
        }
    }
}

/// Has the coordinator look at the upstream of a fixed output now.
///
/// # Errors
/// A refusal, or an unreachable coordinator.
pub fn check(coordinator: &Coordinator, path: &StorePath) -> Result<Source, ClientError> {
    let doing = format!("looking at the upstream of {path}");
    coordinator.ask(&doing, &clients::CHECK_SOURCE, &[&path.base_name()])
}
