//! Items come, are forbidden and allowed, and are found elsewhere, in any order.

mod keys;
mod withdrawn;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use drover_store::key::Acl;
use drover_store::narinfo::NarInfo;
use drover_store::{Sha256Hash, StorePath};
use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::config::Config;

/// An item that may come: what it refers to, by index, and whether it is a source.
#[derive(Debug, Clone)]
struct Node {
    references: Vec<usize>,
    source: bool,
}

/// A substitute server, which the configuration does not name: nobody asks it.
const SERVER: &str = "https://a.example";

struct World {
    farm: Arc<Farm>,
    nodes: Vec<Node>,
    folder: tempfile::TempDir,
}

fn item(n: usize) -> StorePath {
    drover_store::path::text(&format!("item-{n}"), b"", &[]).unwrap()
}

fn config(folder: &tempfile::TempDir) -> Config {
    Config {
        state: folder.path().to_owned(),
        disk_reserve_mib: 0,
        narinfo_ttl_seconds: 3600,
        retention: toml::from_str("sets = [{ names = 'none' }]\nothers.days = 1").unwrap(),
        ..Config::default()
    }
}

impl World {
    fn new(nodes: Vec<Node>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { farm: Farm::open(config(&folder)).unwrap(), nodes, folder };
        let count = world.nodes.len();
        world.write(move |tx| {
            // Numbers of paths are those of the nodes, and one more; each has a derivation that makes it.
            for n in 0..count {
                assert_eq!(paths::number(tx, &item(n))?, id(n));
            }
            for n in 0..count {
                let path = drover_store::path::text(&format!("item-{n}.drv"), b"", &[]).unwrap();
                let derivation = paths::number(tx, &path)?;
                let platform = paths::platform(tx, "x86_64-linux")?;
                tx.execute(
                    "INSERT INTO derivations VALUES (?1, ?2, ?2, ?3, x'', 0, x'')",
                    [derivation, platform, id(n)],
                )?;
                tx.execute("INSERT INTO derivation_outputs VALUES (?1, 'out', ?2)", [derivation, id(n)])?;
            }
            tx.execute("INSERT INTO sets (id, name, keep, current) VALUES (1, 'master', 0, 1)", [])?;
            Ok(())
        });
        world
    }

