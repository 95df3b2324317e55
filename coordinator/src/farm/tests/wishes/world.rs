//! A farm with one agent, clients and sets, and beside it what all of them asked for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use drover_store::{Sha256Hash, StorePath};
use drover_wire::agent::{Heartbeat, Hello, Machine, Output, Progress, Report, TimeLimit};
use drover_wire::client::{NewAgent, Submission, Wanted};
use drover_wire::set::{SetSubmission, SetSubmitted};
use drover_wire::{BuildId, BuildState, LeaseId, PROTOCOL, Phase};
use tokio::runtime::Runtime;

use super::model::{Facts, Set, Wishes};
use crate::config::Config;
use crate::farm::change::AgentRow;
use crate::farm::depend::{self, Provided};
use crate::farm::tests::chaos::graph::{Graph, Shape};
use crate::farm::tests::{SETS, dump, invariants, lines, pick, retry, row};
use crate::farm::{Coming, Error, Farm, Tx, allocate, hooks, paths};

/// Something that happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Ask {
        made: usize,
        priority: i64,
    },
    /// A revision that wants what has a bit, each with a priority of its own.
    Supersede {
        set: usize,
        wanted: u16,
        priorities: u32,
        keep: Option<bool>,
    },
    /// The current revision once more.
    Again(usize),
    Drop(usize),
    Give(u32),
    Start(usize),
    End {
        held: usize,
        how: How,
    },
    Cancel(usize),
    Elsewhere(usize),
    /// The hook `retry` does what it is to do.
    Retry,
    /// So many times all that can be built is, and fails, and the hook does what it is to do.
    Failing(u32),
}

#[derive(Debug, Clone)]
pub(super) enum How {
    Succeeds,
    Fails,
    TakesTooLong,
    GivenBack,
    Lacks(usize),
}

