//! Derivations that nothing needs any more, and the sources that only they named.
//!
//! Whether something needs a derivation is found from the top down: what a build, a row of a set or the deriver of an
//! item names is needed, and so is all below it. What is not gets a row in `idle`, and goes when it has had that for
//! long enough, from the top down, each after one more look at what names it. Who asks what there is to be uploaded
//! hears that what is idle is not here, so that it is uploaded again before it is spoken of.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use drover_wire::Timestamp;
use rusqlite::Connection;

use super::super::depend::{self, Provided};
use super::super::error::Error;
use super::super::{Farm, Tx, files, paths, retention, sql};
use super::{Aged, Numbers, Went, newest_revision};
use crate::database::makers;

/// Rows that are looked at in one read: none should last so long that the database's log cannot be brought back.
const SLICE: i64 = 20_000;
const BATCH: usize = 500;
/// The most sources that go in one run.
const SOURCES: i64 = 100_000;

/// What was found by looking through all derivations.
#[derive(Debug, Default)]
struct Found {
    /// The newest revision when rows were looked at.
    revision: i64,
    /// Derivations that rows of sets name.
    rows: Numbers,
    needed: Numbers,
    /// All that there are.
    all: Numbers,
}

impl Farm {
    /// Notes which derivations nothing needs, and removes those, and sources, for which that was noted before.
    pub(super) fn age_derivations(
        &self,
        at: Timestamp,
        before: Option<Timestamp>,
        aged: &mut Aged,
    ) -> Result<(), Error> {
        let Some(before) = before else { return Ok(()) };
        let Some(found) = self.find_needed()? else { return Ok(()) };
        self.note_idle(at, &found)?;
        self.remove_derivations(at, before, found, &mut aged.derivations)?;
        self.remove_sources(before, &mut aged.sources)
    }

    /// None: the coordinator stops.
    fn find_needed(&self) -> Result<Option<Found>, Error> {
        let mut found = Found::default();
        self.database.read_blocking(|sql| find_rows(sql, &mut found))?;
        const ROOTS: [&str; 2] = [
            "SELECT derivation, derivation FROM builds WHERE derivation > ?1 ORDER BY derivation LIMIT ?2",
            "SELECT path, deriver FROM items WHERE path > ?1 ORDER BY path LIMIT ?2",
        ];
        for select in ROOTS {
            let mut after = Some(0);
            while let Some(last) = after {
                if !self.ages_on() {
                    return Ok(None);
                }
                after =
                    self.database.read_blocking(|sql| find_roots(sql, select, last, &mut found.needed))?;
            }
        }
        let mut below = Some(i64::MAX);
        while let Some(last) = below {
            if !self.ages_on() {
                return Ok(None);
            }
            below = self.database.read_blocking(|sql| find_below(sql, last, &mut found))?;
        }
        Ok(Some(found))
    }