    fn write<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx<'_>) -> Result<R, Error> + Send + 'static,
    ) -> R {
        self.farm.database.write_blocking(job).unwrap()
    }

    fn read<R>(&self, job: impl FnOnce(&Connection) -> R) -> R {
        self.farm.database.read_blocking::<_, Error>(|sql| Ok(job(sql))).unwrap()
    }

    /// It is held from now on; the hook is asked to publish it, unless it is a source.
    fn comes(&self, n: usize) {
        let Node { references, source } = self.nodes[n].clone();
        self.write(move |tx| {
            let hash = Sha256Hash::of(item(n).base_name().as_bytes());
            let (kind, deriver) = if source { ("source", None) } else { ("output", derivation(tx, n)?) };
            tx.execute(
                "INSERT OR IGNORE INTO items (path, kind, nar_hash, nar_size, file_size, deriver, export_hash, added_at) \
                 VALUES (?1, ?2, ?3, 96, 5, ?4, x'', 0)",
                (id(n), kind, hash.as_bytes(), deriver),
            )?;
            tx.execute("INSERT OR IGNORE INTO contents VALUES (?1, x'0102030405')", [id(n)])?;
            for reference in references {
                tx.execute("INSERT OR IGNORE INTO item_references VALUES (?1, ?2)", [id(n), id(reference)])?;
            }
            if source { Ok(()) } else { hold::run_later(tx, id(n)) }
        });
    }

    fn found_elsewhere(&self, n: usize) {
        self.write(move |tx| {
            let yes = "INSERT OR REPLACE INTO substitutes VALUES (?1, ?2, 1, ?3)";
            tx.execute(yes, (id(n), SERVER, sql(now())))?;
            hold::release(tx, id(n)).map(drop)
        });
    }

    /// A newer row about it says whether it is published.
    fn row(&self, n: usize, publish: bool) {
        self.write(move |tx| {
            let last = "UPDATE set_rows SET last = (SELECT current FROM sets WHERE id = 1) WHERE target = ?1 AND last = ?2";
            tx.execute(last, (id(n), i64::MAX))?;
            tx.execute("UPDATE sets SET current = current + 1 WHERE id = 1", [])?;
            tx.execute(
                "INSERT INTO set_rows (in_set, last, digest, first, target, package, version, system, priority, publish, wanting) \
                 VALUES (1, ?2, randomblob(16), 1, ?1, 'package', '1', 'x86_64-linux', 0, ?3, 1)",
                (id(n), i64::MAX, publish),
            )?;
            reconsider(tx, [id(n)])
        });
    }

    /// The derivation that makes it says so.
    fn forbids_substitutes(&self, n: usize) {
        self.write(move |tx| {
            let text = format!(
                "Derive([(\"out\",\"{}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"allowSubstitutes\",\"0\"),(\"out\",\"{0}\")])",
                item(n)
            );
            let bytes = zstd::encode_all(text.as_bytes(), 3).unwrap();
            Ok(tx.execute("INSERT INTO contents VALUES (?1, ?2)", (derivation(tx, n)?, bytes))?)
        });
    }

    /// As when retention forgets all that a set has said.
    fn forget_rows(&self, set: i64) {
        self.write(move |tx| {
            tx.execute("DELETE FROM sets WHERE id = ?1 AND dropped_at IS NOT NULL", [set])?;
            tx.execute("UPDATE revisions SET superseded_at = 0 WHERE in_set = ?1", [set])?;
            Ok(tx.execute("DELETE FROM revisions WHERE in_set = ?1", [set])?)
        });
        self.farm.forget_revisions(now()).unwrap();
    }

    /// Does one thing that the hook was asked for; false: there is none.
    fn run_one(&self) -> bool {
        let next: Option<i64> = self.write(|tx| {
            let next = "DELETE FROM hook_runs WHERE id = (SELECT min(id) FROM hook_runs WHERE hook = 'publish') RETURNING path";
            let mut next = tx.prepare(next)?;
            let mut rows = next.query([])?;
            Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
        });
        let Some(next) = next else { return false };
        self.farm.publish_item(next).unwrap();
        true
    }

    fn run_all(&self) {
        while self.run_one() {}
    }

    fn published(&self) -> HashSet<usize> {
        let all: Vec<i64> = self.read(|sql| {
            let mut select = sql.prepare("SELECT path FROM published").unwrap();
            let all = select.query_map([], |row| row.get(0)).unwrap();
            all.map(Result::unwrap).collect()
        });
        all.into_iter().map(|id| usize::try_from(id).unwrap() - 1).collect()
    }

    fn narinfo(&self, n: usize) -> NarInfo {
        let packed: Vec<u8> = self.read(|sql| {
            sql.query_row("SELECT narinfo FROM published WHERE path = ?1", [id(n)], |row| row.get(0)).unwrap()
        });
        NarInfo::parse(text(packed).unwrap().as_bytes()).unwrap()
    }
}

fn id(n: usize) -> i64 {
    i64::try_from(n).unwrap() + 1
}

fn derivation(sql: &Connection, n: usize) -> Result<Option<i64>, Error> {
    Ok(paths::numbers(sql, "SELECT derivation FROM derivation_outputs WHERE path = ?1", id(n))?
        .first()
        .copied())
}

fn output(references: &[usize]) -> Node {
    Node { references: references.to_vec(), source: false }
}

#[test]
fn an_output_is_not_served_while_a_reference_is_missing_and_is_served_as_soon_as_it_appears() {
    let world = World::new(vec![output(&[]), output(&[0, 1]), output(&[1])]);
    world.comes(2);
    world.comes(1);
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    assert_eq!(world.farm.publish_item(id(1)).unwrap(), Publication::Withheld(vec![item(0)]));
    world.comes(0);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0, 1, 2]));
    assert_eq!(world.farm.publish_item(id(1)).unwrap(), Publication::Already);
}

