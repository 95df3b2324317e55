//! Which revisions of which sets are kept, and how the others are forgotten.

use std::time::Instant;

use rusqlite::Connection;

use super::super::error::Error;
use super::super::{Farm, Tx, open_states, publish, sql, wants};
use super::reason::Reason;
use super::{BATCH_TIME, days};
use crate::config::{RetentionConfig, SetRule};

/// Rows that are deleted in one go, at most.
const ROWS: usize = 2_000;
/// Rows that are found at once, at most.
const FOUND: usize = if cfg!(test) { 2 } else { 10 * ROWS };

/// A set, and what is kept of it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) set: i64,
    pub(super) name: String,
    /// The rule that counts for it.
    pub(super) reason: Reason,
    pub(super) build_inputs: bool,
    /// The numbers of the revisions that are kept, in ascending order.
    pub(super) revisions: Vec<i64>,
    /// Of those that are not.
    pub(super) others: Vec<i64>,
    dropped: bool,
}

impl Kept {
    /// The last revision that is kept and has a row with this first and this last one.
    pub(super) fn with(&self, first: i64, last: i64) -> Option<i64> {
        let after = self.revisions.partition_point(|revision| *revision <= last);
        let newest = *self.revisions.get(after.checked_sub(1)?)?;
        (newest >= first).then_some(newest)
    }
}

/// What is kept of every set at this time, the sets of the first rule first.
pub(super) fn kept(sql_: &Connection, config: &RetentionConfig, at: u64) -> Result<Vec<Kept>, Error> {
    let mut statement = sql_.prepare_cached("SELECT id, name, dropped_at, current FROM sets ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (set, name): (i64, String) = (row.get(0)?, row.get(1)?);
        let (dropped, current): (Option<i64>, i64) = (row.get(2)?, row.get(3)?);
        let by_default = SetRule::default();
        let (reason, rule) = match config.rule_of(&name) {
            Some((place, rule)) => (Reason::rule(place), rule),
            None => (Reason::Unruled, &by_default),
        };
        let limit = sql(at.saturating_sub(days(rule.keep_days)));
        let mut kept = Kept {
            set,
            name,
            reason,
            build_inputs: rule.build_inputs,
            revisions: Vec::new(),
            others: Vec::new(),
            dropped: dropped.is_some(),
        };
        let mut newest = sql_
            .prepare_cached("SELECT id, superseded_at FROM revisions WHERE in_set = ?1 ORDER BY id DESC")?;
        let mut revisions = newest.query([set])?;
        let mut place = 0;
        while let Some(row) = revisions.next()? {
            let (revision, superseded): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
            // Without rules nothing is forgotten but sets that were dropped, each as a whole.
            let among_newest = place < rule.keep_revisions || !config.removes() || revision == current;
            place += 1;
            let stays = match dropped {
                None if among_newest => true,
                // It was kept until then.
                Some(dropped) if among_newest => dropped > limit,
                _ => superseded.is_none_or(|superseded| superseded > limit),
            };
            if stays { kept.revisions.push(revision) } else { kept.others.push(revision) }
        }
        kept.revisions.reverse();
        all.push(kept);
    }
    all.sort_by_key(|kept| kept.reason.number());
    Ok(all)
}

impl Farm {
    /// Forgets the revisions that are not kept, with the rows that only they have. Blocks.
    pub(in crate::farm) fn forget_revisions(&self, at: u64) -> Result<u64, Error> {
        let config = self.config.retention.clone();
        let all = self.database.read_blocking(|sql| kept(sql, &config, at))?;
        let mut forgotten = 0;
        for kept in all.into_iter().filter(|kept| !kept.others.is_empty()) {
            let name = kept.name.clone();
            let count = self.database.write_blocking(move |tx| forget(tx, &kept))?;
            if count > 0 {
                tracing::info!(set = name, revisions = count, "revisions are forgotten: no rule keeps them");
            }
            forgotten += count;
        }
        let mut after = (i64::MIN, i64::MIN, Vec::new());
        loop {
            let (mut rest, next) = self.database.read_blocking(|sql| orphans(sql, after))?;
            while !rest.is_empty() {
                if *self.stopping().borrow() {
                    return Err(Error::Stopping);
                }
                rest = self.database.write_alone_blocking(move |tx| delete(tx, rest))?;
            }
            match next {
                Some(next) => after = next,
                None => return Ok(forgotten),
            }
        }
    }
}

