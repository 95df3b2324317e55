//! What is only known while the coordinator runs: who polls, when agents were heard of, when leases run out.
//!
//! None of it needs to outlive the process. Agents say it again, and a coordinator that was away gives every lease
//! its full time anew. The database is the truth; [`Live::apply`] follows its commits, in their order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drover_wire::agent::{GiveUp, GiveUpReason, Machine};
use drover_wire::{AgentId, BuildId, LeaseId, Timestamp};
use tokio::sync::{Notify, broadcast, mpsc};

use super::change::{AgentRow, Change, Event};
use super::events::Feed;
use super::lease::Lease;

/// How soon an agent is told again to give up a lease that it still lists, while nothing else happens.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// Events that a slow listener may be behind before it has to look at the database.
const EVENTS: usize = 4096;

/// What is known of the moment.
#[derive(Debug)]
pub struct Live {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    ended_logs: mpsc::UnboundedSender<Arc<Lease>>,
    for_hooks: Notify,
    feed: Arc<Feed>,
    started: Instant,
    lease_time: Duration,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<LeaseId, Arc<Lease>>,
    agents: HashMap<i64, Agent>,
}

/// What is known of an agent at the moment.
#[derive(Debug)]
struct Agent {
    row: AgentRow,
    platforms: HashSet<i64>,
    accepting: u32,
    machine: Machine,
    seen: Option<(Instant, Timestamp)>,
    /// Whether it is noted that it is there.
    here: bool,
    leases: BTreeMap<LeaseId, Arc<Lease>>,
    told: HashMap<LeaseId, Instant>,
    /// Which poll of it is the newest; older ones end.
    poll: u64,
    open_polls: u32,
    /// Whether its poll has been woken and has not looked yet.
    woken: bool,
    wake: Arc<Notify>,
}

/// What an agent is like, for a list.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// When it was last heard of.
    pub seen_at: Option<Timestamp>,
    /// Whether that was within the time of a lease.
    pub online: bool,
    /// How many builds it wants to hold.
    pub accepting: u32,
    /// What its machine does.
    pub machine: Machine,
}

/// What there is for a poll without asking the database.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Leases that the agent has and does not list.
    pub unlisted: Vec<Arc<Lease>>,
    /// Leases that it lists and has no longer.
    pub give_up: Vec<GiveUp>,
    /// How many more builds it may be given.
    pub free: u32,
    /// When it should be asked again although nothing happens.
    pub again: Option<Instant>,
}

impl Live {
    /// Starts without agents and leases. Leases that ended go to `ended_logs`.
    pub(super) fn new(
        lease_time: Duration,
        ended_logs: mpsc::UnboundedSender<Arc<Lease>>,
        feed: Arc<Feed>,
    ) -> Self {
        let events = broadcast::channel(EVENTS).0;
        Self {
            state: Mutex::default(),
            events,
            ended_logs,
            for_hooks: Notify::new(),
            feed,
            started: Instant::now(),
            lease_time,
        }
    }

