//! How items go: announced, withdrawn, removed, in jobs of the database that are short, each item only if nothing came
//! to need it meanwhile, which takes its row out of `removals` (see [`super::rescue`]).

use std::time::Instant;

use drover_wire::retention::Amount;
use rusqlite::OptionalExtension;

use super::super::depend::{self, Provided};
use super::super::error::Error;
use super::super::{Farm, Tx, files, now, publish, sql, unsql};
use super::promise::believed_until;
use super::rescue::{forget, rescue};
use super::{BATCH_TIME, GRACE_MS};

/// Items in one go, at most: more than there is time for.
const ITEMS: usize = if cfg!(test) { 1 } else { 5_000 };

/// Does something to each of these, in jobs that take a while at most; `together`: from where on all go in one.
fn in_batches<R: Default + Send + 'static>(
    farm: &Farm,
    items: &[u32],
    together: usize,
    mut add: impl FnMut(R),
    each: impl Fn(&mut Tx<'_>, i64, &mut R) -> Result<(), Error> + Copy + Send + 'static,
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

/// Announces that these go when nobody believes any more that they can be had here. Gives how many are new.
pub(super) fn announce(farm: &Farm, items: &[u32]) -> Result<u64, Error> {
    // All of one look at the same time: none may be due before what refers to it.
    let due = sql(farm.database.read_blocking(believed_until)?);
    let mut announced = 0;
    in_batches(
        farm,
        items,
        items.len(),
        |count: u64| announced += count,
        move |tx, item, count| {
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
    let grace = GRACE_MS.min(farm.config.narinfo_ttl_seconds.saturating_mul(1000));
    let due = sql(now().saturating_add(grace));
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
        if depend::is_needed(tx, item)? {
            tracing::warn!(item, "an open build needs what was about to be removed: it stays");
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
