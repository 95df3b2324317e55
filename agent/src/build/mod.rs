//! The walk of a build, from allocation to report.
//!
//! 1. **Put together.** A [`crate::executor::Workplace`] is opened, which keeps everything that is put into it from
//!    garbage collection until it is closed. If the derivation is not in the store, the coordinator tells its whole
//!    closure, and what the store lacks of it comes as a bundle and is added, each after what it refers to (`texts`).
//!    The inputs come from substitute servers or, signed, from the coordinator (`inputs`). If one is still not valid,
//!    that is a *missing input*; if a step fails, that is a *setup failure*; neither is a failed build.
//! 2. **Build.** The outputs are deleted if they are there, because a daemon that has them answers success without
//!    building. The build runs without substitutes and without offloading, and counts only if the executor saw the
//!    builder of this derivation start, and of no other. Its log goes to a file, and from there to the coordinator by a
//!    thread of its own, from the first byte on (`spool`).
//! 3. **Keep.** The outputs are rooted, the log and the report are synced to disk (`journal`). From here on nothing
//!    but the disk can lose the result: a coordinator that is away for an hour, or a restart of the agent, costs time.
//! 4. **Deliver.** The rest of the log, the outputs (`upload`; each goes on where the coordinator's copy ends), then
//!    the report. With its answer the lease is over, and what was kept of it is removed.
//!
//! Steps 1 to 3 occupy one of the slots for builds, step 4 one of those for uploads. Whatever waits heeds orders
//! (`control`): a canceled build is killed and its log and report are still sent; a lost one is dropped; one that is
//! to be handed back is reported as unbuilt, unless it is built already.

pub mod control;
mod halt;
mod host;
mod inputs;
pub mod journal;
mod pipe;
mod spool;
mod texts;
mod upload;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use drover_os::machine;
use drover_wire::agent::{Allocation, Closure, Output, Report, SetupStep};
use drover_wire::{LeaseId, Phase};

use crate::executor::{self, Ended, Error, Job, Sink, Workplace};
use control::{Control, Heed, Order};
use halt::Halt;
pub use host::Host;
use host::{Refusal, patiently};
use journal::Finished;
use spool::Spool;
use upload::Undelivered;

/// A build that fails while the store has less disk than this, or fewer files can be made there, failed for that, as far
/// as anybody can tell.
const FULL: u64 = 64 << 20;
const FULL_FILES: u64 = 1000;
/// The stack of a thread that only sends.
const SMALL_STACK: usize = 256 * 1024;

/// Does everything for one allocation, to the end of its lease; returns when nothing is left to do for it.
pub fn run(host: &dyn Host, allocation: Allocation, control: &Arc<Control>) {
    let lease = allocation.lease;
    tracing::info!("lease {lease}: {} ({})", allocation.derivation, allocation.build);
    let folder = host.journal().lease(lease);
    let spool = folder.make().and_then(|()| Spool::create(&folder.log()));
    match spool {
        Ok(spool) => run_with_log(host, allocation, control, &spool),
        Err(error) => {
            let report = Report::HandedBack { message: format!("the log cannot be kept: {error}") };
            finish(host, &Finished { allocation, report }, control);
        }
    }
    host.executor().warm_up();
}

/// Delivers what an earlier run of the agent left.
pub fn resume(host: &dyn Host, finished: &Finished, control: &Arc<Control>) {
    let lease = finished.allocation.lease;
    tracing::info!("lease {lease}: delivering the result of {}", finished.allocation.derivation);
    control.finishing();
    match Spool::open(&host.journal().lease(lease).log()) {
        Ok(spool) => drop(spool.send(host, lease, control)),
        Err(error) => tracing::warn!("lease {lease}: read the log: {error}"),
    }
    finish(host, finished, control);
}

fn run_with_log(host: &dyn Host, allocation: Allocation, control: &Arc<Control>, spool: &Spool) {
    let lease = allocation.lease;
    thread::scope(|scope| {
        let sender = thread::Builder::new()
            .name("log".to_owned())
            .stack_size(SMALL_STACK)
            .spawn_scoped(scope, || spool.send(host, lease, control));
        let (report, place) = build(host, &allocation, control, spool);
        spool.close();
        let Some(report) = report else { return };
        control.finishing();
        let finished = Finished { allocation, report };
        let folder = host.journal().lease(lease);
        if let Err(error) = spool.sync().and_then(|()| folder.write_report(&finished)) {
            tracing::error!("lease {lease}: the result is kept in memory only: {error}");
        }
        // The slot for builds is free, whatever the rest takes.
        host.phase(lease, Phase::UploadQueued);
        let sent = match sender {
            // It says itself what goes wrong.
            Ok(sender) => sender.join().unwrap_or(false),
            Err(error) => {
                tracing::warn!("lease {lease}: no thread for the log: {error}");
                spool.send(host, lease, control)
            }
        };
        if sent {
            // A disk that this log has filled is free again before the coordinator sends the next build.
            spool.discard();
        }
        finish(host, &finished, control);
        // Until here it may be all that keeps the outputs.
        drop(place);
    });
}