#[test]
fn what_a_substitute_server_has_need_not_be_here() {
    let world = World::new(vec![output(&[]), output(&[0])]);
    world.comes(1);
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    world.found_elsewhere(0);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([1]));
}

#[test]
fn what_a_server_had_that_has_been_silent_for_long_is_waited_for() {
    let world = World::new(vec![output(&[]), output(&[0])]);
    world.found_elsewhere(0);
    world
        .write(|tx| Ok(tx.execute("UPDATE substitutes SET checked_at = checked_at - 8 * 86400 * 1000", [])?));
    world.comes(1);
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    world.found_elsewhere(0);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([1]));
}

#[test]
fn what_a_server_had_that_is_not_named_any_more_counts_for_nothing() {
    let mut world = World::new(vec![output(&[]), output(&[0])]);
    world.found_elsewhere(0);
    // Its configuration names no server at all.
    world.restarts();
    world.comes(1);
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
}

#[test]
fn what_is_forbidden_again_and_never_was_public_takes_nothing_with_it_that_has_it_from_elsewhere() {
    let world = World::new(vec![output(&[]), output(&[0])]);
    world.found_elsewhere(0);
    world.row(0, false);
    (0..2).for_each(|n| world.comes(n));
    world.run_all();
    assert_eq!(world.published(), HashSet::from([1]));
    world.row(0, false);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([1]));
}

#[test]
fn sources_are_published_with_what_refers_to_them() {
    let source = |references: &[usize]| Node { references: references.to_vec(), source: true };
    let world = World::new(vec![source(&[]), source(&[0]), output(&[1]), source(&[])]);
    (0..4).for_each(|n| world.comes(n));
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0, 1, 2]));
}

#[test]
fn what_is_served_is_signed_and_says_where_the_nar_is() {
    let world = World::new(vec![output(&[]), output(&[0, 1])]);
    world.comes(0);
    world.comes(1);
    world.run_all();
    let info = world.narinfo(1);
    let keys: Acl = [*world.farm.keys.signing().public()].into_iter().collect();
    info.verify(&keys).unwrap();
    assert_eq!(info.references, {
        let mut both = vec![item(0), item(1)];
        both.sort_unstable();
        both
    });
    assert_eq!(info.system.as_deref(), Some("x86_64-linux"));
    assert_eq!(info.urls.len(), 1);
    assert_eq!(info.urls[0].url, format!("nar/zstd/{}", item(1).base_name()));
    assert_eq!((info.urls[0].compression.as_str(), info.urls[0].file_size), ("zstd", Some(5)));
}

#[test]
fn what_a_row_forbids_later_goes_at_once_with_what_refers_to_it_and_comes_back_when_it_is_allowed() {
    let world = World::new(vec![output(&[]), output(&[0]), output(&[0, 1]), output(&[])]);
    (0..4).for_each(|n| world.comes(n));
    world.run_all();
    assert_eq!(world.published().len(), 4);
    world.row(0, false);
    assert_eq!(world.published(), HashSet::from([3]));
    assert!(matches!(world.farm.publish_item(id(0)).unwrap(), Publication::Never(_)));
    assert_eq!(world.farm.publish_item(id(1)).unwrap(), Publication::Withheld(vec![item(0)]));
    world.row(0, true);
    world.run_all();
    assert_eq!(world.published().len(), 4);
}

#[test]
fn what_a_dropped_set_kept_from_the_public_stays_so_until_another_set_speaks_of_it() {
    let world = World::new(vec![output(&[])]);
    world.row(0, false);
    world.comes(0);
    world.write(|tx| {
        tx.execute("UPDATE sets SET dropped_at = 7", [])?;
        reconsider_set(tx, 1)
    });
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    world.write(|tx| {
        tx.execute("INSERT INTO sets (id, name, keep, current) VALUES (2, 'other', 0, 1)", [])?;
        let row = "INSERT INTO set_rows (in_set, last, digest, first, target, package, version, system, priority, publish, wanting) \
                   VALUES (2, ?2, x'', 1, ?1, 'package', '1', 'x86_64-linux', 0, 1, 1)";
        tx.execute(row, (id(0), i64::MAX))?;
        reconsider(tx, [id(0)])
    });
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0]));
}