    /// Waits until there may be something for hooks to do; one at a time can.
    pub async fn something_for_hooks(&self) {
        self.for_hooks.notified().await;
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a commit.
    pub fn apply(&self, changes: Vec<Change>) {
        let mut ended = Vec::new();
        let mut events = Vec::new();
        let mut happened = false;
        {
            let mut state = self.state();
            for change in changes {
                match change {
                    Change::Agent { row, platforms, here } => state.agent(row, platforms, here),
                    Change::Ready { platform } => state.wake(platform, 1),
                    Change::Requeued { platform } => state.wake(platform, usize::MAX),
                    Change::Opened(opened) => {
                        let lease = Arc::new(Lease::new(*opened, Instant::now() + self.lease_time));
                        events.push(Event::Opened(Arc::clone(&lease)));
                        state.open(lease);
                    }
                    Change::Canceled(lease) => state.cancel(lease),
                    Change::Closed(lease) => ended.extend(state.close(lease)),
                    Change::Ended(build) => events.push(Event::Ended(build)),
                    Change::Happened { for_hooks } => {
                        happened = true;
                        if for_hooks {
                            self.for_hooks.notify_one();
                        }
                    }
                    // Not of the moment: those who remove and count them have heard of it.
                    Change::Leftover | Change::Measured(_) => {}
                }
            }
        }
        for lease in ended {
            lease.log().close();
            let _ = self.ended_logs.send(lease);
        }
        if happened {
            self.feed.wake();
        }
        for event in events {
            // Nobody listens: nobody needs to know.
            let _ = self.events.send(event);
        }
    }

    /// The lease, if that agent holds it; its time starts anew.
    pub fn lease(&self, agent: i64, lease: LeaseId) -> Option<Arc<Lease>> {
        let lease = self.state().leases.get(&lease).filter(|lease| lease.agent == agent).cloned()?;
        lease.renew(Instant::now() + self.lease_time);
        Some(lease)
    }

    /// The open lease of a build.
    pub fn lease_of(&self, build: BuildId) -> Option<Arc<Lease>> {
        self.state().leases.values().find(|lease| lease.build == build).cloned()
    }

    /// All leases that are open.
    pub fn leases(&self) -> Vec<Arc<Lease>> {
        self.state().leases.values().cloned().collect()
    }

    /// Leases that have run out, unless nobody else could take the build now. A canceled one needs nobody.
    pub fn run_out(&self) -> Vec<Arc<Lease>> {
        let state = self.state();
        let now = Instant::now();
        let gone = state.leases.values().filter(|lease| lease.deadline() <= now);
        gone.filter(|lease| {
            lease.is_canceled()
                || state.agents.iter().any(|(id, agent)| {
                    *id != lease.agent && agent.open_polls > 0 && agent.takes(lease.platform)
                })
        })
        .cloned()
        .collect()
    }

    /// Notes that an agent was heard of, and renews the leases that it lists; whether nobody knew that it is there.
    #[must_use]
    pub fn seen(&self, agent: i64, leases: &[LeaseId], now: Timestamp) -> bool {
        let mut state = self.state();
        let deadline = Instant::now() + self.lease_time;
        if let Some(agent) = state.agents.get_mut(&agent) {
            agent.seen = Some((Instant::now(), now));
            for lease in leases.iter().filter_map(|lease| agent.leases.get(lease)) {
                lease.renew(deadline);
            }
            return !std::mem::replace(&mut agent.here, true);
        }
        false
    }

    /// Agents that were there and have not been heard of for the time of a lease.
    pub(super) fn silent(&self) -> Vec<i64> {
        let state = self.state();
        state.agents.iter().filter(|(_, agent)| self.is_silent(agent)).map(|(id, _)| *id).collect()
    }

    /// What was to be noted of an agent could not be: it is as it was.
    pub(super) fn set_here(&self, agent: i64, here: bool) {
        if let Some(agent) = self.state().agents.get_mut(&agent) {
            agent.here = here;
        }
    }

    /// Notes that an agent is not there any more, if that is so.
    pub(super) fn take_silent(&self, agent: i64) -> Option<AgentRow> {
        let mut state = self.state();
        let agent = state.agents.get_mut(&agent).filter(|agent| self.is_silent(agent))?;
        agent.here = false;
        Some(agent.row.clone())
    }

    fn is_silent(&self, agent: &Agent) -> bool {
        let since = agent.seen.map_or(self.started, |(seen, _)| seen);
        agent.here && agent.open_polls == 0 && since.elapsed() >= self.lease_time
    }

    /// Takes what a heartbeat says; an open poll goes by it.
    pub fn heartbeat(&self, agent: i64, accepting: u32, machine: Machine) {
        let mut state = self.state();
        if let Some(agent) = state.agents.get_mut(&agent) {
            agent.machine = machine;
            let more = accepting > agent.accepting;
            agent.accepting = accepting;
            if more && agent.open_polls > 0 {
                agent.wake.notify_one();
            }
        }
    }

    /// Leases that an agent lists and has no longer.
    pub fn give_up(&self, agent: i64, holding: &[LeaseId]) -> Vec<GiveUp> {
        let mut state = self.state();
        let Some(agent) = state.agents.get_mut(&agent) else { return Vec::new() };
        let all: Vec<GiveUp> = holding.iter().filter_map(|lease| agent.verdict(*lease)).collect();
        let now = Instant::now();
        // What it does not list any more needs no telling; it could list any number one after the other.
        let listed: HashSet<&LeaseId> = holding.iter().collect();
        agent.told.retain(|lease, _| listed.contains(lease));
        for give_up in &all {
            agent.told.insert(give_up.lease, now);
        }
        all
    }

    /// Opens a poll; the agent's earlier one ends.
    pub fn poll(self: &Arc<Self>, agent: i64, accepting: u32) -> Option<Turn> {
        let mut state = self.state();
        let entry = state.agents.get_mut(&agent)?;
        entry.accepting = accepting;
        entry.poll += 1;
        entry.open_polls += 1;
        let turn = Turn { live: Arc::clone(self), agent, number: entry.poll, wake: Arc::new(Notify::new()) };
        // The earlier poll sees that it is not the newest any more.
        std::mem::replace(&mut entry.wake, Arc::clone(&turn.wake)).notify_one();
        Some(turn)
    }

    /// Wakes all polls that could be given something.
    pub fn wake_all(&self) {
        let mut state = self.state();
        for agent in state.agents.values_mut().filter(|agent| agent.open_polls > 0 && agent.has_room()) {
            agent.woken = true;
            agent.wake.notify_one();
        }
    }

    /// What an agent is like at the moment.
    pub fn view(&self, agent: i64) -> AgentView {
        let state = self.state();
        let agent = state.agents.get(&agent);
        let seen = agent.and_then(|agent| agent.seen);
        AgentView {
            seen_at: seen.map(|(_, at)| at),
            online: seen.is_some_and(|(seen, _)| seen.elapsed() < self.lease_time)
                || agent.is_some_and(|agent| agent.open_polls > 0),
            accepting: agent.map_or(0, |agent| agent.accepting),
            machine: agent.map(|agent| agent.machine.clone()).unwrap_or_default(),
        }
    }

    /// Where an agent can build.
    pub fn platforms(&self, agent: i64) -> Vec<i64> {
        let state = self.state();
        state.agents.get(&agent).map(|agent| agent.platforms.iter().copied().collect()).unwrap_or_default()
    }

    /// When each agent was last heard of.
    pub fn all_seen(&self) -> Vec<(i64, Timestamp)> {
        let state = self.state();
        state.agents.iter().filter_map(|(id, agent)| Some((*id, agent.seen?.1))).collect()
    }

    /// Who an agent is, by its UUID.
    pub fn agent(&self, uuid: AgentId) -> Option<AgentRow> {
        self.state().agents.values().find(|agent| agent.row.uuid == uuid).map(|agent| agent.row.clone())
    }
}

impl State {
    fn agent(&mut self, row: AgentRow, platforms: HashSet<i64>, here: bool) {
        match self.agents.get_mut(&row.id) {
            Some(agent) => {
                agent.row = row;
                agent.platforms = platforms;
            }
            None => {
                let agent = Agent {
                    platforms,
                    accepting: 0,
                    machine: Machine::default(),
                    seen: None,
                    here,
                    leases: BTreeMap::new(),
                    told: HashMap::new(),
                    poll: 0,
                    open_polls: 0,
                    woken: false,
                    wake: Arc::new(Notify::new()),
                    row,
                };
                self.agents.insert(agent.row.id, agent);
            }
        }
    }

