//! Narinfos of what another server has: with our signature, and where the public is sent from here for that server's nars.

use drover_store::Compression;
use drover_store::narinfo::{NarInfo, Url};
use rusqlite::{Connection, OptionalExtension};

use super::draft::{self, packed, text};
use crate::farm::error::Error;
use crate::farm::{Tx, now, sql};

/// What the database has of a narinfo.
pub(in crate::farm) fn info(packed: Vec<u8>) -> Result<NarInfo, Error> {
    NarInfo::parse(text(packed)?.as_bytes())
        .map_err(|error| Error::Damaged(format!("a narinfo that was published: {error}")))
}

/// The narinfo of an item names these nars of another server from now on, with their lengths where they are sure.
pub(in crate::farm) fn show_elsewhere(
    tx: &Tx<'_>,
    item: i64,
    nars: &[(Compression, Option<u64>)],
) -> Result<(), Error> {
    let Some(mut info) = published(tx, item)? else { return Ok(()) };
    let url = |(compression, size): &(Compression, Option<u64>)| Url {
        url: draft::nar_url(*compression, &info.store_path),
        compression: compression.word().to_owned(),
        file_size: *size,
    };
    info.urls = nars.iter().map(url).collect();
    replace(tx, item, &info, true)
}

/// The narinfo of an item that is here names its own nars again.
pub(in crate::farm) fn show_own(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    let Some(mut info) = published(tx, item)? else { return Ok(()) };
    info.urls = draft::urls(tx, item, &info.store_path)?;
    replace(tx, item, &info, false)
}

/// What is withdrawn and is not here is remembered as it is: it could not be made anew.
pub(super) fn remember(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    tx.prepare_cached(
        "UPDATE redirects SET (narinfo, key) = (SELECT u.narinfo, u.key FROM published u WHERE u.path = ?1) \
         WHERE path = ?1 AND EXISTS (SELECT 1 FROM published u WHERE u.path = ?1)",
    )?
    .execute([item])?;
    Ok(())
}

/// Publishes what was remembered. False: there is nothing.
pub(super) fn recall(tx: &Tx<'_>, item: i64) -> Result<bool, Error> {
    let recalled = tx
        .prepare_cached(
            "INSERT INTO published (path, narinfo, key, published_at, elsewhere) \
             SELECT path, narinfo, key, ?2, 1 FROM redirects WHERE path = ?1 AND narinfo IS NOT NULL",
        )?
        .execute([item, sql(now())])?;
    tx.prepare_cached("UPDATE redirects SET narinfo = NULL, key = NULL WHERE path = ?1")?.execute([item])?;
    Ok(recalled == 1)
}

fn published(sql: &Connection, item: i64) -> Result<Option<NarInfo>, Error> {
    let select = "SELECT narinfo FROM published WHERE path = ?1";
    let found: Option<Vec<u8>> =
        sql.prepare_cached(select)?.query_row([item], |row| row.get(0)).optional()?;
    found.map(info).transpose()
}

fn replace(tx: &Tx<'_>, item: i64, info: &NarInfo, elsewhere: bool) -> Result<(), Error> {
    tx.prepare_cached("UPDATE published SET narinfo = ?2, elsewhere = ?3 WHERE path = ?1")?.execute((
        item,
        packed(&info.print()),
        elsewhere,
    ))?;
    Ok(())
}
