//! What goes next, and to whom: events in, decisions out.
//!
//! A [`Schedule`] knows the open builds, what waits for what, and the agents that are there. It is told what happens and
//! when ([`Millis`], which only grow), and [`Schedule::decide`] says which builds go to which agents now. It has no
//! database and no clock, and never looks at anything in an order that depends on chance: the same events give the same
//! decisions. What it is told costs about what it touches, never the queue.
//!
//! # The order
//! 1. The priority. Whoever tells of builds has let what they wait for inherit it.
//! 2. Shares: of those that have builds of this priority for a system, the one that had the least time on machines there
//!    for its weight (`shares`).
//! 3. The longest way: the time, as far as it is known (`durations`), from the start of a build to the end of
//!    everything above it (`graph`).
//! 4. Age.
//!
//! # Who
//! An agent that is there, has room, builds for the system, and has all the tags that the build asks for. Fast ones are
//! given something first. A slow one passes over a build that a faster one will come to so soon that it ends earlier
//! there; it waits for that no longer than it would gain ([`Schedule::decide`]).

mod agents;
mod decide;
mod durations;
mod graph;
mod queue;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agents::Agents;
pub use agents::{AgentNumber, Facts, Fit};
pub use decide::{Allocated, Why};
use durations::Durations;
pub use durations::package_of;
use graph::{Graph, Index};
use queue::Queues;
use shares::Shares;
pub use shares::Weights;

/// A build's number in the database.
pub type BuildNumber = i64;
/// The number of a system, or of a builtin builder, in the database.
pub type Platform = i64;
/// A time in milliseconds since whatever moment the caller likes; also a length of time.
pub type Millis = u64;

/// A build, as far as its place in the order goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Build {
    /// Its number; those with lower numbers are older.
    pub number: BuildNumber,
    /// Where it can go.
    pub platform: Platform,
    /// The name of its derivation without the version, by which its duration is guessed; see [`package_of`].
    pub package: String,
    /// Its priority.
    pub priority: i64,
    /// The share that it belongs to; none: to that of what waits for it.
    pub share: Option<String>,
    /// The tags that it asks of its agent.
    pub needs: Vec<String>,
    /// Whether an agent that only emulates the system will do.
    pub may_be_emulated: bool,
    /// It is not to start before.
    pub not_before: Option<Millis>,
}

/// The state of the order.
#[derive(Debug)]
pub struct Schedule {
    graph: Graph,
    queues: Queues,
    agents: Agents,
    shares: Shares,
    durations: Durations,
    /// Builds by their numbers.
    places: HashMap<BuildNumber, Index>,
    /// Who is kept from what, and until when.
    avoided: HashMap<Index, BTreeMap<AgentNumber, Millis>>,
    /// When something is to be looked at again although nothing happens.
    timers: BTreeSet<(Millis, Index)>,
    now: Millis,
}

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It waits for something else.
    Waiting,
    /// It could start.
    Ready,
    /// It could start, and is not to before this.
    Deferred(Millis),
    /// An agent has it, since then.
    Taken(AgentNumber, Millis),
}

impl Schedule {
    /// Nothing to do, and nobody to do it. The weights are those of the shares.
    #[must_use]
    pub fn new(weights: Weights) -> Self {
        Self {
            graph: Graph::default(),
            queues: Queues::default(),
            agents: Agents::default(),
            shares: Shares::new(weights),
            durations: Durations::default(),
            places: HashMap::new(),
            avoided: HashMap::new(),
            timers: BTreeSet::new(),
            now: 0,
        }
    }

    /// How many builds are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no builds are open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// It is this late. Time does not run backwards: an earlier one than before counts as the same.
    pub fn at(&mut self, now: Millis) {
        self.now = self.now.max(now);
        while let Some((due, index)) = self.timers.first().copied().filter(|(due, _)| *due <= self.now) {
            self.timers.remove(&(due, index));
            let Some(node) = self.graph.get(index) else { continue };
            match node.stand {
                Stand::Deferred(until) if until <= self.now => self.set_ready(index),
                Stand::Ready => self.queues.touch(node.class),
                _ => {}
            }
        }
        self.agents.at(self.now);
    }

    /// A build is open, and waits for something. One that is known already stays as it is.
    pub fn add(&mut self, build: &Build) {
        if self.places.contains_key(&build.number) {
            return;
        }
        let class = self.queues.class(build.platform, &build.needs, build.may_be_emulated);
        let name = self.durations.name(&build.package, build.platform);
        let share = build.share.as_deref().map(|share| self.shares.id(share));
        let estimate = self.durations.estimate(name);
        let index = self.graph.add(build, class, name, share, estimate);
        self.places.insert(build.number, index);
    }

    /// A build waits for another one; both are open.
    pub fn link(&mut self, build: BuildNumber, input: BuildNumber) {
        if let (Some(build), Some(input)) = (self.place(build), self.place(input)) {
            self.graph.link(build, input);
        }
    }

    /// A build waits for nothing any more.
    pub fn ready(&mut self, build: BuildNumber) {
        let Some(index) = self.place(build) else { return };
        // What is known of its duration may be newer than when it came.
        if let Some(node) = self.graph.get(index) {
            let estimate = self.durations.estimate(node.name);
            self.graph.estimate(index, estimate);
        }
        self.set_ready(index);
    }

