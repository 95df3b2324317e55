//! What was taken becomes items, and is published.

use std::path::Path;
use std::sync::Arc;

use drover_store::{Sha256Hash, StorePath};
use rusqlite::{Connection, OptionalExtension};

use super::rows;
use super::run::Trouble;
use super::said::Said;
use super::source::{Source, SourceError};
use super::take::Taken;
use crate::config::Location;
use crate::database::fixed;
use crate::farm::depend::{self, Provided};
use crate::farm::error::Error;
use crate::farm::places::{self, Placed};
use crate::farm::provided::{FAILURES, MISS_MS, is_elsewhere, note_answers};
use crate::farm::{Farm, Tx, files, now, outputs, paths, publish, retention, sources, sql};
use crate::storage::{Kind, NarFile, Place};

/// How many items become ones in one transaction.
pub(super) const AT_ONCE: usize = 100;

/// Something that is to become an item.
#[derive(Debug)]
pub(super) struct New {
    pub(super) said: Said,
    files: Files,
}

#[derive(Debug)]
enum Files {
    /// It was taken, and checked.
    Taken(Taken),
    /// They are used where they lie, and were not read yet.
    InPlace(Vec<NarFile>),
}

impl New {
    pub(super) fn taken(said: Said, taken: Taken) -> Self {
        Self { said, files: Files::Taken(taken) }
    }

    pub(super) fn in_place(said: Said, files: Vec<NarFile>) -> Self {
        Self { said, files: Files::InPlace(files) }
    }

