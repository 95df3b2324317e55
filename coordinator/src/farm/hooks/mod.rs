//! Hooks: what is done when something happened.
//!
//! Events and what hooks are to do about them are in the database, so that both survive a restart ([`queue`]). One task
//! gives events to hooks and runs to threads, as many as each hook may have ([`manager`]); a hook that is slow or fails
//! holds up nobody else. What was under way when the coordinator ended runs again: every run happens at least once.

mod command;
mod failure;
mod manager;
mod mirror;
mod push;
mod queue;
mod retry;
mod run;
mod show;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drover_wire::hook::{Event, HookName};

use crate::config::{Config, ConfigError, Hook, Location, Task};
use failure::Failure;
use mirror::Mirror;

pub(super) use manager::start;
pub(super) use queue::{enqueue, waiting};
pub(super) use retry::reconsider;

/// How often an event says of a hook that it fails.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The hooks of the configuration, and how they do.
#[derive(Debug)]
pub(super) struct Hooks {
    all: Vec<Arc<Lane>>,
    submits_missing_inputs: bool,
}

/// What a hook is also given of what there was before it was switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// Outputs that are held.
    Held,
    /// What is published.
    Published,
}

/// A hook, and how it does.
#[derive(Debug)]
struct Lane {
    hook: Hook,
    running: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// When an event said last that it fails.
    told: Mutex<Option<Instant>>,
    /// Where it pushes to, once it did.
    mirror: Mutex<Option<Arc<Mirror>>>,
    /// Whether the folder that it pushes to may have to be made.
    may_be_new: AtomicBool,
}

impl Hooks {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let hooks = config.all_hooks()?;
        let submits_missing_inputs =
            hooks.iter().any(|hook| hook.task == Task::SubmitMissingInputs && hook.enabled);
        let all = hooks.into_iter().map(|hook| Arc::new(Lane::new(hook))).collect();
        Ok(Self { all, submits_missing_inputs })
    }

    /// Whether what an agent lacks and nobody provides is built. It is planned in the transaction of the report, so that
    /// no build ever waits for something that nobody is about to build.
    pub(super) fn submit_missing_inputs(&self) -> bool {
        self.submits_missing_inputs
    }

    /// A hook that pushes to where this is.
    pub(super) fn pusher(&self, at: &Location) -> Option<&HookName> {
        self.all.iter().map(|lane| &lane.hook).find(|hook| hook.pushes_into(at)).map(|hook| &hook.name)
    }

    /// Those that are run from the queue and are switched on.
    fn queued(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.all.iter().filter(|lane| lane.hook.enabled && lane.is_queued())
    }

    /// The hooks that are switched on and are given what there was before that, too; with where they push to.
    pub(super) fn with_past(&self) -> impl Iterator<Item = (&HookName, Past, String)> {
        self.queued().filter_map(|lane| {
            let (past, target) = match &lane.hook.task {
                Task::Publish => (Past::Held, String::new()),
                Task::Push { to, .. } if lane.hook.on.contains(&Event::Published) => {
                    (Past::Published, to.distinct())
                }
                _ => return None,
            };
            Some((&lane.hook.name, past, target))
        })
    }

    /// The hooks that are switched on and start with what happens from now on.
    pub(super) fn without_past(&self) -> impl Iterator<Item = &HookName> {
        let with: Vec<&HookName> = self.with_past().map(|(name, ..)| name).collect();
        self.queued().map(|lane| &lane.hook.name).filter(move |name| !with.contains(name))
    }

    /// Of a hook that was not switched on at the last start, or pushed to somewhere else: a folder that it pushes to is
    /// made. False, and logged: it could not be. Then the runs of this hook fail until it can.
    pub(super) fn make_new(&self, farm: &super::Farm, name: &HookName) -> bool {
        let Some(lane) = self.queued().find(|lane| lane.hook.name == *name) else { return true };
        let Task::Push { to: to @ Location::Folder(_), reserve } = &lane.hook.task else { return true };
        lane.may_be_new.store(true, Ordering::Relaxed);
        let made = lane.mirror(farm, to, *reserve);
        if let Err(error) = &made {
            tracing::error!(hook = %name, %error, "where a hook pushes to cannot be made; it is tried again");
        }
        made.is_ok()
    }

    /// The names of all, those that are switched off among them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|lane| lane.hook.name.as_str())
    }

    fn by_name(&self) -> BTreeMap<&str, &Arc<Lane>> {
        self.all.iter().map(|lane| (lane.hook.name.as_str(), lane)).collect()
    }
}

/// Gives all events to the hooks, and has one of them do what it is to do, until nothing is due: as the manager does, one
/// after the other.
#[cfg(test)]
pub(super) fn work_off(farm: &Arc<super::Farm>, name: &str) {
    use queue::Ended;
    let listening: Vec<_> =
        farm.hooks.queued().map(|lane| (lane.hook.name.to_string(), lane.hook.on.clone())).collect();
    while farm
        .database
        .write_blocking({
            let listening = listening.clone();
            move |tx| queue::take_events(tx, &listening)
        })
        .unwrap()
    {}
    let lane = farm.hooks.queued().find(|lane| lane.hook.name.as_str() == name).unwrap();
    loop {
        let due = farm.database.read_blocking(|sql| queue::due(sql, name, 1000)).unwrap();
        if due.is_empty() {
            return;
        }
        for run in due {
            run::run(farm, lane, &run).unwrap();
            let (lane, ended) = (Arc::clone(lane), Ended { run, result: Ok(()) });
            farm.database.write_blocking(move |tx| queue::end(tx, &lane.hook, &ended)).unwrap();
        }
    }
}

impl Lane {
    fn new(hook: Hook) -> Self {
        Self {
            hook,
            running: AtomicU64::default(),
            last_error: Mutex::default(),
            told: Mutex::default(),
            mirror: Mutex::default(),
            may_be_new: AtomicBool::default(),
        }
    }

    /// Where it pushes to. All of its runs share it, and what it takes to be one: the turns of a bucket, the room on a
    /// disk. What cannot be used is tried anew by the next run.
    fn mirror(&self, farm: &super::Farm, to: &Location, reserve: u64) -> Result<Arc<Mirror>, Failure> {
        let mut mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mirror) = &*mirror {
            return Ok(Arc::clone(mirror));
        }
        let may_be_new = self.may_be_new.load(Ordering::Relaxed);
        let opened = Arc::new(Mirror::open(to, reserve, may_be_new, &farm.storage)?);
        *mirror = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Whether it is run from the queue.
    fn is_queued(&self) -> bool {
        self.hook.task != Task::SubmitMissingInputs
    }

    fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an event is to say that it fails: what fails a hundred thousand times is not told as often.
    fn is_to_be_told(&self) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.is_none_or(|told| told.elapsed() >= TELL_EVERY)
    }

    /// An event has said so.
    fn set_told(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn set_last_error(&self, error: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
    }
}

#[cfg(test)]
mod tests;
