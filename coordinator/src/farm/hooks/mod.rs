//! Hooks: what is done when something happened.
//!
//! Events and what hooks are to do about them are in the database, so that both survive a restart ([`queue`]). One task
//! gives events to hooks and runs to threads, as many as each hook may have ([`manager`]); a hook that is slow or fails
//! holds up nobody else. What was under way when the coordinator ended runs again: every run happens at least once.

mod command;
mod failure;
mod manager;
mod push;
mod queue;
mod retry;
mod run;
mod show;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use drover_wire::hook::HookName;

use crate::config::{Config, ConfigError, Hook, Location, Task};

pub(super) use manager::start;
pub(super) use queue::{enqueue, waiting};

/// The hooks of the configuration, and how they do.
#[derive(Debug)]
pub(super) struct Hooks {
    all: Vec<Arc<Lane>>,
    submits_missing_inputs: bool,
}

/// A hook, and how it does.
#[derive(Debug)]
struct Lane {
    hook: Hook,
    running: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Hooks {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        let hooks = config.all_hooks()?;
        let submits_missing_inputs =
            hooks.iter().any(|hook| hook.task == Task::SubmitMissingInputs && hook.enabled);
        let lane = |hook| Arc::new(Lane { hook, running: AtomicU64::new(0), last_error: Mutex::new(None) });
        Ok(Self { all: hooks.into_iter().map(lane).collect(), submits_missing_inputs })
    }

    /// Whether what an agent lacks and nobody provides is built. It is planned in the transaction of the report, so that
    /// no build ever waits for something that nobody is about to build.
    pub(super) fn submit_missing_inputs(&self) -> bool {
        self.submits_missing_inputs
    }

    /// Whether there is a hook of this name that is switched on.
    pub(super) fn has(&self, name: &str) -> bool {
        self.queued().any(|lane| lane.hook.name.as_str() == name)
    }

    /// A hook that pushes to where this is.
    pub(super) fn pusher(&self, at: &Location) -> Option<&HookName> {
        self.all.iter().map(|lane| &lane.hook).find(|hook| hook.pushes_into(at)).map(|hook| &hook.name)
    }

    /// Those that are run from the queue and are switched on.
    fn queued(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.all.iter().filter(|lane| lane.hook.enabled && lane.is_queued())
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
            run::run(farm, &lane.hook, &run).unwrap();
            let (lane, ended) = (Arc::clone(lane), Ended { run, result: Ok(()) });
            farm.database.write_blocking(move |tx| queue::end(tx, &lane.hook, &ended)).unwrap();
        }
    }
}

impl Lane {
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

    fn set_last_error(&self, error: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_owned());
    }
}
