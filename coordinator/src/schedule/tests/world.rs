//! A small farm in which things happen, and what must always be true of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Allocated, Build, Facts, Fit, Millis, Schedule, Weights};

/// Something that happens. Builds and agents are meant by a number, whatever it is: that of one there is.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    Build { platform: i64, priority: i64, inputs: Vec<usize>, needs: usize, share: usize, package: usize },
    Agent { speed: f64, slots: u32, platforms: usize, tags: usize },
    Ends { which: usize, after: Millis },
    GivenBack { which: usize },
    Canceled { which: usize },
    Prioritized { which: usize, priority: i64 },
    Deferred { which: usize, by: Millis },
    Leaves { which: usize },
    Comes { which: usize },
    Paused { which: usize, paused: bool },
    Avoids { which: usize, agent: usize, by: Millis },
    TimePasses { by: Millis },
}

pub(super) fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = 0..1000_usize;
    let happening = prop_oneof![
        8 => (0..3_i64, -2..3_i64, vec(one.clone(), 0..4), 0..4_usize, 0..3_usize, 0..6_usize).prop_map(
            |(platform, priority, inputs, needs, share, package)| Happening::Build {
                platform, priority, inputs, needs, share, package
            }
        ),
        2 => (0.25..4.0, 1..4_u32, 1..8_usize, 0..4_usize)
            .prop_map(|(speed, slots, platforms, tags)| Happening::Agent { speed, slots, platforms, tags }),
        8 => (one.clone(), 0..500_000_u64).prop_map(|(which, after)| Happening::Ends { which, after }),
        1 => one.clone().prop_map(|which| Happening::GivenBack { which }),
        1 => one.clone().prop_map(|which| Happening::Canceled { which }),
        1 => (one.clone(), -3..4_i64).prop_map(|(which, priority)| Happening::Prioritized { which, priority }),
        1 => (one.clone(), 0..90_000_u64).prop_map(|(which, by)| Happening::Deferred { which, by }),
        1 => one.clone().prop_map(|which| Happening::Leaves { which }),
        1 => one.clone().prop_map(|which| Happening::Comes { which }),
        1 => (one.clone(), any::<bool>()).prop_map(|(which, paused)| Happening::Paused { which, paused }),
        1 => (one.clone(), one.clone(), 0..90_000_u64)
            .prop_map(|(which, agent, by)| Happening::Avoids { which, agent, by }),
        2 => (0..60_000_u64).prop_map(|by| Happening::TimePasses { by }),
    ];
    vec(happening, 1..120)
}

#[derive(Debug)]
struct Known {
    build: Build,
    missing: BTreeSet<i64>,
    holder: Option<i64>,
    since: Millis,
    avoids: BTreeMap<i64, Millis>,
    /// Since when it could have had a slot.
    idles: Option<Millis>,
}

#[derive(Debug)]
struct Machine {
    facts: Facts,
    speed: f64,
    slots: u32,
    there: bool,
}

/// The farm.
#[derive(Debug)]
pub(super) struct World {
    schedule: Schedule,
    builds: BTreeMap<i64, Known>,
    agents: BTreeMap<i64, Machine>,
    now: Millis,
    next: i64,
    pub(super) decided: Vec<Allocated>,
}

impl Default for World {
    fn default() -> Self {
        let weights = Weights([("s1".to_owned(), 3)].into());
        let schedule = Schedule::new(weights);
        Self {
            schedule,
            builds: BTreeMap::new(),
            agents: BTreeMap::new(),
            now: 0,
            next: 1,
            decided: Vec::new(),
        }
    }
}

fn tags(bits: usize) -> impl Iterator<Item = String> {
    ["kvm", "big"]
        .into_iter()
        .enumerate()
        .filter(move |(n, _)| bits >> n & 1 == 1)
        .map(|(_, tag)| tag.to_owned())
}

fn nth<T>(map: &BTreeMap<i64, T>, which: usize, fits: impl Fn(&T) -> bool) -> Option<i64> {
    let all: Vec<i64> = map.iter().filter(|(_, one)| fits(one)).map(|(number, _)| *number).collect();
    all.get(which % all.len().max(1)).copied()
}

