//! Random walks through the life of builds: whatever happens in whatever order, the invariants hold, a build ends
//! once, and a lease is one agent's.

mod ages;
mod blockers;
mod chaos;
mod graph;
mod invariants;
mod known;
mod migration;
mod places;
mod regressions;
mod retention;
mod revisions;
mod rules;
mod uploads;
pub(in crate::farm) mod wanting;
mod wishes;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use drover_store::StorePath;
use drover_wire::agent::{Heartbeat, Hello, Machine, Output, Progress, Report, SetupStep, TimeLimit};
use drover_wire::bundle::{Kind, Writer};
use drover_wire::client::{NewAgent, Submission, Wanted};
use drover_wire::set::{Row, RowWanted, SetSubmission};
use drover_wire::{BuildId, BuildState, LeaseId, PROTOCOL, Phase};
use futures_util::stream;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::change::AgentRow;
use super::depend::{self, Provided};
use super::error::Error;
use super::{Coming, Farm, allocate, hooks, paths};
use crate::config::{Config, HookConfig};
use graph::{Node, SYSTEM, Source, graph};

/// How often the hook `retry` of a walk has built again what failed.
const RETRIES: u32 = 1;

/// That hook: agents that failed a build may have it again at once.
fn retry(timeouts: bool) -> HookConfig {
    HookConfig {
        times: Some(RETRIES),
        timeouts: Some(timeouts),
        other_agents_seconds: Some(0),
        ..HookConfig::default()
    }
}

/// So many cases, or as many as PROPTEST_CASES says.
fn cases(usually: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usually)
}

#[derive(Debug, Clone)]
enum Step {
    Submit {
        node: usize,
        priority: i64,
    },
    Source(usize),
    Elsewhere(usize),
    Give {
        agent: usize,
        accepting: u32,
    },
    Building(usize),
    End {
        lease: usize,
        how: How,
    },
    EndAgain {
        lease: usize,
        how: How,
    },
    EndAsOther {
        lease: usize,
        how: How,
    },
    Cancel(usize),
    /// A bit for each node that the revision wants.
    Set {
        set: usize,
        nodes: u16,
        priority: i64,
        keep: Option<bool>,
    },
    Drop(usize),
    Hello {
        agent: usize,
        keep: u8,
    },
    Forgive,
    Restart,
    /// Years pass, and all that can go by its age does.
    Age,
    /// The hook `retry` does what it is to do.
    Retry,
}

#[derive(Debug, Clone)]
enum How {
    Succeeded,
    SucceededWithoutOutputs,
    Failed,
    TimedOut,
    Canceled,
    HandedBack,
    SetupFailed,
    Missing(usize),
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        8 => Just(How::Succeeded),
        1 => Just(How::SucceededWithoutOutputs),
        2 => Just(How::Failed),
        1 => Just(How::TimedOut),
        1 => Just(How::Canceled),
        1 => Just(How::HandedBack),
        2 => Just(How::SetupFailed),
        2 => (0..10_usize).prop_map(How::Missing),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let priorities = prop_oneof![-2..3_i64, Just(i64::MIN), Just(i64::MAX)];
    prop_oneof![
        4 => (0..10_usize, priorities).prop_map(|(node, priority)| Step::Submit { node, priority }),
        2 => (0..2_usize).prop_map(Step::Source),
        1 => (0..10_usize).prop_map(Step::Elsewhere),
        6 => (0..2_usize, 0..4_u32).prop_map(|(agent, accepting)| Step::Give { agent, accepting }),
        1 => (0..8_usize).prop_map(Step::Building),
        8 => (0..8_usize, how()).prop_map(|(lease, how)| Step::End { lease, how }),
        1 => (0..8_usize, how()).prop_map(|(lease, how)| Step::EndAgain { lease, how }),
        1 => (0..8_usize, how()).prop_map(|(lease, how)| Step::EndAsOther { lease, how }),
        1 => (0..20_usize).prop_map(Step::Cancel),
        3 => (0..3_usize, 1..1024_u16, -2..3_i64, proptest::option::of(any::<bool>()))
            .prop_map(|(set, nodes, priority, keep)| Step::Set { set, nodes, priority, keep }),
        1 => (0..3_usize).prop_map(Step::Drop),
        1 => (0..2_usize, any::<u8>()).prop_map(|(agent, keep)| Step::Hello { agent, keep }),
        2 => Just(Step::Forgive),
        1 => Just(Step::Restart),
        1 => Just(Step::Age),
        2 => Just(Step::Retry),
    ]
}

/// What an agent was given.
#[derive(Debug, Clone)]
struct Held {
    agent: usize,
    lease: LeaseId,
    node: usize,
}

