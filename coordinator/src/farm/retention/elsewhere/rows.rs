//! What is noted of things that another server has, step by step, each in one transaction: announced, gone from here,
//! taken back, lost.

use drover_store::narinfo::NarInfo;
use drover_store::{Compression, Sha256Hash};
use drover_wire::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::super::believed_until;
use super::ask::{Found, Nar};
use crate::farm::depend::{self, Provided};
use crate::farm::error::Error;
use crate::farm::plan::{self, Plan};
use crate::farm::{Tx, files, now, paths, publish, sql, unsql, wants};

/// What is asked about.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) item: i64,
    /// What we say about it.
    pub(super) ours: NarInfo,
    /// The hash of its contents, if it is a fixed output that is one file.
    pub(super) file: Option<Sha256Hash>,
    /// The server that was found to have it.
    pub(super) server: Option<String>,
    /// When it was found there last, and looked for there last.
    seen: Option<(Timestamp, Timestamp)>,
}

impl Subject {
    /// Whether it was not found since then, though it was looked for at an earlier look, too: to have been away for
    /// long says nothing about others.
    pub(super) fn is_given_up(&self, since: Timestamp) -> bool {
        self.seen.is_some_and(|(found, asked)| found <= since && asked > found)
    }
}

/// What is to be known of an item to ask for it; none if it is not published, and never was a redirect.
pub(super) fn subject(sql: &Connection, item: i64) -> Result<Option<Subject>, Error> {
    const SELECT: &str = "SELECT coalesce(u.narinfo, r.narinfo), r.server, r.found_at, r.asked_at FROM paths p \
         LEFT JOIN published u ON u.path = p.id LEFT JOIN redirects r ON r.path = p.id WHERE p.id = ?1";
    const FILE: &str =
        "SELECT hash FROM fixed_outputs WHERE path = ?1 AND algorithm = 'sha256' AND recursive = 0";
    type Columns = (Option<Vec<u8>>, Option<String>, Option<i64>, Option<i64>);
    let (packed, server, found, asked): Columns = sql
        .prepare_cached(SELECT)?
        .query_row([item], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let Some(packed) = packed else { return Ok(None) };
    let file = sql.prepare_cached(FILE)?.query_row([item], |row| paths::hash(row, 0)).optional()?;
    let seen = found.zip(asked).map(|(found, asked)| (unsql(found), unsql(asked)));
    Ok(Some(Subject { item, ours: publish::info(packed)?, file, server, seen }))
}

/// The removal of an item is announced, and who asks is told of the other server's nars: those of us stay until nobody
/// believes in them any more. False: something has changed meanwhile.
pub(super) fn announce(
    tx: &mut Tx<'_>,
    subject: &Subject,
    found: &Found,
    at: Timestamp,
) -> Result<bool, Error> {
    const STILL: &str = "SELECT 1 FROM items i JOIN published u ON u.path = i.path AND u.until IS NULL \
         WHERE i.path = ?1 AND i.kind = 'output' AND i.nar_hash = ?2 \
         AND NOT EXISTS (SELECT 1 FROM removals r WHERE r.path = i.path)";
    let item = subject.item;
    if !tx.prepare_cached(STILL)?.exists((item, subject.ours.nar_hash.as_bytes()))?
        || depend::is_needed(tx, item)?
    {
        return Ok(false);
    }
    tx.prepare_cached(
        "INSERT INTO removals (path, reason, step, due) VALUES (?1, 'elsewhere', 'announced', ?2)",
    )?
    .execute([item, sql(believed_until(tx)?)])?;
    note(tx, item, found, at)?;
    tx.prepare_cached("DELETE FROM elsewhere_misses WHERE path = ?1")?.execute([item])?;
    show(tx, item, found)?;
    Ok(true)
}

/// It was found again, and the time has come: its files go, unless something came to need it. Gives how many bytes went;
/// none if it stays for now.
pub(super) fn settle(
    tx: &mut Tx<'_>,
    subject: &Subject,
    found: &Found,
    at: Timestamp,
) -> Result<Option<u64>, Error> {
    const DUE: &str = "SELECT 1 FROM removals r JOIN items i ON i.path = r.path AND i.nar_hash = ?3 \
         WHERE r.path = ?1 AND r.reason = 'elsewhere' AND r.due <= ?2";
    const SHOWN: &str = "SELECT 1 FROM published WHERE path = ?1 AND elsewhere = 1";
    let item = subject.item;
    if !tx.prepare_cached(DUE)?.exists((item, sql(now()), subject.ours.nar_hash.as_bytes()))? {
        return Ok(None);
    }
    // What was withdrawn meanwhile, or is needed, is as any other item again.
    if !tx.prepare_cached(SHOWN)?.exists([item])? || depend::is_needed(tx, item)? {
        super::super::rescue(tx, item)?;
        return Ok(None);
    }
    let said = compressions(tx, item)?;
    note(tx, item, found, at)?;
    if !said.iter().all(|one| found.nars.iter().any(|nar| nar.compression as i64 == *one)) {
        // Somebody may still believe in one that is not there any more.
        show(tx, item, found)?;
        postpone(tx, item, believed_until(tx)?)?;
        return Ok(None);
    }
    let bytes: i64 = tx
        .prepare_cached("DELETE FROM items WHERE path = ?1 RETURNING file_size")?
        .query_row([item], |row| row.get(0))?;
    files::forsake(tx, item)?;
    for delete in ["DELETE FROM contents WHERE path = ?1", "DELETE FROM removals WHERE path = ?1"] {
        tx.prepare_cached(delete)?.execute([item])?;
    }
    show(tx, item, found)?;
    depend::provide(tx, item, Provided::Elsewhere)?;
    Ok(Some(unsql(bytes)))
}

/// Nobody could say whether the server has it: it is asked again later.
pub(super) fn postpone(tx: &Tx<'_>, item: i64, until: Timestamp) -> Result<(), Error> {
    let update = "UPDATE removals SET due = ?2 WHERE path = ?1 AND reason = 'elsewhere'";
    tx.prepare_cached(update)?.execute([item, sql(until)])?;
    Ok(())
}

/// All servers were asked for it, and none has it.
pub(super) fn missed(tx: &Tx<'_>, item: i64, at: Timestamp) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO elsewhere_misses SELECT path, ?2 FROM items WHERE path = ?1 \
         ON CONFLICT (path) DO UPDATE SET checked_at = ?2",
    )?
    .execute([item, sql(at)])?;
    Ok(())
}