/// Forgets revisions of a set, and the set if it was dropped and none is left. It may have been submitted again since.
fn forget(tx: &mut Tx<'_>, kept: &Kept) -> Result<u64, Error> {
    let delete = "DELETE FROM revisions WHERE id = ?1 AND in_set = ?2 AND (SELECT dropped_at IS NOT NULL FROM sets \
                  WHERE id = ?2) = ?3 AND superseded_at IS NOT NULL";
    let mut count = 0;
    for revision in &kept.others {
        count += tx.prepare_cached(delete)?.execute((revision, kept.set, kept.dropped))? as u64;
    }
    tx.prepare_cached(
        "DELETE FROM sets WHERE id = ?1 AND dropped_at IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM revisions r WHERE r.in_set = ?1)",
    )?
    .execute([kept.set])?;
    Ok(count)
}

type RowKey = (i64, i64, Vec<u8>);

/// Rows that no revision has any more: some of those after this one, and after which to go on, if there may be more.
fn orphans(sql: &Connection, after: RowKey) -> Result<(Vec<RowKey>, Option<RowKey>), Error> {
    let mut sets = sql.prepare_cached("SELECT min(in_set) FROM set_rows WHERE in_set > ?1")?;
    let mut rows = sql.prepare_cached(
        "SELECT r.last, r.digest FROM set_rows r WHERE r.in_set = ?1 AND (r.last, r.digest) > (?2, ?3) \
         AND NOT EXISTS \
         (SELECT 1 FROM revisions v WHERE v.in_set = r.in_set AND v.id BETWEEN r.first AND r.last) \
         ORDER BY r.last, r.digest",
    )?;
    let mut found: Vec<RowKey> = Vec::new();
    let (mut set, mut last, mut digest) = after;
    loop {
        let mut some = rows.query((set, last, &digest))?;
        while let Some(row) = some.next()? {
            found.push((set, row.get(0)?, row.get(1)?));
            if found.len() >= FOUND {
                let next = found.last().cloned();
                return Ok((found, next));
            }
        }
        match sets.query_row([set], |row| row.get(0))? {
            Some(next) => (set, last, digest) = (next, i64::MIN, Vec::new()),
            None => return Ok((found, None)),
        }
    }
}

/// Deletes some of these rows, and gives the others. One whose build goes on, because the set keeps, stays.
fn delete(tx: &mut Tx<'_>, mut rows: Vec<RowKey>) -> Result<Vec<RowKey>, Error> {
    const DELETE: &str = concat!(
        "DELETE FROM set_rows WHERE in_set = ?1 AND last = ?2 AND digest = ?3 AND (wanting = 0 OR NOT EXISTS \
             (SELECT 1 FROM builds b WHERE b.target = set_rows.target AND b.state IN ",
        open_states!(),
        ")) RETURNING target, publish"
    );
    let start = Instant::now();
    let (mut lost, mut private) = (Vec::new(), Vec::new());
    for _ in 0..ROWS {
        let Some((set, last, digest)) = rows.pop() else { break };
        let mut delete = tx.prepare_cached(DELETE)?;
        let mut deleted = delete.query((set, last, digest))?;
        while let Some(row) = deleted.next()? {
            let (target, publish): (Option<i64>, bool) = (row.get(0)?, row.get(1)?);
            lost.extend(target);
            private.extend(target.filter(|_| !publish));
        }
        if start.elapsed() >= BATCH_TIME {
            break;
        }
    }
    wants::gone(tx, lost)?;
    publish::reconsider_forgotten(tx, private)?;
    Ok(rows)
}
