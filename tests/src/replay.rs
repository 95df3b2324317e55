//! A farm in which time is a number: what the bench `makespan` runs whole Guixes through, with the coordinator's own core
//! or with something simpler in its place.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use drover::schedule::{Build, Facts, Fit, Schedule, Weights, package_of};

use crate::random::Random;
use crate::whole_guix::WholeGuix;

/// Where something can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On machines for x86_64-linux, which also build for i686-linux.
    X86,
    /// On machines for aarch64-linux, which also build for armhf-linux.
    Arm,
    /// Where something is fetched: on machines for x86_64-linux. Fast servers fetch, boards only build.
    Fetch,
}

/// Builds and what they wait for; each comes after its inputs.
#[derive(Debug, Default)]
pub struct Load {
    /// Where each goes.
    pub places: Vec<Place>,
    /// The names of their derivations.
    pub names: Vec<String>,
    /// What each waits for.
    pub inputs: Vec<Vec<usize>>,
    /// What waits for each.
    pub users: Vec<Vec<usize>>,
}

impl Load {
    /// All that is to be built of a Guix: derivations with the same output are one build.
    #[must_use]
    pub fn of(guix: &WholeGuix) -> Self {
        let mut load = Self::default();
        let mut builds = HashMap::new();
        let mut build_of = Vec::with_capacity(guix.nodes.len());
        for node in &guix.nodes {
            let new = load.places.len();
            let build = *builds.entry(&node.target).or_insert(new);
            build_of.push(build);
            if build != new {
                continue;
            }
            load.places.push(match node.system.as_str() {
                system if system.starts_with("builtin:") => Place::Fetch,
                "x86_64-linux" | "i686-linux" => Place::X86,
                _ => Place::Arm,
            });
            load.names.push(node.path.derivation_name().to_owned());
            let inputs: BTreeSet<usize> = node.inputs.iter().map(|(input, _)| build_of[*input]).collect();
            load.inputs.push(inputs.into_iter().collect());
            load.users.push(Vec::new());
        }
        for (build, inputs) in load.inputs.iter().enumerate() {
            for input in inputs {
                load.users[*input].push(build);
            }
        }
        load
    }

    /// How many builds there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many builds are on the longest way from each to the top, itself included.
    #[must_use]
    pub fn depths(&self) -> Vec<u64> {
        let mut depths = vec![1; self.len()];
        for build in (0..self.len()).rev() {
            for input in &self.inputs[build] {
                depths[*input] = depths[*input].max(depths[build] + 1);
            }
        }
        depths
    }
}

/// A machine: what it is for, and how fast it is.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The systems that it builds for.
    pub place: Place,
    /// 2 takes half as long as 1.
    pub speed: f64,
}

impl Machine {
    fn takes(&self, place: Place) -> bool {
        place == self.place || place == Place::Fetch && self.place == Place::X86
    }
}

/// What each build takes, at the speed 1, in milliseconds: log-normal, with this median and a sigma of 2.
#[must_use]
pub fn durations(load: &Load, seed: u64, median: f64) -> Vec<f64> {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut fraction = move || (random.number() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut draw = || {
        // One half of what Box and Muller's method gives.
        let normal = (-2.0 * (1.0 - fraction()).ln()).sqrt() * (std::f64::consts::TAU * fraction()).cos();
        (2.0 * normal).exp() * median
    };
    (0..load.len()).map(|_| draw()).collect()
}

/// What no order can be better than, and what makes it so.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The work of X86 and of fetching over the speed of all machines for it.
    pub x86: f64,
    /// The work of Arm over the speed of all machines for it.
    pub arm: f64,
    /// The longest way through the graph, each build on the fastest machine there is for it.
    pub way: f64,
}

impl Bound {
    /// That of these durations on these machines.
    #[must_use]
    pub fn of(load: &Load, durations: &[f64], machines: &[Machine]) -> Self {
        let fastest = |place: Place| {
            machines.iter().filter(|m| m.takes(place)).map(|m| m.speed).fold(f64::MIN_POSITIVE, f64::max)
        };
        let fastest = [Place::X86, Place::Arm, Place::Fetch].map(fastest);
        let mut ends = vec![0.0_f64; load.len()];
        for build in 0..load.len() {
            let start = load.inputs[build].iter().map(|input| ends[*input]).fold(0.0, f64::max);
            ends[build] = start + durations[build] / fastest[load.places[build] as usize];
        }
        let over = |place: Place| {
            let machine = Machine { place, speed: 1.0 };
            let work: f64 =
                (0..load.len()).filter(|b| machine.takes(load.places[*b])).map(|b| durations[b]).sum();
            work / machines.iter().filter(|m| m.place == place).map(|m| m.speed).sum::<f64>()
        };
        Self { x86: over(Place::X86), arm: over(Place::Arm), way: ends.into_iter().fold(0.0, f64::max) }
    }

    /// The largest.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.x86.max(self.arm).max(self.way)
    }
}

