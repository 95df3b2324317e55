//! The agent as a whole: its place at the coordinator, the builds that it holds, and its end.
//!
//! One thread keeps a poll open (`poll`), one sends heartbeats (`heartbeat`), each build that is not merely held has
//! a thread of its own, one cleans the store when that is due (`tidy`), one writes it to the disk when nothing else is done
//! or much came, and the first thread waits for the word to stop (`drain`). They share a `Session`: what is held and why
//! nothing more is taken, under one lock that is never held over a call.

mod clock;
mod drain;
mod enrol;
mod heartbeat;
mod host;
mod poll;
mod slots;
mod tidy;

pub(crate) use heartbeat::LEAST_STORE;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use drover_os::machine;
use drover_os::signal::{Stage, Stop};
use drover_wire::agent::{Allocation, GiveUpReason, Hello, Orders};
use drover_wire::{Code, LeaseId, PROTOCOL, Phase};

use crate::build::control::{Control, Order};
use crate::build::journal::{Finished, Journal, JournalError};
use crate::config::{Config, ExecutorKind};
#[cfg(all(target_os = "linux", not(drover_portable)))]
use crate::coordinator::FarmFiles;
use crate::coordinator::{self, Coordinator};
use crate::executor::daemon::DaemonExecutor;
#[cfg(all(target_os = "linux", not(drover_portable)))]
use crate::executor::sandbox::SandboxExecutor;
use crate::executor::{self, Executor};
use crate::retry::{self, Pauses};

