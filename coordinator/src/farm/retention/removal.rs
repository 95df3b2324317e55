//! How items go: announced, withdrawn, removed, in jobs of the database that are short, each item only if nothing came
//! to need it meanwhile, which takes its row out of `removals` (see [`super::rescue`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use drover_wire::retention::Amount;
use rusqlite::{Connection, OptionalExtension};

use super::super::depend::{self, Provided};
use super::super::error::Error;
use super::super::{Farm, Tx, files, now, publish, sql, unsql};
use super::promise::believed_until;
use super::rescue::{forget, rescue};
use super::{BATCH_TIME, GRACE_MS};

/// Items in one go, at most: more than there is time for.
const ITEMS: usize = if cfg!(test) { 1 } else { 5_000 };
/// How long what is due waits for something that refers to it, at least: a look takes its time.
const POSTPONED_MS: u64 = 60 * 60 * 1000;

/// Does something to each of these, in jobs that take a while at most; `together`: from where on all go in one.
fn in_batches<R: Default + Send + 'static>(
    farm: &Farm,
    items: &[u32],
    together: usize,
    mut add: impl FnMut(R),
    each: impl Fn(&mut Tx<'_>, i64, &mut R) -> Result<(), Error> + Clone + Send + 'static,
) -> Result<(), Error> {
    let (mut rest, last) = items.split_at(together.min(items.len()));
    let mut stopping = farm.stopping();
    while !rest.is_empty() || !last.is_empty() {
        if *stopping.borrow_and_update() || farm.sweeps.is_over() {
            return Err(Error::Stopping);
        }
        let is_last = rest.is_empty();
        let batch = if is_last { last } else { &rest[..rest.len().min(ITEMS)] };
        let batch = batch.to_vec();
        let each = each.clone();
        let job = move |tx: &mut Tx<'_>| {
            let start = Instant::now();
            let mut result = R::default();
            for (place, item) in batch.iter().enumerate() {
                if !is_last && start.elapsed() >= BATCH_TIME {
                    return Ok((place, result));
                }
                each(tx, i64::from(*item), &mut result)?;
            }
            Ok::<_, Error>((batch.len(), result))
        };
        let (done, result) = farm.database.write_alone_blocking(job)?;
        add(result);
        if is_last {
            return Ok(());
        }
        rest = &rest[done..];
    }
    Ok(())
}

/// When what is announced is due: the same for all that is announced within a while, which takes one look later, and
/// never before nobody believes any more what was said until then.
#[derive(Clone)]
struct Due {
    due: Arc<AtomicU64>,
    grace: u64,
}

impl Due {
    fn new(farm: &Farm) -> Self {
        Self { due: Arc::default(), grace: grace(farm) }
    }

    fn now(&self, sql_: &Connection) -> Result<i64, Error> {
        let believed = believed_until(sql_)?;
        let due = self.due.load(Ordering::Relaxed);
        if due >= believed {
            return Ok(sql(due));
        }
        let due = believed.saturating_add(self.grace);
        self.due.store(due, Ordering::Relaxed);
        Ok(sql(due))
    }
}

/// How long what is withdrawn can still be had. Where nobody is told to keep anything, nobody comes later, either.
fn grace(farm: &Farm) -> u64 {
    GRACE_MS.min(farm.config.narinfo_ttl_seconds.saturating_mul(1000))
}

/// Announces that these go when nobody believes any more that they can be had here. Gives how many are new.
pub(super) fn announce(farm: &Farm, items: &[u32]) -> Result<u64, Error> {
    let due = Due::new(farm);
    let mut announced = 0;
    in_batches(
        farm,
        items,
        items.len(),
        |count: u64| announced += count,
        move |tx, item, count| {
            let due = due.now(tx)?;
            let new = tx
                .prepare_cached(
                    "INSERT OR IGNORE INTO removals (path, reason, step, due) SELECT ?1, 'not kept', 'announced', ?2 \
                 WHERE EXISTS (SELECT 1 FROM items WHERE path = ?1) \
                     OR EXISTS (SELECT 1 FROM redirects WHERE path = ?1)",
                )?
                .execute([item, due])?;
            if new == 1 {
                tx.prepare_cached("UPDATE published SET until = ?2 WHERE path = ?1")?.execute([item, due])?;
                *count += 1;
            }
            Ok(())
        },
    )?;
    Ok(announced)
}

