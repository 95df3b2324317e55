//! A farm whose database was made before there were sets goes on where it was.

use drover_store::derivation::{Derivation, Fixed, Output as Made};
use rusqlite::{Connection, params};

use super::*;
use crate::database::makers;

const OLD: &str = include_str!("../../database/migrations/1.sql");

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
