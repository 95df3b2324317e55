//! What the rows of a revision need and nobody provides, as a graph, with the places in it where nothing goes on.
//!
//! It is read with a few scans of whole tables: they take a fraction of the time of a question for each derivation.

use rusqlite::Connection;

use super::Revision;
use super::reach::Graph;
use crate::database::makers;
use crate::farm::error::Error;
use crate::farm::paths;

/// Something that keeps rows from being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thing {
    /// An output: its newest build failed or was canceled, or there is none, or it is lost.
    Output,
    /// A source that nobody has uploaded: the number of its path.
    Source(i64),
}

/// The graph and what is where in it, as [`super::reach::count`] wants them.
#[derive(Debug)]
pub(super) struct Needs {
    pub(super) graph: Graph,
    /// The derivation of each node of the graph.
    pub(super) derivations: Vec<i64>,
    pub(super) things: Vec<Thing>,
    pub(super) marks: Vec<(u32, u32)>,
    pub(super) rows: Vec<(u32, u32)>,
}

/// How the newest build of a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It will not come as things are.
    Stuck,
    /// It came once.
    Succeeded,
    /// An agent has it, or could.
    GoesOn,
    /// It waits for what it needs, whether that goes on or failed.
    Waits,
}

/// What is made by one build: the outputs of a derivation, or of several that make the same.
#[derive(Debug)]
struct Made {
    standing: Standing,
    /// The derivation of its newest build; else one of them.
    derivation: i64,
    /// Whether somebody has one of its outputs, and whether nobody has another one.
    provided: bool,
    absent: bool,
    /// Where in the list of inputs those of the derivation are, if it waits.
    inputs: (usize, usize),
    /// Its derivation's number among the lacking ones.
    lacking: Option<u32>,
}

/// Numbers of something, by the number of a path. Zero is none.
#[derive(Debug)]
struct ByPath(Vec<u32>);

impl ByPath {
    fn new(sql: &Connection) -> Result<Self, Error> {
        let most: Option<i64> =
            sql.prepare_cached("SELECT max(id) FROM paths")?.query_row([], |row| row.get(0))?;
        Ok(Self(vec![0; usize::try_from(most.unwrap_or(0)).unwrap_or(0) + 1]))
    }

    fn get(&self, path: i64) -> Option<u32> {
        self.0.get(usize::try_from(path).ok()?)?.checked_sub(1)
    }

    fn set(&mut self, path: i64, number: usize) {
        let place = usize::try_from(path).ok().and_then(|path| self.0.get_mut(path));
        if let Some(place) = place {
            *place = number as u32 + 1;
        }
    }
}

/// What is read of the database, before it becomes a graph.
struct Reading {
    made: Vec<Made>,
    /// What makes a target, and of what a derivation is one of the ways.
    made_by: ByPath,
    /// Derivations that cannot be added to a store, because a source of them or of one below them is missing, and
    /// where in the list of inputs theirs are.
    lacking: Vec<(i64, (usize, usize))>,
    lacking_by: ByPath,
    /// The inputs of everything that waits or lacks: derivations, in half of their size, for there are millions.
    inputs: Vec<u32>,
}

impl Needs {
    /// Of the rows of this revision.
    pub(super) fn read(sql: &Connection, revision: &Revision) -> Result<Self, Error> {
        let mut reading = Reading {
            made: Vec::new(),
            made_by: ByPath::new(sql)?,
            lacking: Vec::new(),
            lacking_by: ByPath::new(sql)?,
            inputs: Vec::new(),
        };
        reading.builds(sql)?;
        reading.derivations(sql)?;
        reading.provided(sql)?;
        let also = reading.also_needed(sql)?;
        let graph = reading.graph(&also);
        let rows = reading.rows(sql, revision)?;
        let made = reading.made.iter().map(|made| made.derivation);
        let lacking = reading.lacking.iter().map(|(derivation, _)| *derivation);
        let derivations = made.chain(lacking).collect();
        let mut needs = Self { graph, derivations, things: Vec::new(), marks: Vec::new(), rows };
        reading.things(sql, &mut needs)?;
        Ok(needs)
    }
}