impl World {
    pub(super) fn apply(&mut self, happening: &Happening) {
        match happening.clone() {
            Happening::Build { platform, priority, inputs, needs, share, package } => {
                let inputs: BTreeSet<i64> =
                    inputs.into_iter().filter_map(|which| nth(&self.builds, which, |_| true)).collect();
                self.next += 1;
                let build = Build {
                    number: self.next,
                    platform,
                    package: format!("p{package}"),
                    priority,
                    share: (share > 0).then(|| format!("s{share}")),
                    needs: tags(needs).collect(),
                    ..Build::default()
                };
                self.schedule.add(&build);
                for input in &inputs {
                    self.schedule.link(self.next, *input);
                }
                if inputs.is_empty() {
                    self.schedule.ready(self.next);
                }
                let known = Known {
                    build,
                    missing: inputs,
                    holder: None,
                    since: 0,
                    avoids: BTreeMap::new(),
                    idles: None,
                };
                self.builds.insert(self.next, known);
            }
            Happening::Agent { speed, slots, platforms, tags: bits } => {
                self.next += 1;
                let platforms =
                    (0..3).filter(|n| platforms >> n & 1 == 1).map(|n| (n, Fit::Native)).collect();
                let facts =
                    Facts { platforms, tags: tags(bits).collect(), speed: Some(speed), ..Facts::default() };
                self.schedule.agent(self.next, facts.clone());
                self.agents.insert(self.next, Machine { facts, speed, slots, there: false });
                self.come(self.next);
            }
            Happening::Ends { which, after } => {
                self.pass(after);
                if let Some(build) = nth(&self.builds, which, |known| known.holder.is_some()) {
                    self.end(build);
                }
            }
            Happening::GivenBack { which } => {
                if let Some(build) = nth(&self.builds, which, |known| known.holder.is_some()) {
                    self.schedule.give_back(build);
                    self.schedule.ready(build);
                    self.builds.get_mut(&build).unwrap().holder = None;
                }
            }
            Happening::Canceled { which } => {
                // With all that waits for it.
                let mut gone: Vec<i64> = nth(&self.builds, which, |_| true).into_iter().collect();
                while let Some(build) = gone.pop() {
                    if self.builds.remove(&build).is_some() {
                        self.schedule.remove(build);
                        gone.extend(
                            self.builds.iter().filter(|(_, k)| k.missing.contains(&build)).map(|(n, _)| *n),
                        );
                    }
                }
            }
            Happening::Prioritized { which, priority } => {
                if let Some(build) = nth(&self.builds, which, |_| true) {
                    self.schedule.prioritize(build, priority);
                    self.builds.get_mut(&build).unwrap().build.priority = priority;
                }
            }
            Happening::Deferred { which, by } => {
                if let Some(build) = nth(&self.builds, which, |known| known.holder.is_none()) {
                    let until = self.now + by;
                    self.schedule.defer(build, Some(until));
                    self.builds.get_mut(&build).unwrap().build.not_before = Some(until);
                }
            }
            Happening::Leaves { which } => {
                if let Some(agent) = nth(&self.agents, which, |machine| machine.there) {
                    self.schedule.asking(agent, false);
                    self.schedule.accepting(agent, 0);
                    self.agents.get_mut(&agent).unwrap().there = false;
                }
            }
            Happening::Comes { which } => {
                if let Some(agent) = nth(&self.agents, which, |machine| !machine.there) {
                    self.come(agent);
                }
            }
            Happening::Paused { which, paused } => {
                if let Some(agent) = nth(&self.agents, which, |_| true) {
                    let machine = self.agents.get_mut(&agent).unwrap();
                    machine.facts.paused = paused;
                    self.schedule.agent(agent, machine.facts.clone());
                }
            }
            Happening::Avoids { which, agent, by } => {
                let agent = nth(&self.agents, agent, |_| true);
                if let (Some(build), Some(agent)) = (nth(&self.builds, which, |_| true), agent) {
                    let until = self.now + by;
                    self.schedule.avoid(build, agent, until);
                    self.builds.get_mut(&build).unwrap().avoids.insert(agent, until);
                }
            }
            Happening::TimePasses { by } => self.pass(by),
        }
        self.decide();
    }

    fn come(&mut self, agent: i64) {
        let machine = self.agents.get_mut(&agent).unwrap();
        machine.there = true;
        self.schedule.accepting(agent, machine.slots);
        self.schedule.asking(agent, true);
    }

    /// Time passes, and everything is looked at when the schedule asks for it.
    fn pass(&mut self, by: Millis) {
        let end = self.now + by;
        while let Some(time) = self.schedule.next_time().filter(|time| *time <= end) {
            self.now = self.now.max(time);
            self.schedule.at(self.now);
            self.decide();
            self.check();
        }
        self.now = end;
        self.schedule.at(end);
        self.decide();
    }

