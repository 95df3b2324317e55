//! A farm whose database was made before there were sets, or anything to publish, goes on where it was.

use drover_store::derivation::{Derivation, Fixed, Output as Made};
use rusqlite::{Connection, params};

use std::time::{Duration, Instant};

use super::*;
use crate::config::HookConfig;
use crate::database::makers;
use crate::farm::{OpenError, publish};

const OLD: &str = include_str!("../../database/migrations/1.sql");
const SECOND: &str = include_str!("../../database/migrations/2.sql");

/// What the old schema kept of a graph of four: `app` needs `lib` and `tool`, `lib` and `tool` need `base`, which has
/// two sources of which one is here. A client asked for `app` and later, more urgently, for `lib`; another build that
/// was asked for has ended.
fn fill(sql: &Connection) -> rusqlite::Result<()> {
    sql.execute_batch(OLD)?;
    sql.pragma_update(None, "user_version", 1)?;
    let names =
        ["base.drv", "lib.drv", "tool.drv", "app.drv", "base", "lib", "tool", "app", "here", "missing"];
    for (id, name) in (1_i64..).zip(names) {
        let base = format!("{}-{name}", "1".repeat(32));
        sql.execute("INSERT INTO paths (id, base) VALUES (?1, ?2)", params![id, base])?;
    }
    sql.execute_batch(
        "UPDATE paths SET provided = 1 WHERE id = 9;
         INSERT INTO items VALUES (9, 'source', 'text', x'00', 1, 1, NULL, x'00', 1);
         INSERT INTO platforms VALUES (1, 'x86_64-linux');
         INSERT INTO derivation_sources VALUES (1, 9), (1, 10);
         INSERT INTO derivation_inputs VALUES (2, 5, 1), (3, 5, 1), (4, 6, 2), (4, 7, 3);",
    )?;
    // A fixed output that was fetched then, and what fixes it.
    let text = Derivation {
        outputs: vec![Made {
            name: "out".to_owned(),
            path: StorePath::parse_base(&format!("{}-fixed-1", "2".repeat(32))).unwrap(),
            fixed: Some(Fixed { recursive: true, algorithm: "sha256".to_owned(), hash: vec![7; 32] }),
        }],
        inputs: Vec::new(),
        sources: Vec::new(),
        system: "x86_64-linux".to_owned(),
        builder: b"builtin:download".to_vec(),
        args: Vec::new(),
        env: Vec::new(),
    };
    let text = zstd::encode_all(&text.print()[..], 1).unwrap();
    sql.execute_batch(&format!(
        "INSERT INTO paths VALUES (20, '{two}-fixed-1', 1), (21, '{two}-fixed-1.drv', 0);
         INSERT INTO items VALUES (20, 'output', NULL, x'00', 1, 1, 21, x'00', 1);
         INSERT INTO derivations VALUES (21, 1, 1, 20, zeroblob(32), 0);
         INSERT INTO derivation_outputs VALUES (21, 'out', 20);",
        two = "2".repeat(32),
    ))?;
    sql.execute("INSERT INTO contents VALUES (21, ?1)", [text])?;
    for (derivation, lacking) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
        sql.execute(
            "INSERT INTO derivations VALUES (?1, 1, 1, ?2, zeroblob(32), ?3)",
            [derivation, derivation + 4, lacking],
        )?;
        sql.execute("INSERT INTO derivation_outputs VALUES (?1, 'out', ?2)", [derivation, derivation + 4])?;
    }
    let builds = [
        (3, "canceled", true, 9, 0),
        (4, "waiting", true, 1, 3),
        (2, "waiting", true, 2, 2),
        (3, "waiting", false, 1, 2),
        (1, "waiting", false, 2, 1),
    ];
    for (derivation, state, wanted, priority, missing) in builds {
        sql.execute(
            "INSERT INTO builds (uuid, derivation, target, platform, state, wanted, priority, missing, submitted_at, \
                 ended_at) VALUES (randomblob(16), ?1, ?1 + 4, 1, ?2, ?3, ?4, ?5, 1, iif(?2 = 'canceled', 2, NULL))",
            params![derivation, state, wanted, priority, missing],
        )?;
    }
    Ok(())
}