impl Reading {
    /// The newest build of each target.
    fn builds(&mut self, sql: &Connection) -> Result<(), Error> {
        let mut statement = sql.prepare_cached("SELECT target, derivation, state FROM builds ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (target, derivation) = (row.get(0)?, row.get(1)?);
            let standing = match row.get_ref(2)?.as_str().unwrap_or_default() {
                "waiting" | "dependency-failed" => Standing::Waits,
                "ready" | "allocated" | "running" => Standing::GoesOn,
                "succeeded" => Standing::Succeeded,
                _ => Standing::Stuck,
            };
            let made = self.made(target, derivation);
            (made.standing, made.derivation) = (standing, derivation);
        }
        Ok(())
    }

    /// What makes this target; new, and stuck, if there was no word of it.
    fn made(&mut self, target: i64, derivation: i64) -> &mut Made {
        let number = match self.made_by.get(target) {
            Some(number) => number as usize,
            None => {
                self.made_by.set(target, self.made.len());
                self.made.push(Made {
                    standing: Standing::Stuck,
                    derivation,
                    provided: false,
                    absent: false,
                    inputs: (0, 0),
                    lacking: None,
                });
                self.made.len() - 1
            }
        };
        &mut self.made[number]
    }

    fn derivations(&mut self, sql: &Connection) -> Result<(), Error> {
        let mut statement =
            sql.prepare_cached("SELECT id, target, lacking > 0, makers FROM derivations ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, target, lacking): (i64, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let made = self.made(target, id);
            let own = made.derivation == id;
            let waits = own && made.standing == Standing::Waits;
            let start = self.inputs.len();
            if waits || lacking {
                let column = row.get_ref(3)?.as_blob().unwrap_or_default();
                self.inputs.extend(makers::decode(column).filter_map(|input| u32::try_from(input).ok()));
            }
            let inputs = (start, self.inputs.len());
            let number = self.lacking.len();
            let made = self.made(target, id);
            if waits {
                made.inputs = inputs;
            }
            if lacking {
                if own {
                    made.lacking = Some(number as u32);
                }
                self.lacking_by.set(id, number);
                self.lacking.push((id, inputs));
            }
            if let Some(made) = self.made_by.get(target) {
                self.made_by.set(id, made as usize);
            }
        }
        Ok(())
    }