type Place = Option<Box<dyn Workplace>>;

/// Steps 1 to 3: how the build ended, or none if it is dropped; and the place, if it is still needed.
fn build(
    host: &dyn Host,
    allocation: &Allocation,
    control: &Control,
    spool: &Spool,
) -> (Option<Report>, Place) {
    let lease = allocation.lease;
    let mut place = None;
    let built = put_together_and_build(host, allocation, control, spool, &mut place);
    control.disarm();
    let report = match built {
        Ok(report) | Err(Halt::Report(report)) => report,
        Err(Halt::Away(report)) => {
            host.executor_is_away();
            report
        }
        Err(Halt::Ordered(Order::Canceled)) => Report::Canceled,
        Err(Halt::Ordered(Order::HandBack(message))) => Report::HandedBack { message },
        Err(Halt::Ordered(Order::Lost)) => {
            host.journal().lease(lease).remove();
            return (None, None);
        }
        Err(Halt::Ordered(Order::Leave)) => return (None, None),
    };
    let (Report::Succeeded { outputs }, Some(open)) = (&report, &mut place) else {
        return (Some(report), None);
    };
    match root(host, lease, open.as_mut(), outputs) {
        Ok(()) => (Some(report), None),
        Err(error) => {
            tracing::warn!("lease {lease}: its outputs are safe only while this agent runs: {error}");
            (Some(report), place)
        }
    }
}

fn put_together_and_build(
    host: &dyn Host,
    allocation: &Allocation,
    control: &Control,
    spool: &Spool,
    place: &mut Place,
) -> Result<Report, Halt> {
    let (lease, derivation) = (allocation.lease, &allocation.derivation);
    let failed = |step| move |error: Error| Halt::of(step, control, error);
    heed(control)?;
    host.phase(lease, Phase::FetchingInputs);
    let place = place.insert(host.executor().open().map_err(failed(SetupStep::Other))?).as_mut();
    control.arm(place.stopper());

    let closure: Closure =
        patiently(control, Heed::Any, "ask what a build needs", || host.coordinator().closure(lease))
            .map_err(|refusal| Halt::refused(SetupStep::AddDerivations, refusal))?;
    // A derivation that is valid and kept keeps its whole closure.
    let add = SetupStep::AddDerivations;
    place.protect(&mut [derivation].into_iter()).map_err(failed(add))?;
    if !place.missing(std::slice::from_ref(derivation)).map_err(failed(add))?.is_empty() {
        texts::add(host, control, place, &closure.texts)?;
    }
    inputs::add(host, control, place, &closure.inputs)?;

    let outputs = place.outputs_of(derivation).map_err(failed(add))?;
    place.clear(&outputs).map_err(|error| match error {
        Error::Refused(words) => {
            Halt::setup(SetupStep::DeleteOutputs, format!("could not delete outputs: {words}"))
        }
        other => Halt::of(SetupStep::DeleteOutputs, control, other),
    })?;

    heed(control)?;
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
    let job = Job {
        derivation: derivation.clone(),
        timeout: allocation.timeout.or_else(|| seconds(host.config().timeout)),
        max_silent_time: allocation.max_silent_time.or_else(|| seconds(host.config().max_silent_time)),
    };
    let ended = place.build(&job, &mut Watch { host, lease, spool });
    // What stops this agent may have ended the builder first, or a part of it.
    if let (Ok(Ended::Exited(_)) | Err(Error::Refused(_)), Some(order)) = (&ended, host.stopping()) {
        return Err(Halt::Ordered(control.ordered(Heed::Any).unwrap_or(order)));
    }
    let ended = ended.map_err(|error| match error {
        Error::Stream { source, .. } if !executor::is_full(&source) => {
            Halt::Report(Report::HandedBack { message: format!("the build's log cannot be kept: {source}") })
        }
        other => Halt::of(SetupStep::Other, control, other),
    })?;
    Ok(match ended {
        Ended::Succeeded => {
            Report::Succeeded { outputs: place.describe(&outputs).map_err(failed(SetupStep::Other))? }
        }
        Ended::Exited(message) | Ended::Failed(message) => match full(host.executor().store()) {
            Some(how) => return Err(Halt::full(&format!("{how}: {message}"))),
            None => Report::Failed { message },
        },
        Ended::TimedOut(limit, message) => Report::TimedOut { limit, message },
        Ended::NotBuiltHere(message) => Report::SetupFailed { step: SetupStep::NotBuiltHere, message },
        Ended::Unsupported(message) => Report::SetupFailed { step: SetupStep::UnsupportedPlatform, message },
    })
}

