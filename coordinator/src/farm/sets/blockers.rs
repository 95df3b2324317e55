//! What holds a set up.

use std::cmp::Reverse;

use drover_store::StorePath;
use drover_wire::set::{Blocker, Blockers, BlockersQuestion, SetRef};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Mutex;

use super::needs::{Needs, Thing};
use super::{find, reach};
use crate::farm::error::Error;
use crate::farm::{Farm, paths};

/// How many are named, unless somebody asks for another number, and how many at most.
const NAMED: u32 = 100;
const NAMED_MAX: u32 = 10_000;
/// One answer is made at a time: each takes some tens of megabytes in a large farm.
pub(super) static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

impl Farm {
    /// The failed and missing derivations below a revision, by how many of its rows they hold up.
    ///
    /// # Errors
    /// When there is no such set or revision.
    pub async fn set_blockers(&self, named: SetRef, question: BlockersQuestion) -> Result<Blockers, Error> {
        let turn = ONE_AT_A_TIME.lock().await;
        let answer = move |sql: &Connection| {
            let answer = blockers(sql, &named, &question);
            // Here and not outside: the work goes on when nobody waits for it any more.
            drop(turn);
            answer
        };
        self.database.read(answer).await
    }
}

pub(super) fn blockers(
    sql: &Connection,
    named: &SetRef,
    question: &BlockersQuestion,
) -> Result<Blockers, Error> {
    let revision = find(sql, named)?;
    let needs = Needs::read(sql, &revision)?;
    let counts = reach::count(&needs.graph, needs.things.len(), &needs.marks, &needs.rows);
    let all = counts.by_thing.into_iter().zip(counts.at).zip(needs.things);
    let mut held: Vec<(u64, u32, Thing)> =
        all.filter_map(|((rows, at), thing)| Some((rows, at?, thing))).collect();
    let count = held.len() as u64;
    held.sort_by_key(|(rows, at, _)| (Reverse(*rows), *at));
    held.truncate(question.limit.unwrap_or(NAMED).min(NAMED_MAX) as usize);
    let blockers = held
        .into_iter()
        .map(|(holds_up, at, thing)| blocker(sql, needs.derivations[at as usize], thing, holds_up));
    Ok(Blockers {
        set: revision.set_name,
        revision: revision.name,
        blockers: blockers.collect::<Result<_, _>>()?,
        count,
        rows: counts.rows,
    })
}

fn blocker(sql: &Connection, derivation: i64, thing: Thing, holds_up: u64) -> Result<Blocker, Error> {
    const NEWEST: &str = "SELECT uuid, state FROM builds \
         WHERE target = (SELECT target FROM derivations WHERE id = ?1) ORDER BY id DESC LIMIT 1";
    const SYSTEM: &str = "SELECT p.base, s.name FROM derivations d JOIN paths p ON p.id = d.id JOIN platforms s ON s.id = d.system \
         WHERE d.id = ?1";
    let (path, system): (StorePath, String) =
        sql.prepare_cached(SYSTEM)?.query_row([derivation], |row| Ok((paths::base(row, 0)?, row.get(1)?)))?;
    let newest = sql
        .prepare_cached(NEWEST)?
        .query_row([derivation], |row| Ok((paths::build_id(row, 0)?, paths::state(row, 1)?)))
        .optional()?;
    let missing_source = match thing {
        Thing::Output => None,
        Thing::Source(source) => Some(paths::path(sql, source)?),
    };
    Ok(Blocker {
        derivation: path,
        system,
        build: newest.map(|(build, _)| build),
        state: newest.map(|(_, state)| state),
        missing_source,
        holds_up,
    })
}
