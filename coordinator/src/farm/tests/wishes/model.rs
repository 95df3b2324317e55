//! Who wants which build, and how much: worked out again from the beginning, by hand, out of what clients and sets
//! asked for. Nothing of it is taken from the columns that the farm keeps for the purpose.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use drover_store::StorePath;
use drover_wire::{BuildId, BuildState};

use crate::farm::error::Error;
use crate::farm::tests::chaos::graph::{Graph, Made};
use crate::farm::{Farm, paths};

/// A build as the farm has it.
#[derive(Debug, Clone)]
pub(super) struct Build {
    pub(super) id: BuildId,
    /// The derivation's place in the graph.
    pub(super) made: usize,
    pub(super) state: BuildState,
    pub(super) priority: i64,
    /// How many that failed it follows.
    pub(super) retries: u32,
    awaited: HashSet<StorePath>,
}

impl Build {
    pub(super) fn is_open(&self) -> bool {
        !self.state.is_final() || self.state == BuildState::DependencyFailed
    }
}

/// How things stand, as far as wishes do not matter.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The oldest first.
    pub(super) builds: Vec<Build>,
    provided: HashSet<StorePath>,
    held: HashSet<StorePath>,
}

impl Facts {
    pub(super) fn of(farm: &Farm, graph: &Graph) -> Self {
        let facts = farm.database.read_blocking::<_, Error>(|sql| {
            let mut facts = Self::default();
            let mut awaited: HashMap<i64, HashSet<StorePath>> = HashMap::new();
            let mut select =
                sql.prepare("SELECT a.build, p.base FROM awaited a JOIN paths p ON p.id = a.path")?;
            for row in select.query_map([], |row| Ok((row.get::<_, i64>(0)?, paths::base(row, 1)?)))? {
                let (build, path) = row?;
                awaited.entry(build).or_default().insert(path);
            }
            let mut select = sql.prepare(
                "SELECT b.id, b.uuid, p.base, b.state, b.priority, b.retries FROM builds b \
                 JOIN paths p ON p.id = b.derivation ORDER BY b.id",
            )?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let derivation = paths::base(row, 2)?;
                facts.builds.push(Build {
                    id: paths::build_id(row, 1)?,
                    made: graph.made.iter().position(|made| made.path == derivation).unwrap(),
                    state: paths::state(row, 3)?,
                    priority: row.get(4)?,
                    retries: row.get(5)?,
                    awaited: awaited.remove(&row.get(0)?).unwrap_or_default(),
                });
            }
            let mut select = sql.prepare("SELECT base FROM paths WHERE provided <> 0")?;
            let provided = select.query_map([], |row| paths::base(row, 0))?;
            facts.provided = provided.collect::<rusqlite::Result<_>>()?;
            let mut select = sql.prepare("SELECT base FROM paths WHERE provided = 1")?;
            let held = select.query_map([], |row| paths::base(row, 0))?;
            facts.held = held.collect::<rusqlite::Result<_>>()?;
            Ok(facts)
        });
        facts.unwrap()
    }

    pub(super) fn state(&self, build: BuildId) -> Option<BuildState> {
        self.builds.iter().find(|other| other.id == build).map(|build| build.state)
    }

    /// Whether all that a derivation makes is here.
    pub(super) fn is_held(&self, graph: &Graph, made: usize) -> bool {
        graph.made[made].outputs.iter().all(|(_, path)| self.held.contains(path))
    }

    /// The build before this one, of the same.
    pub(super) fn before(&self, graph: &Graph, build: &Build) -> Option<&Build> {
        let earlier = self.builds.iter().take_while(|other| other.id != build.id);
        earlier.filter(|other| same(&graph.made[other.made], &graph.made[build.made])).last()
    }

    /// The newest build of what this derivation makes.
    pub(super) fn newest(&self, graph: &Graph, made: usize) -> Option<&Build> {
        self.builds.iter().rev().find(|build| same(&graph.made[build.made], &graph.made[made]))
    }

    /// Whether one build needs something that nobody has and that the other would make.
    fn waits_for(&self, graph: &Graph, above: &Build, below: &Build) -> bool {
        let inputs = &graph.made[above.made].inputs;
        let needs = |path: &StorePath| {
            above.awaited.contains(path)
                || inputs.iter().any(|input| graph.made[*input].outputs.iter().any(|(_, made)| made == path))
        };
        let outputs = &graph.made[below.made].outputs;
        outputs.iter().any(|(_, path)| !self.provided.contains(path) && needs(path))
    }
}

