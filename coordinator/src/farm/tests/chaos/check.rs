//! What must be true of the database and the files after every step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::time::{Duration, Instant};

use drover_store::{Compression, Sha256Hash, StorePath};
use drover_wire::BuildState;
use rusqlite::Connection;

use crate::farm::tests::RETRIES;
use crate::farm::{Error, Farm, paths};
use crate::storage::Storage;

/// A build as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: BuildState,
    ended_at: Option<i64>,
    why: Option<String>,
}

/// What was seen of the builds, to see that none of them ends twice.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) builds: BTreeMap<i64, Seen>,
    /// The answers to reports, by lease.
    answers: BTreeMap<i64, String>,
    items: BTreeSet<i64>,
}

impl History {
    /// Looks at everything.
    pub(super) fn check(&mut self, farm: &Farm) {
        let submits = farm.hooks.submit_missing_inputs();
        let seen = farm
            .database
            .read_blocking::<_, Error>(move |sql| {
                nothing_left(sql, "a build that waits for nothing, or is ready and does",
                    "SELECT id, state, missing FROM builds WHERE (state = 'waiting' AND missing = 0) \
                     OR (state = 'ready' AND missing > 0)");
                nothing_left(sql, "a count of missing inputs that is wrong",
                    "SELECT b.id, b.state, b.missing, (SELECT count(DISTINCT i.output) FROM derivation_inputs i \
                        JOIN paths p ON p.id = i.output AND p.provided = 0 WHERE i.derivation = b.derivation) \
                      + (SELECT lacking > 0 FROM derivations WHERE id = b.derivation) \
                      + (SELECT count(*) FROM awaited WHERE build = b.id) AS right FROM builds b \
                     WHERE b.state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed') \
                     AND b.missing <> right");
                nothing_left(sql, "a path that is awaited and there, or awaited by a build that has ended",
                    "SELECT a.path, a.build FROM awaited a JOIN paths p ON p.id = a.path JOIN builds b ON b.id = a.build \
                     WHERE p.provided <> 0 OR b.state IN ('succeeded', 'failed', 'timed-out', 'canceled')");
                nothing_left(sql, "a count of what is lacking that is wrong",
                    "SELECT d.id, d.lacking, (SELECT count(*) FROM derivation_sources s WHERE s.derivation = d.id \
                        AND NOT EXISTS (SELECT 1 FROM items t WHERE t.path = s.path AND t.kind = 'source')) \
                      + (SELECT count(DISTINCT i.maker) FROM derivation_inputs i JOIN derivations m ON m.id = i.maker \
                         AND m.lacking > 0 WHERE i.derivation = d.id) AS right FROM derivations d \
                     WHERE d.lacking <> right");
                nothing_left(sql, "a build that can go out although a source refers to what is not here",
                    "SELECT d.id, r.item, r.reference FROM derivations d JOIN derivation_sources s ON s.derivation = d.id \
                     JOIN item_references r ON r.item = s.path \
                     WHERE d.lacking = 0 AND NOT EXISTS (SELECT 1 FROM items t WHERE t.path = r.reference)");
                nothing_left(sql, "a state that is counted wrongly",
                    "SELECT state, platform, count, (SELECT count(*) FROM builds b WHERE b.state = c.state \
                     AND b.platform = c.platform) AS right FROM platform_counts c WHERE count <> right");
                nothing_left(sql, "a state that is not counted",
                    "SELECT id, state FROM builds WHERE (state, platform) NOT IN (SELECT state, platform FROM platform_counts)");
                nothing_left(sql, "a build whose tries do not fit its state",
                    "SELECT b.id, b.state, (SELECT count(*) FROM attempts a WHERE a.build = b.id AND a.ended_at IS NULL) \
                        AS open FROM builds b WHERE open > 1 OR (b.state IN ('allocated', 'running')) <> (open = 1) \
                        AND NOT (b.state = 'canceled' AND open = 1)");
                nothing_left(sql, "an output that is held without an item, or the other way round",
                    "SELECT p.id, p.base, p.provided FROM paths p WHERE (p.provided = 1) \
                     <> EXISTS (SELECT 1 FROM items i WHERE i.path = p.id)");
                nothing_left(sql, "a build in the place of one that did not fail, or too often",
                    &format!("SELECT b.id, b.retries FROM builds b WHERE b.retries > {RETRIES} OR b.retries > 0 AND NOT EXISTS ( \
                     SELECT 1 FROM builds f WHERE f.target = b.target AND f.id < b.id AND f.retries = b.retries - 1 \
                     AND f.state IN ('failed', 'timed-out'))"));
                hope(sql, submits);
                no_circles(sql)?;
                seen(sql)
            })
            .unwrap();
        for (id, before) in &self.builds {
            let now = &seen[id];
            if before.state.is_final() && before.state != BuildState::DependencyFailed {
                assert_eq!(before, now, "the build {id} ended twice");
            }
        }
        self.builds = seen;
        self.answers_stay(farm);
        leases_are_known(farm);
        files_are_right(farm);
    }

