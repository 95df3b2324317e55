//! Who does what when: events are given to hooks, runs to threads, and how they ended is written down.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use drover_wire::Timestamp;
use drover_wire::event::{Detail, EventKind};
use drover_wire::hook::Event;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::queue::{self, Ended, Run};
use super::{Lane, run};
use crate::farm::error::Error;
use crate::farm::events::{self, Subject};
use crate::farm::{Farm, Tx, now};

/// Runs of a hook that are read at a time, beside those that are under way.
const READ: usize = 64;
/// So many that could start are too few: it is looked for more.
const FEW: usize = 32;
/// The longest sleep without a look, should a wake-up have been missed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After an error of the database.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// The most letters of an error that an event has.
const ERROR: usize = 300;
/// Lines that a hook may log at once about runs that failed, and after which time it may log one more.
const LINES: u32 = 20;
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Starts giving hooks what they are to do; it ends with the farm, or when that stops.
pub(in crate::farm) fn start(farm: &Arc<Farm>) {
    let (ending, ended) = mpsc::unbounded_channel();
    let work = farm.hooks.queued().map(|lane| Work::new(Arc::clone(lane))).collect();
    let listening =
        farm.hooks.queued().map(|lane| (lane.hook.name.to_string(), lane.hook.on.clone())).collect();
    let manager = Manager { work, listening, events: true, ending, ended };
    tokio::spawn(manager.run(Arc::downgrade(farm)));
}

struct Manager {
    work: Vec<Work>,
    /// The hooks, and what they start from.
    listening: Vec<(String, Vec<Event>)>,
    /// Whether there may be events that no hook was given yet.
    events: bool,
    /// How runs tell that they ended, with the place of their hook in `work`. There are never more than threads.
    ending: mpsc::UnboundedSender<(usize, Ended)>,
    ended: mpsc::UnboundedReceiver<(usize, Ended)>,
}

/// What a run is about; there are never two runs of a hook about the same at a time.
type About = (Option<i64>, Option<i64>);

/// A hook at work.
struct Work {
    lane: Arc<Lane>,
    /// What could start.
    ready: VecDeque<Run>,
    /// The numbers of those, of those under way, and of those whose end is not written down yet.
    taken: HashSet<i64>,
    about: HashSet<About>,
    ended: Vec<Ended>,
    /// Whether there may be more in the database.
    look: bool,
    next_due: Option<Timestamp>,
    lines: Lines,
}

impl Manager {
    async fn run(mut self, farm: Weak<Farm>) {
        let Some((mut stopping, live)) =
            farm.upgrade().map(|farm| (farm.stopping(), Arc::clone(farm.live())))
        else {
            return;
        };
        loop {
            let Some(farm) = farm.upgrade() else { return };
            if *stopping.borrow() {
                return;
            }
            let pause = match self.round(&farm).await {
                Ok(()) if self.events => Duration::ZERO,
                Ok(()) => self.pause(),
                Err(Error::Stopping) => return,
                Err(error) => {
                    tracing::error!(%error, "looking after hooks failed; it is tried again");
                    AFTER_ERROR
                }
            };
            drop(farm);
            tokio::select! {
                ended = self.ended.recv() => {
                    if let Some((work, ended)) = ended {
                        self.work[work].end(ended);
                    }
                }
                () = live.something_for_hooks() => {
                    self.events = true;
                    self.look();
                }
                () = tokio::time::sleep(pause) => self.look(),
                _ = stopping.changed() => {}
            }
        }
    }

    fn look(&mut self) {
        self.work.iter_mut().for_each(|work| work.look = true);
    }

    /// Until something is due. What has enough that could start is not read, so that what is said to be due next may
    /// have been long ago: the end of one of its runs wakes it.
    fn pause(&self) -> Duration {
        let read = self.work.iter().filter(|work| work.ready.len() < FEW);
        let next = read.filter_map(|work| work.next_due).min();
        next.map_or(LOOK_AGAIN, |due| Duration::from_millis(due.saturating_sub(now()))).min(LOOK_AGAIN)
    }

