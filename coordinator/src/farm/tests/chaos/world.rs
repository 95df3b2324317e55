//! A farm with some agents, of which everybody remembers what they were told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use drover_store::{Sha256Hash, StorePath};
use drover_wire::agent::{
    Allocation, Heartbeat, Hello, Machine, Output, Poll, Progress, Report, SetupStep, TimeLimit,
};
use drover_wire::client::{NewAgent, Submission, Wanted};
use drover_wire::{BuildState, LeaseId, PROTOCOL, Phase};
use tokio::runtime::Runtime;

use super::check::History;
use super::graph::{Graph, Shape};
use crate::config::{Config, HookConfig};
use crate::farm::change::AgentRow;
use crate::farm::depend::{self, Provided};
use crate::farm::tests::{RETRIES, retry};
use crate::farm::{Error, Farm, UploadBody, hooks, paths};

/// Something that happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Derivations {
        made: u8,
        alone: bool,
    },
    Source(u8),
    Submit {
        made: u8,
        priority: i64,
    },
    Hello {
        agent: u8,
        forget: u8,
        all: bool,
    },
    /// `lost`: the answer does not reach the agent.
    Poll {
        agent: u8,
        accepting: u32,
        lost: bool,
    },
    Heartbeat {
        agent: u8,
        phase: u8,
    },
    Log {
        agent: u8,
        lease: u8,
        how: u8,
    },
    Output {
        agent: u8,
        lease: u8,
        output: u8,
        how: u8,
    },
    Report {
        agent: u8,
        lease: u8,
        how: u8,
        path: u8,
    },
    /// All outputs and the report of a success.
    Finish {
        agent: u8,
        lease: u8,
    },
    Repeat(u8),
    Foreign(u8),
    Cancel(u8),
    RunOut {
        agent: u8,
        lease: u8,
    },
    /// A substitute server is found to have an input.
    Elsewhere(u8),
    /// The coordinator is killed and started again.
    Reopen,
    /// The hook `retry` does what it is to do.
    Retry,
}

/// What an agent knows of a lease.
#[derive(Debug)]
struct Held {
    allocation: Allocation,
    log: u64,
    outputs: BTreeMap<StorePath, Output>,
}

#[derive(Debug)]
struct Agent {
    row: AgentRow,
    systems: Vec<String>,
    held: BTreeMap<LeaseId, Held>,
}

impl Agent {
    fn lease(&self, number: u8) -> Option<LeaseId> {
        self.held.keys().nth(usize::from(number) % self.held.len().max(1)).copied()
    }
}

/// A report that was answered.
#[derive(Debug)]
struct Answered {
    agent: usize,
    lease: LeaseId,
    report: Report,
    state: BuildState,
}

pub(super) struct World {
    folder: tempfile::TempDir,
    runtime: Runtime,
    farm: Option<Arc<Farm>>,
    graph: Graph,
    agents: Vec<Agent>,
    answered: Vec<Answered>,
    history: History,
    /// Whether missing inputs are built.
    submits: bool,
    tries: u64,
    looked: u64,
}

impl World {
    pub(super) fn new(shapes: &[Shape], submits: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut world = Self {
            farm: None,
            folder,
            runtime,
            graph: Graph::new(shapes),
            agents: Vec::new(),
            answered: Vec::new(),
            history: History::default(),
            submits,
            tries: 0,
            looked: 0,
        };
        world.open();
        for (name, systems) in [("a", &["x86_64-linux"][..]), ("b", &["x86_64-linux", "aarch64-linux"])] {
            let farm = world.farm();
            world.runtime.block_on(farm.new_agent(NewAgent { name: name.to_owned() })).unwrap();
            let row = farm.database.read_blocking::<_, Error>(|sql| {
                let mut all = crate::farm::agents::saved(sql)?;
                all.retain(|saved| saved.row.name == name);
                Ok(all.remove(0).row)
            });
            let systems = systems.iter().map(|system| (*system).to_owned()).collect();
            world.agents.push(Agent { row: row.unwrap(), systems, held: BTreeMap::new() });
            let agent = u8::try_from(world.agents.len() - 1).unwrap();
            world.step(&Step::Hello { agent, forget: 0, all: true });
        }
        world
    }

    /// All derivations and sources come, and the last derivation is submitted.
    pub(super) fn know_everything(&mut self) {
        let last = u8::try_from(self.graph.made.len() - 1).unwrap();
        (0..=last).for_each(|made| self.derivations(made, false));
        (0..4).for_each(|source| self.source(source));
        self.submit(last, 0);
    }

