//! Imports and mirrors: store items that others built are taken over, each checked as strictly as an upload.
//!
//! An import is a row, and a thread while it is under way. It goes through its roots ([`run`]): what it was told, what a
//! drover published, what sets here want, or what lies in a folder; below each of them what is referred to comes first.
//! Several items are taken at a time ([`flight`]), and none before what it refers to. It may be killed at any time: what
//! is here is not taken again, and numbered roots go on after the last one before which all are over ([`roots`]).

mod check;
mod flight;
mod folder;
mod halt;
mod herder;
mod keep;
mod pace;
mod pass;
mod reads;
mod room;
mod roots;
mod rows;
mod run;
mod said;
mod server;
mod source;
mod take;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use drover_store::key::PublicKey;
use drover_tls::Pin;
use drover_wire::import::{
    ImportDetails, ImportId, ImportState, ImportSummary, NewImport, PUBLISHED_LIMIT, PublishedItem,
    PublishedPage, PublishedQuestion,
};

use rusqlite::OptionalExtension;

use super::error::Error;
use super::{Farm, Tx, paths, sql, unsql};
pub(super) use check::unread_among;
use halt::Halt;
use reads::Reads;
use room::Waits;

/// How many imports may be under way at a time.
const AT_ONCE: usize = 16;
/// How rarely a mirror may begin again, at most: a year.
const EVERY_MOST: u64 = 366 * 24 * 60;

/// The imports that are under way.
#[derive(Debug, Default)]
pub(super) struct Imports {
    halts: Mutex<HashMap<i64, Halt>>,
    waits: Waits,
    reads: Reads,
}

