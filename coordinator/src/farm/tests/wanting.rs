//! What sets want, put into the database by hand, for tests of what comes of it.

use rusqlite::Connection;

use crate::farm::error::Error;
use crate::farm::{now, sql};

/// A derivation of this number that makes an output.
pub(in crate::farm) fn derivation_of(sql_: &Connection, output: i64, id: i64) -> Result<(), Error> {
    sql_.execute("INSERT OR IGNORE INTO platforms (id, name) VALUES (1, 'x86_64-linux')", [])?;
    sql_.execute(
        "INSERT INTO derivations (id, system, platform, target, modulo, lacking) VALUES (?1, 1, 1, ?2, x'00', 0)",
        [id, output],
    )?;
    sql_.execute("INSERT INTO derivation_outputs VALUES (?1, 'out', ?2)", [id, output])?;
    Ok(())
}

/// A set whose one row wants this derivation built.
pub(in crate::farm) fn set_of(sql_: &Connection, derivation: i64) -> Result<(), Error> {
    sql_.execute("INSERT INTO sets (id, name, keep, current) VALUES (1, 'new', 0, 1)", [])?;
    sql_.execute(
        "INSERT INTO revisions (id, in_set, name, submitted_at, rows) VALUES (1, 1, 'r', ?1, 1)",
        [sql(now())],
    )?;
    sql_.execute(
        "INSERT INTO set_rows (in_set, last, digest, first, derivation, target, package, version, system, \
         priority, publish, wanting) SELECT 1, 9223372036854775807, x'00', 1, id, target, 'p', '1', \
         'x86_64-linux', 3, 1, 1 FROM derivations WHERE id = ?1",
        [derivation],
    )?;
    Ok(())
}
