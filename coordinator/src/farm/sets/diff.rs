//! What differs between two revisions.

use std::collections::{BTreeMap, HashSet};

use drover_store::StorePath;
use drover_wire::rows::Digest;
use drover_wire::set::{DiffQuestion, Difference, DifferenceKind, RowState, SetDiff, SetRef};
use drover_wire::{BuildId, BuildState};
use rusqlite::{Connection, Row};

use super::pair::{self, Pair};
use super::{Revision, find};
use crate::farm::error::Error;
use crate::farm::{Farm, paths};

impl Farm {
    /// Compares two revisions, of one set or of two.
    ///
    /// # Errors
    /// When one of them is not known.
    pub async fn set_diff(&self, question: DiffQuestion) -> Result<SetDiff, Error> {
        self.database.read(move |sql| diff(sql, &question)).await
    }
}

/// A row of one of them, as far as it is compared and shown.
#[derive(Debug)]
struct Side {
    digest: Digest,
    package: String,
    version: String,
    system: String,
    target: Option<String>,
    /// Its number; none: it could not be evaluated.
    derivation: Option<i64>,
    build: Option<BuildId>,
    state: Option<BuildState>,
    error: Option<String>,
}

/// Whether the output of a row is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Whole,
    Broken,
    Unknown,
}

impl Health {
    fn of(evaluated: bool, state: Option<BuildState>) -> Self {
        match state {
            _ if !evaluated => Self::Broken,
            Some(BuildState::Succeeded) => Self::Whole,
            Some(BuildState::Failed | BuildState::TimedOut | BuildState::DependencyFailed) => Self::Broken,
            _ => Self::Unknown,
        }
    }
}

fn health(row: &Row<'_>) -> rusqlite::Result<Health> {
    let derivation: Option<i64> = row.get(DERIVATION)?;
    Ok(Health::of(derivation.is_some(), paths::state_if_any(row, STATE)?))
}

pub(super) fn diff(sql: &Connection, question: &DiffQuestion) -> Result<SetDiff, Error> {
    let (a, b) = (find(sql, &question.a)?, find(sql, &question.b)?);
    let (in_a, in_b) = if a.set == b.set {
        (Common::Kept(a.id), Common::Kept(b.id))
    } else {
        (Common::Among(digests(sql, &a)?), Common::Among(digests(sql, &b)?))
    };
    let mut changes = Changes { sql, all: Vec::new(), same: 0 };
    let mut before = Vec::new();
    each(sql, &a, |row| {
        if !in_b.has(row)? {
            before.push(side(row)?);
        } else if health(row)? == Health::Broken {
            let side = side(row)?;
            changes.push(DifferenceKind::StillBroken, Some(&side), Some(&side))?;
        } else {
            changes.same += 1;
        }
        Ok(())
    })?;
    let mut after = Vec::new();
    each(sql, &b, |row| {
        if !in_a.has(row)? {
            after.push(side(row)?);
        }
        Ok(())
    })?;
    for Pair { before, after } in pair::pairs(before, after) {
        changes.pair(before.as_ref(), after.as_ref())?;
    }
    changes.all.sort_by(|one, other| order(one).cmp(&order(other)));
    let mut counts = BTreeMap::new();
    for change in &changes.all {
        *counts.entry(change.kind).or_default() += 1;
    }
    let named = |revision: Revision| SetRef { set: revision.set_name, revision: Some(revision.name) };
    Ok(SetDiff { a: named(a), b: named(b), changes: changes.all, counts, same: changes.same })
}

type Order<'d> = (&'d str, &'d str, Option<&'d str>, Option<&'d str>);

fn order(of: &Difference) -> Order<'_> {
    let version = of.after.as_ref().or(of.before.as_ref()).map(|state| &*state.version);
    (&of.package, &of.system, of.target.as_deref(), version)
}

/// How it is seen whether a row of one revision is in the other one, too.
enum Common {
    /// They are of one set, and a row is kept once: by the other's number. (One that went and came back is found
    /// later.)
    Kept(i64),
    /// By all that the other's rows say.
    Among(HashSet<Digest>),
}

impl Common {
    fn has(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        Ok(match self {
            Self::Kept(revision) => (row.get(FIRST)?..=row.get(LAST)?).contains(revision),
            Self::Among(digests) => digests.contains(&row.get::<_, Digest>(DIGEST)?),
        })
    }
}