#[test]
fn what_a_set_kept_from_the_public_stays_so_when_its_rows_are_forgotten() {
    let world = World::new(vec![output(&[])]);
    world.row(0, false);
    world.comes(0);
    world.run_all();
    world.write(|tx| {
        tx.execute("UPDATE sets SET dropped_at = 7", [])?;
        reconsider_set(tx, 1)
    });
    world.forget_rows(1);
    // It comes to be needed again, or is asked for once more.
    world.write(|tx| hold::run_later(tx, id(0)));
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
}

#[test]
fn what_another_set_wants_published_is_when_the_rows_that_forbade_it_are_forgotten() {
    let world = World::new(vec![output(&[])]);
    world.row(0, false);
    world.comes(0);
    world.write(|tx| {
        tx.execute("INSERT INTO sets (id, name, keep, current) VALUES (2, 'other', 0, 9)", [])?;
        tx.execute("INSERT INTO revisions (id, in_set, name, submitted_at, rows) VALUES (9, 2, 'r', 0, 1)", [])?;
        let row = "INSERT INTO set_rows (in_set, last, digest, first, target, package, version, system, priority, publish, wanting) \
                   VALUES (2, ?2, x'', 9, ?1, 'package', '1', 'x86_64-linux', 0, 1, 1)";
        tx.execute(row, (id(0), i64::MAX))?;
        reconsider(tx, [id(0)])
    });
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    world.forget_rows(1);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0]));
}

#[test]
fn a_source_that_is_forbidden_is_not_published_with_what_refers_to_it() {
    let source = Node { references: Vec::new(), source: true };
    let world = World::new(vec![source.clone(), source, output(&[0]), output(&[1]), output(&[0, 1])]);
    world.row(0, false);
    world.forbids_substitutes(1);
    (0..5).for_each(|n| world.comes(n));
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    assert_eq!(world.farm.publish_item(id(4)).unwrap(), Publication::Withheld(vec![item(0), item(1)]));
    world.row(0, true);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0, 2]));
}

#[test]
fn a_derivation_that_forbids_substitutes_is_obeyed() {
    let world = World::new(vec![output(&[]), output(&[0])]);
    world.forbids_substitutes(0);
    world.comes(0);
    world.comes(1);
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    // A row that allows it changes nothing.
    world.row(0, true);
    world.run_all();
    assert_eq!(world.published(), HashSet::new());
    let why = match world.farm.publish_item(id(0)).unwrap() {
        Publication::Never(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(why.contains("allowSubstitutes"), "{why}");
    assert_eq!(world.farm.publish_item(id(1)).unwrap(), Publication::Withheld(vec![item(0)]));
}

#[test]
fn what_was_given_up_and_forgotten_is_tried_again_when_something_waits_for_it() {
    let world = World::new(vec![output(&[]), output(&[0]), output(&[1])]);
    for n in 0..2 {
        world.comes(n);
        world.write(|tx| Ok(tx.execute("DELETE FROM hook_runs", [])?));
    }
    world.comes(2);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0, 1, 2]));

    // The one in the middle waits, and what it waits for was given up.
    let world = World::new(vec![output(&[]), output(&[0]), output(&[1])]);
    world.comes(1);
    world.run_all();
    world.comes(0);
    world.write(|tx| Ok(tx.execute("DELETE FROM hook_runs", [])?));
    world.comes(2);
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0, 1, 2]));
}