    fn wake(&mut self, platform: i64, most: usize) {
        let fitting = self.agents.values_mut().filter(|agent| agent.open_polls > 0 && agent.takes(platform));
        // Those that were woken and have not looked yet may be busy with something else by then.
        let mut idle: Vec<&mut Agent> = fitting.filter(|agent| most == usize::MAX || !agent.woken).collect();
        idle.sort_by_key(|agent| std::cmp::Reverse(agent.free()));
        for agent in idle.into_iter().take(most) {
            agent.woken = true;
            agent.wake.notify_one();
        }
    }

    fn open(&mut self, lease: Arc<Lease>) {
        if let Some(agent) = self.agents.get_mut(&lease.agent) {
            agent.leases.insert(lease.id, Arc::clone(&lease));
            // The poll that asked may be gone, and a newer one have looked before the commit.
            agent.wake.notify_one();
        }
        self.leases.insert(lease.id, lease);
    }

    fn cancel(&mut self, lease: LeaseId) {
        let Some(lease) = self.leases.get(&lease) else { return };
        lease.set_canceled();
        if let Some(agent) = self.agents.get_mut(&lease.agent) {
            agent.wake.notify_one();
        }
    }

    fn close(&mut self, lease: LeaseId) -> Option<Arc<Lease>> {
        let lease = self.leases.remove(&lease)?;
        if let Some(agent) = self.agents.get_mut(&lease.agent) {
            agent.leases.remove(&lease.id);
            agent.told.remove(&lease.id);
            // It has room for another one now.
            agent.wake.notify_one();
        }
        Some(lease)
    }
}

impl Agent {
    fn free(&self) -> u32 {
        self.accepting.saturating_sub(u32::try_from(self.leases.len()).unwrap_or(u32::MAX))
    }