fn digests(sql: &Connection, revision: &Revision) -> Result<HashSet<Digest>, Error> {
    let select = "SELECT digest FROM set_rows WHERE in_set = ?1 AND last >= ?2 AND first <= ?2";
    let mut statement = sql.prepare_cached(select)?;
    let rows = statement.query_map([revision.set, revision.id], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Columns of [`each`].
const DIGEST: usize = 0;
const FIRST: usize = 1;
const LAST: usize = 2;
const DERIVATION: usize = 7;
const STATE: usize = 9;

/// The rows of a revision with their newest builds.
fn each(
    sql: &Connection,
    revision: &Revision,
    mut row: impl FnMut(&Row<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    const ROWS: &str = "SELECT r.digest, r.first, r.last, r.package, r.version, r.system, r.cross, r.derivation, \
             b.uuid, b.state, r.error \
         FROM set_rows r LEFT JOIN builds b \
             ON b.id = (SELECT n.id FROM builds n WHERE n.target = r.target ORDER BY n.id DESC LIMIT 1) \
         WHERE r.in_set = ?1 AND r.last >= ?2 AND r.first <= ?2";
    let mut statement = sql.prepare_cached(ROWS)?;
    let mut rows = statement.query([revision.set, revision.id])?;
    while let Some(next) = rows.next()? {
        row(next)?;
    }
    Ok(())
}

fn side(row: &Row<'_>) -> rusqlite::Result<Side> {
    let state = paths::state_if_any(row, STATE)?;
    Ok(Side {
        digest: row.get(DIGEST)?,
        package: row.get(3)?,
        version: row.get(4)?,
        system: row.get(5)?,
        target: row.get(6)?,
        derivation: row.get(DERIVATION)?,
        build: state.map(|_| paths::build_id(row, 8)).transpose()?,
        state,
        error: row.get(10)?,
    })
}

impl pair::Item for Side {
    type Digest = Digest;

    fn group(&self) -> (&str, &str, Option<&str>) {
        (&self.package, &self.system, self.target.as_deref())
    }

    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn derivation(&self) -> Option<i64> {
        self.derivation
    }

    fn version(&self) -> &str {
        &self.version
    }
}

impl Side {
    fn health(&self) -> Health {
        Health::of(self.derivation.is_some(), self.state)
    }
}

/// What was found to differ.
struct Changes<'c> {
    sql: &'c Connection,
    all: Vec<Difference>,
    same: u64,
}

impl Changes<'_> {
    fn pair(&mut self, before: Option<&Side>, after: Option<&Side>) -> Result<(), Error> {
        let kind = match (before, after) {
            (None, _) => DifferenceKind::New,
            (_, None) => DifferenceKind::Gone,
            (Some(a), Some(b)) => match (a.health(), b.health()) {
                (Health::Whole, Health::Broken) => DifferenceKind::NewlyBroken,
                (Health::Broken, Health::Whole) => DifferenceKind::Fixed,
                (Health::Broken, Health::Broken) => DifferenceKind::StillBroken,
                (Health::Unknown, Health::Broken) => DifferenceKind::Broken,
                _ if a.digest == b.digest => {
                    self.same += 1;
                    return Ok(());
                }
                _ => DifferenceKind::Changed,
            },
        };
        self.push(kind, before, after)
    }

    fn push(
        &mut self,
        kind: DifferenceKind,
        before: Option<&Side>,
        after: Option<&Side>,
    ) -> Result<(), Error> {
        let Some(side) = after.or(before) else { return Ok(()) };
        let (package, system) = (side.package.clone(), side.system.clone());
        let target = side.target.clone();
        let before = before.map(|side| self.state(side)).transpose()?;
        let after = after.map(|side| self.state(side)).transpose()?;
        self.all.push(Difference { kind, package, system, target, before, after });
        Ok(())
    }

    fn state(&self, side: &Side) -> Result<RowState, Error> {
        let path = |id| paths::path(self.sql, id);
        let derivation: Option<StorePath> = side.derivation.map(path).transpose()?;
        Ok(RowState {
            version: side.version.clone(),
            derivation,
            build: side.build,
            state: side.state,
            error: side.error.clone(),
        })
    }
}