    fn end(&mut self, build: i64) {
        let known = self.builds.remove(&build).unwrap();
        self.schedule.ran(build, known.holder.unwrap(), self.now - known.since);
        self.schedule.remove(build);
        for (number, above) in &mut self.builds {
            if above.missing.remove(&build) && above.missing.is_empty() {
                self.schedule.ready(*number);
            }
        }
    }

    fn decide(&mut self) {
        for allocated in self.schedule.decide() {
            let Allocated { build, agent } = allocated;
            let known = self.builds.get_mut(&build).expect("it is open");
            assert_eq!(known.holder, None, "{build} has an agent already");
            assert!(known.missing.is_empty(), "{build} waits for something");
            assert!(known.build.not_before.is_none_or(|until| until <= self.now), "{build} is deferred");
            assert!(
                known.avoids.get(&agent).is_none_or(|until| *until <= self.now),
                "{build} avoids {agent}"
            );
            known.holder = Some(agent);
            known.since = self.now;
            known.idles = None;
            let machine = &self.agents[&agent];
            assert!(machine.there && !machine.facts.paused);
            assert!(fits(machine, &self.builds[&build].build));
            self.decided.push(allocated);
        }
        for (number, machine) in &self.agents {
            assert!(!machine.there || self.held(*number) <= machine.slots as usize, "{number} has too much");
        }
    }

    fn held(&self, agent: i64) -> usize {
        self.builds.values().filter(|known| known.holder == Some(agent)).count()
    }

    /// No build that could start is without an agent that could have it, beyond what a faster agent would save.
    pub(super) fn check(&mut self) {
        let free: Vec<i64> = self.agents.keys().copied().filter(|agent| self.is_free(*agent)).collect();
        let mut idle = Vec::new();
        for (number, known) in &self.builds {
            let could = known.holder.is_none()
                && known.missing.is_empty()
                && known.build.not_before.is_none_or(|until| until <= self.now);
            let takers = free.iter().filter(|agent| {
                fits(&self.agents[agent], &known.build)
                    && known.avoids.get(agent).is_none_or(|until| *until <= self.now)
            });
            let slowest = takers.map(|agent| self.agents[agent].speed).min_by(f64::total_cmp);
            if let Some(speed) = slowest.filter(|_| could) {
                let faster = self.agents.values().any(|machine| {
                    machine.there
                        && !machine.facts.paused
                        && fits(machine, &known.build)
                        && machine.speed > speed
                });
                assert!(faster, "{number} could start at {}", self.now);
                idle.push(*number);
            }
        }
        for (number, known) in &mut self.builds {
            if !idle.contains(number) {
                known.idles = None;
                continue;
            }
            let since = *known.idles.get_or_insert(self.now);
            // All durations are between these, and no agent is slower than a quarter.
            assert!(self.now - since <= 4 * 2_000_000, "{number} waited for a faster agent for too long");
        }
    }

    fn is_free(&self, agent: i64) -> bool {
        let machine = &self.agents[&agent];
        machine.there && !machine.facts.paused && self.held(agent) < machine.slots as usize
    }

    /// With all agents there, and one for everything, all builds end.
    pub(super) fn finish(&mut self) {
        let away: Vec<i64> =
            self.agents.iter().filter(|(_, machine)| !machine.there).map(|(n, _)| *n).collect();
        for agent in away {
            self.come(agent);
        }
        self.apply(&Happening::Agent { speed: 1.0, slots: 1, platforms: 7, tags: 3 });
        let mut steps = 0;
        while !self.builds.is_empty() {
            steps += 1;
            assert!(steps < 100_000, "it does not come to an end: {:?}", self.builds.keys());
            self.check();
            match nth(&self.builds, steps, |known| known.holder.is_some()) {
                Some(build) => self.end(build),
                None => {
                    let next = self.schedule.next_time();
                    let next = next.expect("somebody has something, or it is looked again");
                    self.now = self.now.max(next);
                    self.schedule.at(self.now);
                }
            }
            self.decide();
        }
        assert!(self.schedule.is_empty());
    }
}

fn fits(machine: &Machine, build: &Build) -> bool {
    machine.facts.platforms.contains_key(&build.platform)
        && build.needs.iter().all(|tag| machine.facts.tags.contains(tag))
}