    /// A file that is to be used where it lies, and is about to be removed: it was that of an item that went.
    fn going(&self, sql: &Connection) -> Result<Option<&NarFile>, Error> {
        let Files::InPlace(files) = &self.files else { return Ok(None) };
        for file in files {
            if files::is_leftover(sql, file)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    fn bytes(&self) -> u64 {
        match &self.files {
            Files::Taken(taken) => taken.placed.file.size,
            Files::InPlace(files) => files.iter().map(|file| file.size).sum(),
        }
    }
}

/// An item that is here.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) id: i64,
    pub(super) nar_hash: Sha256Hash,
    pub(super) references: Vec<StorePath>,
    /// Whether it is published, or never will be.
    pub(super) is_settled: bool,
}

pub(super) fn here(sql: &Connection, path: &StorePath) -> Result<Option<Here>, Error> {
    let Some(id) = paths::find(sql, path)? else { return Ok(None) };
    let found = sql
        .prepare_cached("SELECT nar_hash FROM items WHERE path = ?1")?
        .query_row([id], |row| paths::hash(row, 0))
        .optional()?;
    let Some(nar_hash) = found else { return Ok(None) };
    let never = "SELECT 1 FROM unpublishable WHERE path = ?1";
    let is_settled = publish::is_published(sql, id)? || sql.prepare_cached(never)?.exists([id])?;
    Ok(Some(Here { id, nar_hash, references: outputs::references(sql, id)?, is_settled }))
}

/// The item that the name of a narinfo's file speaks of, if that is here.
pub(super) fn named_by(farm: &Farm, file: &Path) -> Result<Option<StorePath>, Error> {
    let Some(stem) = file.file_stem().and_then(|stem| stem.to_str()) else { return Ok(None) };
    if let Ok(path) = StorePath::parse_base(stem) {
        return Ok(Some(path));
    }
    let is_hash =
        stem.len() == drover_store::path::HASH_LEN && StorePath::parse_base(&format!("{stem}-x")).is_ok();
    if !is_hash {
        return Ok(None);
    }
    let (from, to) = (format!("{stem}-"), format!("{stem}."));
    farm.database.read_blocking(|sql| {
        let select = "SELECT base FROM paths WHERE base >= ?1 AND base < ?2 LIMIT 1";
        Ok(sql.prepare_cached(select)?.query_row([from, to], |row| paths::base(row, 0)).optional()?)
    })
}

/// Whether something is held here, or was found on a server lately.
pub(super) fn can_be_had(sql: &Connection, path: &StorePath) -> Result<bool, Error> {
    let Some(id) = paths::find(sql, path)? else { return Ok(false) };
    let held = "SELECT 1 FROM items WHERE path = ?1 UNION ALL SELECT 1 FROM redirects WHERE path = ?1";
    Ok(sql.prepare_cached(held)?.exists([id])? || is_elsewhere(sql, id)?)
}

/// What the servers of the configuration say of something.
#[derive(Debug)]
pub(super) enum Elsewhere {
    There,
    Nowhere,
    /// Not all of them said it: why.
    Unsaid(String),
}

/// Asks the servers of the configuration for something, unless they were asked a moment ago, and notes what they say of
/// what is known here. `unsaid`: how often each of them did not say it in a row. Blocks.
pub(super) fn ask_elsewhere(
    farm: &Arc<Farm>,
    path: &StorePath,
    unsaid: &mut [u32],
) -> Result<Elsewhere, Error> {
    let servers = farm.substitutes.servers();
    if servers.is_empty() {
        return Ok(Elsewhere::Nowhere);
    }
    let (known, lately) = farm.database.read_blocking(|sql| missed_lately(sql, path))?;
    let (mut answers, mut has, mut why) = (Vec::new(), false, None);
    for (server, unsaid) in servers.iter().zip(unsaid) {
        if lately.contains(server) {
            continue;
        }
        // One that is down would take its whole time for each of many.
        if *unsaid >= FAILURES {
            why =
                why.or_else(|| Some(format!("{server} failed {FAILURES} times in a row when it was asked")));
            continue;
        }
        match farm.substitutes.has(server, path) {
            Ok(found) => {
                *unsaid = 0;
                answers.push((server.clone(), found));
                has = found;
                if has {
                    break;
                }
            }
            Err(error) => {
                *unsaid += 1;
                tracing::warn!(%error, left_out = *unsaid == FAILURES, "asking for what an import refers to failed");
                why = Some(error.to_string());
            }
        }
    }
    if has || known && !answers.is_empty() {
        let path = path.clone();
        farm.database.write_alone_blocking::<_, Error>(move |tx| {
            let id = paths::number(tx, &path)?;
            note_answers(tx, id, answers)
        })?;
    }
    Ok(match why {
        _ if has => Elsewhere::There,
        Some(why) => Elsewhere::Unsaid(why),
        None => Elsewhere::Nowhere,
    })
}

/// Whether something is known here, and which servers said a moment ago that they do not have it.
fn missed_lately(sql_: &Connection, path: &StorePath) -> Result<(bool, Vec<String>), Error> {
    let Some(id) = paths::find(sql_, path)? else { return Ok((false, Vec::new())) };
    let select = "SELECT server FROM substitutes WHERE path = ?1 AND found = 0 AND checked_at > ?2";
    let mut statement = sql_.prepare_cached(select)?;
    let rows = statement.query_map((id, sql(now().saturating_sub(MISS_MS))), |row| row.get(0))?;
    Ok((true, rows.collect::<rusqlite::Result<_>>()?))
}

/// The place of a folder whose files are used where they lie; it is made if need be. Blocks.
pub(super) fn adopted_place(farm: &Farm, folder: &Path) -> Result<i64, Trouble> {
    let Some(location) = folder.to_str().map(str::to_owned) else {
        let why = format!("the name of the folder {} is not text", folder.display());
        return Err(SourceError::Refused(why).into());
    };
    let all = farm.storage.places().all();
    let adopted = |place: &&Arc<Place>| place.kind == Kind::Adopted && place.target.folder() == Some(folder);
    if let Some(place) = all.iter().find(adopted) {
        return Ok(place.id);
    }
    let at = Location::Folder(folder.to_owned());
    let taken = all.iter().filter(|place| place.kind == Kind::Folder).find_map(|place| {
        let theirs = place.target.folder()?;
        at.overlaps(&Location::Folder(theirs.to_owned())).then(|| theirs.display().to_string())
    });
    if let Some(taken) = taken {
        let why = format!(
            "the folder {} and {taken}, where this coordinator puts nars, lie one within the other: it cannot be used \
             where it lies",
            folder.display()
        );
        return Err(SourceError::Refused(why).into());
    }
    if let Some(hook) = farm.hooks.pusher(&at) {
        let why = format!(
            "the hook “{hook}” pushes to the folder {}, which cannot be used where it lies",
            folder.display()
        );
        return Err(SourceError::Refused(why).into());
    }
    let wanted = location.clone();
    let (id, name) = farm.database.write_blocking::<_, Error>(move |tx| {
        let number: i64 =
            tx.query_row("SELECT coalesce(max(id), 0) + 1 FROM places", [], |row| row.get(0))?;
        let name = format!("adopted-{number}");
        let insert = "INSERT INTO places (name, kind, location) VALUES (?1, 'adopted', ?2) RETURNING id";
        Ok((tx.query_row(insert, (&name, wanted), |row| row.get(0))?, name))
    })?;
    farm.storage.places().add(places::adopted(id, &name, folder));
    Ok(id)
}

/// The files of a nar where they lie.
pub(super) fn as_they_lie(
    source: &Source,
    said: &Said,
    narinfo: Option<&Path>,
    place: i64,
) -> Result<Vec<NarFile>, SourceError> {
    let mut all = Vec::new();
    for (form, file) in source.offered(said, narinfo)? {
        let (Some(file), Some(size)) = (file, form.size) else { continue };
        let Some(name) = file.to_str().map(str::to_owned) else {
            return Err(SourceError::Refused(format!("the name of the file {} is not text", file.display())));
        };
        all.push(NarFile { compression: form.compression, place, name, size });
    }
    Ok(all)
}

/// All of these become items, each after what it refers to, and are published. Blocks.
pub(super) fn all(farm: &Arc<Farm>, import: i64, new: &Arc<Vec<New>>, sign: bool) -> Result<(), Error> {
    let new = Arc::clone(new);
    let by_us = farm.database.write_alone_blocking::<_, Error>(move |tx| {
        let mut by_us = Vec::new();
        for new in &*new {
            let bytes = new.bytes();
            let base = new.said.info.store_path.base_name();
            if let Some(going) = new.going(tx)? {
                let why = format!("its file {} is about to be removed; import it again later", going.name);
                rows::refused(tx, import, base, &why)?;
                continue;
            }
            let Some(id) = keep(tx, new)? else {
                // It is here, but this may be another try of what was kept and not published.
                by_us.extend(paths::find(tx, &new.said.info.store_path)?.filter(|_| sign));
                continue;
            };
            rows::taken(tx, import, base, bytes)?;
            if sign {
                by_us.push(id);
            } else {
                adopt(tx, id, &new.said)?;
            }
        }
        Ok(by_us)
    })?;
    for id in by_us {
        farm.publish_item(id)?;
    }
    Ok(())
}

/// Publishes what is held already. Blocks.
pub(super) fn publish(farm: &Arc<Farm>, id: i64, said: Said, sign: bool) -> Result<(), Error> {
    if sign {
        return farm.publish_item(id).map(drop);
    }
    farm.database.write_alone_blocking::<_, Error>(move |tx| adopt(tx, id, &said))
}

fn adopt(tx: &mut Tx<'_>, id: i64, said: &Said) -> Result<(), Error> {
    // What nobody that is trusted signed is for the farm alone.
    if said.signed { publish::adopt(tx, id, &said.info.print()).map(drop) } else { Ok(()) }
}

/// Something becomes an item; none: it is one already, by way of a build.
fn keep(tx: &mut Tx<'_>, new: &New) -> Result<Option<i64>, Error> {
    let info = &new.said.info;
    let id = paths::number(tx, &info.store_path)?;
    if tx.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([id])? {
        return Ok(None);
    }
    let deriver = info.deriver.as_ref().map(|deriver| paths::number(tx, deriver)).transpose()?;
    let (file_size, method, export_hash) = match &new.files {
        Files::Taken(taken) => {
            (taken.placed.file.size, taken.method.as_ref(), taken.export_hash.as_bytes().as_slice())
        }
        Files::InPlace(files) => (files.first().map_or(0, |file| file.size), None, UNREAD),
    };
    tx.prepare_cached("INSERT INTO items VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute((
        id,
        if method.is_some() { "source" } else { "output" },
        method.map(sources::word),
        info.nar_hash.as_bytes(),
        sql(info.nar_size),
        sql(file_size),
        deriver,
        export_hash,
        sql(now()),
    ))?;
    match &new.files {
        Files::Taken(Taken { placed: Placed { file, .. }, .. }) => files::add(tx, id, file)?,
        Files::InPlace(all) => {
            for file in all {
                files::add_unread(tx, id, file)?;
            }
        }
    }
    fixed::note(tx, id)?;
    // It may have been here before.
    retention::forget(tx, id)?;
    for reference in &info.references {
        let reference = paths::number(tx, reference)?;
        tx.prepare_cached("INSERT OR IGNORE INTO item_references VALUES (?1, ?2)")?
            .execute([id, reference])?;
    }
    retention::rescue_references(tx, id)?;
    depend::provide(tx, id, Provided::Held)?;
    if method.is_some() {
        sources::came(tx, id)?;
    }
    Ok(Some(id))
}

/// The hash for a signature, of a nar that was not read yet.
pub(super) const UNREAD: &[u8] = &[];