    fn answers_stay(&mut self, farm: &Farm) {
        let (answers, items) = farm
            .database
            .read_blocking::<_, Error>(|sql| {
                let mut select =
                    sql.prepare("SELECT lease, answer FROM attempts WHERE answer IS NOT NULL")?;
                let answers = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let answers = answers.collect::<rusqlite::Result<BTreeMap<i64, String>>>()?;
                let mut select = sql.prepare("SELECT path FROM items")?;
                let items = select.query_map([], |row| row.get(0))?;
                Ok((answers, items.collect::<rusqlite::Result<BTreeSet<i64>>>()?))
            })
            .unwrap();
        for (lease, answer) in &self.answers {
            assert_eq!(Some(answer), answers.get(lease), "the answer to the report of the lease {lease}");
        }
        assert!(items.is_superset(&self.items), "an item is gone");
        (self.answers, self.items) = (answers, items);
    }
}

/// Every file belongs to something, and everything has its file. What ended leases left is removed in the background: it
/// is waited for.
pub(in crate::farm::tests) fn files_are_right(farm: &Farm) {
    let end = Instant::now() + Duration::from_secs(3);
    while let Err(wrong) = files(farm) {
        assert!(Instant::now() < end, "{wrong}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fails when a query gives a row.
fn nothing_left(sql: &Connection, what: &str, query: &str) {
    let mut statement = sql.prepare(query).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    if let Some(row) = rows.next().unwrap() {
        let row: Vec<_> = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap())).collect();
        panic!("there is {what}: {}", row.join(", "));
    }
}

/// Whatever waits, waits for something that can come; and whatever does not go on has a reason. Where missing inputs are
/// not submitted, that is that an agent reported them.
fn hope(sql: &Connection, submits: bool) {
    let reported = match submits {
        true => "0",
        false => {
            "EXISTS (SELECT 1 FROM events e WHERE e.kind = 'missing-inputs' AND instr(e.detail, p.base) > 0)"
        }
    };
    const GOES_ON: &str = "EXISTS (SELECT 1 FROM builds x WHERE x.target = m.target \
         AND x.state IN ('waiting', 'ready', 'allocated', 'running'))";
    nothing_left(
        sql,
        "a build that waits for an input that nobody makes",
        &format!(
            "SELECT b.id, p.base FROM builds b JOIN derivation_inputs i ON i.derivation = b.derivation \
             JOIN paths p ON p.id = i.output AND p.provided = 0 JOIN derivations m ON m.id = i.maker \
             WHERE b.state = 'waiting' AND NOT {GOES_ON} AND NOT {reported}"
        ),
    );
    nothing_left(
        sql,
        "a build that awaits something that nobody makes",
        &format!(
            "SELECT b.id, a.path FROM builds b JOIN awaited a ON a.build = b.id JOIN paths p ON p.id = a.path \
             JOIN derivation_outputs o ON o.path = a.path JOIN derivations m ON m.id = o.derivation \
             WHERE b.state = 'waiting' AND NOT {GOES_ON} AND NOT {reported}"
        ),
    );
    nothing_left(
        sql,
        "a build that counts as failed by a dependency, and all that it waits for goes on",
        &format!(
            "SELECT b.id FROM builds b WHERE b.state = 'dependency-failed' AND NOT EXISTS ( \
             SELECT 1 FROM derivation_inputs i JOIN paths p ON p.id = i.output AND p.provided = 0 \
             JOIN derivations m ON m.id = i.maker WHERE i.derivation = b.derivation AND NOT {GOES_ON} \
             UNION ALL SELECT 1 FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
             JOIN derivations m ON m.id = o.derivation WHERE a.build = b.id AND NOT {GOES_ON})"
        ),
    );
}

