//! What is never published: what a row of a set or a derivation forbids.

use rusqlite::{Connection, OptionalExtension};

use super::draft::Draft;
use super::{hold, take_back};
use crate::farm::error::Error;
use crate::farm::{Tx, paths};

/// The rows that say that an item is not published, unless a later one of their set speaks of it; those of sets that
/// were dropped last.
const ROWS: &str = "SELECT s.name, r.package, s.dropped_at IS NOT NULL FROM derivation_outputs o \
     JOIN derivations d ON d.id = o.derivation \
     JOIN set_rows r ON r.target = d.target AND r.publish = 0 \
     JOIN sets s ON s.id = r.in_set \
     WHERE o.path = ?1 AND NOT EXISTS (SELECT 1 FROM set_rows n \
         WHERE n.target = r.target AND n.in_set = r.in_set AND n.last > r.last) ORDER BY 3 LIMIT 1";
/// Whether any row of a set that was not dropped speaks of an item.
const SPOKEN_OF: &str = "SELECT 1 FROM derivation_outputs o JOIN derivations d ON d.id = o.derivation \
     JOIN set_rows r ON r.target = d.target AND r.target IS NOT NULL \
     JOIN sets s ON s.id = r.in_set AND s.dropped_at IS NULL WHERE o.path = ?1";

/// Why rows of sets do not let an item be published: the newest one about it in a set says so. What only sets that
/// were dropped have spoken of is as they left it: nobody makes something public by dropping a set.
pub(super) fn by_row(sql: &Connection, item: i64) -> Result<Option<String>, Error> {
    let row: Option<(String, String, bool)> = sql
        .prepare_cached(ROWS)?
        .query_row([item], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(match row {
        Some((_, _, true)) if sql.prepare_cached(SPOKEN_OF)?.exists([item])? => None,
        Some((set, package, dropped)) => {
            let dropped = if dropped { ", which was dropped," } else { "" };
            Some(format!("the set {set}{dropped} says that {package} is not published"))
        }
        None => None,
    })
}

/// Why an item is never published, as far as that is known: what was found once stays so until [`reconsider`] or its
/// removal, whatever becomes of the row that said it.
pub(super) fn why(sql: &Connection, item: i64, draft: Option<&Draft>) -> Result<Option<String>, Error> {
    if let Some(why) = by_row(sql, item)?.or_else(|| draft.and_then(|draft| draft.never.clone())) {
        return Ok(Some(why));
    }
    noted(sql, item)
}

/// What was noted about an item that is never published.
pub(super) fn noted(sql: &Connection, item: i64) -> Result<Option<String>, Error> {
    let select = "SELECT why FROM unpublishable WHERE path = ?1";
    Ok(sql.prepare_cached(select)?.query_row([item], |row| row.get(0)).optional()?)
}

/// Notes that an item is never published.
pub(super) fn note(tx: &Tx<'_>, item: i64, why: &str) -> Result<(), Error> {
    hold::forget(tx, item)?;
    tx.prepare_cached("INSERT INTO unpublishable VALUES (?1, ?2) ON CONFLICT (path) DO UPDATE SET why = ?2")?
        .execute((item, why))?;
    Ok(())
}

/// It may be published after all, or is not here any more. Whether it was forbidden.
pub(super) fn forget(tx: &Tx<'_>, item: i64) -> Result<bool, Error> {
    Ok(tx.prepare_cached("DELETE FROM unpublishable WHERE path = ?1")?.execute([item])? == 1)
}

/// Rows came, or rows of a set do not count any more or again: what they forbid goes from the public at once, with all
/// that refers to it, and what nothing forbids any more is published.
pub(in crate::farm) fn reconsider(
    tx: &mut Tx<'_>,
    targets: impl IntoIterator<Item = i64>,
) -> Result<(), Error> {
    // Of a target that no row forbids or has forbidden there is nothing to think about.
    const DOUBTFUL: &str = "SELECT o.path FROM derivation_outputs t \
         JOIN derivation_outputs o ON o.derivation = t.derivation \
         WHERE t.path = ?1 AND (EXISTS (SELECT 1 FROM unpublishable u WHERE u.path = o.path) \
             OR EXISTS (SELECT 1 FROM set_rows r WHERE r.target = ?1 AND r.publish = 0) \
                 AND (EXISTS (SELECT 1 FROM items i WHERE i.path = o.path) \
                     OR EXISTS (SELECT 1 FROM redirects r WHERE r.path = o.path))) GROUP BY o.path";
    for target in targets {
        for item in paths::numbers(tx, DOUBTFUL, target)? {
            match by_row(tx, item)? {
                Some(why) => {
                    take_back(tx, item)?;
                    note(tx, item, &why)?;
                }
                None if forget(tx, item)? => hold::run_later(tx, item)?,
                None => {}
            }
        }
    }
    Ok(())
}

/// Rows that kept these from the public were forgotten: what others speak of is published if they let it. What nobody
/// speaks of any more stays as it is.
pub(in crate::farm) fn reconsider_forgotten(
    tx: &mut Tx<'_>,
    targets: impl IntoIterator<Item = i64>,
) -> Result<(), Error> {
    const SPOKEN_OF: &str = "SELECT 1 FROM set_rows r JOIN sets s ON s.id = r.in_set AND s.dropped_at IS NULL \
                             WHERE r.target = ?1 AND r.target IS NOT NULL";
    for target in targets {
        if tx.prepare_cached(SPOKEN_OF)?.exists([target])? {
            reconsider(tx, [target])?;
        }
    }
    Ok(())
}

/// Rows of a set do not count any more, or count again; see [`reconsider`].
pub(in crate::farm) fn reconsider_set(tx: &mut Tx<'_>, set: i64) -> Result<(), Error> {
    const TARGETS: &str =
        "SELECT DISTINCT target FROM set_rows WHERE in_set = ?1 AND publish = 0 AND target IS NOT NULL";
    let targets = paths::numbers(tx, TARGETS, set)?;
    reconsider(tx, targets)
}