/// The names of the sets that come and go.
const SETS: [&str; 3] = ["master", "core-updates", "patch-71234"];

fn row(derivation: &StorePath, priority: i64) -> Row {
    Row {
        package: derivation.derivation_name().to_owned(),
        version: "1".to_owned(),
        system: SYSTEM.to_owned(),
        target: None,
        wanted: RowWanted::Derivation(derivation.clone()),
        priority,
        timeout: None,
        max_silent_time: None,
        publish: true,
        tags: [].into(),
    }
}

/// Rows as they travel.
fn lines(rows: &[Row]) -> Vec<u8> {
    rows.iter().flat_map(|row| [serde_json::to_vec(row).unwrap(), b"\n".to_vec()].concat()).collect()
}

/// Everything that the database has, table by table, but for what is tidied up in the background.
fn dump(farm: &Farm) -> Vec<String> {
    let all = farm.database.read_blocking::<_, Error>(|sql| {
        let tables =
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'uploads' ORDER BY name";
        let mut tables = sql.prepare(tables)?;
        let tables: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut all = Vec::new();
        for table in tables {
            let mut select = sql.prepare(&format!("SELECT * FROM {table}"))?;
            let columns: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let kept = columns.iter().filter(|column| *column != "log_packed");
                let values = kept.map(|column| row.get::<_, rusqlite::types::Value>(column.as_str()));
                all.push(format!("{table}: {:?}", values.collect::<rusqlite::Result<Vec<_>>>()?));
            }
        }
        Ok(all)
    });
    all.unwrap()
}