/// Nothing waits for itself: what waits is ready at the end, if all goes well and all sources come.
fn no_circles(sql: &Connection) -> Result<(), Error> {
    const WAITING: &str = "SELECT b.id, b.target FROM builds b JOIN derivations d ON d.id = b.derivation \
         WHERE b.state = 'waiting' AND d.lacking = ?1";
    const FOR: &str = "SELECT m.target FROM builds b JOIN derivation_inputs i ON i.derivation = b.derivation \
         JOIN paths p ON p.id = i.output AND p.provided = 0 JOIN derivations m ON m.id = i.maker WHERE b.id = ?1 \
         UNION SELECT m.target FROM awaited a JOIN derivation_outputs o ON o.path = a.path \
         JOIN derivations m ON m.id = o.derivation WHERE a.build = ?1";
    let mut select = sql.prepare(WAITING)?;
    let waiting = select.query_map([0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut waiting = waiting.collect::<rusqlite::Result<BTreeMap<i64, i64>>>()?;
    loop {
        let targets: BTreeSet<i64> = waiting.values().copied().collect();
        let mut stuck = BTreeMap::new();
        for (build, target) in &waiting {
            if paths::numbers(sql, FOR, *build)?.iter().any(|target| targets.contains(target)) {
                stuck.insert(*build, *target);
            }
        }
        assert!(
            stuck.is_empty() || stuck.len() < waiting.len(),
            "these builds wait for each other: {stuck:?}"
        );
        if stuck.is_empty() {
            return Ok(());
        }
        waiting = stuck;
    }
}

fn seen(sql: &Connection) -> Result<BTreeMap<i64, Seen>, Error> {
    let mut select = sql.prepare("SELECT id, state, ended_at, why FROM builds")?;
    let rows = select.query_map([], |row| {
        Ok((row.get(0)?, Seen { state: paths::state(row, 1)?, ended_at: row.get(2)?, why: row.get(3)? }))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What is known in memory is what the database has.
fn leases_are_known(farm: &Farm) {
    let open: BTreeSet<i64> = farm
        .database
        .read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare("SELECT lease FROM attempts WHERE ended_at IS NULL")?;
            let rows = select.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .unwrap();
    let known: BTreeSet<i64> =
        farm.live().leases().iter().map(|lease| crate::farm::sql(lease.id.0)).collect();
    assert_eq!(open, known, "leases in the database, and in memory");
}

fn files(farm: &Farm) -> Result<(), String> {
    type Row = (StorePath, Vec<u8>, i64, Option<Vec<u8>>, Option<String>);
    let expected: Vec<Row> = farm
        .database
        .read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare(
                "SELECT p.base, i.nar_hash, i.file_size, c.bytes, f.name FROM items i JOIN paths p ON p.id = i.path \
                 LEFT JOIN contents c ON c.path = i.path LEFT JOIN files f ON f.item = i.path \
                 UNION ALL SELECT p.base, u.nar_hash, u.file_size, NULL, u.name FROM uploads u \
                 JOIN paths p ON p.id = u.path JOIN attempts a ON a.lease = u.lease AND a.ended_at IS NULL \
                 WHERE u.complete = 1",
            )?;
            let rows = select.query_map([], |row| {
                Ok((paths::base(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
        .unwrap();
    farm.remove_leftovers().unwrap();
    let mut there = HashMap::new();
    for folder in fs::read_dir(farm.storage().nars()).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = file.unwrap();
            if let Ok(bytes) = fs::read(file.path()) {
                there.insert(file.path(), bytes);
            }
        }
    }
    for (path, nar_hash, size, small, name) in expected {
        let name = name.unwrap_or_else(|| Storage::usual_name(&path, Compression::Zstd));
        let file = farm.storage().nars().join(name);
        let bytes = match small {
            Some(bytes) => bytes,
            None => there.remove(&file).ok_or_else(|| format!("{path} has no file"))?,
        };
        if bytes.len() as i64 != size {
            return Err(format!("{path} has {} bytes, and {size} are noted", bytes.len()));
        }
        let nar = zstd::decode_all(&bytes[..]).map_err(|error| format!("{path}: {error}"))?;
        if Sha256Hash::of(&nar).as_bytes()[..] != nar_hash[..] {
            return Err(format!("{path} has other contents than are noted"));
        }
    }
    for file in fs::read_dir(farm.storage().uploads()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let lease: i64 = name.split('-').next().unwrap().parse().map_err(|_| format!("{name} is left"))?;
        let open = farm.live().leases().iter().any(|held| crate::farm::sql(held.id.0) == lease);
        if !open {
            return Err(format!("{name} is left of a lease that ended"));
        }
    }
    match there.keys().next() {
        Some(file) => Err(format!("{} belongs to nothing", file.display())),
        None => Ok(()),
    }
}