    async fn round(&mut self, farm: &Arc<Farm>) -> Result<(), Error> {
        while let Ok((work, ended)) = self.ended.try_recv() {
            self.work[work].end(ended);
        }
        self.write_ended(farm).await?;
        if self.events {
            self.events = self.take_events(farm).await?;
        }
        for (number, work) in self.work.iter_mut().enumerate() {
            if work.look && work.ready.len() < FEW {
                work.read(farm).await?;
            }
            work.start(farm, number, &self.ending);
        }
        Ok(())
    }

    async fn take_events(&self, farm: &Farm) -> Result<bool, Error> {
        if !farm.database.read(queue::has_events).await? {
            return Ok(false);
        }
        let listening = self.listening.clone();
        farm.database.write(move |tx| queue::take_events(tx, &listening)).await
    }

    /// Writes down how runs ended, many in one transaction.
    async fn write_ended(&mut self, farm: &Farm) -> Result<(), Error> {
        if self.work.iter().all(|work| work.ended.is_empty()) {
            return Ok(());
        }
        let all: Vec<(Arc<Lane>, Vec<Ended>)> = self
            .work
            .iter_mut()
            .map(|work| (Arc::clone(&work.lane), std::mem::take(&mut work.ended)))
            .collect();
        let all = Arc::new(all);
        let of_job = Arc::clone(&all);
        let written = farm.database.write::<_, Error>(move |tx| {
            let mut told = Vec::new();
            for (lane, ended) in of_job.iter() {
                ended.iter().try_for_each(|ended| queue::end(tx, &lane.hook, ended))?;
                if tell_of_failure(tx, lane, ended)? {
                    told.push(Arc::clone(lane));
                }
            }
            Ok(told)
        });
        // Not before it is written: else what was undone would be told a minute later, or never.
        let written = written.await.map(|told| told.iter().for_each(|lane| lane.set_told()));
        // The job is gone by now, whatever came of it.
        let all = Arc::into_inner(all).unwrap_or_default();
        for (work, (_, ended)) in self.work.iter_mut().zip(all) {
            if written.is_err() {
                work.ended = ended;
            } else if !ended.is_empty() {
                for ended in &ended {
                    work.taken.remove(&ended.run.id);
                }
                work.look = true;
            }
        }
        written
    }
}

impl Work {
    fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            ready: VecDeque::new(),
            taken: HashSet::new(),
            about: HashSet::new(),
            ended: Vec::new(),
            look: true,
            next_due: None,
            lines: Lines::new(),
        }
    }

    /// Reads what could start.
    async fn read(&mut self, farm: &Farm) -> Result<(), Error> {
        let most = self.taken.len() + READ;
        let hook = self.lane.hook.name.to_string();
        let (due, next_due) = farm
            .database
            .read::<_, Error>(move |sql| {
                let due = queue::due(sql, &hook, most)?;
                let next = if due.len() < most { queue::next_due(sql, &hook)? } else { None };
                Ok((due, next))
            })
            .await?;
        self.look = due.len() == most;
        self.next_due = next_due;
        let new = due.into_iter().filter(|run| self.taken.insert(run.id));
        self.ready.extend(new);
        Ok(())
    }

    /// Starts as many as the hook may have under way.
    fn start(&mut self, farm: &Arc<Farm>, number: usize, ending: &mpsc::UnboundedSender<(usize, Ended)>) {
        while self.about.len() < self.lane.hook.parallel {
            let next = self.ready.iter().position(|run| !self.about.contains(&(run.build, run.path)));
            let Some(run) = next.and_then(|next| self.ready.remove(next)) else { break };
            self.about.insert((run.build, run.path));
            let (farm, lane, ending) = (Arc::clone(farm), Arc::clone(&self.lane), ending.clone());
            crate::traced::spawn_blocking(move || {
                let result = catch_unwind(AssertUnwindSafe(|| run::run(&farm, &lane, &run)));
                let broken = |_| Err(Failure::new("it came upon an error in this program; please report it"));
                let result = result.unwrap_or_else(broken);
                drop(farm);
                // Nobody listens: the coordinator stops, and it runs again.
                let _ = ending.send((number, Ended { run, result }));
            });
        }
        self.note_running();
    }

    fn end(&mut self, ended: Ended) {
        self.about.remove(&(ended.run.build, ended.run.path));
        self.note_running();
        if let Err(Failure::Failed(error)) = &ended.result {
            self.lane.set_last_error(error);
            let hook = &self.lane.hook;
            let attempt = ended.run.tries.saturating_add(1);
            if let Some(unlogged) = self.lines.one_more(Instant::now()) {
                let given_up = attempt >= hook.tries;
                tracing::warn!(
                    hook = %hook.name, event = %ended.run.kind, run = ended.run.id, attempt, given_up, unlogged, error,
                    "a hook failed"
                );
            }
        }
        self.ended.push(ended);
    }

    fn note_running(&self) {
        self.lane.running.store(self.about.len() as u64, Ordering::Relaxed);
    }
}