struct World {
    revisions: u64,
    farm: Option<Arc<Farm>>,
    config: Config,
    agents: Vec<AgentRow>,
    nodes: Vec<Node>,
    sources: Vec<Source>,
    held: Vec<Held>,
    ended: Vec<(Held, BuildState)>,
    builds: Vec<BuildId>,
    finals: HashMap<BuildId, BuildState>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            state: folder.path().join("state"),
            setup_failures: 3,
            disk_reserve_mib: 0,
            hooks: [("retry".to_owned(), retry(false))].into(),
            ..Config::default()
        };
        change(&mut config);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (nodes, sources) = graph();
        let mut world = Self {
            revisions: 0,
            farm: Some(Farm::open(config.clone()).unwrap()),
            config,
            agents: Vec::new(),
            nodes,
            sources,
            held: Vec::new(),
            ended: Vec::new(),
            builds: Vec::new(),
            finals: HashMap::new(),
            runtime,
            _folder: folder,
        };
        for name in ["one", "two"] {
            let made =
                world.runtime.block_on(world.farm().new_agent(NewAgent { name: name.to_owned() })).unwrap();
            let row = world.farm().live.agent(made.agent).unwrap();
            world.agents.push(row);
            world.hello(world.agents.len() - 1, Vec::new());
        }
        world.upload_derivations();
        world
    }

    fn upload_derivations(&self) {
        let mut bundle = Writer::new(Vec::new());
        for node in &self.nodes {
            bundle.entry(Kind::Derivation, &node.path, node.text.len() as u64, &node.text[..]).unwrap();
        }
        self.upload(bundle.finish().unwrap());
    }

    fn farm(&self) -> &Arc<Farm> {
        self.farm.as_ref().unwrap()
    }

    fn upload(&self, bundle: Vec<u8>) {
        self.runtime.block_on(self.farm().upload_bundle(std::io::Cursor::new(bundle))).unwrap();
    }

    fn hello(&self, agent: usize, holding: Vec<LeaseId>) {
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            systems: vec![SYSTEM.to_owned()],
            builtins: vec!["download".to_owned()],
            max_parallel_builds: 2,
            max_allocated_builds: 4,
            holding,
        };
        self.runtime.block_on(self.farm().hello(&self.agents[agent], hello)).unwrap();
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Submit { node, priority } => self.submit(*node, *priority),
            Step::Source(source) => {
                let Source { path, nar } = &self.sources[*source];
                let mut bundle = Writer::new(Vec::new());
                bundle.entry(Kind::Source, path, nar.len() as u64, &nar[..]).unwrap();
                self.upload(bundle.finish().unwrap());
            }
            Step::Elsewhere(node) => self.elsewhere(*node),
            Step::Give { agent, accepting } => self.give(*agent, *accepting),
            Step::Building(lease) => self.building(*lease),
            Step::End { lease, how } => self.end(*lease, how),
            Step::EndAgain { lease, how } => self.end_again(*lease, how),
            Step::EndAsOther { lease, how } => self.end_as_other(*lease, how),
            Step::Cancel(build) => self.cancel(*build),
            Step::Set { set, nodes, priority, keep } => self.submit_set(*set, *nodes, *priority, *keep),
            Step::Drop(set) => self.drop_set(*set),
            Step::Hello { agent, keep } => self.come_back(*agent, *keep),
            Step::Forgive => self.write(|tx| Ok(tx.execute("UPDATE avoided SET until = 0", []).map(drop)?)),
            Step::Restart => self.restart(),
            Step::Age => self.age(),
            Step::Retry => hooks::work_off(self.farm(), "retry"),
        }
        invariants::check(self.farm(), &format!("{step:?}"));
        self.check_finals();
    }

    fn write(&self, job: impl FnOnce(&mut super::Tx<'_>) -> Result<(), Error> + Send + 'static) {
        self.farm().database.write_blocking(job).unwrap();
    }

    fn submit(&mut self, node: usize, priority: i64) {
        let derivation = self.nodes[node].path.clone();
        let wanted = Wanted { derivation, priority, tags: [].into(), timeout: None, max_silent_time: None };
        let submitted = self.farm().submit(Submission { builds: vec![wanted] });
        let submitted = self.runtime.block_on(submitted).unwrap();
        self.builds.push(submitted.builds[0].build);
    }

    /// A new revision, with a name that was not there before.
    fn submit_set(&mut self, set: usize, nodes: u16, priority: i64, keep: Option<bool>) {
        let wanted = (0..self.nodes.len()).filter(|node| nodes >> node & 1 == 1);
        let rows: Vec<Row> = wanted.map(|node| row(&self.nodes[node].path, priority)).collect();
        self.revisions += 1;
        let coming = Coming {
            set: SETS[set].parse().unwrap(),
            revision: self.revisions.to_string().parse().unwrap(),
            terms: SetSubmission { rows: rows.len() as u64, keep },
        };
        let submitted = self.farm().submit_set(coming, std::io::Cursor::new(lines(&rows)));
        let submitted = self.runtime.block_on(submitted).unwrap();
        assert_eq!(submitted.rows, rows.len() as u64);
    }

    fn drop_set(&self, set: usize) {
        let dropped = self.runtime.block_on(self.farm().drop_set(SETS[set].parse().unwrap()));
        assert!(matches!(dropped, Ok(_) | Err(Error::NotFound { .. })), "{dropped:?}");
    }

    fn elsewhere(&self, node: usize) {
        let path = self.nodes[node].outputs[0].1.clone();
        self.write(move |tx| {
            let id = paths::number(tx, &path)?;
            let held = "SELECT 1 FROM items WHERE path = ?1";
            if tx.prepare_cached(held)?.exists([id])? {
                return Ok(());
            }
            depend::provide(tx, id, Provided::Elsewhere)
        });
    }

    fn give(&mut self, agent: usize, accepting: u32) {
        let row = self.agents[agent].clone();
        let platforms = self.farm().live.platforms(row.id);
        let job = move |tx: &mut super::Tx<'_>| allocate::allocate(tx, &row, &platforms, accepting);
        let given = self.farm().database.write_blocking(job).unwrap();
        assert!(given.windows(2).all(|pair| pair[0].priority >= pair[1].priority));
        for allocation in given {
            let same = |held: &&Held| held.lease == allocation.lease;
            assert!(self.held.iter().find(same).is_none(), "a lease was given twice");
            let node = self.nodes.iter().position(|node| node.path == allocation.derivation).unwrap();
            self.held.push(Held { agent, lease: allocation.lease, node });
        }
        let holds = self.held.iter().filter(|held| held.agent == agent).count();
        assert!(holds <= 8, "more was given than anybody accepted");
    }

    fn building(&self, lease: usize) {
        let Some(held) = pick(&self.held, lease) else { return };
        let progress = Progress { lease: held.lease, phase: Phase::Building };
        let heartbeat = Heartbeat { accepting: 1, machine: Machine::default(), leases: vec![progress] };
        self.runtime.block_on(self.farm().heartbeat(&self.agents[held.agent], heartbeat)).unwrap();
    }

    /// The report, with everything uploaded that it speaks of.
    fn report(&self, held: &Held, how: &How) -> Report {
        match how {
            How::Succeeded => Report::Succeeded { outputs: self.upload_outputs(held) },
            How::SucceededWithoutOutputs => {
                let built = self.nodes[held.node].built();
                Report::Succeeded { outputs: built.into_iter().map(|(output, _)| output).collect() }
            }
            How::Failed => Report::Failed { message: "exit code 1".to_owned() },
            How::TimedOut => Report::TimedOut { limit: TimeLimit::Silence, message: String::new() },
            How::Canceled => Report::Canceled,
            How::HandedBack => Report::HandedBack { message: "stopping".to_owned() },
            How::SetupFailed => Report::SetupFailed { step: SetupStep::Other, message: "no".to_owned() },
            How::Missing(node) => {
                Report::MissingInputs { paths: vec![self.nodes[*node].outputs[0].1.clone()] }
            }
        }
    }

    fn upload_outputs(&self, held: &Held) -> Vec<Output> {
        let (farm, agent) = (self.farm(), &self.agents[held.agent]);
        let mut outputs = Vec::new();
        for (output, bytes) in self.nodes[held.node].built() {
            let path = output.path.clone();
            outputs.push(output.clone());
            let whole = self.runtime.block_on(async {
                if farm.declare(agent, held.lease, output).await?.complete {
                    return Ok(true);
                }
                let body = Box::pin(stream::iter([Ok(Bytes::from(bytes))]));
                farm.upload(agent, held.lease, path, 0, body).await.map(|received| received.complete)
            });
            assert!(
                matches!(whole, Ok(true) | Err(Error::LeaseNotHeld(_) | Error::BadOutput { .. })),
                "{whole:?}"
            );
        }
        outputs
    }

    fn end(&mut self, lease: usize, how: &How) {
        let Some(held) = pick(&self.held, lease).cloned() else { return };
        let report = self.report(&held, how);
        let reported = self.farm().report(&self.agents[held.agent], held.lease, report);
        match self.runtime.block_on(reported) {
            Ok(reported) => {
                self.held.retain(|other| other.lease != held.lease);
                self.ended.push((held, reported.state));
            }
            Err(Error::BadOutput { .. }) => assert!(matches!(how, How::SucceededWithoutOutputs), "{how:?}"),
            Err(error) => panic!("a lease that is held could not be ended: {error}"),
        }
    }

    /// A report that is sent again gets the answer that the first one got.
    fn end_again(&self, lease: usize, how: &How) {
        let Some((held, state)) = pick(&self.ended, lease) else { return };
        let report = self.report(held, how);
        let reported = self.farm().report(&self.agents[held.agent], held.lease, report);
        assert_eq!(self.runtime.block_on(reported).unwrap().state, *state);
    }

    /// What another agent holds is not to be ended.
    fn end_as_other(&self, lease: usize, how: &How) {
        let Some(held) = pick(&self.held, lease) else { return };
        let report = self.report(held, how);
        let reported = self.farm().report(&self.agents[1 - held.agent], held.lease, report);
        assert!(matches!(self.runtime.block_on(reported), Err(Error::LeaseNotHeld(_))));
    }

    fn cancel(&self, build: usize) {
        let Some(build) = pick(&self.builds, build) else { return };
        let canceled = self.runtime.block_on(self.farm().cancel(*build));
        assert!(matches!(canceled, Ok(_) | Err(Error::Conflict(_))), "{canceled:?}");
    }

    /// An agent comes back with some of its leases.
    fn come_back(&mut self, agent: usize, keep: u8) {
        let mut nth = 0;
        self.held.retain(|held| {
            if held.agent != agent {
                return true;
            }
            nth += 1;
            keep & (1 << (nth % 8)) != 0
        });
        let holding = self.held.iter().filter(|held| held.agent == agent).map(|held| held.lease).collect();
        self.hello(agent, holding);
    }

    /// The coordinator goes and comes back; nothing that was answered is lost.
    fn restart(&mut self) {
        drop(self.farm.take());
        // Jobs that still run hold the folder; they end by themselves.
        let farm =
            std::iter::repeat_with(|| Farm::open(self.config.clone())).find_map(|opened| match opened {
                Ok(farm) => Some(farm),
                Err(super::OpenError::Storage(_)) => {
                    thread::yield_now();
                    None
                }
                Err(error) => panic!("{error}"),
            });
        self.farm = farm;
    }

    /// A build that ended stays as it ended.
    fn check_finals(&mut self) {
        let states = self.farm().database.read_blocking(|sql| {
            let mut select = sql.prepare_cached("SELECT uuid, state FROM builds")?;
            let rows = select.query_map([], |row| Ok((paths::build_id(row, 0)?, paths::state(row, 1)?)))?;
            Ok::<_, Error>(rows.collect::<rusqlite::Result<HashMap<_, _>>>()?)
        });
        let states = states.unwrap();
        for (build, state) in &self.finals {
            assert_eq!(states.get(build), Some(state), "the build {build} ended twice");
        }
        let ended = |state: &BuildState| state.is_final() && *state != BuildState::DependencyFailed;
        self.finals.extend(states.into_iter().filter(|(_, state)| ended(state)));
    }
}

fn pick<T>(all: &[T], which: usize) -> Option<&T> {
    if all.is_empty() { None } else { all.get(which % all.len()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_the_invariants_hold(steps in proptest::collection::vec(step(), 1..90)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
    }
}
