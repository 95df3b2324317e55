//! Submitting builds and waiting for them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use drover_store::path::StorePath;
use drover_wire::client::{
    BuildDetails, BuildFilter, BuildList, Ended, Submission, Submitted, WaitAnswer, WaitQuestion, Wanted,
};
use drover_wire::route::clients;
use drover_wire::{BuildId, BuildState};

use super::retry::Patience;
use super::{ClientError, Coordinator, Unit, Watch};

/// The most builds in one submission.
const SUBMISSION: usize = 10_000;
/// The most builds in one question; the others are asked about when some of these have ended.
const WINDOW: usize = 1_000;
/// How long the coordinator may hold a question open, in seconds.
const HELD: u64 = 60;
/// An empty answer that comes sooner than this was no answer: the coordinator is stopping.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What all builds of a submission have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Higher goes first.
    pub priority: i64,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
    /// Seconds that each may take.
    pub timeout: Option<u64>,
    /// Seconds that each may be silent.
    pub max_silent_time: Option<u64>,
}

/// Submits builds for these derivations, which have been uploaded. Safe to be repeated after a lost answer: what is
/// under way is not submitted again.
///
/// # Errors
/// A refusal, or a coordinator that stays away.
pub fn submit(
    coordinator: &Coordinator,
    derivations: &[StorePath],
    terms: &Terms,
    watch: &dyn Watch,
) -> Result<Submitted, ClientError> {
    watch.begin("submitting builds", Some(derivations.len() as u64), Unit::Things);
    let mut all = Submitted {
        builds: Vec::new(),
        for_inputs: 0,
        missing_sources: Vec::new(),
        missing_sources_count: 0,
    };
    let mut named = HashSet::new();
    for derivations in derivations.chunks(SUBMISSION) {
        let wanted = |derivation: &StorePath| Wanted {
            derivation: derivation.clone(),
            priority: terms.priority,
            tags: terms.tags.clone(),
            timeout: terms.timeout,
            max_silent_time: terms.max_silent_time,
        };
        let submission = Submission { builds: derivations.iter().map(wanted).collect() };
        let doing = match derivations {
            [one] => format!("submitting a build of {one}"),
            many => format!("submitting {} builds", many.len()),
        };
        let mut patience = Patience::some();
        let answer: Submitted = loop {
            match coordinator.tell(&doing, &clients::SUBMIT, &[], &submission) {
                Ok(answer) => break answer,
                Err(error) if error.is_temporary() => patience.wait_after(error, watch)?,
                Err(error) => return Err(error),
            }
        };
        watch.advance(derivations.len() as u64);
        all.builds.extend(answer.builds);
        all.for_inputs += answer.for_inputs;
        // Two submissions may wait for the same sources; those that are named are not counted twice.
        let new: Vec<_> = answer.missing_sources.into_iter().filter(|s| named.insert(s.clone())).collect();
        all.missing_sources_count = all.missing_sources_count.max(answer.missing_sources_count);
        all.missing_sources.extend(new);
    }
    all.missing_sources_count = all.missing_sources_count.max(all.missing_sources.len() as u64);
    Ok(all)
}

/// Waits until all of these builds have ended and tells of each as it does. A coordinator that goes away is waited for.
///
/// # Errors
/// A refusal, or what `tell` says.
pub fn wait(
    coordinator: &Coordinator,
    builds: impl IntoIterator<Item = BuildId>,
    watch: &dyn Watch,
    mut tell: impl FnMut(&Ended) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut seen = HashSet::new();
    let mut pending: Vec<BuildId> = builds.into_iter().filter(|build| seen.insert(*build)).collect();
    watch.begin("waiting for builds", Some(pending.len() as u64), Unit::Things);
    let mut patience = Patience::endless();
    while !pending.is_empty() {
        let asked = &pending[..pending.len().min(WINDOW)];
        let doing = match asked {
            [one] => format!("waiting for the build {one}"),
            _ => format!("waiting for {} builds", pending.len()),
        };
        let question = WaitQuestion { builds: asked.to_vec(), seconds: HELD };
        let start = Instant::now();
        let answer: WaitAnswer = match coordinator.tell(&doing, &clients::WAIT, &[], &question) {
            Ok(answer) => answer,
            Err(error) if error.is_temporary() => {
                patience.wait_after(error, watch)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        watch.note(&counts(&answer.counts));
        let mut ended = HashSet::new();
        for end in answer.ended.iter().filter(|end| end.state.is_final()) {
            if asked.contains(&end.build) && ended.insert(end.build) {
                tell(end)?;
                watch.advance(1);
            }
        }
        if ended.is_empty() && start.elapsed() < AT_ONCE {
            std::thread::sleep(patience.pause());
        } else {
            patience = Patience::endless();
        }
        pending.retain(|build| !ended.contains(build));
    }
    Ok(())
}

/// A few words for a progress line: what the farm does.
fn counts(counts: &BTreeMap<BuildState, u64>) -> String {
    let open = counts.iter().filter(|(state, n)| !state.is_final() && **n > 0);
    let words: Vec<String> = open.map(|(state, n)| format!("{n} {state}")).collect();
    if words.is_empty() { String::new() } else { format!("the farm: {}", words.join(", ")) }
}

/// The builds that a filter lets through, the newest first, at most `limit` of them; pages are fetched as needed.
///
/// # Errors
/// A refusal, an unreachable coordinator, or what `tell` says.
pub fn list(
    coordinator: &Coordinator,
    mut filter: BuildFilter,
    limit: Option<u64>,
    mut tell: impl FnMut(BuildList) -> Result<(), ClientError>,
) -> Result<bool, ClientError> {
    const PAGE: u64 = 1000;
    let mut left = limit.unwrap_or(u64::MAX);
    loop {
        filter.limit = u32::try_from(left.min(PAGE)).ok();
        let mut page: BuildList = coordinator.ask_query("listing builds", &clients::BUILDS, &[], &filter)?;
        page.builds.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= page.builds.len() as u64;
        filter.before = page.builds.last().map(|build| build.build);
        let more = page.more && filter.before.is_some();
        tell(page)?;
        if !more || left == 0 {
            return Ok(more);
        }
    }
}

/// Everything about a build.
///
/// # Errors
/// A refusal or an unreachable coordinator.
pub fn details(coordinator: &Coordinator, build: BuildId) -> Result<BuildDetails, ClientError> {
    coordinator.ask(&format!("asking about the build {build}"), &clients::BUILD, &[&build])
}

/// Cancels a build; one that has ended stays as it is.
///
/// # Errors
/// A refusal or an unreachable coordinator.
pub fn cancel(coordinator: &Coordinator, build: BuildId) -> Result<BuildDetails, ClientError> {
    coordinator.ask(&format!("canceling the build {build}"), &clients::CANCEL, &[&build])
}