/// Why the agent ended, when nobody had asked it to.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The coordinator does not want this agent.
    #[error("the coordinator does not take this agent: {0}")]
    Refused(#[source] coordinator::Error),
    /// This machine cannot enrol itself.
    #[error(transparent)]
    Enrol(#[from] enrol::EnrolError),
    /// There is nobody to build.
    #[error("builds cannot be done here: {0}")]
    Executor(#[source] executor::Error),
    /// The system has no threads, descriptors or signals for us.
    #[error("start to work: {0}")]
    System(#[from] std::io::Error),
}

/// Everything that the agent's threads share.
pub(crate) struct Session {
    config: Config,
    coordinator: Coordinator,
    executor: Box<dyn Executor>,
    journal: Journal,
    stop: Stop,
    state: Mutex<State>,
    changed: Condvar,
    me: Weak<Session>,
}

/// What changes, and what it means.
#[derive(Debug)]
struct State {
    held: BTreeMap<LeaseId, Held>,
    /// Uploads that run.
    uploads: u32,
    /// Somebody asked us to stop.
    draining: bool,
    executor_away: bool,
    disk_low: bool,
    /// The load alone keeps a held build from starting.
    load_high: bool,
    /// What is done about a store that grows.
    tidying: tidy::Tidying,
    /// A heartbeat is wanted at once.
    beat: bool,
    /// When a build ended, if what it left in memory has not all gone since.
    worked: Option<Instant>,
    /// The coordinator knows us, and what we hold.
    introduced: bool,
    /// Why the agent ends without being told to.
    refused: Option<coordinator::Error>,
    heartbeat_every: Duration,
    poll_open: Duration,
}

/// A lease that the agent has.
#[derive(Debug)]
struct Held {
    allocation: Allocation,
    phase: Phase,
    control: Arc<Control>,
    /// It has a thread.
    running: bool,
}

/// Works until asked to stop.
///
/// # Errors
/// When the agent cannot start, or the coordinator refuses it at its first contact.
pub fn run(mut config: Config) -> Result<(), SessionError> {
    machine::hoard_no_memory();
    let stop = Stop::on_signals()?;
    let journal = Journal::open(&config.state_dir)?;
    if config.set_clock && !clock::set(&config, &clock::OfMachine, &stop) {
        return Ok(());
    }
    let Some(credentials) = enrol::credentials(&config, &stop)? else { return Ok(()) };
    config.credentials = credentials;
    let executor = executor(&config, &journal.roots())?;
    Session::new(config, executor, journal, stop).work()
}

/// Makes who builds; what `roots` points to must not go from its store.
fn executor(config: &Config, roots: &Path) -> Result<Box<dyn Executor>, SessionError> {
    let why = config.executor.why;
    if !config.unheeded.is_empty() {
        let options = config.unheeded.join(", ");
        tracing::warn!("the {} has no use for what is configured as {options}", config.executor.kind);
    }
    match config.executor.kind {
        ExecutorKind::Daemon => {
            tracing::info!("builds are done by the guix-daemon at {}: {why}", config.daemon_socket);
            Ok(Box::new(DaemonExecutor::new(config.daemon_socket.clone())))
        }
        ExecutorKind::Sandbox => sandbox(config, roots),
    }
}

#[cfg(all(target_os = "linux", not(drover_portable)))]
fn sandbox(config: &Config, roots: &Path) -> Result<Box<dyn Executor>, SessionError> {
    let settings = config.sandbox.clone();
    let (root, why) = (settings.store_root.display(), config.executor.why);
    tracing::info!("builds are done in a sandbox, with the store in {root}: {why}");
    if settings.keys.keys().is_empty() {
        tracing::warn!("no key is authorized: only sources can be had; see --authorized-keys");
    }
    let machine = machine::system().unwrap_or_default();
    for system in config.systems.iter().filter(|system| !executor::sandbox::runs(system, &machine)) {
        tracing::warn!(
            "the builders of {system}, for which this agent is configured, do not run on this machine, {machine}: but for \
             downloads, what is for them is handed back to the coordinator"
        );
    }
    let files = Box::new(FarmFiles::new(config));
    let executor = SandboxExecutor::new(settings, roots, Some(files));
    Ok(Box::new(executor.map_err(SessionError::Executor)?))
}

#[cfg(any(not(target_os = "linux"), drover_portable))]
fn sandbox(_: &Config, _: &Path) -> Result<Box<dyn Executor>, SessionError> {
    let words = "sandboxes are made on Linux only; use --executor daemon";
    Err(SessionError::Executor(executor::Error::Refused(words.to_owned())))
}

impl Session {
    fn new(config: Config, executor: Box<dyn Executor>, journal: Journal, stop: Stop) -> Arc<Self> {
        let coordinator = Coordinator::new(&config);
        Arc::new_cyclic(|me| Self {
            config,
            coordinator,
            executor,
            journal,
            stop,
            state: Mutex::new(State {
                held: BTreeMap::new(),
                uploads: 0,
                draining: false,
                executor_away: false,
                disk_low: false,
                load_high: false,
                tidying: tidy::Tidying::default(),
                beat: false,
                worked: None,
                introduced: false,
                refused: None,
                heartbeat_every: Duration::from_secs(30),
                poll_open: Duration::from_secs(60),
            }),
            changed: Condvar::new(),
            me: me.clone(),
        })
    }

    fn work(self: Arc<Self>) -> Result<(), SessionError> {
        let waker = self.me.clone();
        self.stop.on_change(move |_| {
            if let Some(session) = waker.upgrade() {
                session.changed.notify_all();
            }
        });
        let results = self.journal.recover()?;
        for Finished { allocation, .. } in &results {
            self.lock().held.insert(allocation.lease, Held::delivering(allocation.clone()));
        }
        let what = "introduce this agent to the coordinator";
        match retry::until_it_works(what, &self.stop, Stage::Drain, Pauses::default(), || self.introduce()) {
            Ok(()) => {}
            Err(_) if self.stop.is_requested() => return Ok(()),
            Err(error) => {
                if error.code() == Some(Code::Unauthorized) {
                    enrol::forget(&self.config.state_dir);
                }
                return Err(SessionError::Refused(error));
            }
        }
        for finished in results {
            self.spawn_delivery(finished);
        }
        self.spawn("heartbeat", |session| session.heartbeats())?;
        self.spawn("poll", |session| session.polls())?;
        self.wait_for_the_end();
        self.lock().refused.take().map_or(Ok(()), |error| Err(SessionError::Refused(error)))
    }

    /// Tells the coordinator who we are and what we hold, and drops what we hold no longer.
    fn introduce(&self) -> Result<(), coordinator::Error> {
        let builtins = match self.executor.builtins() {
            Ok(builtins) => {
                self.executor_answers(true);
                builtins
            }
            Err(error) => {
                tracing::error!("{error}; no builds are taken until it answers");
                self.executor_answers(false);
                Vec::new()
            }
        };
        let hello = Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            systems: self.config.systems.clone(),
            builtins,
            max_parallel_builds: self.config.max_parallel_builds,
            max_allocated_builds: self.config.max_allocated_builds,
            holding: self.lock().held.keys().copied().collect(),
        };
        let welcome = self.coordinator.hello(&hello)?;
        let name = welcome.name.chars().filter(|c| !c.is_control()).collect::<String>();
        tracing::info!(
            "agent {name} ({}) of coordinator {}",
            welcome.agent,
            self.config.coordinator.join("")
        );
        for lease in welcome.give_up {
            self.order(lease, Order::Lost);
        }
        let mut state = self.lock();
        state.introduced = true;
        state.heartbeat_every = Duration::from_secs(welcome.heartbeat_seconds.clamp(1, 3600));
        state.poll_open = Duration::from_secs(welcome.poll_seconds.clamp(1, 3600));
        Ok(())
    }

    /// Does what the coordinator says.
    fn obey(&self, orders: Orders) {
        let mut state = self.lock();
        for allocation in orders.allocations {
            let draining = state.draining;
            // It may come twice, by poll and by heartbeat.
            let held = state.held.entry(allocation.lease).or_insert_with(|| Held::queued(allocation));
            if draining && !held.running {
                held.control.order(drain::hand_back());
            }
        }
        drop(state);
        for give_up in orders.give_up {
            let order = match give_up.reason {
                GiveUpReason::Canceled => Order::Canceled,
                GiveUpReason::Lost => Order::Lost,
            };
            tracing::info!("lease {}: {order:?}", give_up.lease);
            self.order(give_up.lease, order);
        }
        self.start_what_fits();
    }

    fn order(&self, lease: LeaseId, order: Order) {
        let control = self.lock().held.get(&lease).map(|held| Arc::clone(&held.control));
        if let Some(control) = control {
            control.order(order);
        }
        self.changed.notify_all();
    }

    /// Takes note of whether the executor is there.
    fn executor_answers(&self, answers: bool) {
        let mut state = self.lock();
        if state.executor_away == answers {
            state.executor_away = !answers;
            state.beat = true;
            self.changed.notify_all();
        }
    }

    /// How many builds we want to hold.
    fn accepting(&self, state: &State) -> u32 {
        if state.draining || state.executor_away || state.disk_low {
            0
        } else {
            self.config.max_allocated_builds
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn queued(allocation: Allocation) -> Self {
        Self { allocation, phase: Phase::Queued, control: Arc::default(), running: false }
    }

    fn delivering(allocation: Allocation) -> Self {
        Self { allocation, phase: Phase::UploadQueued, control: Arc::default(), running: true }
    }
}
