//! Who wants a build, and how much: clients that asked for it, rows of sets, and what waits for it. Its priority is
//! the highest of these, and one that nobody wants is canceled unless it has started.
//!
//! Wishes that come are seen to by [`super::plan`]; here is what happens when some go.

use std::collections::HashMap;

use drover_wire::{BuildState, LeaseId};
use rusqlite::OptionalExtension;

use super::change::Change;
use super::error::Error;
use super::events::{self, Kind, Subject};
use super::{Tx, depend, now, open_states, paths, plan, sql, unsql};

const NOBODY: &str = "nobody wants it any more";

/// Sees what became of the wishes for the builds of these targets, some of which have gone: priorities fall back to
/// what those that are left ask for, and what nobody wants is canceled, all the way down. Gives how many were.
pub(super) fn gone(tx: &mut Tx<'_>, targets: impl IntoIterator<Item = i64>) -> Result<u64, Error> {
    let mut fall = Fall::default();
    for target in targets {
        fall.start(tx, target)?;
    }
    fall.run(tx)
}

/// As [`gone`], for what a build that has ended still waited for.
pub(super) fn gone_below(tx: &mut Tx<'_>, build: i64) -> Result<u64, Error> {
    let derivation: i64 = tx
        .prepare_cached("SELECT derivation FROM builds WHERE id = ?1")?
        .query_row([build], |row| row.get(0))?;
    let below = below(tx, build, derivation)?;
    gone(tx, below)
}

/// The builds whose wishes may have become fewer.
#[derive(Default)]
struct Fall {
    nodes: Vec<Node>,
    /// Where in `nodes` a build is; none: it is known not to be touched.
    known: HashMap<i64, Option<usize>>,
}

struct Node {
    build: i64,
    state: BuildState,
    had: i64,
    /// The highest wish for it that is known so far.
    wish: Option<i64>,
    below: Vec<usize>,
    /// How many nodes wait for it whose own wishes are not known yet.
    above: usize,
}

impl Fall {
    /// Takes up the open build of a target, and all below it that may fall with it.
    fn start(&mut self, tx: &Tx<'_>, target: i64) -> Result<(), Error> {
        let mut open = Vec::new();
        open.extend(self.enter(tx, target)?.filter(|(_, new)| *new).map(|(node, _)| node));
        while let Some(node) = open.pop() {
            let (build, derivation) = (self.nodes[node].build, derivation_of(tx, self.nodes[node].build)?);
            for target in below(tx, build, derivation)? {
                let Some((input, new)) = self.enter(tx, target)? else { continue };
                self.nodes[node].below.push(input);
                self.nodes[input].above += 1;
                if new {
                    open.push(input);
                }
            }
        }
        Ok(())
    }

