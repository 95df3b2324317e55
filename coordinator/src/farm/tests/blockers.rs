//! What holds a set up, held against the same by a look at each row, after every step of the random walks.

use std::collections::{BTreeMap, BTreeSet};

use drover_wire::set::BlockersQuestion;
use rusqlite::{Connection, OptionalExtension};

use super::*;

/// A set that the walks know nothing of, with a row for each derivation there is.
const PUT: &str = "INSERT INTO sets (id, name, keep, current) VALUES (1000000, 'all', 0, 1000000); \
     INSERT INTO revisions (id, in_set, name, submitted_at, rows) VALUES (1000000, 1000000, '1', 0, 0); \
     INSERT INTO set_rows (in_set, last, digest, first, derivation, target, package, version, system, priority, \
         publish, wanting) \
     SELECT 1000000, 9223372036854775807, CAST(id AS BLOB), 1000000, id, target, 'p', '1', 's', 0, 1, 0 \
     FROM derivations";
const REMOVE: &str = "DELETE FROM sets WHERE id = 1000000; DELETE FROM revisions WHERE id = 1000000; DELETE FROM set_rows WHERE in_set = 1000000";

/// Asks for the blockers of that set, and compares.
pub(super) fn check(farm: &Arc<Farm>, runtime: &Runtime, after: &str) {
    farm.database.write_blocking::<_, Error>(|tx| Ok(tx.execute_batch(PUT)?)).unwrap();
    let asked = farm.set_blockers("all".parse().unwrap(), BlockersQuestion::default());
    let answer = runtime.block_on(asked).unwrap();
    let name = |blocker: &drover_wire::set::Blocker| {
        blocker.missing_source.as_ref().unwrap_or(&blocker.derivation).base_name().to_owned()
    };
    let found: BTreeMap<String, u64> =
        answer.blockers.iter().map(|blocker| (name(blocker), blocker.holds_up)).collect();
    assert_eq!(found.len(), answer.blockers.len(), "after {after}: one is named twice");
    assert!(answer.blockers.is_sorted_by(|a, b| a.holds_up >= b.holds_up));
    let (right, rows) = farm.database.read_blocking(one_by_one).unwrap();
    farm.database.write_blocking::<_, Error>(|tx| Ok(tx.execute_batch(REMOVE)?)).unwrap();
    assert_eq!(
        (found, answer.rows, answer.count),
        (right.clone(), rows, right.len() as u64),
        "after {after}"
    );
}

fn one_by_one(sql: &Connection) -> Result<(BTreeMap<String, u64>, u64), Error> {
    let (mut all, mut rows) = (BTreeMap::new(), 0);
    for row in paths::numbers(sql, "SELECT target FROM set_rows WHERE in_set = ?1", 1_000_000)? {
        let mut found = BTreeSet::new();
        if newest(sql, row)?.is_none_or(|(_, _, state)| state != BuildState::Succeeded) {
            output(sql, row, &mut found)?;
        }
        rows += u64::from(!found.is_empty());
        for one in found {
            *all.entry(paths::path(sql, one)?.base_name().to_owned()).or_default() += 1;
        }
    }
    Ok((all, rows))
}

fn newest(sql: &Connection, target: i64) -> Result<Option<(i64, i64, BuildState)>, Error> {
    let select = "SELECT id, derivation, state FROM builds WHERE target = ?1 ORDER BY id DESC LIMIT 1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, paths::state(row, 2)?));
    Ok(sql.prepare_cached(select)?.query_row([target], read).optional()?)
}

/// What keeps an output from being built that is not there.
fn output(sql: &Connection, target: i64, found: &mut BTreeSet<i64>) -> Result<(), Error> {
    const INPUTS: &str = "SELECT m.target FROM derivation_inputs i JOIN paths p ON p.id = i.output \
         JOIN derivations m ON m.id = i.maker WHERE i.derivation = ?1 AND p.provided = 0";
    const AWAITED: &str = "SELECT m.target FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
         JOIN derivations m ON m.id = o.derivation WHERE a.build = ?1";
    match newest(sql, target)? {
        Some((build, derivation, BuildState::Waiting | BuildState::DependencyFailed)) => {
            let mut needed = paths::numbers(sql, INPUTS, derivation)?;
            needed.extend(paths::numbers(sql, AWAITED, build)?);
            for target in needed {
                output(sql, target, found)?;
            }
            sources(sql, derivation, found)?;
        }
        Some((_, _, BuildState::Ready | BuildState::Allocated | BuildState::Running)) => {}
        Some((_, derivation, _)) => {
            found.insert(derivation);
        }
        None => {
            found.extend(paths::numbers(sql, "SELECT min(id) FROM derivations WHERE target = ?1", target)?)
        }
    }
    Ok(())
}

/// The sources that keep a derivation from being added to a store.
fn sources(sql: &Connection, derivation: i64, found: &mut BTreeSet<i64>) -> Result<(), Error> {
    const OWN: &str = "SELECT path FROM derivation_sources s WHERE derivation = ?1 \
         AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = s.path)";
    found.extend(paths::numbers(sql, OWN, derivation)?);
    for maker in paths::numbers(sql, "SELECT maker FROM derivation_inputs WHERE derivation = ?1", derivation)?
    {
        sources(sql, maker, found)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(12), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_holds_a_set_up_is_counted_right_whatever_happens(steps in proptest::collection::vec(step(), 1..50)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            check(world.farm(), &world.runtime, &format!("{step:?}"));
        }
    }
}