    /// Who has which outputs.
    fn provided(&mut self, sql: &Connection) -> Result<(), Error> {
        // Two scans, one after the other, take less time than to look each output up.
        let mut had = vec![false; self.made_by.0.len()];
        let mut statement = sql.prepare_cached("SELECT id FROM paths WHERE provided <> 0")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let path = usize::try_from(row.get::<_, i64>(0)?).ok();
            if let Some(had) = path.and_then(|path| had.get_mut(path)) {
                *had = true;
            }
        }
        let mut statement = sql.prepare_cached("SELECT derivation, path FROM derivation_outputs")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let made = self.made_by.get(row.get(0)?).and_then(|made| self.made.get_mut(made as usize));
            let Some(made) = made else { continue };
            let path = usize::try_from(row.get::<_, i64>(1)?).ok();
            let provided = path.and_then(|path| had.get(path)).copied().unwrap_or(false);
            if provided { made.provided = true } else { made.absent = true }
        }
        Ok(())
    }

    /// What derivations need that their lists of inputs do not say: which makes, and needs what, in the order of the
    /// former. Some outputs of a derivation may be had and others not, and then it depends on which are taken; and a
    /// build may wait for what its inputs refer to.
    fn also_needed(&self, sql: &Connection) -> Result<Vec<(u32, u32)>, Error> {
        const BY: &str = "SELECT i.derivation FROM derivation_outputs o JOIN paths p ON p.id = o.path AND p.provided = 0 \
             JOIN derivation_inputs i ON i.output = o.path WHERE o.derivation = ?1";
        const AWAITED: &str = "SELECT b.target, (SELECT d.target FROM derivation_outputs o \
                 JOIN derivations d ON d.id = o.derivation WHERE o.path = a.path LIMIT 1) \
             FROM awaited a JOIN builds b ON b.id = a.build JOIN paths p ON p.id = a.path AND p.provided = 0";
        let waits = |by: &u32| self.made[*by as usize].standing == Standing::Waits;
        let mut also = Vec::new();
        for (number, made) in self.made.iter().enumerate().filter(|(_, made)| made.provided && made.absent) {
            for by in paths::numbers(sql, BY, made.derivation)? {
                let own = |needing: &u32| self.made[*needing as usize].derivation == by;
                let needing = self.made_by.get(by).filter(waits).filter(own);
                also.extend(needing.map(|needing| (needing, number as u32)));
            }
        }
        let mut statement = sql.prepare_cached(AWAITED)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(needed) = row.get::<_, Option<i64>>(1)? else { continue };
            also.extend(self.made_by.get(row.get(0)?).filter(waits).zip(self.made_by.get(needed)));
        }
        also.sort_unstable();
        Ok(also)
    }

    /// First what is made, which needs what is not provided and its derivation to lack nothing; then the derivations
    /// that lack something, which need those below them that do.
    fn graph(&self, also: &[(u32, u32)]) -> Graph {
        let mut graph = Graph::default();
        let mut also = also.iter().peekable();
        for (number, made) in self.made.iter().enumerate() {
            let mut needs = Vec::new();
            while let Some((_, needed)) = also.next_if(|(by, _)| *by as usize == number) {
                needs.push(*needed);
            }
            if made.standing == Standing::Waits {
                let absent = |input: &u32| {
                    let input = &self.made[*input as usize];
                    input.absent && !input.provided && input.standing != Standing::GoesOn
                };
                needs.extend(self.inputs(made.inputs, &self.made_by).filter(absent));
                needs.extend(made.lacking.map(|number| self.lacking_node(number)));
            }
            graph.add(needs);
        }
        for (_, inputs) in &self.lacking {
            let below = self.inputs(*inputs, &self.lacking_by);
            graph.add(below.map(|number| self.lacking_node(number)));
        }
        graph
    }

    /// Those of these inputs that have a number, by it.
    fn inputs<'a>(&'a self, (start, end): (usize, usize), by: &'a ByPath) -> impl Iterator<Item = u32> + 'a {
        self.inputs[start..end].iter().filter_map(|input| by.get(i64::from(*input)))
    }

    fn lacking_node(&self, number: u32) -> u32 {
        self.made.len() as u32 + number
    }

    /// What is stuck, and the sources that are missing, with the nodes at which they are.
    fn things(&self, sql: &Connection, needs: &mut Needs) -> Result<(), Error> {
        const SOURCES: &str = "SELECT m.path, s.derivation FROM missing_sources m \
             JOIN derivation_sources s ON s.path = m.path ORDER BY m.path, s.derivation";
        let Needs { things, marks, .. } = needs;
        for (number, made) in self.made.iter().enumerate() {
            // What succeeded and was lost is missing where it is needed; a row has had it.
            if matches!(made.standing, Standing::Stuck | Standing::Succeeded) {
                marks.push((number as u32, things.len() as u32));
                things.push(Thing::Output);
            }
        }
        let mut statement = sql.prepare_cached(SOURCES)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let source = Thing::Source(row.get(0)?);
            let Some(lacking) = self.lacking_by.get(row.get(1)?) else { continue };
            if things.last() != Some(&source) {
                things.push(source);
            }
            marks.push((self.lacking_node(lacking), things.len() as u32 - 1));
        }
        Ok(())
    }

    /// The rows that are not built.
    fn rows(&self, sql: &Connection, revision: &Revision) -> Result<Vec<(u32, u32)>, Error> {
        let select = "SELECT target FROM set_rows \
             WHERE in_set = ?1 AND last >= ?2 AND first <= ?2 AND target IS NOT NULL";
        let mut counts = vec![0; self.made.len()];
        let mut statement = sql.prepare_cached(select)?;
        let mut rows = statement.query([revision.set, revision.id])?;
        while let Some(row) = rows.next()? {
            if let Some(made) = self.made_by.get(row.get(0)?) {
                counts[made as usize] += 1;
            }
        }
        let wanted = counts.into_iter().enumerate().zip(&self.made);
        Ok(wanted
            .filter(|((_, count), made)| *count > 0 && made.standing != Standing::Succeeded)
            .map(|((number, count), _)| (number as u32, count))
            .collect())
    }
}