    fn set_ready(&mut self, index: Index) {
        let Some(node) = self.graph.get_mut(index) else { return };
        if let Some(until) = node.not_before.filter(|until| *until > self.now) {
            node.stand = Stand::Deferred(until);
            self.timers.insert((until, index));
            return;
        }
        node.stand = Stand::Ready;
        node.passed_over = None;
        self.graph.requeue(index);
    }

    /// A build waits for something again.
    pub fn unready(&mut self, build: BuildNumber) {
        let Some(index) = self.place(build) else { return };
        self.unqueue(index);
        if let Some(node) = self.graph.get_mut(index) {
            if !matches!(node.stand, Stand::Taken(..)) {
                node.stand = Stand::Waiting;
            }
        }
    }

    /// A build is not open any more.
    pub fn remove(&mut self, build: BuildNumber) {
        let Some(index) = self.places.remove(&build) else { return };
        self.release(index, None);
        self.unqueue(index);
        self.avoided.remove(&index);
        self.graph.remove(index);
    }

    /// An agent has a build, whoever decided that.
    pub fn take(&mut self, build: BuildNumber, agent: AgentNumber) {
        if let Some(index) = self.place(build) {
            self.hand(index, agent);
        }
    }

    /// A build was given back: it waits, or is [`ready`](Self::ready) again when that is said.
    pub fn give_back(&mut self, build: BuildNumber) {
        let Some(index) = self.place(build) else { return };
        self.release(index, Some(Stand::Waiting));
    }

    /// A builder ran for so long, on this agent, and came to its end.
    pub fn ran(&mut self, build: BuildNumber, agent: AgentNumber, time: Millis) {
        let Some(node) = self.place(build).and_then(|index| self.graph.get(index)) else { return };
        let speed = self.agents.learn(agent, self.durations.known(node.name), time);
        self.durations.learn(node.name, speed.reference(time));
    }

    /// A build of a package took so long, on an agent as fast as most: what is known from before.
    pub fn took(&mut self, package: &str, platform: Platform, time: Millis) {
        let name = self.durations.name(package, platform);
        self.durations.learn(name, time);
    }

    /// The priority of a build is this now.
    pub fn prioritize(&mut self, build: BuildNumber, priority: i64) {
        let Some(index) = self.place(build) else { return };
        self.unqueue(index);
        if let Some(node) = self.graph.get_mut(index) {
            node.priority = priority;
        }
        self.graph.requeue(index);
    }

    /// A build is not to start before this; none: it may at once.
    pub fn defer(&mut self, build: BuildNumber, until: Option<Millis>) {
        let Some(index) = self.place(build) else { return };
        self.unqueue(index);
        let Some(node) = self.graph.get_mut(index) else { return };
        node.not_before = until;
        if let Stand::Deferred(due) = node.stand {
            self.timers.remove(&(due, index));
            node.stand = Stand::Ready;
        }
        if node.stand == Stand::Ready {
            self.set_ready(index);
        }
    }

    /// An agent is kept from a build until then.
    pub fn avoid(&mut self, build: BuildNumber, agent: AgentNumber, until: Millis) {
        let Some(index) = self.place(build) else { return };
        self.avoided.entry(index).or_default().insert(agent, until);
        self.timers.insert((until, index));
    }

    /// An agent is there, or something about it is new.
    pub fn agent(&mut self, agent: AgentNumber, facts: Facts) {
        self.agents.set(agent, facts, self.now);
    }

    /// An agent will not be there any more.
    pub fn forget_agent(&mut self, agent: AgentNumber) {
        self.agents.remove(agent);
    }

    /// An agent would hold so many builds, those that it has included; 0 when it is not there.
    pub fn accepting(&mut self, agent: AgentNumber, most: u32) {
        self.agents.accepting(agent, most);
    }

    /// Whether an agent waits to be given something.
    pub fn asking(&mut self, agent: AgentNumber, asks: bool) {
        self.agents.asking(agent, asks);
    }

    /// How fast an agent is, in relation to others: 2 takes half as long as 1.
    #[must_use]
    pub fn speed_of(&self, agent: AgentNumber) -> f64 {
        self.agents.speed(agent).value()
    }

    /// When something can be decided although nothing happens until then.
    #[must_use]
    pub fn next_time(&self) -> Option<Millis> {
        let timer = self.timers.first().map(|(due, _)| *due);
        [timer, self.agents.next_time()].into_iter().flatten().min()
    }

    fn place(&self, build: BuildNumber) -> Option<Index> {
        self.places.get(&build).copied()
    }

    fn unqueue(&mut self, index: Index) {
        if let Some((class, key)) = self.graph.unqueue(index) {
            self.queues.remove(class, &key, index);
        }
    }

    /// Gives a build to an agent.
    fn hand(&mut self, index: Index, agent: AgentNumber) {
        self.release(index, None);
        self.unqueue(index);
        let Some(node) = self.graph.get_mut(index) else { return };
        node.stand = Stand::Taken(agent, self.now);
        node.charged = (node.share, node.estimate);
        self.shares.charge(node.platform, node.share, node.estimate);
        self.agents.hold(agent);
    }

    /// Takes a build from whoever has it.
    fn release(&mut self, index: Index, next: Option<Stand>) {
        let Some(node) = self.graph.get_mut(index) else { return };
        let Stand::Taken(agent, since) = node.stand else { return };
        let took = self.agents.speed(agent).reference(self.now.saturating_sub(since));
        let (share, thought) = node.charged;
        self.shares.correct(node.platform, share, thought, took);
        if let Some(next) = next {
            node.stand = next;
        }
        self.agents.let_go(agent);
    }
}
