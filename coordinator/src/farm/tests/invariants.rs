//! What holds of the database after every commit.

use rusqlite::Connection;

use super::super::Farm;
use super::super::error::Error;

/// What the highest wish for each open build is: a client's, a row's, or that of what waits for it.
const WISHES: &str = "CREATE TEMP VIEW IF NOT EXISTS wishes AS \
    SELECT b.id AS build, max(w.wish) AS wish FROM builds b LEFT JOIN ( \
        SELECT id AS build, asked AS wish FROM builds \
        UNION ALL SELECT b.id, r.priority FROM builds b JOIN set_rows r ON r.target = b.target AND r.wanting = 1 \
        UNION ALL SELECT b.id, d.priority FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation \
            JOIN paths p ON p.id = o.path AND p.provided = 0 JOIN derivation_inputs i ON i.output = o.path \
            JOIN builds d ON d.derivation = i.derivation \
            AND d.state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed') \
        UNION ALL SELECT b.id, d.priority FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation \
            JOIN awaited a ON a.path = o.path JOIN builds d ON d.id = a.build \
    ) w ON w.build = b.id \
    WHERE b.state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed') GROUP BY b.id";

/// The kinds of events that tell of a build's state.
macro_rules! told {
    () => {
        "('build-submitted', 'build-allocated', 'build-started', 'build-success', 'build-failure', 'build-canceled', \
          'build-dependency-failed', 'build-requeued', 'build-reopened')"
    };
}

