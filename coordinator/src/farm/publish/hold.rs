//! What has to wait before it is published, and what it waits for.

use crate::farm::error::Error;
use crate::farm::events::{Kind, Subject};
use crate::farm::{Tx, hooks};

/// The most items that one transaction lets go on.
const AT_ONCE: i64 = 500;

/// How much of what an item waits for, and that waits for, is looked at.
const BELOW: i64 = 200;

/// The hook that publishes.
pub(super) const HOOK: &str = "publish";

/// Notes what an item waits for, and that alone.
pub(super) fn withhold(tx: &Tx<'_>, item: i64, missing: &[i64]) -> Result<(), Error> {
    forget(tx, item)?;
    missing.iter().try_for_each(|reference| wait_for(tx, item, *reference))
}

/// An item waits for one thing more.
pub(super) fn wait_for(tx: &Tx<'_>, item: i64, reference: i64) -> Result<(), Error> {
    tx.prepare_cached("INSERT OR IGNORE INTO withheld VALUES (?1, ?2)")?.execute([item, reference])?;
    Ok(())
}

/// An item waits for nothing.
pub(super) fn forget(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM withheld WHERE path = ?1")?.execute([item])?;
    Ok(())
}

/// Something can be had: what waited for it and for nothing else is to be published. True: not all was looked at.
pub(super) fn release(tx: &mut Tx<'_>, came: i64) -> Result<bool, Error> {
    const WAITING: &str = "DELETE FROM withheld WHERE reference = ?1 AND path IN \
         (SELECT path FROM withheld WHERE reference = ?1 LIMIT ?2) RETURNING path";
    let waiting: Vec<i64> = {
        let mut delete = tx.prepare_cached(WAITING)?;
        let rows = delete.query_map([came, AT_ONCE], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    for item in &waiting {
        if !tx.prepare_cached("SELECT 1 FROM withheld WHERE path = ?1")?.exists([item])? {
            run_later(tx, *item)?;
        }
    }
    Ok(i64::try_from(waiting.len()).is_ok_and(|count| count >= AT_ONCE))
}

/// What an item waits for is tried, if it is held and nobody is about to: its last run may have been given up, and
/// forgotten. What waits itself is not: it is let go on with that, and two that wait for each other would never end.
pub(super) fn try_awaited(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    const LEFT: &str = "WITH RECURSIVE below (path) AS (SELECT reference FROM withheld WHERE path = ?1 \
             UNION SELECT w.reference FROM below b JOIN withheld w ON w.path = b.path LIMIT ?2) \
         SELECT i.path FROM below b JOIN items i ON i.path = b.path AND i.kind = 'output' \
         WHERE NOT EXISTS (SELECT 1 FROM withheld w WHERE w.path = i.path) \
         AND NOT EXISTS (SELECT 1 FROM published p WHERE p.path = i.path) \
         AND NOT EXISTS (SELECT 1 FROM unpublishable u WHERE u.path = i.path) \
         AND NOT EXISTS (SELECT 1 FROM hook_runs h WHERE h.path = i.path AND h.hook = ?3 AND h.state = 'waiting') \
         AND NOT EXISTS (SELECT 1 FROM builds d JOIN hook_runs h ON h.build = d.id \
             WHERE d.derivation = i.deriver AND h.hook = ?3 AND h.state = 'waiting')";
    let left: Vec<i64> = {
        let mut select = tx.prepare_cached(LEFT)?;
        let rows = select.query_map((item, BELOW, HOOK), |row| row.get(0))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    left.into_iter().try_for_each(|item| run_later(tx, item))
}

/// The hook is to try an item.
pub(in crate::farm) fn run_later(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    hooks::enqueue(tx, HOOK, Kind::BuildSuccess, Subject::Item(item), None)
}
