//! The decisions.

use super::agents::AgentNumber;
use super::graph::Index;
use super::queue::ClassId;
use super::{BuildNumber, Millis, Schedule};

/// After so many builds that a slow agent passed over it takes the next: looking has an end.
const PASSED_OVER: usize = 256;

/// A build goes to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocated {
    /// The build.
    pub build: BuildNumber,
    /// Who gets it.
    pub agent: AgentNumber,
}

/// Why a build that could start does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No agent that is known can ever have it.
    NobodyFits,
    /// It is its turn when others went: how many are before it, of those that the same agents can have.
    Behind(usize),
    /// It is not to start before.
    Deferred(Millis),
    /// It waits for other builds.
    Waiting,
    /// An agent has it.
    Taken(AgentNumber),
}

impl Schedule {
    /// Who gets what now. What is given here counts as taken from now on.
    ///
    /// An agent with room gets the first build in the order that it fits, except that it passes over one, if faster agents
    /// are there and will have come to it so soon that it ends earlier with one of them: the time until then is that of what
    /// is before it in the order, at the speed of all that are faster. A build that was passed over is given to whoever can
    /// have it once it has waited for as long as the fastest of them would have saved.
    pub fn decide(&mut self) -> Vec<Allocated> {
        self.settle();
        let mut all = Vec::new();
        // First those for whom something may be new; each is asked until it has no room or finds nothing.
        for agent in self.agents.take_touched() {
            while self.agents.has_room(agent) {
                let Some(build) = self.best_for(agent) else { break };
                self.give(build, agent, &mut all);
            }
        }
        // Then what is new, for those that had nothing to do.
        for class in self.queues.take_touched() {
            self.spread(class, &mut all);
        }
        // What was given to them is nothing new.
        let _ = self.agents.take_touched();
        all
    }

    fn settle(&mut self) {
        for (index, before) in self.graph.settle() {
            let Some(node) = self.graph.get(index) else { continue };
            if let Some(before) = before {
                self.queues.remove(node.class, &before, index);
            }
            if let Some(key) = node.queued() {
                self.queues.insert(node.class, key, index, &mut self.shares);
            }
        }
    }

    fn give(&mut self, index: Index, agent: AgentNumber, all: &mut Vec<Allocated>) {
        let Some(node) = self.graph.get(index) else { return };
        all.push(Allocated { build: node.number, agent });
        self.hand(index, agent);
    }

    /// Gives builds of a class to those that have nothing to do, one each in turn, the fastest first.
    fn spread(&mut self, class: ClassId, all: &mut Vec<Allocated>) {
        loop {
            let Some((of, _)) = self.queues.get(class).filter(|(_, queue)| queue.len > 0) else { return };
            let idle: Vec<AgentNumber> =
                self.agents.idle().filter(|agent| self.agents.fits(*agent, of)).collect();
            let before = all.len();
            for agent in idle {
                if self.queues.get(class).is_none_or(|(_, queue)| queue.len == 0) {
                    return;
                }
                if let Some(build) = self.best_for(agent) {
                    self.give(build, agent, all);
                }
            }
            if all.len() == before {
                return;
            }
        }
    }

    /// The first build in the order that this agent is to have now.
    fn best_for(&mut self, agent: AgentNumber) -> Option<Index> {
        let platforms: Vec<_> = self.agents.platforms(agent).collect();
        let mut classes = Vec::new();
        for platform in platforms {
            for class in self.queues.on(platform) {
                if self
                    .queues
                    .get(*class)
                    .is_some_and(|(of, queue)| queue.len > 0 && self.agents.fits(agent, of))
                {
                    classes.push(*class);
                }
            }
        }
        let mut passed = Passed::default();
        let mut below = None;
        loop {
            // The highest priority that has not been looked at.
            let next = classes.iter().filter_map(|class| {
                let lines = &self.queues.get(*class)?.1.lines;
                let mut lines = match below {
                    None => lines.range(..),
                    Some(below) => {
                        lines.range((std::ops::Bound::Excluded(below), std::ops::Bound::Unbounded))
                    }
                };
                lines.next().map(|(priority, _)| *priority)
            });
            let priority = next.min()?;
            below = Some(priority);
            // Its shares, that with the least first.
            let mut shares = Vec::new();
            for class in &classes {
                let Some((of, queue)) = self.queues.get(*class) else { continue };
                for share in queue.lines.get(&priority).into_iter().flat_map(|shares| shares.keys()) {
                    shares.push((self.shares.account(of.platform, *share), *share));
                }
            }
            // A share has an account for each system.
            shares.sort_unstable();
            let mut seen = Vec::new();
            for (_, share) in shares {
                if seen.contains(&share) {
                    continue;
                }
                seen.push(share);
                if let Some(index) = self.first_of(agent, &classes, priority, share, &mut passed) {
                    return Some(index);
                }
            }
        }
    }

