//! The agents: what each can build, how fast it is, and which of them could have something now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::queue::{Class, ClassId, Queues};
use super::{Millis, Platform};

/// An agent's number in the database.
pub type AgentNumber = i64;

/// How an agent builds for a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// As what it is.
    Native,
    /// By emulation.
    Emulated,
}

/// What is known of an agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Where it can build.
    pub platforms: BTreeMap<Platform, Fit>,
    /// Its tags: what builds may ask for.
    pub tags: BTreeSet<String>,
    /// How fast it is, in relation to others; none: what is learnt.
    pub speed: Option<f64>,
    /// It gets nothing new, until somebody says so.
    pub paused: bool,
    /// It gets nothing new until then.
    pub set_aside: Option<Millis>,
}

/// How fast a machine is: 2 takes half as long as 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed(f64);

/// No machine is taken to be further from the others than this.
const MOST: f64 = 64.0;
/// How many builds of names that are known count for what is learnt of a speed.
const LEARNT_FROM: f64 = 256.0;
/// One machine counts as faster than another from here on.
const FASTER: f64 = 1.2;
/// Speeds are taken to be the same within such steps, for the order of agents.
const STEPS: f64 = 8.0;

impl Speed {
    /// How long something takes at the usual speed that took so long at this.
    pub(super) fn reference(self, time: Millis) -> Millis {
        (time as f64 * self.0) as Millis
    }

    pub(super) fn value(self) -> f64 {
        self.0
    }

    fn step(self) -> i64 {
        (self.0.log2() * STEPS).round() as i64
    }
}

/// An agent.
#[derive(Debug, Default)]
struct Agent {
    facts: Facts,
    /// The logarithm of how much faster it was than thought, and of how many builds.
    learnt: (f64, f64),
    /// How many builds it has.
    held: u32,
    /// How many it would have; none when it is not there.
    most: u32,
    /// Whether it waits to be given something.
    asks: bool,
    /// Where it is among those that are idle.
    idle: Option<IdleKey>,
    /// The step of its speed that the faster ones of a class were found with.
    step: i64,
}

type IdleKey = (Reverse<i64>, Reverse<u32>, AgentNumber);

impl Agent {
    fn speed(&self) -> Speed {
        let speed = self.facts.speed.unwrap_or_else(|| self.learnt.0.exp());
        Speed(if speed.is_finite() { speed.clamp(1.0 / MOST, MOST) } else { 1.0 })
    }

    fn free(&self) -> u32 {
        if self.asks { self.most.saturating_sub(self.held) } else { 0 }
    }

    fn gets_some(&self, now: Millis) -> bool {
        !self.facts.paused && self.facts.set_aside.is_none_or(|until| until <= now)
    }

    fn fits(&self, class: &Class) -> bool {
        let fit = match self.facts.platforms.get(&class.platform) {
            None => false,
            Some(Fit::Native) => true,
            Some(Fit::Emulated) => class.may_be_emulated,
        };
        fit && class.needs.iter().all(|tag| self.facts.tags.contains(tag))
    }
}

/// Who is faster than others for a class: the fastest first, with the sums of their speeds so far.
#[derive(Debug, Default)]
struct Ranking {
    epoch: u64,
    fastest: Vec<(f64, f64)>,
}

/// All agents.
#[derive(Debug, Default)]
pub(super) struct Agents {
    agents: BTreeMap<AgentNumber, Agent>,
    /// Those with room that wait for builds: the fastest first, and then those with most room.
    idle: BTreeSet<IdleKey>,
    /// Those for which there may be something new.
    touched: BTreeSet<AgentNumber>,
    set_aside: BTreeSet<(Millis, AgentNumber)>,
    rankings: Vec<Ranking>,
    /// Counts what may change who is faster than whom.
    epoch: u64,
    /// Where it was when everybody who is idle was last asked.
    asked: u64,
    now: Millis,
}

/// Those that are faster than an agent, for a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Faster {
    /// How fast they are together.
    pub(super) together: f64,
    /// And the fastest of them.
    pub(super) fastest: f64,
}

impl Agents {
    pub(super) fn set(&mut self, number: AgentNumber, facts: Facts, now: Millis) {
        self.now = now;
        if let Some(until) = facts.set_aside.filter(|until| *until > now) {
            self.set_aside.insert((until, number));
        }
        let agent = self.agents.entry(number).or_default();
        if agent.facts == facts {
            return;
        }
        agent.facts = facts;
        agent.step = agent.speed().step();
        self.epoch += 1;
        self.place(number);
    }

    pub(super) fn remove(&mut self, number: AgentNumber) {
        self.asking(number, false);
        self.agents.remove(&number);
        self.touched.remove(&number);
        self.epoch += 1;
    }

    pub(super) fn accepting(&mut self, number: AgentNumber, most: u32) {
        let Some(agent) = self.agents.get_mut(&number).filter(|agent| agent.most != most) else { return };
        if (agent.most == 0) != (most == 0) {
            self.epoch += 1;
        }
        agent.most = most;
        self.place(number);
    }

    pub(super) fn asking(&mut self, number: AgentNumber, asks: bool) {
        if let Some(agent) = self.agents.get_mut(&number).filter(|agent| agent.asks != asks) {
            agent.asks = asks;
            self.place(number);
        }
    }

    pub(super) fn hold(&mut self, number: AgentNumber) {
        if let Some(agent) = self.agents.get_mut(&number) {
            agent.held += 1;
            self.place(number);
        }
    }

