//! A revision of a set with one of the things that can be told about it, all of one moment.

use std::sync::Arc;

use drover_wire::set::{
    Blockers, BlockersQuestion, DiffQuestion, RevisionName, RowState, SetDetails, SetDiff, SetRef,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{Revision, blockers, diff, find, revision_name, show};
use crate::farm::error::Error;
use crate::farm::{Farm, paths};

/// How many packages are told at a time.
const PACKAGES: usize = 100;

/// What is told about a revision beside how it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetQuestion {
    /// Its packages, by name.
    Packages {
        /// Those behind this one.
        after: String,
        /// Those whose name contains this.
        name: String,
        /// Those of which something is broken.
        broken: bool,
    },
    /// What differs from the revision before.
    Changes,
    /// What holds it up.
    Blockers,
}

/// A revision of a set.
#[derive(Debug, Clone)]
pub struct SetLook {
    /// How it stands.
    pub details: SetDetails,
    /// The revision before.
    pub before: Option<RevisionName>,
    /// What was asked for.
    pub answer: SetAnswer,
}

/// The answer to a [`SetQuestion`].
#[derive(Debug, Clone)]
pub enum SetAnswer {
    /// Packages, and the last of them if there are more.
    Packages(Vec<PackageRows>, Option<String>),
    /// What differs; none if there is no revision before.
    Changes(Option<SetDiff>),
    /// What holds it up.
    Blockers(Blockers),
}

/// The rows of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageRows {
    /// Its name.
    pub package: String,
    /// Its rows.
    pub rows: Vec<PackageRow>,
}

/// A row of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageRow {
    /// The system.
    pub system: String,
    /// The cross target.
    pub target: Option<String>,
    /// How it stands.
    pub state: RowState,
}

impl Farm {
    /// A revision of a set, with what is asked about it.
    ///
    /// # Errors
    /// When there is no such set or revision.
    pub async fn look_at_set(
        self: &Arc<Self>,
        named: SetRef,
        question: SetQuestion,
    ) -> Result<SetLook, Error> {
        let turn = match question {
            SetQuestion::Blockers => Some(blockers::ONE_AT_A_TIME.lock().await),
            _ => None,
        };
        let answer = move |sql: &Connection| {
            let answer = look(sql, &named, &question);
            // Here and not outside: the work goes on when nobody waits for it any more.
            drop(turn);
            answer
        };
        self.database.read(answer).await
    }
}

fn look(sql: &Connection, named: &SetRef, question: &SetQuestion) -> Result<SetLook, Error> {
    let revision = find(sql, named)?;
    let before = before(sql, &revision)?;
    let answer = match question {
        SetQuestion::Packages { after, name, broken } => {
            let (packages, more) = packages(sql, &revision, after, name, *broken)?;
            SetAnswer::Packages(packages, more)
        }
        SetQuestion::Changes => {
            let of = |revision: RevisionName| SetRef { set: named.set.clone(), revision: Some(revision) };
            let compare = |before: RevisionName| DiffQuestion { a: of(before), b: of(revision.name.clone()) };
            let diff = before.clone().map(|before| diff::diff(sql, &compare(before))).transpose()?;
            SetAnswer::Changes(diff)
        }
        SetQuestion::Blockers => {
            SetAnswer::Blockers(blockers::blockers(sql, named, &BlockersQuestion::default())?)
        }
    };
    Ok(SetLook { details: show::details(sql, named)?, before, answer })
}

fn before(sql: &Connection, revision: &Revision) -> Result<Option<RevisionName>, Error> {
    let select = "SELECT name FROM revisions WHERE in_set = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1";
    let mut select = sql.prepare_cached(select)?;
    let name = select.query_row([revision.set, revision.id], |row| row.get(0)).optional()?;
    name.map(revision_name).transpose()
}

fn packages(
    sql: &Connection,
    revision: &Revision,
    after: &str,
    name: &str,
    broken: bool,
) -> Result<(Vec<PackageRows>, Option<String>), Error> {
    const NAMES: &str = "SELECT DISTINCT r.package FROM set_rows r \
         WHERE r.in_set = :set AND r.last >= :revision AND r.first <= :revision \
         AND r.package > :after AND (:name = '' OR instr(r.package, :name) > 0) \
         AND (NOT :broken OR r.derivation IS NULL OR (SELECT n.state FROM builds n WHERE n.target = r.target \
             ORDER BY n.id DESC LIMIT 1) IN ('failed', 'timed-out', 'dependency-failed')) \
         ORDER BY r.package LIMIT :limit";
    const ROWS: &str = "SELECT r.package, r.system, r.cross, r.version, p.base, b.uuid, b.state, r.error \
         FROM set_rows r LEFT JOIN paths p ON p.id = r.derivation LEFT JOIN builds b \
             ON b.id = (SELECT n.id FROM builds n WHERE n.target = r.target ORDER BY n.id DESC LIMIT 1) \
         WHERE r.in_set = :set AND r.last >= :revision AND r.first <= :revision \
         AND r.package BETWEEN :from AND :to ORDER BY r.package, r.version, r.system, r.cross";
    let (set, id, limit) = (revision.set, revision.id, PACKAGES as i64 + 1);
    let mut names = sql.prepare_cached(NAMES)?;
    let names = names.query_map(
        named_params! {
            ":set": set, ":revision": id, ":after": after, ":name": name, ":broken": broken, ":limit": limit,
        },
        |row| row.get(0),
    )?;
    let mut names = names.collect::<rusqlite::Result<Vec<String>>>()?;
    let more = names.len() > PACKAGES;
    names.truncate(PACKAGES);
    let (Some(from), Some(to)) = (names.first(), names.last()) else { return Ok((Vec::new(), None)) };
    let mut rows = sql.prepare_cached(ROWS)?;
    let mut rows = rows.query(named_params! { ":set": set, ":revision": id, ":from": from, ":to": to })?;
    let mut all: Vec<PackageRows> =
        names.iter().map(|name| PackageRows { package: name.clone(), rows: Vec::new() }).collect();
    while let Some(row) = rows.next()? {
        let package = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        // Between those that are told there may be others that are not.
        if let Ok(at) = names.binary_search_by(|name| name.as_str().cmp(package)) {
            if let Some(of) = all.get_mut(at) {
                of.rows.push(package_row(row)?);
            }
        }
    }
    Ok((all, names.pop().filter(|_| more)))
}

fn package_row(row: &Row<'_>) -> rusqlite::Result<PackageRow> {
    let state = paths::state_if_any(row, 6)?;
    let derivation = match row.get_ref(4)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(paths::base(row, 4)?),
    };
    Ok(PackageRow {
        system: row.get(1)?,
        target: row.get(2)?,
        state: RowState {
            version: row.get(3)?,
            derivation,
            build: state.map(|_| paths::build_id(row, 5)).transpose()?,
            state,
            error: row.get(7)?,
        },
    })
}