#[test]
fn outputs_that_refer_to_each_other_are_not_tried_without_end() {
    let world = World::new(vec![output(&[1]), output(&[0]), output(&[0, 1])]);
    (0..3).for_each(|n| world.comes(n));
    let mut runs = 0;
    while world.run_one() {
        runs += 1;
        assert!(runs < 20, "they are tried again and again");
    }
    assert_eq!(world.published(), HashSet::new());
}

#[test]
fn more_than_one_transaction_lets_go_on_are_published_all_the_same() {
    const MANY: usize = 1100;
    let mut nodes = vec![output(&[])];
    nodes.extend((0..MANY).map(|_| output(&[0])));
    let world = World::new(nodes);
    world.write(|tx| {
        for n in 1..=MANY {
            hold::wait_for(tx, id(n), id(0))?;
        }
        Ok(())
    });
    world.comes(0);
    world.run_one();
    let asked: i64 =
        world.read(|sql| sql.query_row("SELECT count(*) FROM hook_runs", [], |row| row.get(0)).unwrap());
    assert!(asked >= i64::try_from(MANY).unwrap(), "{asked}");
    let left: i64 =
        world.read(|sql| sql.query_row("SELECT count(*) FROM withheld", [], |row| row.get(0)).unwrap());
    assert_eq!(left, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Comes(usize),
    Elsewhere(usize),
    Row(usize, bool),
    RunOne,
    RunAll,
}

const COUNT: usize = 9;

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let node = (proptest::collection::vec(0..COUNT, 0..4), prop::bool::weighted(0.2));
    proptest::collection::vec(node, COUNT).prop_map(|drawn| {
        let mut nodes: Vec<Node> = Vec::new();
        for (n, (references, source)) in drawn.into_iter().enumerate() {
            // Itself and what is before it; sources refer to sources.
            let mut references: Vec<usize> = references.into_iter().map(|other| other % (n + 1)).collect();
            if source {
                references.retain(|other| *other < n && nodes[*other].source);
            }
            nodes.push(Node { references, source });
        }
        nodes
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..COUNT).prop_map(Step::Comes),
        1 => (0..COUNT).prop_map(Step::Elsewhere),
        2 => (0..COUNT, any::<bool>()).prop_map(|(n, publish)| Step::Row(n, publish)),
        3 => Just(Step::RunOne),
        1 => Just(Step::RunAll),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 48 }))]
    #[test]
    fn what_is_published_is_closed_and_in_the_end_all_that_may_be_is_published(
        nodes in nodes(),
        steps in steps(),
        order in Just((0..COUNT).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let world = World::new(nodes.clone());
        let mut elsewhere = HashSet::new();
        let mut rows: HashMap<usize, bool> = HashMap::new();
        let last = order.iter().map(|n| Step::Comes(*n)).chain([Step::RunAll]);
        for step in steps.iter().cloned().chain(last) {
            match step {
                Step::Comes(n) => world.comes(n),
                Step::Elsewhere(n) => {
                    elsewhere.insert(n);
                    world.found_elsewhere(n);
                }
                Step::Row(n, publish) => {
                    rows.insert(n, publish);
                    world.row(n, publish);
                }
                Step::RunOne => drop(world.run_one()),
                Step::RunAll => world.run_all(),
            }
            let published = world.published();
            for n in &published {
                prop_assert!(rows.get(n) != Some(&false), "{n} is forbidden");
                for reference in &nodes[*n].references {
                    prop_assert!(
                        published.contains(reference) || elsewhere.contains(reference),
                        "{n} is published without {reference}"
                    );
                }
            }
        }
        let mut may = HashSet::new();
        for (n, node) in nodes.iter().enumerate() {
            let there = |other: &usize| *other == n || may.contains(other) || elsewhere.contains(other);
            if rows.get(&n) != Some(&false) && node.references.iter().all(there) {
                may.insert(n);
            }
        }
        let outputs = |all: HashSet<usize>| -> HashSet<usize> {
            all.into_iter().filter(|n| !nodes[*n].source).collect()
        };
        prop_assert_eq!(outputs(world.published()), outputs(may));
    }
}