#[test]
fn a_database_from_before_there_were_sets_is_taken_over_with_all_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let config = Config { state, disk_reserve_mib: 0, ..Config::default() };
    // Where the database is, only the storage knows.
    let place = crate::storage::Storage::open(&config.state, 0).unwrap().database();
    fill(&Connection::open(&place).unwrap()).unwrap();

    let runtime = Runtime::new().unwrap();
    let farm = {
        let _inside = runtime.enter();
        Farm::open(config).unwrap()
    };
    invariants::check(&farm, "the migration");
    let numbers = |select: &'static str| {
        let numbers = farm.database.read_blocking::<_, Error>(|sql| {
            let mut select = sql.prepare(select)?;
            let rows = select.query_map([], |row| row.get::<_, Option<i64>>(0))?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        numbers.unwrap()
    };
    assert_eq!(numbers("SELECT asked FROM builds ORDER BY id"), [Some(9), Some(1), Some(2), None, None]);
    assert_eq!(numbers("SELECT path FROM missing_sources"), [Some(10)]);
    let kept = farm.database.read_blocking::<_, Error>(|sql| {
        let mut select = sql.prepare("SELECT makers FROM derivations ORDER BY id")?;
        let rows = select.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<Vec<Vec<u8>>>>()?)
    });
    let fixed = farm.database.read_blocking::<_, Error>(|sql| {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        Ok(sql.query_row("SELECT path, algorithm, recursive, hash FROM fixed_outputs", [], read)?)
    });
    assert_eq!(fixed.unwrap(), (20, "sha256".to_owned(), true, vec![7_u8; 32]));
    let kept: Vec<Vec<i64>> = kept.unwrap().iter().map(|bytes| makers::decode(bytes).collect()).collect();
    assert_eq!(kept, [vec![], vec![1], vec![1], vec![2, 3], vec![]]);

    // And it works on: a set wants what is there, as urgently as it says.
    let wanted = StorePath::parse_base(&format!("{}-tool.drv", "1".repeat(32))).unwrap();
    let rows = std::io::Cursor::new(lines(&[row(&wanted, 5)]));
    let terms = SetSubmission { rows: 1, keep: None };
    let coming = Coming { set: "one".parse().unwrap(), revision: "1".parse().unwrap(), terms };
    let submitted = runtime.block_on(farm.submit_set(coming, rows)).unwrap();
    assert_eq!((submitted.builds, submitted.for_inputs), (0, 0));
    invariants::check(&farm, "a set");
    let priorities = "SELECT priority FROM builds WHERE state = 'waiting' ORDER BY derivation";
    assert_eq!(numbers(priorities), [Some(5), Some(2), Some(5), Some(1)]);
}

/// How many outputs the old farm held.
const HELD: i64 = 620;

