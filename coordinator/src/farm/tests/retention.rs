//! What is kept for how long, held against a model in plain Rust that begins from nothing but what clients, sets and
//! agents did on which day.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chaos::check::files_are_right;
use super::chaos::graph::{Graph, Shape};
use super::chaos::shape;
use super::*;
use crate::config::RetentionConfig;
use crate::farm::publish::Publication;

const RULES: &str = "
    [[sets]]
    names = 'mas*'
    keep-revisions = 2
    keep-days = 1
    [[sets]]
    names = 'patch-*'
    keep-days = 3
    build-inputs = true
    [others]
    days = 1
    [sources]
    days = 4
";
/// For each name in [`SETS`]: revisions, days, and whether what was needed to build them is kept. The second has no
/// rule.
const KEEPS: [(usize, i64, bool); 3] = [(2, 1, false), (1, 14, false), (1, 3, true)];
const OTHERS: i64 = 1;
const FIXED: i64 = 4;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[derive(Debug, Clone)]
enum Step {
    Revise {
        set: usize,
        wanted: u16,
    },
    Drop(usize),
    Ask(usize),
    /// An agent takes so many builds.
    Give(u32),
    /// And ends one of them.
    End {
        held: usize,
        fails: bool,
    },
    Days(i64),
    Sweep,
    /// It ends after so many jobs, and the coordinator with it.
    Interrupted(u32),
    /// After so many jobs of it a client asks for a build.
    AskedMeanwhile {
        jobs: u32,
        made: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let wanted = prop_oneof![any::<u16>(), any::<(u16, u16)>().prop_map(|(a, b)| a & b)];
    prop_oneof![
        5 => (0..3_usize, wanted).prop_map(|(set, wanted)| Step::Revise { set, wanted }),
        2 => (0..3_usize).prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Ask),
        6 => (1..5_u32).prop_map(Step::Give),
        10 => (any::<usize>(), proptest::bool::weighted(0.1)).prop_map(|(held, fails)| Step::End { held, fails }),
        6 => (1..4_i64).prop_map(Step::Days),
        6 => Just(Step::Sweep),
        2 => (0..12_u32).prop_map(Step::Interrupted),
        4 => (0..12_u32, any::<usize>()).prop_map(|(jobs, made)| Step::AskedMeanwhile { jobs, made }),
    ]
}

/// A revision, by what it wants, and the day on which it was superseded.
#[derive(Debug)]
struct Revision {
    wanted: BTreeSet<usize>,
    superseded: Option<i64>,
}

#[derive(Debug, Default)]
struct Set {
    revisions: Vec<Revision>,
    dropped: Option<i64>,
}

/// An output that is here: since when, when it was needed last, and when its removal was announced.
#[derive(Debug)]
struct Here {
    came: i64,
    needed: i64,
    announced: Option<i64>,
}

impl Here {
    /// It is gone, which it may be. True.
    fn went(&self, path: &StorePath, keep: &BTreeSet<StorePath>, today: i64, ttl: i64) -> bool {
        assert!(!keep.contains(path), "{path} was removed and is kept");
        // Nobody can believe any more that it is here.
        let announced = self.announced.unwrap_or(today);
        assert!(announced + ttl <= today, "{path} went too soon: {self:?}");
        true
    }
}

struct Town {
    graph: Graph,
    world: World,
    held: Vec<(LeaseId, usize)>,
    today: i64,
    ttl: i64,
    sets: HashMap<usize, Set>,
    asked: HashMap<usize, i64>,
    here: BTreeMap<StorePath, Here>,
}

impl Town {
    fn new(shapes: &[Shape], ttl: i64) -> Self {
        let mut world = World::new();
        world.config.retention = toml::from_str::<RetentionConfig>(RULES).unwrap();
        world.config.narinfo_ttl_seconds = (ttl * DAY_MS / 1000).unsigned_abs();
        world.restart();
        let graph = Graph::new(shapes);
        let sources = (0..graph.sources.len()).map(|source| graph.source_bundle(source));
        for bundle in sources.chain((0..graph.made.len()).map(|made| graph.bundle(made, true))) {
            world.upload(bundle);
        }
        let mut town = Self {
            graph,
            world,
            held: Vec::new(),
            today: 0,
            ttl,
            sets: HashMap::new(),
            asked: HashMap::new(),
            here: BTreeMap::new(),
        };
        town.hello();
        town
    }