/// What is not here was found again.
pub(super) fn confirm(tx: &mut Tx<'_>, item: i64, found: &Found, at: Timestamp) -> Result<(), Error> {
    if is_away(tx, item)? {
        note(tx, item, found, at)?;
        show(tx, item, found)?;
        if publish::is_published(tx, item)? {
            publish::let_go_on(tx, item)?;
        } else {
            // It was about to be given up when the coordinator stopped.
            publish::later(tx, item)?;
        }
    }
    Ok(())
}

/// Nobody could say whether what is not here is still there; it counts as looked for at this time.
pub(super) fn asked(tx: &Tx<'_>, item: i64, at: Timestamp) -> Result<(), Error> {
    tx.prepare_cached("UPDATE redirects SET asked_at = ?2 WHERE path = ?1")?.execute([item, sql(at)])?;
    Ok(())
}

/// The server does not have it any more: nobody is sent there, and it is built again if a set wants it, or can be. What
/// refers to it is withdrawn before, and waits for it. False: it is here again, or was lost before.
pub(super) fn lose(tx: &mut Tx<'_>, item: i64) -> Result<bool, Error> {
    if !is_away(tx, item)? {
        return Ok(false);
    }
    publish::take_back(tx, item)?;
    forget(tx, item)?;
    for delete in [
        "DELETE FROM item_references WHERE item = ?1",
        "DELETE FROM removals WHERE path = ?1",
        "DELETE FROM fixed_outputs WHERE path = ?1",
        "DELETE FROM needed WHERE path = ?1",
        "DELETE FROM unpublishable WHERE path = ?1",
        "DELETE FROM withheld WHERE path = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([item])?;
    }
    // Where an open build needs it, the agent that does not find it has it built (see `missing_inputs`).
    if !depend::is_needed(tx, item)? {
        depend::provide(tx, item, Provided::No)?;
        build_again(tx, item)?;
    }
    Ok(true)
}

/// What rows of sets want is built again.
pub(in crate::farm) fn build_again(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    const MAKERS: &str = "SELECT min(d.id) FROM derivation_outputs o JOIN derivations d ON d.id = o.derivation \
         WHERE o.path = ?1 GROUP BY d.target";
    let mut plan = Plan::default();
    for maker in paths::numbers(tx, MAKERS, item)? {
        let target = plan::target_of(tx, maker)?;
        if let Some(wish) = wants::row_wish(tx, target)? {
            plan.need_again(tx, maker, wish)?;
        }
    }
    plan.settle(tx)
}