/// These were announced, and wait for what refers to them, as if they had been announced now.
pub(super) fn postpone(farm: &Farm, items: &[u32]) -> Result<(), Error> {
    let due = Due::new(farm);
    in_batches(
        farm,
        items,
        items.len(),
        |_: u64| {},
        move |tx, item, _| {
            let update = "UPDATE removals SET due = ?2 WHERE path = ?1 AND reason = 'not kept' AND due < ?2";
            let due = due.now(tx)?.max(sql(now().saturating_add(POSTPONED_MS)));
            if tx.prepare_cached(update)?.execute([item, due])? == 1 {
                tx.prepare_cached("UPDATE published SET until = ?2 WHERE path = ?1")?.execute([item, due])?;
            }
            Ok(())
        },
    )
}

/// These stay after all.
pub(super) fn keep(farm: &Farm, items: &[u32]) -> Result<u64, Error> {
    let mut kept = 0;
    in_batches(
        farm,
        items,
        items.len(),
        |count: u64| kept += count,
        |tx, item, count| {
            if tx.prepare_cached("SELECT 1 FROM removals WHERE path = ?1")?.exists([item])? {
                rescue(tx, item)?;
                *count += 1;
            }
            Ok(())
        },
    )?;
    Ok(kept)
}

/// The public cannot have these any more, of which each comes after what refers to it, but for those from `together` on.
pub(super) fn withdraw(farm: &Farm, items: &[u32], together: usize) -> Result<u64, Error> {
    let due = sql(now().saturating_add(grace(farm)));
    let mut withdrawn = 0;
    in_batches(
        farm,
        items,
        together,
        |count: u64| withdrawn += count,
        move |tx, item, count| {
            let update =
                "UPDATE removals SET step = 'withdrawn', due = ?2 WHERE path = ?1 AND step = 'announced'";
            if tx.prepare_cached(update)?.execute([item, due])? == 1 {
                if publish::withdraw(tx, item)? {
                    tx.prepare_cached("UPDATE removals SET shown = 1 WHERE path = ?1")?.execute([item])?;
                }
                *count += 1;
            }
            Ok(())
        },
    )?;
    Ok(withdrawn)
}

/// These go, in the same order, as far as they are withdrawn and due.
pub(super) fn remove(farm: &Farm, items: &[u32], together: usize) -> Result<Amount, Error> {
    let mut removed = Amount::default();
    let add = |some: Amount| {
        removed.items += some.items;
        removed.bytes += some.bytes;
    };
    in_batches(farm, items, together, add, |tx, item, amount: &mut Amount| {
        let due = "SELECT 1 FROM removals WHERE path = ?1 AND step = 'withdrawn' AND due <= ?2";
        if !tx.prepare_cached(due)?.exists([item, sql(now())])? {
            return Ok(());
        }
        // What was taken over may have turned out to be a source, which goes with its derivations.
        let is_source = "SELECT 1 FROM items WHERE path = ?1 AND kind = 'source'";
        if tx.prepare_cached(is_source)?.exists([item])? || depend::is_needed(tx, item)? {
            tracing::warn!(
                item,
                "a derivation or an open build needs what was about to be removed: it stays"
            );
            return rescue(tx, item);
        }
        amount.bytes += remove_one(tx, item)?;
        amount.items += 1;
        Ok(())
    })?;
    Ok(removed)
}

fn remove_one(tx: &mut Tx<'_>, item: i64) -> Result<u64, Error> {
    // None if another server has it.
    let bytes: Option<i64> = tx
        .prepare_cached("DELETE FROM items WHERE path = ?1 RETURNING file_size")?
        .query_row([item], |row| row.get(0))
        .optional()?;
    files::forsake(tx, item)?;
    forget(tx, item)?;
    for delete in [
        "DELETE FROM contents WHERE path = ?1",
        "DELETE FROM fixed_outputs WHERE path = ?1",
        "DELETE FROM needed WHERE path = ?1",
        "DELETE FROM unpublishable WHERE path = ?1",
        "DELETE FROM withheld WHERE path = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([item])?;
    }
    depend::provide(tx, item, Provided::No)?;
    Ok(unsql(bytes.unwrap_or(0)))
}

/// Notes that fixed outputs are needed now.
pub(super) fn note_needed(farm: &Farm, items: &[u32], at: u64) -> Result<(), Error> {
    let at = sql(at);
    in_batches(
        farm,
        items,
        items.len(),
        |_: u64| {},
        move |tx, item, _| {
            // Once a day is often enough.
            let upsert = "INSERT INTO needed (path, at) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM items WHERE path = ?1) \
                          OR EXISTS (SELECT 1 FROM redirects WHERE path = ?1) \
                      ON CONFLICT (path) DO UPDATE SET at = ?2 WHERE at <= ?2 - 86400000";
            tx.prepare_cached(upsert)?.execute([item, at])?;
            Ok(())
        },
    )
}