    fn hello(&mut self) {
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1".to_owned(),
            systems: vec!["x86_64-linux".to_owned(), "aarch64-linux".to_owned()],
            builtins: Vec::new(),
            max_parallel_builds: 4,
            max_allocated_builds: 4,
            holding: self.held.iter().map(|(lease, _)| *lease).collect(),
        };
        self.world.runtime.block_on(self.world.farm().hello(&self.world.agents[0], hello)).unwrap();
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Revise { set, wanted } => self.revise(*set, *wanted),
            Step::Drop(set) => self.drop_set(*set),
            Step::Ask(made) => self.ask(*made),
            Step::Give(accepting) => self.give(*accepting),
            Step::End { held, fails } => self.end(*held, *fails),
            Step::Days(days) => self.days(*days),
            Step::Sweep => self.sweep(),
            Step::Interrupted(jobs) => self.interrupted(*jobs),
            Step::AskedMeanwhile { jobs, made } => self.asked_meanwhile(*jobs, *made),
        }
        self.check_published(&format!("{step:?}"));
        self.check_kept(&format!("{step:?}"));
    }

    fn revise(&mut self, set: usize, wanted: u16) {
        let wanted: BTreeSet<usize> =
            (0..self.graph.made.len()).filter(|made| wanted >> made & 1 == 1).collect();
        if wanted.is_empty() {
            return;
        }
        let rows: Vec<Row> = wanted.iter().map(|made| row(&self.graph.made[*made].path, 0)).collect();
        self.world.revisions += 1;
        let coming = Coming {
            set: SETS[set].parse().unwrap(),
            revision: self.world.revisions.to_string().parse().unwrap(),
            terms: SetSubmission { rows: rows.len() as u64, keep: None },
        };
        let farm = self.world.farm();
        self.world.runtime.block_on(farm.submit_set(coming, std::io::Cursor::new(lines(&rows)))).unwrap();
        let known = self.sets.entry(set).or_default();
        known.dropped = None;
        if let Some(current) = known.revisions.last_mut() {
            current.superseded.get_or_insert(self.today);
        }
        known.revisions.push(Revision { wanted, superseded: None });
    }

    fn drop_set(&mut self, set: usize) {
        let dropped = self.world.runtime.block_on(self.world.farm().drop_set(SETS[set].parse().unwrap()));
        let known = self.sets.get_mut(&set).filter(|set| set.dropped.is_none());
        assert_eq!(dropped.is_ok(), known.is_some());
        if let Some(known) = known {
            known.dropped = Some(self.today);
            if let Some(current) = known.revisions.last_mut() {
                current.superseded = Some(self.today);
            }
        }
    }

    fn ask(&mut self, made: usize) {
        let made = made % self.graph.made.len();
        let submitted = self.world.farm().submit(self.submission(made));
        self.world.runtime.block_on(submitted).unwrap();
        self.asked.insert(made, self.today);
    }

    fn submission(&self, made: usize) -> Submission {
        let derivation = self.graph.made[made].path.clone();
        let wanted =
            Wanted { derivation, priority: 0, tags: [].into(), timeout: None, max_silent_time: None };
        Submission { builds: vec![wanted] }
    }

    fn give(&mut self, accepting: u32) {
        let row = self.world.agents[0].clone();
        let platforms = self.world.farm().live.platforms(row.id);
        let job = move |tx: &mut crate::farm::Tx<'_>| allocate::allocate(tx, &row, &platforms, accepting);
        for allocation in self.world.farm().database.write_blocking(job).unwrap() {
            let made = self.graph.made.iter().position(|made| made.path == allocation.derivation);
            self.held.push((allocation.lease, made.unwrap()));
        }
    }

    fn end(&mut self, held: usize, fails: bool) {
        let Some((lease, made)) = pick(&self.held, held).copied() else { return };
        self.held.retain(|(other, _)| *other != lease);
        let report = match self.outputs(lease, made).filter(|_| !fails) {
            Some(outputs) => Report::Succeeded { outputs },
            None => Report::Failed { message: "exit code 1".to_owned() },
        };
        let farm = self.world.farm();
        let reported =
            self.world.runtime.block_on(farm.report(&self.world.agents[0], lease, report)).unwrap();
        if reported.state != BuildState::Succeeded {
            return;
        }
        let made = &self.graph.made[made];
        let fixed = made.fixed.is_some();
        for (_, path) in &made.outputs {
            let today = self.today;
            self.here.entry(path.clone()).or_insert(Here { came: today, needed: today, announced: None });
            let path = path.clone();
            self.world.write(move |tx| {
                let id = paths::number(tx, &path)?;
                if fixed {
                    let insert = "INSERT OR IGNORE INTO fixed_outputs VALUES (?1, 'sha256', 0, x'00')";
                    tx.execute(insert, [id])?;
                }
                Ok(())
            });
        }
        self.publish();
    }

    /// None when the lease's build was canceled.
    fn outputs(&self, lease: LeaseId, made: usize) -> Option<Vec<Output>> {
        let made = &self.graph.made[made];
        let (farm, agent) = (self.world.farm(), &self.world.agents[0]);
        let mut outputs = Vec::new();
        for (name, path) in &made.outputs {
            let (nar, references) = self.graph.output(made, name, lease.0);
            let output = Output {
                path: path.clone(),
                nar_hash: drover_store::Sha256Hash::of(&nar),
                nar_size: nar.len() as u64,
                references,
            };
            let whole = self.world.runtime.block_on(async {
                if farm.declare(agent, lease, output.clone()).await?.complete {
                    return Ok(true);
                }
                let bytes = Bytes::from(zstd::encode_all(&nar[..], 1).unwrap());
                let body = Box::pin(stream::iter([Ok(bytes)]));
                farm.upload(agent, lease, path.clone(), 0, body).await.map(|received| received.complete)
            });
            match whole {
                Ok(true) => outputs.push(output),
                Err(Error::LeaseNotHeld(_)) => return None,
                other => panic!("{other:?}"),
            }
        }
        Some(outputs)
    }

    /// As the hook does it, until nothing more can be.
    fn publish(&self) {
        let farm = self.world.farm();
        loop {
            let items = farm.database.read_blocking::<_, Error>(|sql| {
                paths::numbers(sql, "SELECT path FROM items WHERE path > ?1", 0)
            });
            let new = items
                .unwrap()
                .into_iter()
                .filter(|item| matches!(farm.publish_item(*item).unwrap(), Publication::Published));
            if new.count() == 0 {
                return;
            }
        }
    }

    /// So many days pass: everything that was noted was noted so much earlier.
    fn days(&mut self, days: i64) {
        self.today += days;
        self.world.write(move |tx| {
            for (table, columns) in [
                ("items", &["added_at"][..]),
                ("sets", &["dropped_at"]),
                ("revisions", &["submitted_at", "superseded_at"]),
                ("builds", &["submitted_at", "asked_at", "ended_at"]),
                ("removals", &["due"]),
                ("published", &["published_at", "until"]),
                ("promises", &["until"]),
                ("needed", &["at"]),
            ] {
                for column in columns {
                    let update = format!("UPDATE {table} SET {column} = {column} - ?1");
                    tx.execute(&update, [days * DAY_MS])?;
                }
            }
            Ok(())
        });
    }

    fn sweep(&mut self) {
        let keep = self.kept(true);
        self.world.farm().sweep_items().unwrap();
        let removals = self.removals();
        self.note(&keep, &removals);
        for (path, here) in &self.here {
            assert_eq!(here.announced.is_none(), keep.contains(path), "{path}: {here:?}");
        }
        self.publish();
    }

    /// Holds what is here now against what was here, and what may be gone.
    fn note(&mut self, keep: &BTreeSet<StorePath>, removals: &BTreeMap<StorePath, bool>) {
        let held = self.held_items();
        let (today, ttl) = (self.today, self.ttl);
        self.here.retain(|path, here| {
            if held.contains(path) {
                here.announced = removals.get(path).map(|_| here.announced.unwrap_or(today));
                return true;
            }
            !here.went(path, keep, today, ttl)
        });
    }

    fn interrupted(&mut self, jobs: u32) {
        let keep = self.kept(true);
        let mut left = jobs;
        self.between_jobs(move || {
            let over = left == 0;
            left = left.saturating_sub(1);
            over
        });
        let swept = self.world.farm().sweep_items();
        assert!(matches!(swept, Ok(_) | Err(Error::Stopping)), "{swept:?}");
        let removals = self.removals();
        self.note(&keep, &removals);
        self.world.restart();
        self.hello();
        files_are_right(self.world.farm());
    }

    fn between_jobs(&self, what: impl FnMut() -> bool + Send + 'static) {
        *self.world.farm().sweeps.between_jobs.0.lock().unwrap() = Some(Box::new(what));
    }

    /// What is here when a client asks for a build, and is needed for it or by what is built, stays, however far its
    /// removal was.
    fn asked_meanwhile(&mut self, jobs: u32, made: usize) {
        let made = made % self.graph.made.len();
        let keep = self.kept(true);
        let farm = Arc::clone(self.world.farm());
        let (runtime, submission) = (self.world.runtime.handle().clone(), self.submission(made));
        let mut left = jobs;
        let (tell, told) = std::sync::mpsc::channel();
        self.between_jobs(move || {
            if left == 0 {
                runtime.block_on(farm.submit(submission.clone())).unwrap();
                tell.send(held_items(&farm)).unwrap();
            }
            left = left.wrapping_sub(1);
            false
        });
        self.world.farm().sweep_items().unwrap();
        *self.world.farm().sweeps.between_jobs.0.lock().unwrap() = None;
        let removals = self.removals();
        let Ok(held) = told.try_recv() else {
            // It was over before.
            self.note(&keep, &removals);
            return self.publish();
        };
        self.asked.insert(made, self.today);
        // What went before that may be missed now: it will be built again.
        let (today, ttl) = (self.today, self.ttl);
        self.here.retain(|path, here| held.contains(path) || !here.went(path, &keep, today, ttl));
        let keep = self.kept(true);
        self.note(&keep, &removals);
        self.publish();
    }

    fn held_items(&self) -> BTreeSet<StorePath> {
        held_items(self.world.farm())
    }

    /// What is to go, and whether it is withdrawn.
    fn removals(&self) -> BTreeMap<StorePath, bool> {
        let removals = self.world.farm().database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT p.base, r.step = 'withdrawn' FROM removals r JOIN paths p ON p.id = r.path";
            let mut select = sql.prepare(select)?;
            let rows = select.query_map([], |row| Ok((paths::base(row, 0)?, row.get(1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        });
        removals.unwrap()
    }

    /// Outputs that are kept, worked out from the beginning.
    fn kept(&mut self, notes_need: bool) -> BTreeSet<StorePath> {
        let made = &self.graph.made;
        let outputs = |number: usize| made[number].outputs.iter().map(|(_, path)| path.clone());
        let mut roots: BTreeSet<StorePath> = BTreeSet::new();
        let mut needing: BTreeSet<usize> = BTreeSet::new();
        for (which, set) in &self.sets {
            let (revisions, days, build_inputs) = KEEPS[*which];
            for (age, revision) in set.revisions.iter().rev().enumerate() {
                let since = match (set.dropped, age < revisions) {
                    (None, true) => None,
                    (Some(dropped), true) => Some(dropped),
                    (_, false) => revision.superseded,
                };
                if since.is_some_and(|since| self.today - since >= days) {
                    continue;
                }
                for wanted in &revision.wanted {
                    roots.extend(outputs(*wanted));
                    needing.insert(*wanted);
                    if build_inputs {
                        roots.extend(self.below([*wanted].into()).into_iter().flat_map(outputs));
                    }
                }
            }
        }
        for number in self.open_builds() {
            roots.extend(outputs(number));
            roots.extend(made[number].inputs.iter().flat_map(|input| outputs(*input)));
            needing.insert(number);
        }
        for (_, number) in &self.held {
            roots.extend(outputs(*number));
            roots.extend(made[*number].inputs.iter().flat_map(|input| outputs(*input)));
        }
        let lately = self.asked.iter().filter(|(_, day)| self.today - **day < OTHERS);
        roots.extend(lately.flat_map(|(number, _)| outputs(*number)));
        let fixed: BTreeSet<StorePath> =
            (0..made.len()).filter(|number| made[*number].fixed.is_some()).flat_map(outputs).collect();
        let needed: BTreeSet<StorePath> = self.below(needing).into_iter().flat_map(outputs).collect();
        for (path, here) in &mut self.here {
            if !fixed.contains(path) {
                if self.today - here.came < OTHERS {
                    roots.insert(path.clone());
                }
                continue;
            }
            let is_needed = needed.contains(path);
            if is_needed && notes_need {
                here.needed = self.today;
            }
            if is_needed || self.today - here.came.max(here.needed) < FIXED {
                roots.insert(path.clone());
            }
        }
        // What they refer to.
        let mut kept = BTreeSet::new();
        let mut open: Vec<StorePath> = roots.into_iter().collect();
        while let Some(path) = open.pop() {
            if !self.here.contains_key(&path) || !kept.insert(path.clone()) {
                continue;
            }
            let of = self.graph.made.iter().find_map(|made| {
                let (name, _) = made.outputs.iter().find(|(_, output)| *output == path)?;
                Some(self.graph.output(made, name, 0).1)
            });
            open.extend(of.unwrap_or_default());
        }
        kept
    }

    /// These and all below them.
    fn below(&self, all: BTreeSet<usize>) -> BTreeSet<usize> {
        let mut below = all;
        for number in (0..self.graph.made.len()).rev() {
            if below.contains(&number) {
                below.extend(self.graph.made[number].inputs.iter().copied());
            }
        }
        below
    }

    fn open_builds(&self) -> Vec<usize> {
        let open = self.world.farm().database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT p.base FROM builds b JOIN paths p ON p.id = b.derivation WHERE b.id > ?1 AND \
                          b.state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed')";
            paths::bases(sql, select, 0)
        });
        let number = |path: StorePath| self.graph.made.iter().position(|made| made.path == path).unwrap();
        open.unwrap().into_iter().map(number).collect()
    }

    /// Whatever is published, all that it refers to is.
    fn check_published(&self, after: &str) {
        let farm = self.world.farm();
        let open = farm.database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT p.base FROM published u JOIN item_references r ON r.item = u.path \
                          JOIN paths p ON p.id = u.path \
                          WHERE u.path > ?1 AND NOT EXISTS (SELECT 1 FROM published v WHERE v.path = r.reference)";
            paths::bases(sql, select, 0)
        });
        assert_eq!(open.unwrap(), [], "after {after}");
    }

    /// All that the model keeps is here with its file, and nothing else has one.
    fn check_kept(&mut self, after: &str) {
        let held = self.held_items();
        for path in self.here.keys() {
            assert!(held.contains(path), "after {after}: {path} is gone");
        }
        let outputs = self.graph.made.iter().flat_map(|made| &made.outputs);
        for (_, path) in outputs {
            assert_eq!(held.contains(path), self.here.contains_key(path), "after {after}: {path}");
        }
        let farm = self.world.farm();
        let bad = farm.database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT p.base FROM paths p WHERE p.id > ?1 AND (p.provided = 1) <> EXISTS \
                          (SELECT 1 FROM items i WHERE i.path = p.id)";
            let mut bad = paths::bases(sql, select, 0)?;
            let select = "SELECT p.base FROM files f JOIN paths p ON p.id = f.item WHERE f.item > ?1 \
                          AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = f.item)";
            bad.extend(paths::bases(sql, select, 0)?);
            Ok(bad)
        });
        assert_eq!(bad.unwrap(), [], "after {after}");
    }
}