    pub(super) fn let_go(&mut self, number: AgentNumber) {
        if let Some(agent) = self.agents.get_mut(&number) {
            agent.held = agent.held.saturating_sub(1);
            self.place(number);
        }
    }

    /// It is this late.
    pub(super) fn at(&mut self, now: Millis) {
        self.now = now;
        while let Some((_, number)) = self.set_aside.first().copied().filter(|(until, _)| *until <= now) {
            self.set_aside.pop_first();
            self.epoch += 1;
            self.place(number);
        }
    }

    pub(super) fn next_time(&self) -> Option<Millis> {
        self.set_aside.first().map(|(until, _)| *until)
    }

    /// Puts it where it belongs among those that are idle.
    fn place(&mut self, number: AgentNumber) {
        let now = self.now;
        let Some(agent) = self.agents.get_mut(&number) else { return };
        let free = if agent.gets_some(now) { agent.free() } else { 0 };
        let key = (free > 0).then(|| (Reverse(agent.speed().step()), Reverse(free), number));
        let before = std::mem::replace(&mut agent.idle, key);
        if let Some(before) = before.filter(|before| Some(*before) != key) {
            self.idle.remove(&before);
        }
        if let Some(key) = key {
            self.idle.insert(key);
            self.touched.insert(number);
        }
    }

    /// Those with room for which there may be something new, the fastest first.
    pub(super) fn take_touched(&mut self) -> Vec<AgentNumber> {
        if std::mem::replace(&mut self.asked, self.epoch) != self.epoch {
            // Who left something to a faster one may not have to any more.
            return self.idle.iter().map(|(_, _, number)| *number).collect();
        }
        let touched = std::mem::take(&mut self.touched);
        let mut keys: Vec<IdleKey> =
            touched.iter().filter_map(|number| self.agents.get(number)?.idle).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, _, number)| number).collect()
    }

    /// The fastest agent with room that can have builds of this class, and does not pass them over.
    pub(super) fn idle(&self) -> impl Iterator<Item = AgentNumber> + '_ {
        self.idle.iter().map(|(_, _, number)| *number)
    }

    pub(super) fn has_room(&self, number: AgentNumber) -> bool {
        self.agents.get(&number).is_some_and(|agent| agent.idle.is_some())
    }

    pub(super) fn fits(&self, number: AgentNumber, class: &Class) -> bool {
        self.agents.get(&number).is_some_and(|agent| agent.fits(class))
    }

    pub(super) fn platforms(&self, number: AgentNumber) -> impl Iterator<Item = Platform> + '_ {
        self.agents.get(&number).into_iter().flat_map(|agent| agent.facts.platforms.keys().copied())
    }

    pub(super) fn speed(&self, number: AgentNumber) -> Speed {
        self.agents.get(&number).map_or(Speed(1.0), Agent::speed)
    }

    /// Whether any agent could have builds of this class, whether it is there or not.
    pub(super) fn any_fits(&self, class: &Class) -> bool {
        self.agents.values().any(|agent| agent.fits(class))
    }

    /// Those that could have builds of this class.
    pub(super) fn fitting<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = AgentNumber> + 'a {
        self.agents.iter().filter(|(_, agent)| agent.fits(class)).map(|(number, _)| *number)
    }

    /// Those that are there, get builds of this class, and are faster than this one.
    pub(super) fn faster(&mut self, number: AgentNumber, class: ClassId, queues: &Queues) -> Option<Faster> {
        let speed = self.speed(number).value() * FASTER;
        let place = class as usize;
        if self.rankings.len() <= place {
            self.rankings.resize_with(place + 1, Ranking::default);
        }
        if self.rankings.get(place)?.epoch != self.epoch + 1 {
            let (class, _) = queues.get(class)?;
            let there = self
                .agents
                .values()
                .filter(|agent| agent.most > 0 && agent.gets_some(self.now) && agent.fits(class));
            let mut speeds: Vec<f64> = there.map(|agent| agent.speed().value()).collect();
            speeds.sort_by(|a, b| b.total_cmp(a));
            let mut together = 0.0;
            let fastest = speeds.into_iter().map(|speed| {
                together += speed;
                (speed, together)
            });
            let fastest = fastest.collect();
            *self.rankings.get_mut(place)? = Ranking { epoch: self.epoch + 1, fastest };
        }
        let ranking = &self.rankings.get(place)?.fastest;
        let faster = ranking.partition_point(|(other, _)| *other >= speed);
        let (_, together) = *ranking.get(faster.checked_sub(1)?)?;
        Some(Faster { together, fastest: ranking.first()?.0 })
    }

    /// A builder ran for so long on it; usually that takes as long as is known, if it is. Gives how fast it is.
    pub(super) fn learn(&mut self, number: AgentNumber, known: Option<Millis>, took: Millis) -> Speed {
        let Some(agent) = self.agents.get_mut(&number) else { return Speed(1.0) };
        if let Some(known) = known {
            let sample = (known.max(1) as f64 / took.max(1) as f64).ln().clamp(-MOST.ln(), MOST.ln());
            agent.learnt.1 = (agent.learnt.1 + 1.0).min(LEARNT_FROM);
            // The first few say little.
            agent.learnt.0 += (sample - agent.learnt.0) / (agent.learnt.1 + 8.0);
        }
        let speed = agent.speed();
        if speed.step() != agent.step {
            agent.step = speed.step();
            self.epoch += 1;
            self.place(number);
        }
        speed
    }
}