/// Who says what goes next.
pub trait Order {
    /// A build waits for nothing any more.
    fn ready(&mut self, build: usize);
    /// A machine ended a build, after this time.
    fn ended(&mut self, build: usize, machine: usize, took: u64);
    /// Which builds go to which machines at this time.
    fn decide(&mut self, now: u64) -> Vec<(usize, usize)>;
    /// When it is to be asked again although nothing happens.
    fn next_time(&self) -> Option<u64>;
}

/// Runs everything to its end; when that is, in milliseconds.
pub fn run(load: &Load, durations: &[f64], machines: &[Machine], order: &mut dyn Order) -> f64 {
    let mut missing: Vec<usize> = load.inputs.iter().map(Vec::len).collect();
    for build in (0..load.len()).filter(|build| load.inputs[*build].is_empty()) {
        order.ready(build);
    }
    let mut running = BinaryHeap::new();
    let (mut now, mut left) = (0, load.len());
    loop {
        for (build, machine) in order.decide(now) {
            let took = (durations[build] / machines[machine].speed).ceil() as u64;
            running.push(Reverse((now + took.max(1), build, machine, took)));
        }
        let end = running.peek().map(|Reverse((end, ..))| *end);
        if let Some(time) = order.next_time().filter(|time| end.is_none_or(|end| *time < end)) {
            now = time.max(now);
            continue;
        }
        let Some(Reverse((end, build, machine, took))) = running.pop() else { break };
        now = end;
        left -= 1;
        order.ended(build, machine, took);
        for user in &load.users[build] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                order.ready(*user);
            }
        }
    }
    assert_eq!(left, 0, "an order that forgets builds is none");
    now as f64
}

/// Builds by a number that each has from the beginning, the lowest first; fast machines are given something first.
#[derive(Debug)]
pub struct ByNumber<'a> {
    load: &'a Load,
    machines: &'a [Machine],
    numbers: Vec<u64>,
    ready: [BTreeSet<(u64, usize)>; 3],
    idle: BTreeSet<(Reverse<u64>, usize)>,
}

impl<'a> ByNumber<'a> {
    /// With these numbers.
    #[must_use]
    pub fn new(load: &'a Load, machines: &'a [Machine], numbers: Vec<u64>) -> Self {
        let mut order = Self { load, machines, numbers, ready: Default::default(), idle: BTreeSet::new() };
        (0..machines.len()).for_each(|machine| order.rests(machine));
        order
    }

    fn rests(&mut self, machine: usize) {
        self.idle.insert((Reverse((self.machines[machine].speed * 1e6) as u64), machine));
    }
}

impl Order for ByNumber<'_> {
    fn ready(&mut self, build: usize) {
        self.ready[self.load.places[build] as usize].insert((self.numbers[build], build));
    }

    fn ended(&mut self, _: usize, machine: usize, _: u64) {
        self.rests(machine);
    }

    fn decide(&mut self, _: u64) -> Vec<(usize, usize)> {
        let mut all = Vec::new();
        for (speed, machine) in self.idle.clone() {
            let places = [Place::X86, Place::Arm, Place::Fetch];
            let places = places.into_iter().filter(|place| self.machines[machine].takes(*place));
            let first = places.filter_map(|place| Some((*self.ready[place as usize].first()?, place))).min();
            if let Some((first, place)) = first {
                self.ready[place as usize].remove(&first);
                self.idle.remove(&(speed, machine));
                all.push((first.1, machine));
            }
        }
        all
    }

    fn next_time(&self) -> Option<u64> {
        None
    }
}

/// The core that serves, which learns durations and speeds as it goes.
#[derive(Debug)]
pub struct ByCore(Schedule);

impl ByCore {
    /// With all builds and machines told, and nothing about how long or fast anything is.
    #[must_use]
    pub fn new(load: &Load, machines: &[Machine]) -> Self {
        let mut core = Schedule::new(Weights::default());
        for (number, machine) in machines.iter().enumerate() {
            let places =
                [Place::X86, Place::Arm, Place::Fetch].into_iter().filter(|place| machine.takes(*place));
            let platforms = places.map(|place| (place as i64, Fit::Native)).collect();
            core.agent(number as i64, Facts { platforms, ..Facts::default() });
            core.accepting(number as i64, 1);
            core.asking(number as i64, true);
        }
        for build in 0..load.len() {
            core.add(&Build {
                number: build as i64,
                platform: load.places[build] as i64,
                package: package_of(&load.names[build]).to_owned(),
                ..Build::default()
            });
            for input in &load.inputs[build] {
                core.link(build as i64, *input as i64);
            }
        }
        Self(core)
    }
}

impl Order for ByCore {
    fn ready(&mut self, build: usize) {
        self.0.ready(build as i64);
    }

    fn ended(&mut self, build: usize, machine: usize, took: u64) {
        self.0.ran(build as i64, machine as i64, took);
        self.0.remove(build as i64);
    }

    fn decide(&mut self, now: u64) -> Vec<(usize, usize)> {
        self.0.at(now);
        self.0.decide().into_iter().map(|given| (given.build as usize, given.agent as usize)).collect()
    }

    fn next_time(&self) -> Option<u64> {
        self.0.next_time()
    }
}