/// Whether two derivations make the same.
fn same(one: &Made, other: &Made) -> bool {
    one.outputs[0].1 == other.outputs[0].1
}

/// A set as its submissions have left it.
#[derive(Debug, Default, Clone)]
pub(super) struct Set {
    pub(super) keep: bool,
    /// What the current revision wants, and with which priority.
    pub(super) current: BTreeMap<usize, i64>,
    /// What superseded revisions wanted and is kept.
    kept: Vec<(usize, i64)>,
}

impl Set {
    /// A new revision takes the place of the current one.
    pub(super) fn supersede(&mut self, rows: BTreeMap<usize, i64>, keep: Option<bool>) {
        self.keep = keep.unwrap_or(self.keep);
        let before = std::mem::replace(&mut self.current, rows);
        let gone = before.into_iter().filter(|(made, priority)| self.current.get(made) != Some(priority));
        self.kept.extend(gone);
        if !self.keep {
            self.kept.clear();
        }
    }
}

/// Everything that was ever asked for and not taken back.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Of clients, for builds.
    pub(super) asked: HashMap<BuildId, i64>,
    pub(super) sets: BTreeMap<&'static str, Set>,
    /// Builds that a client canceled.
    pub(super) canceled: BTreeSet<BuildId>,
}

impl Wishes {
    pub(super) fn ask(&mut self, build: BuildId, priority: i64) {
        let asked = self.asked.entry(build).or_insert(priority);
        *asked = priority.max(*asked);
    }

    /// What takes the place of a build that failed is wanted by those who asked for that.
    pub(super) fn passes_to(&mut self, failed: BuildId, new: BuildId) {
        if let Some(asked) = self.asked.get(&failed).copied() {
            self.asked.insert(new, asked);
        }
    }

    /// The highest wish of a client or of a set.
    fn own(&self, graph: &Graph, build: &Build) -> Option<i64> {
        let rows = self.sets.values().flat_map(|set| {
            set.current.iter().map(|(made, priority)| (*made, *priority)).chain(set.kept.iter().copied())
        });
        let for_it = rows.filter(|(made, _)| same(&graph.made[*made], &graph.made[build.made]));
        for_it.map(|(_, priority)| priority).chain(self.asked.get(&build.id).copied()).max()
    }

    /// For each open build the highest wish for it, of a client, a set, or what waits for it.
    pub(super) fn all(&self, graph: &Graph, facts: &Facts) -> HashMap<BuildId, Option<i64>> {
        let mut open: Vec<&Build> = facts.builds.iter().filter(|build| build.is_open()).collect();
        // From the top to the bottom. What is fixed has no inputs, and a twin that others may need instead of it.
        open.sort_by_key(|build| {
            let made = &graph.made[build.made];
            std::cmp::Reverse(if made.fixed.is_some() { 0 } else { build.made + 1 })
        });
        let mut wishes: HashMap<BuildId, Option<i64>> = HashMap::new();
        for (place, build) in open.iter().enumerate() {
            let above = open[..place].iter().filter(|above| facts.waits_for(graph, above, build));
            let inherited = above.filter_map(|above| passed_on(above, wishes[&above.id]));
            let wish = inherited.chain(self.own(graph, build)).max();
            wishes.insert(build.id, wish);
        }
        wishes
    }

    /// What this build, which may have ended, would be wanted with if it were open.
    pub(super) fn would_be(&self, graph: &Graph, facts: &Facts, build: &Build) -> Option<i64> {
        let wishes = self.all(graph, facts);
        let above = facts.builds.iter().filter(|above| above.is_open());
        let above = above.filter(|above| facts.waits_for(graph, above, build));
        let inherited = above.filter_map(|above| passed_on(above, wishes[&above.id]));
        inherited.chain(self.own(graph, build)).max()
    }
}

/// What a build asks of those that it waits for. One that runs goes on although nobody wants it any more.
fn passed_on(above: &Build, wish: Option<i64>) -> Option<i64> {
    wish.or_else(|| (above.state == BuildState::Running).then_some(above.priority))
}