impl Imports {
    fn halts(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Halt>> {
        self.halts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an address in a narinfo is relative and stays below the narinfo's server.
pub(super) fn stays_below(url: &str) -> bool {
    server::check_relative(url).is_ok()
}

/// Goes on with the imports that were under way when the coordinator ended.
pub(super) fn start(farm: &Arc<Farm>) {
    check::start(farm);
    let farm = Arc::clone(farm);
    tokio::spawn(async move {
        if let Err(error) = farm.resume_imports().await {
            tracing::error!(%error, "imports that were under way could not be taken up again; they are at the next start");
        }
    });
}

impl Farm {
    /// Starts an import.
    ///
    /// # Errors
    /// When it is not what one can be, or there are too many.
    pub async fn start_import(self: &Arc<Self>, new: NewImport) -> Result<ImportSummary, Error> {
        let new = check(new)?;
        if self.imports.halts().len() >= AT_ONCE {
            let why = format!("{AT_ONCE} imports are under way already; wait for one to end, or stop one");
            return Err(Error::Conflict(why));
        }
        let id = self
            .database
            .write_alone::<_, Error>(move |tx| {
                let other = rows::running_of(tx, &new.source)?;
                if let Some(other) = other.filter(|_| new.every_minutes.is_some() || new.in_place) {
                    let why = format!("{} is being taken over already, by the import {other}", new.source);
                    return Err(Error::Conflict(why));
                }
                rows::insert(tx, &new)
            })
            .await?;
        self.resume_imports().await?;
        Ok(self.import(unsql(id)).await?.summary)
    }

    /// All imports, the newest first.
    ///
    /// # Errors
    /// When the database cannot be read, here and below.
    pub async fn all_imports(self: &Arc<Self>) -> Result<Vec<ImportSummary>, Error> {
        let mut all = self.database.read(rows::list).await?;
        all.iter_mut().for_each(|import| self.note_wait(import));
        Ok(all)
    }

    /// One import.
    ///
    /// # Errors
    /// When there is none with this number.
    pub async fn import(self: &Arc<Self>, import: ImportId) -> Result<ImportDetails, Error> {
        let mut details = self.database.read(move |sql| rows::show(sql, import)).await?;
        self.note_wait(&mut details.summary);
        Ok(details)
    }

    fn note_wait(&self, import: &mut ImportSummary) {
        if import.state == ImportState::Running {
            import.waits_for = self.imports.waits.of(sql(import.import));
        }
    }

    /// Stops an import, for good.
    ///
    /// # Errors
    /// When there is none with this number, or it has ended.
    pub async fn stop_import(self: &Arc<Self>, import: ImportId) -> Result<ImportDetails, Error> {
        let before = self.import(import).await?;
        if before.summary.state != ImportState::Running {
            let why = format!("the import {import} is {} already", before.summary.state);
            return Err(Error::Conflict(why));
        }
        let halt = self.imports.halts().get(&sql(import)).cloned();
        if let Some(halt) = halt {
            halt.stop();
        }
        let stopped = move |tx: &mut Tx<'_>| rows::end(tx, sql(import), ImportState::Stopped, None);
        self.database.write::<_, Error>(stopped).await?;
        self.import(import).await
    }

    /// Goes on with all imports that are to be under way and are not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(super) async fn resume_imports(self: &Arc<Self>) -> Result<(), Error> {
        let jobs = self.database.read(rows::running).await?;
        for job in jobs {
            let halt = Halt::new(self.stopping());
            let mut halts = self.imports.halts();
            if halts.contains_key(&job.id) {
                continue;
            }
            halts.insert(job.id, halt.clone());
            drop(halts);
            let farm = Arc::clone(self);
            let id = job.id;
            let thread = std::thread::Builder::new().name(format!("import-{id}"));
            let started = thread.spawn(move || {
                run::whole(&farm, &job, &halt);
                farm.imports.halts().remove(&job.id);
            });
            if let Err(error) = started {
                self.imports.halts().remove(&id);
                return Err(Error::io("start a thread for an import", error));
            }
        }
        Ok(())
    }

    /// What was published after a number.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn published_since(
        self: &Arc<Self>,
        question: PublishedQuestion,
    ) -> Result<PublishedPage, Error> {
        let limit = question.limit.unwrap_or(PUBLISHED_LIMIT).clamp(1, PUBLISHED_LIMIT);
        self.database
            .read(move |sql_| {
                let mut select = sql_.prepare_cached(
                    "SELECT n.number, p.base FROM publications n JOIN paths p ON p.id = n.path \
                     WHERE n.number > ?1 ORDER BY n.number LIMIT ?2",
                )?;
                let rows = select.query_map([sql(question.after), sql(limit)], |row| {
                    Ok(PublishedItem { number: unsql(row.get(0)?), path: paths::base(row, 1)? })
                })?;
                let items = rows.collect::<rusqlite::Result<_>>()?;
                let last = "SELECT seq FROM sqlite_sequence WHERE name = 'publications'";
                let last: Option<i64> =
                    sql_.prepare_cached(last)?.query_row([], |row| row.get(0)).optional()?;
                Ok(PublishedPage { items, last: Some(last.map_or(0, unsql)) })
            })
            .await
    }
}

/// Checks what an import is to be.
fn check(mut new: NewImport) -> Result<NewImport, Error> {
    let bad = |why: String| Err(Error::BadRequest(why));
    let is_server = is_address(&new.source);
    if is_server {
        let plain = new.source.parse::<axum::http::Uri>().is_ok_and(|uri| {
            let authority = uri.authority().map_or("", axum::http::uri::Authority::as_str);
            uri.host().is_some_and(|host| !host.is_empty())
                && !authority.contains('@')
                && uri.query().is_none()
        });
        if !plain {
            return bad(format!(
                "“{}” is no address of a substitute server, such as https://bordeaux.guix.gnu.org",
                new.source.chars().take(200).collect::<String>()
            ));
        }
        new.source.truncate(new.source.trim_end_matches('/').len());
    } else {
        let folder = Path::new(&new.source);
        if !folder.is_absolute() {
            return bad(format!(
                "“{}” is neither an address that begins with http:// or https:// nor an absolute path of a folder on \
                 the coordinator's machine",
                new.source.chars().take(200).collect::<String>()
            ));
        }
        if !folder.is_dir() {
            return bad(format!("there is no folder {} on the coordinator's machine", new.source));
        }
    }
    if new.in_place && is_server {
        return bad("only the files of a folder can be used where they lie, not those of a server".to_owned());
    }
    if let Some(file) = new.herder.as_deref().map(Path::new) {
        if is_server {
            return bad(
                "the database of a nar-herder goes with the folder where its nars lie, not with a server"
                    .to_owned(),
            );
        }
        if !file.is_absolute() || !file.is_file() {
            return bad(format!(
                "there is no database {} on the coordinator's machine: the absolute path of the nar-herder's own is wanted",
                file.display()
            ));
        }
    }
    match new.every_minutes {
        Some(_) if !is_server => return bad("only a server can be mirrored, and this is a folder".to_owned()),
        Some(minutes) if !(1..=EVERY_MOST).contains(&minutes) => {
            return bad(format!(
                "a mirror begins again every 1 to {EVERY_MOST} minutes, and not every {minutes}"
            ));
        }
        _ => {}
    }
    if !new.server_keys.is_empty() && !new.source.starts_with("https://") {
        return bad(
            "the key of a certificate is of use with an address that begins with https:// only".to_owned()
        );
    }
    if let Err(error) = pins(&new) {
        return bad(error);
    }
    for key in &new.keys {
        if let Err(error) = PublicKey::parse(key) {
            return bad(format!("a key that was given cannot be used: {error}"));
        }
    }
    Ok(new)
}

/// The keys by which the server's certificate is trusted.
fn pins(new: &NewImport) -> Result<Vec<Pin>, String> {
    new.server_keys.iter().map(|key| key.parse()).collect()
}

/// Whether a source is a server's address and not a folder.
fn is_address(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

#[cfg(test)]
mod tests;