    fn has_room(&self) -> bool {
        self.free() > 0
    }

    fn takes(&self, platform: i64) -> bool {
        self.has_room() && self.platforms.contains(&platform)
    }

    fn verdict(&self, lease: LeaseId) -> Option<GiveUp> {
        let reason = match self.leases.get(&lease) {
            None => GiveUpReason::Lost,
            Some(held) if held.is_canceled() => GiveUpReason::Canceled,
            Some(_) => return None,
        };
        Some(GiveUp { lease, reason })
    }
}

/// An open poll; dropped, it is closed, whatever became of the agent's connection.
#[derive(Debug)]
pub struct Turn {
    live: Arc<Live>,
    agent: i64,
    number: u64,
    wake: Arc<Notify>,
}

impl Turn {
    /// Waits until there may be something.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What there is for the agent; none when a newer poll has taken the place of this one.
    pub fn look(&self, holding: &[LeaseId]) -> Option<Waiting> {
        let mut state = self.live.state();
        let agent = state.agents.get_mut(&self.agent).filter(|agent| agent.poll == self.number)?;
        let woken = std::mem::take(&mut agent.woken);
        let now = Instant::now();
        let mut waiting = Waiting { free: agent.free(), ..Waiting::default() };
        let listed: HashSet<&LeaseId> = holding.iter().collect();
        let unlisted = agent.leases.values().filter(|lease| !listed.contains(&lease.id));
        waiting.unlisted = unlisted.filter(|lease| !lease.is_canceled()).cloned().collect();
        let told = std::mem::take(&mut agent.told);
        let all: Vec<GiveUp> = holding.iter().filter_map(|lease| agent.verdict(*lease)).collect();
        let recent = |lease: &LeaseId| told.get(lease).filter(|told| now.duration_since(**told) < TELL_AGAIN);
        // Told a moment ago, it is told again only beside something new: an agent needs time to kill a build.
        if all.iter().any(|give_up| recent(&give_up.lease).is_none()) {
            waiting.give_up = all;
            agent.told = waiting.give_up.iter().map(|give_up| (give_up.lease, now)).collect();
        } else {
            waiting.again = told.values().min().map(|told| *told + TELL_AGAIN);
            agent.told = told.into_iter().filter(|(lease, _)| listed.contains(lease)).collect();
        }
        if woken && waiting.free == 0 {
            // It has no room any more for what it was woken for: somebody else may have.
            for platform in agent.platforms.clone() {
                state.wake(platform, 1);
            }
        }
        Some(waiting)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.live.state();
        let Some(agent) = state.agents.get_mut(&self.agent) else { return };
        agent.open_polls = agent.open_polls.saturating_sub(1);
        if agent.poll == self.number && std::mem::take(&mut agent.woken) {
            // It was woken for a build and has not looked: somebody else should.
            let platforms = agent.platforms.clone();
            for platform in platforms {
                state.wake(platform, 1);
            }
        }
    }
}

/// A flag; who sets it is told whether it was the first.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    pub(super) fn unset(&self) {
        self.0.store(false, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
