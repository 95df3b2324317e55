//! What is told about sets, of a farm whose derivations, builds and rows stand as a test says.

mod blockers;
mod diff;
mod show;

use std::sync::Arc;

use drover_store::{Sha256Hash, StorePath};
use drover_wire::set::{SetDetails, SetRef};
use rusqlite::Connection;
use tokio::runtime::Runtime;

use super::CURRENT;
use crate::config::Config;
use crate::database::makers;
use crate::farm::error::Error;
use crate::farm::{Farm, now, paths, sql};

/// A farm, and its database to write to.
struct Ground {
    farm: Arc<Farm>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

/// A row of a revision; none of what it does not say.
#[derive(Debug, Clone)]
struct Row {
    package: &'static str,
    version: &'static str,
    system: &'static str,
    cross: Option<&'static str>,
    /// The derivation's number; none: it could not be evaluated.
    derivation: Option<i64>,
    priority: i64,
}

fn row(package: &'static str, derivation: i64) -> Row {
    let derivation = Some(derivation);
    Row { package, version: "1", system: "x86_64-linux", cross: None, derivation, priority: 0 }
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().join("state"), disk_reserve_mib: 0, ..Config::default() };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let farm = Farm::open(config).unwrap();
        Self { farm, runtime, _folder: folder }
    }

    fn write<R: Send + 'static>(&self, job: impl FnOnce(&Connection) -> R + Send + 'static) -> R {
        self.farm.database.write_blocking::<_, Error>(move |tx| Ok(job(tx))).unwrap()
    }

    /// A derivation with one output of this name, and what it needs; its number.
    fn derivation(&self, name: &str, needs: &[i64]) -> i64 {
        let (name, needs) = (name.to_owned(), needs.to_vec());
        self.write(move |tx| derivation(tx, &name, &name, &needs))
    }

    /// A build of a derivation, the newest of its target.
    fn build(&self, derivation: i64, state: &'static str) -> i64 {
        self.write(move |tx| build(tx, derivation, state))
    }

    /// The next revision of a set.
    fn revision(&self, set: &'static str, name: &'static str, rows: &[Row]) {
        let rows = rows.to_vec();
        self.write(move |tx| revision(tx, set, name, &rows));
    }

    fn show(&self, named: &str) -> SetDetails {
        self.runtime.block_on(self.farm.set(named.parse::<SetRef>().unwrap())).unwrap()
    }
}

fn path(name: &str) -> StorePath {
    drover_store::path::text(name, name.as_bytes(), &[]).unwrap()
}

/// Two of the same output are twins.
fn derivation(tx: &Connection, name: &str, output: &str, needs: &[i64]) -> i64 {
    let id = paths::number(tx, &path(&format!("{name}.drv"))).unwrap();
    let target = paths::number(tx, &path(output)).unwrap();
    let platform = paths::platform(tx, "x86_64-linux").unwrap();
    let insert = "INSERT INTO derivations VALUES (?1, ?2, ?2, ?3, x'', 0, ?4)";
    tx.execute(insert, (id, platform, target, makers::encode(needs.to_vec()))).unwrap();
    tx.execute("INSERT INTO derivation_outputs VALUES (?1, 'out', ?2)", [id, target]).unwrap();
    for maker in needs {
        let insert = "INSERT INTO derivation_inputs SELECT ?1, path, derivation FROM derivation_outputs \
                      WHERE derivation = ?2";
        tx.execute(insert, [id, *maker]).unwrap();
    }
    id
}

fn build(tx: &Connection, derivation: i64, state: &str) -> i64 {
    let ended = !matches!(state, "waiting" | "ready" | "allocated" | "running");
    let insert = "INSERT INTO builds (uuid, derivation, target, platform, state, priority, missing, submitted_at, ended_at) \
         SELECT randomblob(16), id, target, platform, ?2, 0, 0, ?3, iif(?4, ?3, NULL) FROM derivations \
         WHERE id = ?1 RETURNING id";
    let id = tx.query_row(insert, (derivation, state, sql(now()), ended), |row| row.get(0)).unwrap();
    if state == "succeeded" {
        let provide = "UPDATE paths SET provided = 1 WHERE id IN \
                       (SELECT path FROM derivation_outputs WHERE derivation = ?1)";
        tx.execute(provide, [derivation]).unwrap();
    }
    id
}

fn revision(tx: &Connection, set: &str, name: &str, rows: &[Row]) {
    tx.execute("INSERT OR IGNORE INTO sets (name, keep, current) VALUES (?1, 0, 0)", [set]).unwrap();
    let (id, before): (i64, i64) = tx
        .query_row("SELECT id, current FROM sets WHERE name = ?1", [set], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let insert =
        "INSERT INTO revisions (in_set, name, submitted_at, rows) VALUES (?1, ?2, ?3, ?4) RETURNING id";
    let count = i64::try_from(rows.len()).unwrap();
    let this: i64 = tx.query_row(insert, (id, name, sql(now()), count), |row| row.get(0)).unwrap();
    tx.execute("UPDATE sets SET current = ?2 WHERE id = ?1", [id, this]).unwrap();
    let stays = "UPDATE set_rows SET priority = priority WHERE in_set = ?1 AND last = ?2 AND digest = ?3";
    let insert = "INSERT INTO set_rows (in_set, last, digest, first, derivation, target, package, version, system, \
         cross, error, priority, publish, wanting) SELECT ?1, ?2, ?3, ?4, ?5, \
         (SELECT target FROM derivations WHERE id = ?5), ?6, ?7, ?8, ?9, iif(?5 IS NULL, 'no', NULL), ?10, 1, 1";
    let mut digests = Vec::new();
    for row in rows {
        let digest: [u8; 16] =
            Sha256Hash::of(format!("{row:?}").as_bytes()).as_bytes()[..16].try_into().unwrap();
        digests.push(digest);
        if tx.execute(stays, (id, CURRENT, digest)).unwrap() == 0 {
            let Row { package, version, system, cross, derivation, priority } = row;
            let values = (id, CURRENT, digest, this, derivation, package, version, system, cross, priority);
            tx.execute(insert, values).unwrap();
        }
    }
    let mut select = tx.prepare("SELECT digest FROM set_rows WHERE in_set = ?1 AND last = ?2").unwrap();
    let all = select.query_map([id, CURRENT], |row| row.get::<_, [u8; 16]>(0)).unwrap();
    let gone: Vec<[u8; 16]> =
        all.map(Result::unwrap).filter(|one| digests.iter().all(|own| own != one)).collect();
    for digest in gone {
        let end =
            "UPDATE set_rows SET last = ?4, wanting = 0 WHERE in_set = ?1 AND last = ?2 AND digest = ?3";
        tx.execute(end, (id, CURRENT, digest, before)).unwrap();
    }
}