/// Each finds what must not be there, with its name.
const NEVER: &[(&str, &str)] = &[
    (
        "an open build whose count of missing things is wrong",
        "SELECT b.id || ': ' || b.state || ' ' || b.missing FROM builds b JOIN derivations d ON d.id = b.derivation \
         WHERE b.state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed') AND b.missing <> \
           (SELECT count(DISTINCT i.output) FROM derivation_inputs i JOIN paths p ON p.id = i.output \
            WHERE i.derivation = b.derivation AND p.provided = 0) + (d.lacking > 0) \
           + (SELECT count(*) FROM awaited a WHERE a.build = b.id)",
    ),
    (
        "a build that waits for nothing, or is ready and lacks something",
        "SELECT id || ': ' || state FROM builds WHERE (state IN ('waiting', 'dependency-failed') AND missing = 0) \
           OR (state = 'ready' AND missing > 0)",
    ),
    (
        "a build that an agent holds without a lease",
        "SELECT id FROM builds b WHERE state IN ('allocated', 'running') \
           AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.build = b.id AND a.ended_at IS NULL)",
    ),
    (
        "an open lease of a build that nobody builds",
        "SELECT a.lease || ': ' || b.state FROM attempts a JOIN builds b ON b.id = a.build \
         WHERE a.ended_at IS NULL AND b.state NOT IN ('allocated', 'running', 'canceled')",
    ),
    (
        "two open builds of one output",
        "SELECT target FROM builds WHERE state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed') \
         GROUP BY target HAVING count(*) > 1",
    ),
    (
        "a build that waits for an input that nobody will make",
        "SELECT b.id || ' for ' || p.base FROM builds b JOIN derivation_inputs i ON i.derivation = b.derivation \
         JOIN paths p ON p.id = i.output AND p.provided = 0 WHERE b.state = 'waiting' AND NOT EXISTS ( \
           SELECT 1 FROM builds x JOIN derivations m ON m.target = x.target WHERE m.id = i.maker \
           AND x.state IN ('waiting', 'ready', 'allocated', 'running'))",
    ),
    (
        "a build that waits for something below its inputs that nobody will make",
        "SELECT b.id FROM builds b JOIN awaited a ON a.build = b.id WHERE b.state = 'waiting' AND NOT EXISTS ( \
           SELECT 1 FROM builds x JOIN derivations m ON m.target = x.target \
           JOIN derivation_outputs o ON o.derivation = m.id WHERE o.path = a.path \
           AND x.state IN ('waiting', 'ready', 'allocated', 'running'))",
    ),
    (
        "a build given up for its dependencies, all of which are on their way",
        "SELECT b.id FROM builds b WHERE b.state = 'dependency-failed' AND NOT EXISTS ( \
           SELECT 1 FROM derivation_inputs i JOIN paths p ON p.id = i.output AND p.provided = 0 \
           WHERE i.derivation = b.derivation AND NOT EXISTS ( \
             SELECT 1 FROM builds x JOIN derivations m ON m.target = x.target WHERE m.id = i.maker \
             AND x.state IN ('waiting', 'ready', 'allocated', 'running'))) \
         AND NOT EXISTS (SELECT 1 FROM awaited a WHERE a.build = b.id AND NOT EXISTS ( \
             SELECT 1 FROM builds x JOIN derivations m ON m.target = x.target \
             JOIN derivation_outputs o ON o.derivation = m.id WHERE o.path = a.path \
             AND x.state IN ('waiting', 'ready', 'allocated', 'running')))",
    ),
    (
        "a build whose dependency failed, without the build that did",
        "SELECT b.id FROM builds b LEFT JOIN builds r ON r.id = b.failed_dependency \
         WHERE (b.state = 'dependency-failed') <> (r.id IS NOT NULL)",
    ),
    (
        "a derivation whose count of lacking sources is wrong",
        "SELECT d.id FROM derivations d WHERE d.lacking <> \
           (SELECT count(*) FROM derivation_sources s WHERE s.derivation = d.id AND NOT EXISTS \
             (SELECT 1 FROM items i WHERE i.path = s.path AND i.kind = 'source')) \
         + (SELECT count(DISTINCT i.maker) FROM derivation_inputs i JOIN derivations m ON m.id = i.maker \
            WHERE i.derivation = d.id AND m.lacking > 0)",
    ),
    (
        "a state that is counted wrongly",
        "SELECT c.state FROM platform_counts c \
         WHERE c.count <> (SELECT count(*) FROM builds b WHERE b.state = c.state AND b.platform = c.platform)",
    ),
    (
        "an item that is not provided, or the other way round",
        "SELECT p.base FROM paths p \
         WHERE (p.provided = 1) <> EXISTS (SELECT 1 FROM items i WHERE i.path = p.id)",
    ),
    (
        "a fixed output that is held and is not noted as one, or the other way round",
        "SELECT p.base FROM paths p WHERE ((p.base GLOB '*-fixed-*' OR p.base GLOB '*-file') \
           AND EXISTS (SELECT 1 FROM items i WHERE i.path = p.id AND i.kind = 'output')) \
           <> EXISTS (SELECT 1 FROM fixed_outputs f WHERE f.path = p.id)",
    ),
    (
        "a build that succeeded without its outputs",
        "SELECT b.id FROM builds b JOIN derivation_outputs o ON o.derivation = b.derivation \
         WHERE b.state = 'succeeded' AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = o.path)",
    ),
    (
        "a priority that is not the highest of what wants the build",
        "SELECT b.id || ': ' || b.state || ' ' || b.priority || ', wanted with ' || w.wish FROM builds b JOIN wishes w \
         ON w.build = b.id WHERE b.priority <> w.wish",
    ),
    (
        "an open build that nobody wants and that has not started",
        "SELECT b.id || ': ' || b.state FROM builds b JOIN wishes w ON w.build = b.id \
         WHERE w.wish IS NULL AND b.state <> 'running'",
    ),
    (
        "a build that was canceled because nobody wanted it, and somebody wants it",
        "SELECT b.id FROM builds b WHERE b.state = 'canceled' AND b.why = 'nobody wants it any more' \
         AND NOT EXISTS (SELECT 1 FROM builds x WHERE x.target = b.target AND x.id > b.id) \
         AND EXISTS (SELECT 1 FROM set_rows r WHERE r.target = b.target AND r.wanting = 1)",
    ),
    ("a build that was tried again too often", "SELECT id || ': ' || retries FROM builds WHERE retries > 1"),
    (
        "an end without its time, or a time without an end",
        "SELECT id || ': ' || state FROM builds WHERE (ended_at IS NULL) <> \
           (state IN ('waiting', 'ready', 'allocated', 'running'))",
    ),
    (
        "a build whose last event tells of another state",
        concat!(
            "SELECT b.id || ': ' || b.state || ', ' || e.kind FROM builds b JOIN events e ON e.id = \
             (SELECT max(l.id) FROM events l WHERE l.build = b.id AND l.kind IN ",
            told!(),
            ") WHERE e.kind <> 'build-' || CASE b.state \
               WHEN 'succeeded' THEN 'success' WHEN 'failed' THEN 'failure' WHEN 'timed-out' THEN 'failure' \
               WHEN 'allocated' THEN 'allocated' WHEN 'running' THEN 'started' WHEN 'canceled' THEN 'canceled' \
               WHEN 'dependency-failed' THEN 'dependency-failed' \
               ELSE CASE WHEN e.kind IN ('build-submitted', 'build-requeued', 'build-reopened') \
                 THEN substr(e.kind, 7) END END"
        ),
    ),
    (
        "a build that ended twice, or did something after its end",
        concat!(
            "SELECT build || ': ' || kind || ' after ' || before FROM ( \
               SELECT build, kind, lag(kind) OVER (PARTITION BY build ORDER BY id) AS before FROM events \
               WHERE kind IN ",
            told!(),
            ") WHERE before IN ('build-success', 'build-failure', 'build-canceled')"
        ),
    ),
    (
        "something that was told twice",
        "SELECT build || ': ' || kind FROM events WHERE kind IN ('build-submitted', 'build-allocated', 'build-started') \
         GROUP BY build, kind, attempt HAVING count(*) > 1",
    ),
    (
        "a try of which nothing tells, or not whose it is",
        "SELECT a.lease FROM attempts a WHERE EXISTS \
           (SELECT 1 FROM events e WHERE e.build = a.build AND e.kind = 'build-submitted') AND NOT EXISTS \
           (SELECT 1 FROM events e WHERE e.build = a.build AND e.kind = 'build-allocated' \
            AND e.attempt = a.number AND e.agent = a.agent)",
    ),
];

/// Panics with the name of what must not be.
pub(super) fn check(farm: &Farm, after: &str) {
    let found = farm.database.read_blocking(|sql: &Connection| {
        let mut found = Vec::new();
        sql.execute_batch(WISHES)?;
        for (name, query) in NEVER {
            let mut select = sql.prepare_cached(query)?;
            let rows = select.query_map([], |row| row.get::<_, rusqlite::types::Value>(0))?;
            for row in rows {
                found.push(format!("{name}: {:?}", row?));
            }
        }
        Ok::<_, Error>(found)
    });
    let found = found.unwrap();
    assert!(found.is_empty(), "after {after}: {found:#?}");

    let open = farm.database.read_blocking(|sql: &Connection| {
        let mut select =
            sql.prepare_cached("SELECT lease FROM attempts WHERE ended_at IS NULL ORDER BY lease")?;
        let rows = select.query_map([], |row| row.get::<_, i64>(0))?;
        Ok::<_, Error>(rows.collect::<rusqlite::Result<Vec<_>>>()?)
    });
    let mut live: Vec<u64> = farm.live.leases().iter().map(|lease| lease.id.0).collect();
    live.sort_unstable();
    let open: Vec<u64> = open.unwrap().into_iter().map(super::super::unsql).collect();
    assert_eq!(live, open, "after {after}: the leases in memory are not those in the database");
}
