//! For how long somebody may still believe that something can be had here.

use rusqlite::{Connection, OptionalExtension};

use super::super::error::Error;
use super::super::{Tx, now, sql, unsql};

/// Notes the time for which clients may keep a narinfo from now on, in seconds. What was promised before still holds.
pub(in crate::farm) fn promise(tx: &Tx<'_>, ttl: u64) -> Result<(), Error> {
    let (before, until) = last(tx)?.unwrap_or((ttl, 0));
    let until = if before == ttl { until } else { until.max(after(before)) };
    tx.prepare_cached("DELETE FROM promises")?.execute([])?;
    tx.prepare_cached("INSERT INTO promises (ttl, until) VALUES (?1, ?2)")?
        .execute([sql(ttl), sql(until)])?;
    Ok(())
}

/// When, in milliseconds, nobody believes any more what is said now or was said before.
pub(in crate::farm) fn believed_until(sql: &Connection) -> Result<u64, Error> {
    Ok(last(sql)?.map_or_else(now, |(ttl, until)| until.max(after(ttl))))
}

fn last(sql: &Connection) -> Result<Option<(u64, u64)>, Error> {
    let select = "SELECT ttl, until FROM promises";
    let row = sql.prepare_cached(select)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(row.map(|(ttl, until)| (unsql(ttl), unsql(until))))
}

fn after(seconds: u64) -> u64 {
    now().saturating_add(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::super::super::Farm;
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_shorter_promise_does_not_take_back_the_longer_one_that_was_given_before() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), disk_reserve_mib: 0, ..Config::default() };
        let farm = Farm::open(config).unwrap();
        let believed = |ttl| {
            farm.database.write_blocking::<_, Error>(move |tx| {
                promise(tx, ttl)?;
                believed_until(tx)
            })
        };
        let believed = |ttl| believed(ttl).unwrap();
        // What was said when it started is taken out of the way.
        farm.database.write_blocking::<_, Error>(|tx| Ok(tx.execute("DELETE FROM promises", [])?)).unwrap();
        let start = now();
        assert!(believed(1000) >= start + 1_000_000);
        let long = start + 1_000_000;
        // However often it starts meanwhile.
        for ttl in [10, 10, 20, 0] {
            assert!(believed(ttl) >= long, "{ttl}");
        }
        assert!(believed(0) < now() + 2_000_000);
        assert!(believed(5000) >= start + 5_000_000);
    }
}