    /// The first build of a priority and share that the agent is to have.
    fn first_of(
        &mut self,
        agent: AgentNumber,
        classes: &[ClassId],
        priority: std::cmp::Reverse<i64>,
        share: u32,
        passed: &mut Passed,
    ) -> Option<Index> {
        let mut after = None;
        loop {
            let mut best = None;
            for class in classes {
                let Some((_, queue)) = self.queues.get(*class) else { continue };
                let Some(line) = queue.lines.get(&priority).and_then(|shares| shares.get(&share)) else {
                    continue;
                };
                let mut line = match after {
                    None => line.range(..),
                    Some(after) => line.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)),
                };
                if let Some(first) = line.next() {
                    if best.is_none_or(|(best, _)| *first < best) {
                        best = Some((*first, *class));
                    }
                }
            }
            let (first, class) = best?;
            after = Some(first);
            let index = first.2;
            if self.is_avoided(index, agent) || self.passes_over(index, agent, class, passed) {
                continue;
            }
            return Some(index);
        }
    }

    fn is_avoided(&self, index: Index, agent: AgentNumber) -> bool {
        let until = self.avoided.get(&index).and_then(|agents| agents.get(&agent));
        until.is_some_and(|until| *until > self.now)
    }

    /// Whether an agent leaves a build to a faster one. Notes since when, and has it looked at again in time.
    fn passes_over(&mut self, index: Index, agent: AgentNumber, class: ClassId, passed: &mut Passed) -> bool {
        if passed.count >= PASSED_OVER {
            return false;
        }
        let Some(faster) = self.agents.faster(agent, class, &self.queues) else { return false };
        let Some(node) = self.graph.get_mut(index) else { return false };
        let speed = self.agents.speed(agent).value();
        let estimate = node.estimate as f64;
        let gain = estimate / speed - estimate / faster.fastest;
        // Until one of them has room, and has done what is before it.
        let wait = (passed.ahead + estimate) / faster.together;
        let since = node.passed_over.unwrap_or(self.now);
        let until = since.saturating_add(gain as Millis);
        if wait >= gain || until <= self.now {
            return false;
        }
        node.passed_over = Some(since);
        self.timers.insert((until, index));
        passed.count += 1;
        passed.ahead += estimate;
        true
    }

    /// Why a build does not start.
    pub fn why(&mut self, build: BuildNumber) -> Option<Why> {
        self.settle();
        let index = self.place(build)?;
        let node = self.graph.get(index)?;
        let (class, queue) = self.queues.get(node.class)?;
        Some(match node.stand {
            super::Stand::Taken(agent, _) => Why::Taken(agent),
            super::Stand::Waiting => Why::Waiting,
            _ if !self.agents.any_fits(class) => Why::NobodyFits,
            super::Stand::Deferred(until) => Why::Deferred(until),
            super::Stand::Ready => {
                let key = node.queued()?;
                let higher = queue.lines.range(..key.priority);
                let higher: usize =
                    higher.flat_map(|(_, shares)| shares.values()).map(|line| line.len()).sum();
                let line = queue.lines.get(&key.priority)?.get(&key.share)?;
                Why::Behind(higher + line.range(..(key.way, key.number, index)).count())
            }
        })
    }

    /// The agents that could have a build.
    pub fn fitting(&self, build: BuildNumber) -> Vec<AgentNumber> {
        let class = self.place(build).and_then(|index| self.graph.get(index)).map(|node| node.class);
        let class = class.and_then(|class| self.queues.get(class));
        class.map(|(class, _)| self.agents.fitting(class).collect()).unwrap_or_default()
    }
}

/// What an agent has passed over.
#[derive(Debug, Default)]
struct Passed {
    count: usize,
    /// How long what it left to faster ones takes, at the usual speed.
    ahead: f64,
}