fn held_items(farm: &Farm) -> BTreeSet<StorePath> {
    let held = farm.database.read_blocking::<_, Error>(|sql| {
        let select = "SELECT p.base FROM items i JOIN paths p ON p.id = i.path WHERE i.path > ?1";
        paths::bases(sql, select, 0)
    });
    held.unwrap().into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(12), max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_kept_is_what_the_model_keeps(
        shapes in proptest::collection::vec(shape(), 2..10),
        ttl in prop_oneof![Just(0_i64), Just(2)],
        steps in proptest::collection::vec(step(), 1..60),
        interrupted in proptest::collection::vec(proptest::option::weighted(0.3, 0..12_u32), 16),
    ) {
        let mut town = Town::new(&shapes, ttl);
        for step in &steps {
            town.take(step);
        }
        // In the end only what is kept is here: after the longest time of all rules, that of what was needed until then,
        // and a look for each step of a removal.
        // On many days in a row what was announced by a look that was interrupted is due, and the rest is not.
        for jobs in interrupted.into_iter().chain([None; 8]) {
            town.days(1);
            match jobs {
                Some(jobs) => town.interrupted(jobs),
                None => town.sweep(),
            }
            town.check_published("a look in the end");
            town.check_kept("a look in the end");
        }
        files_are_right(town.world.farm());
        let keep = town.kept(false);
        for path in town.here.keys() {
            prop_assert!(keep.contains(path), "{} is still here", path);
        }
    }
}