    fn open(&mut self) {
        let missing = HookConfig { enabled: Some(self.submits), ..HookConfig::default() };
        let hooks = [("retry".to_owned(), retry(true)), ("submit-missing-inputs".to_owned(), missing)];
        let config = Config {
            hooks: hooks.into(),
            state: self.folder.path().to_owned(),
            poll_seconds: 0,
            setup_failures: 3,
            disk_reserve_mib: 0,
            max_log_mib: 1,
            ..Config::default()
        };
        let _guard = self.runtime.enter();
        // What the one before has begun in the background may take a moment to end, and holds the folder so long.
        let farm = loop {
            match Farm::open(config.clone()) {
                Err(crate::farm::OpenError::Storage(_)) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        self.farm = Some(farm);
    }

    fn farm(&self) -> Arc<Farm> {
        Arc::clone(self.farm.as_ref().unwrap())
    }

    pub(super) fn check(&mut self) {
        let farm = self.farm();
        self.history.check(&farm);
        for answered in &self.answered {
            let again = self.runtime.block_on(farm.report(
                &self.agents[answered.agent].row,
                answered.lease,
                answered.report.clone(),
            ));
            assert_eq!(again.unwrap().state, answered.state, "the same report has the same answer");
        }
        // One look at each answer is enough, but for the last ones.
        let old = self.answered.len().saturating_sub(2);
        self.answered.drain(..old);
    }

    pub(super) fn check_blockers(&self) {
        super::super::blockers::check(&self.farm(), &self.runtime, "the last step");
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Derivations { made, alone } => self.derivations(*made, *alone),
            Step::Source(source) => self.source(*source),
            Step::Submit { made, priority } => self.submit(*made, *priority),
            Step::Hello { agent, forget, all } => self.hello(*agent, *forget, *all),
            Step::Poll { agent, accepting, lost } => self.poll(*agent, *accepting, *lost),
            Step::Heartbeat { agent, phase } => self.heartbeat(*agent, *phase),
            Step::Log { agent, lease, how } => self.log(*agent, *lease, *how),
            Step::Output { agent, lease, output, how } => {
                let agent = self.agent(*agent);
                if let Some(lease) = self.agents[agent].lease(*lease) {
                    self.output(agent, lease, usize::from(*output), *how);
                }
            }
            Step::Report { agent, lease, how, path } => self.some_report(*agent, *lease, *how, *path),
            Step::Finish { agent, lease } => self.finish(*agent, *lease),
            Step::Repeat(which) => self.repeat(*which),
            Step::Foreign(agent) => self.foreign(*agent),
            Step::Cancel(which) => self.cancel(*which),
            Step::RunOut { agent, lease } => self.run_out(*agent, *lease),
            Step::Elsewhere(which) => self.elsewhere(*which),
            Step::Reopen => {
                self.farm = None;
                self.open();
            }
            Step::Retry => self.retry(),
        }
    }

    fn agent(&self, number: u8) -> usize {
        usize::from(number) % self.agents.len()
    }

    fn made(&self, number: u8) -> usize {
        usize::from(number) % self.graph.made.len()
    }

    fn derivations(&mut self, made: u8, alone: bool) {
        let made = self.made(made);
        let bundle = std::io::Cursor::new(self.graph.bundle(made, alone));
        match self.runtime.block_on(self.farm().upload_bundle(bundle)) {
            Ok(_) => {}
            Err(Error::MissingDerivation { .. }) if alone => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn source(&mut self, source: u8) {
        let source = usize::from(source) % self.graph.sources.len();
        let bundle = std::io::Cursor::new(self.graph.source_bundle(source));
        self.runtime.block_on(self.farm().upload_bundle(bundle)).unwrap();
    }

    fn submit(&mut self, made: u8, priority: i64) {
        let derivation = self.graph.made[self.made(made)].path.clone();
        let wanted =
            Wanted { derivation, priority, tags: BTreeMap::new(), timeout: None, max_silent_time: None };
        match self.runtime.block_on(self.farm().submit(Submission { builds: vec![wanted] })) {
            Ok(submitted) => {
                let state = submitted.builds[0].state;
                assert!(!state.is_final() || state == BuildState::Succeeded, "submitted, it is {state}");
            }
            Err(Error::UnknownDerivation(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn hello(&mut self, agent: u8, forget: u8, all: bool) {
        let number = self.agent(agent);
        let farm = self.farm();
        let agent = &mut self.agents[number];
        if let Some(lease) = agent.lease(forget).filter(|_| !all) {
            agent.held.remove(&lease);
        }
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            systems: agent.systems.clone(),
            builtins: Vec::new(),
            max_parallel_builds: 2,
            max_allocated_builds: 2,
            holding: agent.held.keys().copied().collect(),
        };
        let welcome = self.runtime.block_on(farm.hello(&agent.row, hello)).unwrap();
        for lease in welcome.give_up {
            agent.held.remove(&lease);
        }
        let known: Vec<LeaseId> = farm
            .live()
            .leases()
            .iter()
            .filter(|lease| lease.agent == agent.row.id)
            .map(|lease| lease.id)
            .collect();
        assert!(
            known.iter().all(|lease| agent.held.contains_key(lease)),
            "what it does not hold is given up"
        );
    }

    fn poll(&mut self, agent: u8, accepting: u32, lost: bool) {
        let number = self.agent(agent);
        let farm = self.farm();
        let agent = &mut self.agents[number];
        let poll = Poll { accepting, holding: agent.held.keys().copied().collect() };
        let held = farm.live().leases().iter().filter(|lease| lease.agent == agent.row.id).count();
        let orders = self.runtime.block_on(farm.poll(&agent.row, poll)).unwrap();
        let ready = farm.database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT count(*) FROM builds b JOIN platforms p ON p.id = b.platform WHERE b.state = 'ready' \
                 AND p.name IN (?1, ?2) AND NOT EXISTS (SELECT 1 FROM avoided WHERE build = b.id AND agent = ?3)";
            let (first, last) = (&agent.systems[0], &agent.systems[agent.systems.len() - 1]);
            Ok(sql.query_row(select, (first, last, agent.row.id), |row| row.get::<_, i64>(0))?)
        });
        let holds = farm.live().leases().iter().filter(|lease| lease.agent == agent.row.id).count();
        assert!(holds <= held.max(accepting as usize), "it was given more than it wanted");
        assert!(ready.unwrap() == 0 || holds >= accepting as usize, "it was given less than it could have");
        if lost {
            return;
        }
        for give_up in orders.give_up {
            agent.held.remove(&give_up.lease);
        }
        for allocation in orders.allocations {
            self.runtime.block_on(farm.closure(&agent.row, allocation.lease)).unwrap();
            let held = Held { log: 0, outputs: BTreeMap::new(), allocation };
            agent.held.insert(held.allocation.lease, held);
        }
    }

    fn heartbeat(&mut self, agent: u8, phase: u8) {
        let agent = self.agent(agent);
        let phase = Phase::ALL[usize::from(phase) % Phase::ALL.len()];
        let agent = &self.agents[agent];
        let leases = agent.held.keys().map(|lease| Progress { lease: *lease, phase }).collect();
        let heartbeat = Heartbeat { accepting: 1, machine: Machine::default(), leases };
        self.runtime.block_on(self.farm().heartbeat(&agent.row, heartbeat)).unwrap();
    }

    fn log(&mut self, agent: u8, lease: u8, how: u8) {
        let number = self.agent(agent);
        let farm = self.farm();
        let agent = &mut self.agents[number];
        let Some(lease) = agent.lease(lease) else { return };
        let held = agent.held.get_mut(&lease).unwrap();
        let wrong = u64::from(how % 4 == 0);
        let chunk = Bytes::from(vec![how; usize::from(how)]);
        match self.runtime.block_on(farm.append_log(&agent.row, lease, held.log + wrong, chunk)) {
            Ok(received) => {
                assert_eq!(wrong, 0, "a chunk at a wrong offset");
                held.log += u64::from(how);
                assert_eq!(received.received, held.log);
            }
            Err(Error::WrongOffset { received, .. }) => {
                assert_eq!((wrong, received), (1, held.log), "what was acknowledged is here");
            }
            Err(Error::LeaseNotHeld(_)) => {
                agent.held.remove(&lease);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Uploads an output in one of many ways; true when it is whole afterwards.
    fn output(&mut self, agent: usize, lease: LeaseId, number: usize, how: u8) -> bool {
        let farm = self.farm();
        let Self { agents, graph, runtime, tries, .. } = self;
        let Agent { row, held, .. } = &mut agents[agent];
        let entry = held.get_mut(&lease).unwrap();
        let made = graph.at(&entry.allocation.derivation);
        let (name, path) = &made.outputs[number % made.outputs.len()];
        *tries += 1;
        let (nar, references) = graph.output(made, name, lease.0 * 10 + u64::from(how % 7 == 6));
        let mut output = Output {
            path: path.clone(),
            nar_hash: Sha256Hash::of(&nar),
            nar_size: nar.len() as u64,
            references,
        };
        let mut bytes = zstd::encode_all(&nar[..], 1).unwrap();
        match how % 7 {
            // A wrong hash, something after the end, a reference that is not there.
            1 => output.nar_hash = Sha256Hash::of(b"something else"),
            2 => bytes.extend_from_slice(&bytes.clone()),
            3 => output.references.push(made.path.clone()),
            _ => {}
        }
        let received = match runtime.block_on(farm.declare(row, lease, output.clone())) {
            Ok(received) if received.complete => {
                entry.outputs.entry(path.clone()).or_insert(output);
                return true;
            }
            Ok(received) => received.received,
            Err(Error::LeaseNotHeld(_)) => {
                held.remove(&lease);
                return false;
            }
            Err(Error::BadOutput { .. }) => return false,
            Err(error) => panic!("{error}"),
        };
        let rest = Bytes::from(bytes.split_off(usize::try_from(received).unwrap().min(bytes.len())));
        let cut = how % 7 == 4;
        let mut pieces: Vec<std::io::Result<Bytes>> = vec![Ok(rest.slice(..rest.len() / 2))];
        pieces.push(if cut {
            Err(std::io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(rest.slice(rest.len() / 2..))
        });
        let body: UploadBody = Box::pin(futures_util::stream::iter(pieces));
        let offset = received + u64::from(how % 7 == 5);
        match runtime.block_on(farm.upload(row, lease, path.clone(), offset, body)) {
            Ok(received) => {
                assert!(received.complete && matches!(how % 7, 0 | 6), "{how} was accepted");
                entry.outputs.insert(path.clone(), output);
                true
            }
            Err(Error::LeaseNotHeld(_)) => {
                held.remove(&lease);
                false
            }
            Err(Error::BadOutput { .. } | Error::CutOff { .. } | Error::WrongOffset { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn finish(&mut self, agent: u8, lease: u8) {
        let agent = self.agent(agent);
        let Some(lease) = self.agents[agent].lease(lease) else { return };
        for number in 0..2 {
            // The first may be refused for what is left of an upload that was wrong.
            for _ in 0..2 {
                if !self.agents[agent].held.contains_key(&lease) || self.output(agent, lease, number, 0) {
                    break;
                }
            }
        }
        if let Some(held) = self.agents[agent].held.get(&lease) {
            let outputs = held.outputs.values().cloned().collect();
            self.report(agent, lease, Report::Succeeded { outputs });
        }
    }

    fn some_report(&mut self, agent: u8, lease: u8, how: u8, path: u8) {
        let agent = self.agent(agent);
        let Some(lease) = self.agents[agent].lease(lease) else { return };
        let message = "because".to_owned();
        let report = match how % 8 {
            0 => {
                let outputs = self.agents[agent].held[&lease].outputs.values().cloned().collect();
                Report::Succeeded { outputs }
            }
            1 => Report::Failed { message },
            2 => Report::TimedOut { limit: TimeLimit::Silence, message },
            3 => Report::Canceled,
            4 => Report::SetupFailed { step: SetupStep::ImportInputs, message },
            5 => Report::HandedBack { message },
            // Its own inputs, which a server may have had.
            6 => {
                let made = self.graph.at(&self.agents[agent].held[&lease].allocation.derivation);
                let inputs = made.inputs.iter().flat_map(|input| &self.graph.made[*input].outputs);
                Report::MissingInputs { paths: inputs.map(|(_, path)| path.clone()).collect() }
            }
            _ => {
                let outputs =
                    self.graph.made.iter().flat_map(|made| &made.outputs).map(|(_, path)| path.clone());
                let mut all: Vec<StorePath> = outputs.collect();
                all.extend(self.graph.sources.iter().map(|source| source.path.clone()));
                let at = usize::from(path) % all.len();
                Report::MissingInputs { paths: all[at..].iter().take(2).cloned().collect() }
            }
        };
        self.report(agent, lease, report);
    }

    fn report(&mut self, agent: usize, lease: LeaseId, report: Report) {
        let before = self.count_builds();
        let lacks = matches!(report, Report::MissingInputs { .. });
        self.try_report(agent, lease, report);
        assert!(!lacks || self.submits || self.count_builds() == before, "what is missing was submitted");
    }

    fn try_report(&mut self, agent: usize, lease: LeaseId, report: Report) {
        match self.runtime.block_on(self.farm().report(&self.agents[agent].row, lease, report.clone())) {
            Ok(reported) => {
                self.agents[agent].held.remove(&lease);
                self.answered.push(Answered { agent, lease, report, state: reported.state });
            }
            Err(Error::LeaseNotHeld(_)) => {
                self.agents[agent].held.remove(&lease);
            }
            Err(Error::BadOutput { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn repeat(&mut self, which: u8) {
        let count = self.answered.len().max(1);
        let Some(answered) = self.answered.get(usize::from(which) % count) else { return };
        let row = &self.agents[answered.agent].row;
        let message = "another end".to_owned();
        let again =
            self.runtime.block_on(self.farm().report(row, answered.lease, Report::Failed { message }));
        assert_eq!(again.unwrap().state, answered.state, "a lease ends once");
    }

    fn foreign(&mut self, agent: u8) {
        let agent = self.agent(agent);
        let other = &self.agents[(agent + 1) % self.agents.len()].row;
        let farm = self.farm();
        for lease in self.agents[agent].held.keys() {
            let message = String::new();
            let refused = self.runtime.block_on(farm.report(other, *lease, Report::Failed { message }));
            assert!(matches!(refused, Err(Error::LeaseNotHeld(_))));
            let refused = self.runtime.block_on(farm.append_log(other, *lease, 0, Bytes::new()));
            assert!(matches!(refused, Err(Error::LeaseNotHeld(_))));
        }
    }

    fn cancel(&mut self, which: u8) {
        let farm = self.farm();
        let builds: HashMap<usize, drover_wire::BuildId> = farm
            .database
            .read_blocking::<_, Error>(|sql| {
                let mut select = sql.prepare("SELECT uuid FROM builds ORDER BY id DESC LIMIT 8")?;
                let rows = select.query_map([], |row| paths::build_id(row, 0))?;
                Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().enumerate().collect())
            })
            .unwrap();
        let Some(build) = builds.get(&(usize::from(which) % builds.len().max(1))) else { return };
        match self.runtime.block_on(farm.cancel(*build)) {
            Ok(details) => assert_eq!(details.summary.state, BuildState::Canceled),
            Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// A lease runs out while the other agent waits for work.
    fn run_out(&mut self, agent: u8, lease: u8) {
        let agent = self.agent(agent);
        let Some(lease) = self.agents[agent].lease(lease) else { return };
        let farm = self.farm();
        let other = self.agents[(agent + 1) % self.agents.len()].row.id;
        let turn = farm.live().poll(other, 9).unwrap();
        if let Some(held) = farm.live().leases().iter().find(|held| held.id == lease) {
            held.renew(Instant::now());
        }
        self.runtime.block_on(farm.sweep(&mut self.looked, true)).unwrap();
        drop(turn);
    }

    /// What a client asked for, failed, and may be tried again is tried again: once this was done, nothing is left.
    fn retry(&self) {
        hooks::work_off(&self.farm(), "retry");
        let left = self.farm().database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT b.id FROM builds b WHERE b.state IN ('failed', 'timed-out') AND b.retries < ?1 \
                 AND b.asked IS NOT NULL AND NOT EXISTS (SELECT 1 FROM builds x WHERE x.target = b.target AND x.id > b.id) \
                 AND EXISTS (SELECT 1 FROM derivation_outputs o JOIN paths p ON p.id = o.path \
                     WHERE o.derivation = b.derivation AND p.provided <> 1)";
            paths::numbers(sql, select, i64::from(RETRIES))
        });
        let left = left.unwrap();
        assert!(left.is_empty(), "{left:?} failed, were asked for, and are not tried again");
    }

    fn count_builds(&self) -> i64 {
        let count = |sql: &rusqlite::Connection| {
            Ok(sql.query_row("SELECT count(*) FROM builds", [], |row| row.get(0))?)
        };
        self.farm().database.read_blocking::<_, Error>(count).unwrap()
    }

    fn elsewhere(&mut self, which: u8) {
        let made = &self.graph.made[self.made(which)];
        let path = made.outputs[usize::from(which / 16) % made.outputs.len()].1.clone();
        let provide = move |tx: &mut crate::farm::Tx<'_>| -> Result<(), Error> {
            let id = paths::number(tx, &path)?;
            let none =
                tx.query_row("SELECT provided = 0 FROM paths WHERE id = ?1", [id], |row| row.get(0))?;
            if none { depend::provide(tx, id, Provided::Elsewhere) } else { Ok(()) }
        };
        self.farm().database.write_blocking(provide).unwrap();
    }
}