/// What the schema before there was anything to publish kept of outputs that were built, each of which refers to the one
/// before. The first refers to a source that is held, the one in the middle to something that is not.
fn fill_second(sql: &Connection) -> rusqlite::Result<()> {
    sql.execute_batch(OLD)?;
    sql.execute_batch(SECOND)?;
    sql.pragma_update(None, "user_version", 2)?;
    sql.execute_batch("INSERT INTO platforms VALUES (1, 'x86_64-linux'); BEGIN;")?;
    let hash = "1".repeat(32);
    sql.execute("INSERT INTO paths VALUES (1, ?1, 1)", [format!("{hash}-source")])?;
    sql.execute("INSERT INTO paths VALUES (2, ?1, 0)", [format!("{hash}-nowhere")])?;
    sql.execute_batch(
        "INSERT INTO items VALUES (1, 'source', 'flat', zeroblob(32), 1, 1, NULL, zeroblob(32), 1);
         INSERT INTO contents VALUES (1, x'00');",
    )?;
    for n in 1..=HELD {
        let (output, derivation) = (1000 + n, 10_000 + n);
        sql.execute("INSERT INTO paths VALUES (?1, ?2, 1)", params![output, format!("{hash}-{n}")])?;
        sql.execute("INSERT INTO paths VALUES (?1, ?2, 0)", params![derivation, format!("{hash}-{n}.drv")])?;
        sql.execute(
            "INSERT INTO derivations VALUES (?1, 1, 1, ?2, zeroblob(32), 0, x'')",
            [derivation, output],
        )?;
        sql.execute("INSERT INTO derivation_outputs VALUES (?1, 'out', ?2)", [derivation, output])?;
        sql.execute(
            "INSERT INTO items VALUES (?1, 'output', NULL, zeroblob(32), 9, 5, ?2, zeroblob(32), 1)",
            [output, derivation],
        )?;
        let reference = match n {
            1 => 1,
            _ if n == HELD / 2 => 2,
            _ => output - 1,
        };
        sql.execute("INSERT INTO item_references VALUES (?1, ?2)", [output, reference])?;
        sql.execute(
            "INSERT INTO builds (uuid, derivation, target, platform, state, priority, missing, submitted_at, ended_at) \
             VALUES (randomblob(16), ?1, ?2, 1, 'succeeded', 0, 0, 1, 2)",
            [derivation, output],
        )?;
    }
    sql.execute_batch("COMMIT")
}

/// Opens the farm again as soon as nothing holds its folder any more.
fn open(runtime: &Runtime, config: &Config) -> Arc<Farm> {
    let _inside = runtime.enter();
    loop {
        match Farm::open(config.clone()) {
            Err(OpenError::Storage(_)) => thread::yield_now(),
            farm => return farm.unwrap(),
        }
    }
}

fn number(farm: &Farm, select: &'static str) -> i64 {
    farm.database.read_blocking::<_, Error>(|sql| Ok(sql.query_row(select, [], |row| row.get(0))?)).unwrap()
}

#[test]
fn what_was_held_before_there_was_anything_to_publish_is_published_wherever_it_is_interrupted() {
    const RUNS: &str = "SELECT count(*) FROM hook_runs WHERE hook = 'publish'";
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let config = Config { state, disk_reserve_mib: 0, ..Config::default() };
    let place = crate::storage::Storage::open(&config.state, 0).unwrap().database();
    fill_second(&Connection::open(&place).unwrap()).unwrap();
    let runtime = Runtime::new().unwrap();

    // Where nothing is to be published, nothing is done about it, and it is not forgotten.
    let off = HookConfig { enabled: Some(false), ..HookConfig::default() };
    let without = Config { hooks: [("publish".to_owned(), off)].into(), ..config.clone() };
    let farm = open(&runtime, &without);
    assert_eq!(farm.give_backlog().unwrap(), publish::Given::Nothing);
    assert_eq!(number(&farm, RUNS), 0);
    drop(farm);

    let farm = open(&runtime, &config);
    assert_eq!(farm.give_backlog().unwrap(), publish::Given::Some);
    let some = number(&farm, RUNS);
    assert!((1..HELD).contains(&some), "{some}");
    drop(farm);

    let farm = open(&runtime, &config);
    assert_eq!(farm.give_backlog().unwrap(), publish::Given::Nothing);
    assert_eq!(number(&farm, RUNS), HELD);
    assert_eq!(number(&farm, "SELECT count(DISTINCT path) FROM hook_runs"), HELD);
    assert_eq!(number(&farm, "SELECT count(*) FROM backlog"), 0);

    // All that refers to nothing that is nowhere is published in the end, the source with it.
    {
        let _inside = runtime.enter();
        farm.start_tasks();
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while number(&farm, RUNS) > 0 && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(number(&farm, "SELECT count(*) FROM published"), HELD / 2);
    assert_eq!(number(&farm, "SELECT count(*) FROM withheld"), HELD - HELD / 2 + 1);
    farm.stop();
}
