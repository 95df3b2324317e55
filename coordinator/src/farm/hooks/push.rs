//! What is published is copied to a folder or a bucket, in the layout that any web server can serve: each nar before
//! the narinfo that names it, each as a whole or not at all.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use drover_os::Deadline;
use drover_store::{Compression, STORE_DIR, StorePath};
use tokio::sync::watch;

use super::failure::Failure;
use super::queue::Run;
use super::run::outputs;
use crate::config::{Hook, Location};
use crate::farm::error::Error;
use crate::farm::{Farm, files, paths, publish};
use crate::storage::{NarFile, Target};

const CACHE_INFO: &str = "nix-cache-info";
/// Held by who makes that file: two would write to the same.
static CACHE_INFO_MADE: Mutex<()> = Mutex::new(());

/// A published item, with what is copied of it.
struct Published {
    path: StorePath,
    narinfo: String,
    /// The nar of a small one, zstd-compressed.
    small: Option<Vec<u8>>,
    files: Vec<NarFile>,
}

/// Copies what is published of what the run is about.
pub(super) fn run(farm: &Farm, hook: &Hook, run: &Run, location: &Location) -> Result<(), Failure> {
    let limits = Limits { deadline: Deadline::after(hook.limit), stopping: farm.stopping() };
    let target = Target::new(location)?;
    for item in outputs(farm, run)? {
        // What was withdrawn meanwhile is not copied.
        let Some(published) = published(farm, item)? else { continue };
        match copy(farm, &target, &published, &limits) {
            Err(_) if *limits.stopping.borrow() => return Err(Failure::Stopped),
            Err(Failure::Failed(error)) if limits.deadline.is_over() => {
                let seconds = hook.limit.as_secs();
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
        use rusqlite::OptionalExtension;
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

fn copy(farm: &Farm, target: &Target, item: &Published, limits: &Limits) -> Result<(), Failure> {
    {
        let _alone = CACHE_INFO_MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if target.size(CACHE_INFO)?.is_none() {
            let text = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 0\nPriority: 100\n");
            target.put(&mut text.as_bytes(), text.len() as u64, CACHE_INFO)?;
        }
    }
    let name = |compression: Compression| format!("nar/{}/{}", compression.word(), item.path.base_name());
    if let Some(nar) = &item.small {
        put(target, &name(Compression::Zstd), nar.len() as u64, || Ok(Box::new(&nar[..])), limits)?;
    }
    for file in &item.files {
        let open = || Ok(farm.storage.places().open(file, 0..file.size)?.reader(file.size));
        put(target, &name(file.compression), file.size, open, limits)?;
    }
    let narinfo = format!("{}.narinfo", item.path.hash_part());
    target.put(&mut item.narinfo.as_bytes(), item.narinfo.len() as u64, &narinfo)?;
    Ok(())
}

/// Puts a nar, unless it is there.
fn put<'n>(
    target: &Target,
    name: &str,
    size: u64,
    open: impl FnOnce() -> Result<Box<dyn Read + Send + 'n>, Failure>,
    limits: &Limits,
) -> Result<(), Failure> {
    if target.size(name)? == Some(size) {
        return Ok(());
    }
    let mut within = Within { from: open()?, limits };
    target.put(&mut within, size, name)?;
    Ok(())
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