/// Has those who read events know that a hook fails, if it does and that was not told a moment ago; whether it did.
fn tell_of_failure(tx: &mut Tx<'_>, lane: &Lane, ended: &[Ended]) -> Result<bool, Error> {
    let failed = ended.iter().find_map(|ended| match &ended.result {
        Err(Failure::Failed(error)) => Some((&ended.run, error)),
        _ => None,
    });
    let Some((run, error)) = failed.filter(|_| lane.is_to_be_told()) else { return Ok(false) };
    let subject = match (run.build, run.path) {
        (Some(build), _) => Subject::Build(build),
        (None, Some(path)) => Subject::Item(path),
        (None, None) => Subject::Farm,
    };
    let text = Some(error.chars().take(ERROR).collect());
    let detail = Detail { hook: Some(lane.hook.name.clone()), text, ..Detail::default() };
    events::note_with(tx, EventKind::HookFailing, subject, &detail)?;
    Ok(true)
}

/// How many lines a hook may still log: what fails a hundred thousand times does not fill the disk.
struct Lines {
    left: u32,
    since: Instant,
    unlogged: u64,
}

impl Lines {
    fn new() -> Self {
        Self { left: LINES, since: Instant::now(), unlogged: 0 }
    }

    /// Whether there may be one more now; if so, how many were left out before it.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        let more = now.duration_since(self.since).as_secs() / LINE_EVERY.as_secs();
        if more > 0 {
            self.left = self.left.saturating_add(u32::try_from(more).unwrap_or(LINES)).min(LINES);
            self.since = now;
        }
        if self.left == 0 {
            self.unlogged += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::farm::hooks::Hooks;

    #[test]
    fn a_hook_that_has_enough_to_do_wakes_nobody_for_what_was_due_next() {
        let hooks = Hooks::new(&Config::default()).unwrap();
        let work = hooks.queued().map(|lane| Work::new(Arc::clone(lane))).collect();
        let (ending, ended) = mpsc::unbounded_channel();
        let mut manager = Manager { work, listening: Vec::new(), events: false, ending, ended };
        manager.work[0].next_due = Some(1);
        assert_eq!(manager.pause(), Duration::ZERO);
        manager.work[0].ready.extend((0..FEW as i64).map(Run::for_test));
        assert_eq!(manager.pause(), LOOK_AGAIN);
    }

    #[test]
    fn what_fails_again_and_again_is_logged_now_and_then_with_the_number_of_those_left_out() {
        let mut lines = Lines::new();
        let start = Instant::now();
        let logged = (0..1000).filter(|_| lines.one_more(start).is_some()).count();
        assert_eq!(logged, LINES as usize);
        assert_eq!(lines.one_more(start + LINE_EVERY), Some(1000 - u64::from(LINES)));
        assert_eq!(lines.one_more(start + LINE_EVERY), None);
    }
}