    /// The node of the open build of a target, and whether it is new here; none if there is no such build, or its
    /// own wishes hold it where it is.
    fn enter(&mut self, tx: &Tx<'_>, target: i64) -> Result<Option<(usize, bool)>, Error> {
        const OPEN: &str = concat!(
            "SELECT id, state, priority, asked FROM builds WHERE target = ?1 AND state IN ",
            open_states!()
        );
        type Columns = (i64, BuildState, i64, Option<i64>);
        let found: Option<Columns> = tx
            .prepare_cached(OPEN)?
            .query_row([target], |row| Ok((row.get(0)?, paths::state(row, 1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((build, state, had, asked)) = found else { return Ok(None) };
        if let Some(known) = self.known.get(&build) {
            return Ok(known.map(|node| (node, false)));
        }
        let own = asked.max(row_wish(tx, target)?);
        if own.is_some_and(|own| own >= had) {
            self.known.insert(build, None);
            return Ok(None);
        }
        let node = self.nodes.len();
        self.nodes.push(Node { build, state, had, wish: own, below: Vec::new(), above: 0 });
        self.known.insert(build, Some(node));
        Ok(Some((node, true)))
    }

    /// From the top to the bottom, each after all that wait for it.
    fn run(mut self, tx: &mut Tx<'_>) -> Result<u64, Error> {
        let mut canceled = 0;
        let mut next: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].above == 0).collect();
        while let Some(node) = next.pop() {
            let Node { build, state, had, wish, .. } = self.nodes[node];
            let wish = match wish {
                Some(wish) if wish >= had => Some(wish),
                _ => wish.max(self.wish_from_outside(tx, build, had)?),
            };
            match wish {
                Some(wish) if wish < had => {
                    tx.prepare_cached("UPDATE builds SET priority = ?2 WHERE id = ?1")?
                        .execute([build, wish])?;
                }
                // What runs ends by itself; its inputs are there.
                None if state != BuildState::Running => {
                    cancel(tx, build, state)?;
                    canceled += 1;
                }
                _ => {}
            }
            // What runs and nobody wants waits for nothing in vain.
            let passed = if state == BuildState::Running { wish.or(Some(had)) } else { wish };
            for input in std::mem::take(&mut self.nodes[node].below) {
                let input_node = &mut self.nodes[input];
                input_node.wish = input_node.wish.max(passed);
                input_node.above -= 1;
                if input_node.above == 0 {
                    next.push(input);
                }
            }
        }
        Ok(canceled)
    }

    /// What open builds wish that are not nodes; as much as it had is enough.
    fn wish_from_outside(&self, tx: &Tx<'_>, build: i64, had: i64) -> Result<Option<i64>, Error> {
        let is_node = |build: i64| matches!(self.known.get(&build), Some(Some(_)));
        depend::highest_above(tx, build, had, |above| !is_node(above))
    }
}

/// The highest priority of the rows of sets that want a target.
pub(super) fn row_wish(tx: &Tx<'_>, target: i64) -> Result<Option<i64>, Error> {
    let select =
        "SELECT max(priority) FROM set_rows WHERE target = ?1 AND wanting = 1 AND target IS NOT NULL";
    Ok(tx.prepare_cached(select)?.query_row([target], |row| row.get(0))?)
}

/// Gives a new build as much time as the rows that want it do, whoever it is made for now.
pub(super) fn allow_as_rows(tx: &Tx<'_>, build: i64) -> Result<(), Error> {
    let update = "UPDATE builds SET (timeout, max_silent_time) = \
                  (SELECT max(r.timeout), max(r.max_silent_time) FROM set_rows r \
                   WHERE r.target = builds.target AND r.wanting = 1 AND r.target IS NOT NULL) WHERE id = ?1";
    tx.prepare_cached(update)?.execute([build])?;
    Ok(())
}

fn derivation_of(tx: &Tx<'_>, build: i64) -> Result<i64, Error> {
    let select = "SELECT derivation FROM builds WHERE id = ?1";
    Ok(tx.prepare_cached(select)?.query_row([build], |row| row.get(0))?)
}

/// The targets that a build waits for.
fn below(tx: &Tx<'_>, build: i64, derivation: i64) -> Result<Vec<i64>, Error> {
    let awaited = "SELECT DISTINCT d.target FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
                   JOIN derivations d ON d.id = o.derivation WHERE a.build = ?1";
    let mut targets = paths::numbers(tx, awaited, build)?;
    for maker in plan::missing_inputs(tx, derivation)? {
        targets.push(plan::target_of(tx, maker)?);
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

/// Cancels a build that nobody wants: so nothing waits for it.
fn cancel(tx: &mut Tx<'_>, build: i64, state: BuildState) -> Result<(), Error> {
    let id = tx
        .prepare_cached(
            "UPDATE builds SET state = 'canceled', why = ?2, ended_at = ?3, failed_dependency = NULL \
             WHERE id = ?1 RETURNING uuid",
        )?
        .query_row((build, NOBODY, sql(now())), |row| paths::build_id(row, 0))?;
    tx.prepare_cached("DELETE FROM awaited WHERE build = ?1")?.execute([build])?;
    tx.prepare_cached("DELETE FROM avoided WHERE build = ?1")?.execute([build])?;
    if state == BuildState::Allocated {
        let lease: Option<i64> = tx
            .prepare_cached("SELECT lease FROM attempts WHERE build = ?1 AND ended_at IS NULL")?
            .query_row([build], |row| row.get(0))
            .optional()?;
        if let Some(lease) = lease {
            tx.note(Change::Canceled(LeaseId(unsql(lease))));
        }
    }
    // Whoever waited for a build that had failed with its dependency was told so then.
    if state != BuildState::DependencyFailed {
        tx.note(Change::Ended(id));
    }
    events::note(tx, Kind::BuildCanceled, Subject::Build(build), None)
}