    /// Writes down what is idle from now on, and forgets what is not any more.
    fn note_idle(&self, at: Timestamp, found: &Found) -> Result<(), Error> {
        let mut noted = Numbers::default();
        let mut again = Vec::new();
        self.database.read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare_cached("SELECT path FROM idle")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let path = row.get(0)?;
                noted.add(path);
                if found.needed.has(path) {
                    again.push(path);
                }
            }
            Ok(())
        })?;
        let idle = |derivation: &i64| !found.needed.has(*derivation) && !noted.has(*derivation);
        let new: Vec<i64> = found.all.descending().filter(idle).collect();
        for (some, statement) in [
            (again, "DELETE FROM idle WHERE path = ?1 AND ?2 > 0"),
            (new, "INSERT OR IGNORE INTO idle VALUES (?1, ?2)"),
        ] {
            let mut rest = some;
            while !rest.is_empty() && self.ages_on() {
                let (_, left) = self.batch(rest, move |tx, path| {
                    tx.prepare_cached(statement)?.execute([*path, sql(at)])?;
                    Ok(Went::Gone)
                })?;
                rest = left;
            }
        }
        Ok(())
    }

    /// Removes derivations that were idle before: those that others name after these.
    fn remove_derivations(
        &self,
        at: Timestamp,
        before: Timestamp,
        mut found: Found,
        gone: &mut u64,
    ) -> Result<(), Error> {
        let mut below = i64::MAX;
        while self.ages_on() {
            let some = self.database.read_blocking::<_, Error>(|sql_| {
                // Inputs come before what needs them, nearly always; the others go the next time.
                let mut select = sql_.prepare_cached(
                    "SELECT i.path FROM idle i JOIN derivations d ON d.id = i.path \
                     WHERE i.path < ?1 AND i.since < ?2 ORDER BY i.path DESC LIMIT ?3",
                )?;
                let rows =
                    select.query_map((below, sql(before), BATCH as i64), |row| row.get::<_, i64>(0))?;
                Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
            })?;
            let Some(last) = some.last() else { break };
            below = *last;
            let mut rest: Vec<i64> = some.into_iter().filter(|one| !found.rows.has(*one)).collect();
            while !rest.is_empty() && self.ages_on() {
                let revision = found.revision;
                let forgotten = Arc::clone(&self.forgotten);
                let (went, left) = self.batch(rest, move |tx, derivation| {
                    if newest_revision(tx)? != revision {
                        return Ok(Went::Unsure);
                    }
                    if is_named(tx, *derivation)? {
                        return Ok(Went::Stays);
                    }
                    // Uploads that run remember what is here: see `Keeper`. The same thread reads it there.
                    forgotten.fetch_add(1, Ordering::Relaxed);
                    remove(tx, *derivation, at)?;
                    Ok(Went::Gone)
                })?;
                *gone += went;
                rest = left;
                if !rest.is_empty() && self.database.read_blocking(newest_revision)? != revision {
                    found.rows = Numbers::default();
                    self.database.read_blocking(|sql| find_rows(sql, &mut found))?;
                    rest.retain(|one| !found.rows.has(*one));
                }
            }
        }
        Ok(())
    }

    /// Removes sources that no derivation has named for as long, and nothing refers to.
    fn remove_sources(&self, before: Timestamp, gone: &mut u64) -> Result<(), Error> {
        let mut rest = self.database.read_blocking::<_, Error>(|sql_| {
            let mut select = sql_.prepare_cached(
                "SELECT i.path FROM idle i CROSS JOIN items s ON s.path = i.path \
                 WHERE s.kind = 'source' AND i.since < ?1 LIMIT ?2",
            )?;
            let rows = select.query_map([sql(before), SOURCES], |row| row.get::<_, i64>(0))?;
            Ok(rows.collect::<rusqlite::Result<Vec<i64>>>()?)
        })?;
        while !rest.is_empty() && self.ages_on() {
            let forgotten = Arc::clone(&self.forgotten);
            let (went, left) = self.batch(rest, move |tx, source| {
                forgotten.fetch_add(1, Ordering::Relaxed);
                remove_source(tx, *source)
            })?;
            *gone += went;
            rest = left;
        }
        Ok(())
    }
}

/// Notes what the rows of all sets name.
fn find_rows(sql: &Connection, found: &mut Found) -> Result<(), Error> {
    found.revision = newest_revision(sql)?;
    let mut select = sql.prepare_cached("SELECT derivation FROM set_rows WHERE derivation IS NOT NULL")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let derivation = row.get(0)?;
        found.rows.add(derivation);
        found.needed.add(derivation);
    }
    Ok(())
}

/// Notes the derivations of the next rows; the last of these, if there may be more.
fn find_roots(
    sql: &Connection,
    select: &str,
    after: i64,
    needed: &mut Numbers,
) -> Result<Option<i64>, Error> {
    let mut select = sql.prepare_cached(select)?;
    let mut rows = select.query([after, SLICE])?;
    let (mut last, mut count) = (after, 0);
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        count += 1;
        if let Some(derivation) = row.get::<_, Option<i64>>(1)? {
            needed.add(derivation);
        }
    }
    Ok((count == SLICE).then_some(last))
}

