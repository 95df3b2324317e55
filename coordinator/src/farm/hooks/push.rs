//! What is published is copied to a folder or a bucket, in the layout that any web server can serve: each nar before
//! the narinfo that names it, each as a whole or not at all.

use std::io::{self, Read};

use drover_os::Deadline;
use drover_store::narinfo::{NarInfo, SIZE_MAX};
use drover_store::{Compression, StorePath};
use rusqlite::OptionalExtension;
use tokio::sync::watch;

use super::Lane;
use super::failure::Failure;
use super::mirror;
use super::queue::Run;
use super::run::outputs;
use crate::config::Location;
use crate::farm::error::Error;
use crate::farm::{Farm, files, paths, publish};
use crate::storage::NarFile;

/// A published item, with what is copied of it.
struct Published {
    path: StorePath,
    narinfo: String,
    /// The nar of a small one, zstd-compressed.
    small: Option<Vec<u8>>,
    files: Vec<NarFile>,
}

/// Copies what is published of what the run is about.
pub(super) fn run(
    farm: &Farm,
    lane: &Lane,
    run: &Run,
    location: &Location,
    reserve: u64,
) -> Result<(), Failure> {
    let limit = lane.hook.limit;
    let limits = Limits { deadline: Deadline::after(limit), stopping: farm.stopping() };
    let mirror = lane.mirror(farm, location, reserve)?;
    for item in outputs(farm, run)? {
        // What was withdrawn meanwhile is not copied.
        let Some(published) = published(farm, item)? else { continue };
        match copy(farm, &mirror.within(limits.deadline), &published, &limits) {
            Err(_) if *limits.stopping.borrow() => return Err(Failure::Stopped),
            Err(Failure::Failed(error)) if limits.deadline.is_over() => {
                let seconds = limit.as_secs();
                return Err(Failure::new(&format!(
                    "it took longer than {seconds} seconds and was ended: {error}"
                )));
            }
            result => result?,
        }
    }
    Ok(())
}

fn published(farm: &Farm, item: i64) -> Result<Option<Published>, Error> {
    farm.database.read_blocking(|sql| {
        let narinfo: Option<Vec<u8>> = sql
            .prepare_cached(
                "SELECT narinfo FROM published WHERE path = ?1 AND until IS NULL AND elsewhere = 0",
            )?
            .query_row([item], |row| row.get(0))
            .optional()?;
        let Some(narinfo) = narinfo else { return Ok(None) };
        let small = sql
            .prepare_cached("SELECT bytes FROM contents WHERE path = ?1")?
            .query_row([item], |row| row.get(0))
            .optional()?;
        Ok(Some(Published {
            path: paths::path(sql, item)?,
            narinfo: publish::text(narinfo)?,
            small,
            files: files::of(sql, item)?,
        }))
    })
}

/// Where nothing is another one than it should be, nothing is put. A narinfo goes before the nars that it names are
/// replaced: whoever comes in between finds nothing, and not what the other does not fit.
fn copy(farm: &Farm, mirror: &mirror::Within<'_>, item: &Published, limits: &Limits) -> Result<(), Failure> {
    mirror.show_info()?;
    let narinfo = format!("{}.narinfo", item.path.hash_part());
    let there = mirror.target().read(&narinfo, SIZE_MAX)?;
    if there.as_deref() == Some(item.narinfo.as_bytes()) {
        return Ok(());
    }
    let same = there.as_deref().is_some_and(|there| has_same_nars(there, &item.narinfo));
    if there.is_some() && !same {
        mirror.target().remove(&narinfo)?;
    }
    let name = |compression: Compression| format!("nar/{}/{}", compression.word(), item.path.base_name());
    // What lies there without a narinfo that says what it is may be anything of that length.
    let is_there =
        |name: &str, size: u64| Ok::<_, Failure>(same && mirror.target().size(name)? == Some(size));
    if let Some(nar) = &item.small {
        let (name, size) = (name(Compression::Zstd), nar.len() as u64);
        if !is_there(&name, size)? {
            mirror.put(&mut Within { from: Box::new(&nar[..]), limits }, size, &name)?;
        }
    }
    for file in &item.files {
        let (name, size) = (name(file.compression), file.size);
        if !is_there(&name, size)? {
            let from = farm.storage.places().open_within(file, 0..size, limits.deadline)?.reader(size);
            mirror.put(&mut Within { from, limits }, size, &name)?;
        }
    }
    mirror.put(&mut item.narinfo.as_bytes(), item.narinfo.len() as u64, &narinfo)
}

/// Whether two narinfos name the same nars, however they are signed.
fn has_same_nars(there: &[u8], here: &str) -> bool {
    match (NarInfo::parse(there), NarInfo::parse(here.as_bytes())) {
        (Ok(there), Ok(here)) => there.nar_hash == here.nar_hash && there.urls == here.urls,
        _ => false,
    }
}

/// Until when it may go on.
struct Limits {
    deadline: Deadline,
    stopping: watch::Receiver<bool>,
}

/// A reader that fails when it may not go on.
struct Within<'n> {
    from: Box<dyn Read + Send + 'n>,
    limits: &'n Limits,
}

impl Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.limits.deadline.is_over() || *self.limits.stopping.borrow() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "there is no more time"));
        }
        self.from.read(buffer)
    }
}