/// How little is left of the disk with this folder, if that may be why a build failed.
pub(crate) fn full(store: &Path) -> Option<String> {
    let disk = machine::disk(store)?;
    let is_full = disk.free < FULL || disk.files < FULL_FILES;
    is_full.then(|| format!("{} bytes are free, and {} more files can be made", disk.free, disk.files))
}

fn heed(control: &Control) -> Result<(), Halt> {
    control.ordered(Heed::Any).map_or(Ok(()), |order| Err(Halt::Ordered(order)))
}

/// Keeps the outputs from garbage collection until they are delivered, whatever happens to this process.
fn root(host: &dyn Host, lease: LeaseId, place: &mut dyn Workplace, outputs: &[Output]) -> io::Result<()> {
    let folder = host.journal().lease(lease);
    for output in outputs {
        place.keep(&folder.link(&output.path)?).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What happens during the build goes to its log and to the agent.
struct Watch<'a> {
    host: &'a dyn Host,
    lease: LeaseId,
    spool: &'a Spool,
}

impl Sink for Watch<'_> {
    fn started(&mut self) {
        self.host.phase(self.lease, Phase::Building);
    }

    fn log(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.spool.write(bytes)
    }
}

/// Step 4, after the log.
fn finish(host: &dyn Host, finished: &Finished, control: &Control) {
    let lease = finished.allocation.lease;
    let folder = host.journal().lease(lease);
    let mut report = finished.report.clone();
    if let Report::Succeeded { outputs } = &finished.report {
        match deliver(host, control, lease, outputs) {
            Ok(()) => {}
            Err(Undelivered::Instead(other)) => report = other,
            Err(Undelivered::Ordered(Order::Canceled)) => report = Report::Canceled,
            Err(Undelivered::Ordered(Order::Lost)) => return folder.remove(),
            Err(Undelivered::Ordered(Order::Leave | Order::HandBack(_))) => return,
        }
    }
    loop {
        match patiently(control, Heed::Gravest, "report a build", || {
            host.coordinator().report(lease, &report)
        }) {
            Ok(answer) => tracing::info!("lease {lease}: {}, now {}", outcome(&report), answer.state),
            Err(Refusal::Ordered(Order::Leave)) => return,
            Err(Refusal::Ordered(_) | Refusal::Lost) => {
                tracing::warn!("lease {lease}: another agent has the build")
            }
            Err(Refusal::Final(error)) if matches!(report, Report::Succeeded { .. }) => {
                tracing::error!("lease {lease}: {error}");
                report = Report::SetupFailed { step: SetupStep::Other, message: error.to_string() };
                continue;
            }
            Err(Refusal::Final(error)) => tracing::error!("lease {lease}: {error}; its result is dropped"),
        }
        break;
    }
    folder.remove();
}

fn deliver(
    host: &dyn Host,
    control: &Control,
    lease: LeaseId,
    outputs: &[Output],
) -> Result<(), Undelivered> {
    host.begin_upload(lease, control).map_err(Undelivered::Ordered)?;
    host.phase(lease, Phase::Uploading);
    let delivered = upload::deliver(host, control, lease, outputs);
    host.end_upload();
    delivered
}

/// A report in words for the agent's own log.
fn outcome(report: &Report) -> String {
    match report {
        Report::Succeeded { outputs } => format!("built and delivered, {} outputs", outputs.len()),
        Report::Failed { message } => format!("failed: {message}"),
        Report::TimedOut { message, .. } => format!("timed out: {message}"),
        Report::Canceled => "canceled".to_owned(),
        Report::SetupFailed { message, .. } => format!("not built: {message}"),
        Report::MissingInputs { paths } => format!("not built: {} inputs are missing", paths.len()),
        Report::HandedBack { message } => format!("handed back: {message}"),
    }
}