/// An item that was announced stays: its own nars are told of again. Those of the other server can be had for as long as
/// somebody may come for them.
pub(in crate::farm::retention) fn keep(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    const UPDATE: &str = "UPDATE redirects SET until = ?2 WHERE path = ?1 AND until IS NULL \
         AND EXISTS (SELECT 1 FROM items i WHERE i.path = redirects.path)";
    let until = sql(believed_until(tx)?);
    if tx.prepare_cached(UPDATE)?.execute([item, until])? == 1 {
        publish::show_own(tx, item)?;
    }
    Ok(())
}

/// Something is here again that was not. If it is another nar than the one that is published, that is withdrawn.
pub(in crate::farm::retention) fn came_back(tx: &mut Tx<'_>, item: i64) -> Result<(), Error> {
    if !tx.prepare_cached("SELECT 1 FROM redirects WHERE path = ?1")?.exists([item])? {
        return Ok(());
    }
    let here: Option<Sha256Hash> = tx
        .prepare_cached("SELECT nar_hash FROM items WHERE path = ?1")?
        .query_row([item], |row| paths::hash(row, 0))
        .optional()?;
    let said = subject(tx, item)?.map(|subject| subject.ours.nar_hash);
    if here.is_some() && here == said && publish::is_published(tx, item)? {
        return keep(tx, item);
    }
    publish::take_back(tx, item)?;
    forget(tx, item)
}

/// Nobody is sent anywhere for an item any more.
pub(in crate::farm::retention) fn forget(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    for delete in [
        "DELETE FROM redirects WHERE path = ?1",
        "DELETE FROM redirect_nars WHERE path = ?1",
        "DELETE FROM elsewhere_misses WHERE path = ?1",
    ] {
        tx.prepare_cached(delete)?.execute([item])?;
    }
    Ok(())
}

/// Whether something is not here because another server has it.
pub(in crate::farm) fn is_away(sql: &Connection, item: i64) -> Result<bool, Error> {
    const AWAY: &str = "SELECT 1 FROM redirects r WHERE r.path = ?1 AND r.until IS NULL \
         AND NOT EXISTS (SELECT 1 FROM items i WHERE i.path = r.path)";
    Ok(sql.prepare_cached(AWAY)?.exists([item])?)
}

fn compressions(sql: &Connection, item: i64) -> Result<Vec<i64>, Error> {
    paths::numbers(sql, "SELECT compression FROM redirect_nars WHERE path = ?1", item)
}

/// Notes where it is, and that it was found there.
fn note(tx: &Tx<'_>, item: i64, found: &Found, at: Timestamp) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO redirects (path, server, found_at, asked_at, added_at, file) \
         SELECT ?1, ?2, ?3, ?3, coalesce((SELECT added_at FROM items WHERE path = ?1), ?3), ?4 WHERE true \
         ON CONFLICT (path) DO UPDATE SET server = ?2, found_at = ?3, asked_at = ?3, file = ?4, until = NULL",
    )?
    .execute((item, &found.server, sql(at), found.file))?;
    tx.prepare_cached("DELETE FROM redirect_nars WHERE path = ?1")?.execute([item])?;
    for Nar { compression, url, .. } in &found.nars {
        tx.prepare_cached("INSERT INTO redirect_nars VALUES (?1, ?2, ?3)")?.execute((
            item,
            *compression as i64,
            url,
        ))?;
    }
    Ok(())
}

/// Has the narinfo of an item name the nars of the other server, where it is published.
fn show(tx: &Tx<'_>, item: i64, found: &Found) -> Result<(), Error> {
    let mut own: Vec<(Compression, u64)> =
        files::of(tx, item)?.iter().map(|file| (file.compression, file.size)).collect();
    let small = "SELECT length(c.bytes) FROM contents c JOIN items i ON i.path = c.path WHERE c.path = ?1";
    let small: Option<i64> = tx.prepare_cached(small)?.query_row([item], |row| row.get(0)).optional()?;
    own.extend(small.map(|size| (Compression::Zstd, unsql(size))));
    let nars = found.nars.iter().map(|nar| {
        // As long as there is one of ours, it is what is sent, and it may have another length.
        let ours = own.iter().find(|(compression, _)| *compression == nar.compression);
        let is_same = ours.is_none_or(|(_, size)| nar.size == Some(*size));
        (nar.compression, nar.size.filter(|_| is_same))
    });
    let nars: Vec<_> = nars.collect();
    publish::show_elsewhere(tx, item, &nars)
}