/// What the needed ones of the next derivations need is needed, too; the last of these, if there are more.
fn find_below(sql: &Connection, before: i64, found: &mut Found) -> Result<Option<i64>, Error> {
    let mut select =
        sql.prepare_cached("SELECT id, makers FROM derivations WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?;
    let mut one = sql.prepare_cached("SELECT makers FROM derivations WHERE id = ?1")?;
    let mut rows = select.query([before, SLICE])?;
    let (mut last, mut count) = (before, 0);
    // Those that were passed already: of an input that got its number later than what needs it.
    let mut passed = Vec::new();
    let note = |column: &[u8], last: i64, needed: &mut Numbers, passed: &mut Vec<i64>| {
        passed.extend(makers::decode(column).filter(|maker| needed.add(*maker) && *maker > last));
    };
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        count += 1;
        found.all.add(last);
        if found.needed.has(last) {
            note(row.get_ref(1)?.as_blob().unwrap_or_default(), last, &mut found.needed, &mut passed);
        }
        while let Some(derivation) = passed.pop() {
            let mut columns = one.query([derivation])?;
            if let Some(columns) = columns.next()? {
                note(columns.get_ref(0)?.as_blob().unwrap_or_default(), last, &mut found.needed, &mut passed);
            }
        }
    }
    Ok((count == SLICE).then_some(last))
}

/// Whether anything but a row of a set names a derivation.
fn is_named(sql: &Connection, derivation: i64) -> Result<bool, Error> {
    const NAMING: [&str; 3] = [
        "SELECT 1 FROM builds WHERE derivation = ?1",
        "SELECT 1 FROM derivation_outputs o CROSS JOIN derivation_inputs i ON i.output = o.path AND i.maker = ?1 \
         WHERE o.derivation = ?1",
        "SELECT 1 FROM derivation_outputs o CROSS JOIN items i ON i.path = o.path AND i.deriver = ?1 \
         WHERE o.derivation = ?1",
    ];
    for select in NAMING {
        if sql.prepare_cached(select)?.exists([derivation])? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove(tx: &Tx<'_>, derivation: i64, at: Timestamp) -> Result<(), Error> {
    let sources = paths::numbers(
        tx,
        "DELETE FROM derivation_sources WHERE derivation = ?1 RETURNING path",
        derivation,
    )?;
    for delete in [
        "DELETE FROM derivation_inputs WHERE derivation = ?1",
        "DELETE FROM derivation_outputs WHERE derivation = ?1",
        "DELETE FROM contents WHERE path = ?1",
        "DELETE FROM idle WHERE path = ?1",
        "DELETE FROM derivations WHERE id = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([derivation])?;
    }
    for source in sources {
        if tx.prepare_cached("SELECT 1 FROM derivation_sources WHERE path = ?1")?.exists([source])? {
            continue;
        }
        tx.prepare_cached("DELETE FROM missing_sources WHERE path = ?1")?.execute([source])?;
        tx.prepare_cached(
            "INSERT OR IGNORE INTO idle SELECT path, ?2 FROM items WHERE path = ?1 AND kind = 'source'",
        )?
        .execute([source, sql(at)])?;
    }
    Ok(())
}

fn remove_source(tx: &mut Tx<'_>, source: i64) -> Result<Went, Error> {
    // A derivation may name it again, as its source or its output; an import may be about to refer to it.
    const NAMING: [&str; 7] = [
        "SELECT 1 FROM derivation_sources WHERE path = ?1",
        "SELECT 1 FROM derivation_outputs WHERE path = ?1",
        "SELECT 1 FROM awaited WHERE path = ?1",
        "SELECT 1 FROM item_references r CROSS JOIN items i ON i.path = r.item WHERE r.reference = ?1 AND r.item <> ?1",
        "SELECT 1 FROM published WHERE path = ?1",
        "SELECT 1 FROM withheld WHERE path = ?1 OR reference = ?1",
        "SELECT 1 FROM imports WHERE state = 'running' AND rests = 0 AND ?1 > 0",
    ];
    for select in NAMING {
        if tx.prepare_cached(select)?.exists([source])? {
            return Ok(Went::Stays);
        }
    }
    retention::forget(tx, source)?;
    files::forsake(tx, source)?;
    for delete in [
        "DELETE FROM contents WHERE path = ?1",
        "DELETE FROM unpublishable WHERE path = ?1",
        "DELETE FROM fixed_outputs WHERE path = ?1",
        "DELETE FROM idle WHERE path = ?1",
        "DELETE FROM items WHERE path = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([source])?;
    }
    depend::provide(tx, source, Provided::No)?;
    Ok(Went::Gone)
}