pub(super) struct World {
    pub(super) graph: Graph,
    pub(super) wishes: Wishes,
    /// What was true after the last step.
    pub(super) before: Facts,
    farm: Arc<Farm>,
    agent: AgentRow,
    held: Vec<(LeaseId, usize)>,
    revisions: u64,
    /// The current revision of each set.
    current: BTreeMap<&'static str, u64>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new(shapes: &[Shape]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            state: folder.path().join("state"),
            disk_reserve_mib: 0,
            hooks: [("retry".to_owned(), retry(true))].into(),
            ..Config::default()
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let farm = Farm::open(config).unwrap();
        let made = runtime.block_on(farm.new_agent(NewAgent { name: "one".to_owned() })).unwrap();
        let world = Self {
            graph: Graph::new(shapes),
            wishes: Wishes::default(),
            before: Facts::default(),
            agent: farm.live.agent(made.agent).unwrap(),
            farm,
            held: Vec::new(),
            revisions: 0,
            current: BTreeMap::new(),
            runtime,
            _folder: folder,
        };
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            systems: vec!["x86_64-linux".to_owned(), "aarch64-linux".to_owned()],
            builtins: Vec::new(),
            max_parallel_builds: 4,
            max_allocated_builds: 4,
            holding: Vec::new(),
        };
        world.runtime.block_on(world.farm.hello(&world.agent, hello)).unwrap();
        let sources = (0..world.graph.sources.len()).map(|source| world.graph.source_bundle(source));
        let derivations = (0..world.graph.made.len()).map(|made| world.graph.bundle(made, true));
        for bundle in sources.chain(derivations) {
            let bundle = std::io::Cursor::new(bundle);
            world.runtime.block_on(world.farm.upload_bundle(bundle)).unwrap();
        }
        world
    }

    /// Does it, and gives how things stand afterwards.
    pub(super) fn take(&mut self, step: &Step) -> Facts {
        match step {
            Step::Ask { made, priority } => self.ask(*made, *priority),
            Step::Supersede { set, wanted, priorities, keep } => {
                self.supersede(SETS[*set], *wanted, *priorities, *keep);
            }
            Step::Again(set) => self.again(SETS[*set]),
            Step::Drop(set) => self.drop_set(SETS[*set]),
            Step::Give(accepting) => self.give(*accepting),
            Step::Start(held) => self.start(*held),
            Step::End { held, how } => self.end(*held, how),
            Step::Cancel(build) => self.cancel(*build),
            Step::Elsewhere(made) => self.elsewhere(*made),
            Step::Retry => self.retry(),
            Step::Failing(times) => (0..*times).for_each(|_| {
                self.give(8);
                while !self.held.is_empty() {
                    self.end(0, &How::Fails);
                }
                self.retry();
            }),
        }
        invariants::check(&self.farm, &format!("{step:?}"));
        Facts::of(&self.farm, &self.graph)
    }

    fn ask(&mut self, made: usize, priority: i64) {
        let derivation = self.graph.made[made % self.graph.made.len()].path.clone();
        let wanted = Wanted { derivation, priority, tags: [].into(), timeout: None, max_silent_time: None };
        let submitted = self.farm.submit(Submission { builds: vec![wanted] });
        let build = self.runtime.block_on(submitted).unwrap().builds[0].build;
        self.wishes.ask(build, priority);
    }

    fn supersede(&mut self, set: &'static str, wanted: u16, priorities: u32, keep: Option<bool>) {
        let mut rows = BTreeMap::new();
        for made in 0..self.graph.made.len() {
            if wanted >> made & 1 == 1 {
                rows.insert(made, i64::from(priorities >> (2 * made) & 3));
            }
        }
        if rows.is_empty() {
            return;
        }
        self.revisions += 1;
        let answer = self.submit(set, &rows, self.revisions, keep).unwrap();
        let before = self.wishes.sets.get(set).map(|set| &set.current);
        let new = rows.iter().filter(|row| before.is_none_or(|before| before.get(row.0) != Some(row.1)));
        assert_eq!(answer.rows_new, new.count() as u64);
        assert_eq!(answer.rows, rows.len() as u64);
        self.wishes.sets.entry(set).or_default().supersede(rows, keep);
        self.current.insert(set, self.revisions);
    }

    fn submit(
        &self,
        set: &str,
        rows: &BTreeMap<usize, i64>,
        revision: u64,
        keep: Option<bool>,
    ) -> Result<SetSubmitted, Error> {
        let row = |(made, priority): (&usize, &i64)| row(&self.graph.made[*made].path, *priority);
        let rows: Vec<_> = rows.iter().map(row).collect();
        let coming = Coming {
            set: set.parse().unwrap(),
            revision: revision.to_string().parse().unwrap(),
            terms: SetSubmission { rows: rows.len() as u64, keep },
        };
        self.runtime.block_on(self.farm.submit_set(coming, std::io::Cursor::new(lines(&rows))))
    }

    /// The current revision comes once more, and leaves the database as it is.
    fn again(&self, set: &'static str) {
        let Some(Set { current, .. }) = self.wishes.sets.get(set) else { return };
        let before = dump(&self.farm);
        let answer = self.submit(set, current, self.current[set], None).unwrap();
        assert!(!answer.new && answer.rows == current.len() as u64, "{answer:?}");
        assert_eq!((answer.rows_new, answer.builds, answer.for_inputs, answer.canceled), (0, 0, 0, 0));
        assert_eq!(dump(&self.farm), before);
    }

    fn drop_set(&mut self, set: &'static str) {
        let dropped = self.runtime.block_on(self.farm.drop_set(set.parse().unwrap()));
        let known = self.wishes.sets.remove(set).is_some();
        assert_eq!(dropped.is_ok(), known, "{dropped:?}");
    }

    fn give(&mut self, accepting: u32) {
        let row = self.agent.clone();
        let platforms = self.farm.live.platforms(row.id);
        let job = move |tx: &mut Tx<'_>| allocate::allocate(tx, &row, &platforms, accepting);
        for allocation in self.farm.database.write_blocking(job).unwrap() {
            let place = self.graph.made.iter().position(|made| made.path == allocation.derivation);
            self.held.push((allocation.lease, place.unwrap()));
        }
    }

    /// The agent says that the builder runs; waits until that is noted.
    fn start(&self, held: usize) {
        let Some((lease, _)) = pick(&self.held, held) else { return };
        let Some(known) = self.farm.live.leases().into_iter().find(|known| known.id == *lease) else {
            return;
        };
        // A start that changes nothing but the try is noted in the background, and nobody can wait for that.
        if self.state(known.build) != BuildState::Allocated {
            return;
        }
        let progress = Progress { lease: *lease, phase: Phase::Building };
        let heartbeat = Heartbeat { accepting: 1, machine: Machine::default(), leases: vec![progress] };
        self.runtime.block_on(self.farm.heartbeat(&self.agent, heartbeat)).unwrap();
        while self.state(known.build) == BuildState::Allocated {
            std::thread::yield_now();
        }
    }

    fn state(&self, build: BuildId) -> BuildState {
        Facts::of(&self.farm, &self.graph).state(build).unwrap()
    }

    fn end(&mut self, held: usize, how: &How) {
        let Some((lease, made)) = pick(&self.held, held).copied() else { return };
        let report = match how {
            How::Succeeds => match self.upload(lease, made) {
                Some(outputs) => Report::Succeeded { outputs },
                None => Report::Canceled,
            },
            How::Fails => Report::Failed { message: "exit code 1".to_owned() },
            How::TakesTooLong => Report::TimedOut { limit: TimeLimit::Silence, message: String::new() },
            How::GivenBack => Report::HandedBack { message: "stopping".to_owned() },
            How::Lacks(input) => {
                let made = &self.graph.made[input % self.graph.made.len()];
                Report::MissingInputs { paths: vec![made.outputs[0].1.clone()] }
            }
        };
        self.runtime.block_on(self.farm.report(&self.agent, lease, report)).unwrap();
        self.held.retain(|(other, _)| *other != lease);
        self.write(|tx| Ok(tx.execute("UPDATE avoided SET until = 0", []).map(drop)?));
    }

    /// None when the lease's build was canceled.
    fn upload(&self, lease: LeaseId, made: usize) -> Option<Vec<Output>> {
        let mut outputs = Vec::new();
        let made = &self.graph.made[made];
        for (name, path) in &made.outputs {
            let (nar, references) = self.graph.output(made, name, lease.0);
            let output = Output {
                path: path.clone(),
                nar_hash: Sha256Hash::of(&nar),
                nar_size: nar.len() as u64,
                references,
            };
            let whole = self.runtime.block_on(async {
                if self.farm.declare(&self.agent, lease, output.clone()).await?.complete {
                    return Ok(true);
                }
                let bytes = Bytes::from(zstd::encode_all(&nar[..], 1).unwrap());
                let body = Box::pin(futures_util::stream::iter([Ok(bytes)]));
                let received = self.farm.upload(&self.agent, lease, path.clone(), 0, body).await;
                received.map(|received| received.complete)
            });
            match whole {
                Ok(true) => outputs.push(output),
                Err(Error::LeaseNotHeld(_)) => return None,
                other => panic!("{other:?}"),
            }
        }
        Some(outputs)
    }

    fn cancel(&mut self, build: usize) {
        let builds: Vec<BuildId> = self.before.builds.iter().map(|build| build.id).collect();
        let Some(build) = pick(&builds, build) else { return };
        match self.runtime.block_on(self.farm.cancel(*build)) {
            Ok(_) => drop(self.wishes.canceled.insert(*build)),
            Err(Error::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Each new build of these follows one that failed, that somebody wanted, and that had tries left.
    fn retry(&mut self) {
        let before = Facts::of(&self.farm, &self.graph);
        hooks::work_off(&self.farm, "retry");
        let now = Facts::of(&self.farm, &self.graph);
        for new in &now.builds {
            if new.retries == 0 || before.state(new.id).is_some() {
                continue;
            }
            let failed = now.before(&self.graph, new).unwrap();
            assert!(matches!(failed.state, BuildState::Failed | BuildState::TimedOut), "{failed:?}");
            assert_eq!(failed.retries + 1, new.retries, "{new:?} follows {failed:?}");
            let wish = self.wishes.would_be(&self.graph, &before, failed);
            assert!(wish.is_some(), "nobody wanted {failed:?}, and it is built again: {new:?}");
            self.wishes.passes_to(failed.id, new.id);
        }
    }

    fn elsewhere(&self, made: usize) {
        let path: StorePath = self.graph.made[made % self.graph.made.len()].outputs[0].1.clone();
        self.write(move |tx| {
            let id = paths::number(tx, &path)?;
            let none =
                tx.query_row("SELECT provided = 0 FROM paths WHERE id = ?1", [id], |row| row.get(0))?;
            if none { depend::provide(tx, id, Provided::Elsewhere) } else { Ok(()) }
        });
    }

    fn write(&self, job: impl FnOnce(&mut Tx<'_>) -> Result<(), Error> + Send + 'static) {
        self.farm.database.write_blocking(job).unwrap();
    }

    /// Builds that were open after the step before and are canceled now, though no client canceled them.
    pub(super) fn given_up(&self, now: &Facts) -> HashSet<BuildId> {
        let open = self.before.builds.iter().filter(|build| build.is_open()).map(|build| build.id);
        let canceled = |build: &BuildId| now.state(*build) == Some(BuildState::Canceled);
        open.filter(canceled).filter(|build| !self.wishes.canceled.contains(build)).collect()
    }
}
