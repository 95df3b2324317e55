//! Outputs come in: declared, uploaded in as many pieces as the network makes of them, verified while they pass.
//!
//! An output that is whole lies among the nars before its lease ends, and belongs to its row in `uploads` until the
//! report makes it an item. What a lease leaves behind is removed when it has ended, and at the next start.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use drover_store::derivation::{Derivation, Fixed};
use drover_store::{Compression, Sha256Hash, StorePath, export};
use drover_wire::LeaseId;
use drover_wire::agent::{Output, Received};
use futures_util::{Stream, StreamExt};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::time::timeout;

use super::change::AgentRow;
use super::error::Error;
use super::lease::{Lease, UploadLock, Whole};
use super::numbers::UploadEnd;
use super::{Farm, Tx, files, intake, paths, retention, sql, unsql};
use crate::storage::{Expected, Incoming, NarFile, Storage, packed_limit, remove_if_there};

/// The body of an upload. An error in it, or an end of the connection, cuts it off.
pub type UploadBody = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Pieces that wait for the disk.
const QUEUE: usize = 8;
/// How long an agent waits at a time until what has come whole has its place: less than it would wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many bytes come at once, at most.
const PIECE: u64 = 512 * 1024;
/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 16 << 20;

/// A row of `uploads`, with what is needed to verify it.
struct Upload {
    id: i64,
    path: StorePath,
    output: Output,
    complete: bool,
    file_size: u64,
}

/// What came of one request's body.
enum Ending {
    /// All of it.
    Whole,
    /// It was cut off.
    Cut,
}

impl Farm {
    /// An agent says what it is about to upload, and hears where to go on. Where all of it is here already, it is given its
    /// place.
    ///
    /// # Errors
    /// When it does not hold the lease, or the build has no such output; when there is no room for more of it.
    pub async fn declare(
        self: &Arc<Self>,
        agent: &AgentRow,
        lease: LeaseId,
        mut output: Output,
    ) -> Result<Received, Error> {
        let held = self.live.lease(agent.id, lease).ok_or(Error::LeaseNotHeld(lease))?;
        let limit = self.config.max_nar_mib.saturating_mul(1 << 20);
        if output.nar_size > limit {
            return Err(Error::TooLarge { what: format!("the nar of {}", output.path), limit });
        }
        output.references.sort();
        output.references.dedup();
        let path = output.path.clone();
        let partial = self.storage.upload(lease, &path);
        let stale = partial.clone();
        let said = output.clone();
        let state = self.database.write::<_, Error>(move |tx| declare(tx, lease, &said, &stale)).await?;
        if let Some(file_size) = state {
            return Ok(Received { received: file_size, complete: true });
        }
        let lock = held.upload(&path);
        if lock.whole(&output).is_some() {
            let writing = turn(&lock, &path).await?;
            return self.place(held, lock, path, writing).await;
        }
        let received = length(&partial)?;
        let farm = Arc::clone(self);
        let has_room = crate::traced::spawn_blocking(move || farm.has_room_for_more(&output, received));
        if has_room.await.map_err(panicked)?? {
            return Ok(Received { received, complete: false });
        }
        // Else the agent would compress again what is here, for it to be refused.
        Err(Error::StorageFull(format!("the rest of {path}")))
    }

    /// Whether the next bytes of an output would be taken. Blocks.
    fn has_room_for_more(&self, output: &Output, received: u64) -> Result<bool, Error> {
        let more = at_once(output, received);
        let has_place = self.has_place_for(received + more.min(PIECE), received)?;
        Ok(has_place && self.storage.claim(more).is_some())
    }

    /// Takes the bytes of an output from `offset` to its end.
    ///
    /// # Errors
    /// When the agent does not hold the lease, has not declared the output, the bytes do not fit what is here, they
    /// are cut off, or they are not what was declared: then the copy is removed.
    pub async fn upload(
        self: &Arc<Self>,
        agent: &AgentRow,
        lease: LeaseId,
        path: StorePath,
        offset: u64,
        mut body: UploadBody,
    ) -> Result<Received, Error> {
        let held = self.live.lease(agent.id, lease).ok_or(Error::LeaseNotHeld(lease))?;
        let declared = path.clone();
        self.database.read(move |sql| declared_before(sql, lease, &declared).map(drop)).await?;
        let lock = held.upload(&path);
        // An older request for the same output may hang on a dead connection: it stops for this one.
        let mut mine = 0;
        lock.newest.send_modify(|newest| {
            *newest += 1;
            mine = *newest;
        });
        let mut newest = lock.newest.subscribe();
        let writing = turn(&lock, &path).await?;
        let (upload, fixed, candidates) = self.expected(lease, &path).await?;
        if upload.complete {
            return Ok(Received { received: upload.file_size, complete: true });
        }
        if lock.whole(&upload.output).is_some() {
            return self.place(held, lock, path, writing).await;
        }
        lock.set_whole(None);
        let mut counted = self.numbers.upload();
        let (pieces, waiting) = mpsc::channel::<Bytes>(QUEUE);
        let (farm, same_lease) = (Arc::clone(self), Arc::clone(&held));
        let (end, ended) = tokio::sync::oneshot::channel();
        let writer = crate::traced::spawn_blocking(move || {
            let expected = Expected {
                nar_hash: upload.output.nar_hash,
                nar_size: upload.output.nar_size,
                references: upload.output.references.clone(),
                candidates,
                unfound: false,
                fixed,
            };
            let whole =
                Copy { farm: &farm, lease: &same_lease, upload, offset }.run(expected, waiting, ended);
            (writing, whole)
        });
        let ending = loop {
            tokio::select! {
                piece = body.next() => match piece {
                    Some(Ok(piece)) => {
                        counted.came(piece.len());
                        // Renewed; and what comes for a lease that has ended is not wanted.
                        let holds = self.live.lease(agent.id, lease).is_some();
                        if !holds || pieces.send(piece).await.is_err() {
                            // Or the writer has ended already, with an error.
                            break Ending::Cut;
                        }
                    }
                    Some(Err(_)) => break Ending::Cut,
                    None => break Ending::Whole,
                },
                () = superseded(&mut newest, mine) => break Ending::Cut,
            }
        };
        let _ = end.send(ending);
        drop(pieces);
        let (writing, whole) = writer.await.map_err(panicked)?;
        counted.ends(match &whole {
            Ok(_) => UploadEnd::Complete,
            Err(Error::CutOff { .. }) => UploadEnd::CutOff,
            Err(_) => UploadEnd::Refused,
        });
        drop(counted);
        lock.set_whole(Some(whole?));
        self.place(held, lock, path, writing).await
    }

    /// Gives an output that is whole its place. Whoever asked for it waits a while; it goes on without them.
    async fn place(
        self: &Arc<Self>,
        held: Arc<Lease>,
        lock: Arc<UploadLock>,
        path: StorePath,
        writing: OwnedMutexGuard<()>,
    ) -> Result<Received, Error> {
        let (farm, same) = (Arc::clone(self), path.clone());
        let placing = crate::traced::spawn_blocking(move || {
            let _writing = writing;
            let placed = farm.place_whole(&held, &lock, &same);
            if let Err(error) = &placed {
                tracing::warn!(lease = %held.id, output = same.base_name(), %error, "an output has no place yet");
            }
            placed
        });
        match timeout(PATIENCE, placing).await {
            Ok(placed) => placed.map_err(panicked)?,
            Err(_) => Err(Error::InHand(path)),
        }
    }

    /// Gives an output its place if it is whole and has none. Blocks, for as long as that place takes.
    fn place_whole(&self, held: &Lease, lock: &UploadLock, path: &StorePath) -> Result<Received, Error> {
        let lease = held.id;
        let partial = self.storage.upload(lease, path);
        let upload = self.database.read_blocking(|sql| declared_before(sql, lease, path))?;
        if upload.complete {
            return Ok(Received { received: upload.file_size, complete: true });
        }
        let Some(whole) = lock.whole(&upload.output) else {
            return Ok(Received { received: length(&partial)?, complete: false });
        };
        let placed = self.place_file(lease, upload, &partial, whole.export_hash);
        // What is not there as it was is asked for again.
        if placed.is_ok() || length(&partial).is_ok_and(|length| length != whole.bytes) {
            lock.set_whole(None);
        }
        remove_if_ended(held, &partial);
        placed?;
        tracing::info!(%lease, output = path.base_name(), bytes = whole.bytes, "an output is here");
        Ok(Received { received: whole.bytes, complete: true })
    }

    fn place_file(
        &self,
        lease: LeaseId,
        upload: Upload,
        partial: &Path,
        export_hash: Sha256Hash,
    ) -> Result<(), Error> {
        let failed = |error| Error::io(format!("remove {}", partial.display()), error);
        if !self.database.read_blocking(|sql| is_wanted(sql, lease, upload.id))? {
            return remove_if_there(partial).map_err(failed);
        }
        // Where there is no room, the copy stays, and it is tried again when the agent says so.
        let placed = self.put(partial, &upload.path, Compression::Zstd)?;
        let file = placed.file.clone();
        self.database.write_blocking::<_, Error>(move |tx| keep(tx, lease, &upload, &file, &export_hash))?;
        drop(placed);
        remove_if_there(partial).map_err(failed)
    }

    /// What was declared, and what it is held against.
    async fn expected(
        &self,
        lease: LeaseId,
        path: &StorePath,
    ) -> Result<(Upload, Option<Fixed>, HashSet<StorePath>), Error> {
        let path = path.clone();
        self.database
            .read(move |sql| {
                let upload = declared_before(sql, lease, &path)?;
                let derivation = derivation_of(sql, lease)?;
                let (fixed, candidates) = judge_by_derivation(sql, derivation, &path)?;
                let outside = upload.output.references.iter().find(|said| !candidates.contains(*said));
                match outside {
                    Some(outside) if is_closed(sql, derivation)? => Err(Error::BadOutput {
                        reason: format!(
                            "it is said to refer to {outside}, which is neither among what its derivation needs nor \
                             below that, and all of that is here"
                        ),
                        path,
                    }),
                    _ => Ok((upload, fixed, candidates)),
                }
            })
            .await
    }

    /// Removes what an ended lease left behind, in the background.
    pub(super) fn clean_uploads_later(self: &Arc<Self>, lease: LeaseId) {
        let farm = Arc::clone(self);
        crate::traced::spawn_blocking(move || {
            if let Err(error) = farm.clean_uploads(lease) {
                tracing::warn!(%lease, %error, "what an ended lease left behind could not be removed");
            }
        });
    }

    /// Removes what an ended lease left behind. Blocks.
    fn clean_uploads(self: &Arc<Self>, lease: LeaseId) -> Result<(), Error> {
        let farm = Arc::clone(self);
        self.database.write_blocking::<_, Error>(move |tx| clean(tx, lease, &farm.storage))
    }
}

fn panicked(_: tokio::task::JoinError) -> Error {
    Error::Damaged("taking an upload failed in a way that it must not".to_owned())
}

/// Waits until nobody else has an output in hand, for a while: whoever has may be giving it its place.
async fn turn(lock: &UploadLock, path: &StorePath) -> Result<OwnedMutexGuard<()>, Error> {
    let waiting = timeout(PATIENCE, Arc::clone(&lock.writing).lock_owned());
    waiting.await.map_err(|_| Error::InHand(path.clone()))
}

/// A copy may have been made after what its lease left behind was removed.
fn remove_if_ended(lease: &Lease, partial: &Path) {
    if !lease.log().length().borrow().ended {
        return;
    }
    if let Err(error) = remove_if_there(partial) {
        tracing::warn!(lease = %lease.id, %error, "what an ended lease left behind could not be removed");
    }
}

/// The bytes that a copy may have at most, about: what zstd makes of a nar that it cannot compress.
fn most(output: &Output) -> u64 {
    output.nar_size.saturating_add(output.nar_size / 256).saturating_add(4096)
}

/// How many bytes are written, at most, before it is looked for room again.
fn at_once(output: &Output, received: u64) -> u64 {
    LOOK_EVERY.min(most(output).saturating_sub(received)).max(1)
}

/// Ends when a newer request for the same output has come.
async fn superseded(newest: &mut watch::Receiver<u64>, mine: u64) {
    // The sender lives as long as the lease, which whoever waits here holds.
    let _ = newest.wait_for(|newest| *newest > mine).await;
}

/// Some(file size) if it is complete already.
fn declare(tx: &mut Tx<'_>, lease: LeaseId, output: &Output, partial: &Path) -> Result<Option<u64>, Error> {
    let bad = |reason: String| Error::BadOutput { path: output.path.clone(), reason };
    let id: Option<i64> = tx
        .prepare_cached(
            "SELECT p.id FROM attempts a JOIN builds b ON b.id = a.build \
             JOIN derivation_outputs o ON o.derivation = b.derivation JOIN paths p ON p.id = o.path \
             WHERE a.lease = ?1 AND a.ended_at IS NULL AND p.base = ?2",
        )?
        .query_row((sql(lease.0), output.path.base_name()), |row| row.get(0))
        .optional()?;
    let Some(id) = id else {
        let open = "SELECT 1 FROM attempts WHERE lease = ?1 AND ended_at IS NULL";
        if !tx.prepare_cached(open)?.exists([sql(lease.0)])? {
            return Err(Error::LeaseNotHeld(lease));
        }
        return Err(bad("it is not one of the outputs of the build's derivation".to_owned()));
    };
    let kept: Option<i64> = tx
        .prepare_cached("SELECT file_size FROM items WHERE path = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if let Some(size) = kept {
        retention::rescue(tx, id)?;
        return Ok(Some(unsql(size)));
    }
    let declared = find(tx, lease, &output.path)?;
    match declared {
        Some(upload) if upload.output == *output => Ok(upload.complete.then_some(upload.file_size)),
        Some(upload) if upload.complete => {
            Err(bad("another nar of it was uploaded for this lease already".to_owned()))
        }
        _ => {
            remove_if_there(partial)
                .map_err(|error| Error::io(format!("remove {}", partial.display()), error))?;
            let refs: Vec<&str> = output.references.iter().map(StorePath::base_name).collect();
            tx.prepare_cached(
                "INSERT INTO uploads (lease, path, nar_hash, nar_size, refs) VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT (lease, path) DO UPDATE SET nar_hash = ?3, nar_size = ?4, refs = ?5",
            )?
            .execute((
                sql(lease.0),
                id,
                output.nar_hash.as_bytes(),
                sql(output.nar_size),
                refs.join("\n"),
            ))?;
            Ok(None)
        }
    }
}

/// What was declared of an output that is to come.
fn declared_before(sql_: &Connection, lease: LeaseId, path: &StorePath) -> Result<Upload, Error> {
    if let Some(upload) = find(sql_, lease, path)? {
        return Ok(upload);
    }
    // The lease may have ended a moment ago, and what was declared went with it.
    let is_open = "SELECT 1 FROM attempts WHERE lease = ?1 AND ended_at IS NULL";
    if !sql_.prepare_cached(is_open)?.exists([sql(lease.0)])? {
        return Err(Error::LeaseNotHeld(lease));
    }
    Err(Error::BadOutput { path: path.clone(), reason: "declare it before its bytes are sent".to_owned() })
}

fn find(sql_: &Connection, lease: LeaseId, path: &StorePath) -> Result<Option<Upload>, Error> {
    let Some(id) = paths::find(sql_, path)? else { return Ok(None) };
    type Columns = (Sha256Hash, i64, String, bool, Option<i64>);
    let row: Option<Columns> = sql_
        .prepare_cached(
            "SELECT nar_hash, nar_size, refs, complete, file_size FROM uploads WHERE lease = ?1 AND path = ?2",
        )?
        .query_row([sql(lease.0), id], |row| {
            Ok((paths::hash(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((nar_hash, nar_size, refs, complete, file_size)) = row else { return Ok(None) };
    let references = refs.lines().map(StorePath::parse_base).collect::<Result<Vec<_>, _>>();
    let references = references.map_err(|error| Error::Damaged(format!("a reference of {path}: {error}")))?;
    Ok(Some(Upload {
        id,
        path: path.clone(),
        output: Output { path: path.clone(), nar_hash, nar_size: unsql(nar_size), references },
        complete,
        file_size: file_size.map_or(0, unsql),
    }))
}

/// The derivation that a lease is about.
fn derivation_of(sql_: &Connection, lease: LeaseId) -> Result<i64, Error> {
    let select = "SELECT b.derivation FROM attempts a JOIN builds b ON b.id = a.build WHERE a.lease = ?1";
    Ok(sql_.prepare_cached(select)?.query_row([sql(lease.0)], |row| row.get(0))?)
}

/// The hash that fixes the output, if any, and all that it could refer to: its derivation's outputs, its sources, its
/// inputs and whatever is below them as far as it is here.
pub(super) fn judge_by_derivation(
    sql_: &Connection,
    derivation: i64,
    path: &StorePath,
) -> Result<(Option<Fixed>, HashSet<StorePath>), Error> {
    let name = paths::path(sql_, derivation)?;
    let parsed = Derivation::parse(&intake::text(sql_, &name)?)
        .map_err(|error| Error::Damaged(format!("the derivation {name}: {error}")))?;
    let fixed =
        parsed.outputs.iter().find(|output| output.path == *path).and_then(|output| output.fixed.clone());
    let candidates = paths::bases(
        sql_,
        "WITH RECURSIVE near (path) AS ( \
             SELECT output FROM derivation_inputs WHERE derivation = ?1 \
             UNION SELECT path FROM derivation_sources WHERE derivation = ?1 \
             UNION SELECT path FROM derivation_outputs WHERE derivation = ?1 \
             UNION SELECT r.reference FROM near n JOIN item_references r ON r.item = n.path) \
         SELECT p.base FROM near n JOIN paths p ON p.id = n.path",
        derivation,
    )?;
    Ok((fixed, candidates.into_iter().collect()))
}

/// Whether all that a derivation needs, and all below that, is held here: then nothing else can be referred to.
fn is_closed(sql_: &Connection, derivation: i64) -> Result<bool, Error> {
    let lack = "WITH RECURSIVE near (path) AS ( \
                    SELECT output FROM derivation_inputs WHERE derivation = ?1 \
                    UNION SELECT path FROM derivation_sources WHERE derivation = ?1 \
                    UNION SELECT r.reference FROM near n JOIN item_references r ON r.item = n.path) \
                SELECT 1 FROM near n WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.path = n.path) LIMIT 1";
    Ok(!sql_.prepare_cached(lack)?.exists([derivation])?)
}

fn length(partial: &Path) -> Result<u64, Error> {
    match std::fs::metadata(partial) {
        Ok(file) => Ok(file.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io(format!("look at {}", partial.display()), error)),
    }
}

/// One request's bytes on their way to the disk, on a thread that may block.
struct Copy<'a> {
    farm: &'a Farm,
    lease: &'a Lease,
    upload: Upload,
    offset: u64,
}

impl Copy<'_> {
    fn run(
        self,
        expected: Expected,
        pieces: mpsc::Receiver<Bytes>,
        ended: tokio::sync::oneshot::Receiver<Ending>,
    ) -> Result<Whole, Error> {
        let lease = self.lease;
        let partial = self.farm.storage.upload(lease.id, &self.upload.path);
        let whole = self.take(&partial, expected, pieces, ended);
        remove_if_ended(lease, &partial);
        whole
    }

    fn take(
        self,
        partial: &Path,
        expected: Expected,
        pieces: mpsc::Receiver<Bytes>,
        ended: tokio::sync::oneshot::Receiver<Ending>,
    ) -> Result<Whole, Error> {
        let here = length(partial)?;
        if here != self.offset {
            return Err(Error::WrongOffset { what: "the output", offset: self.offset, received: here });
        }
        let mut incoming = Incoming::new(expected).map_err(|error| self.io("make a decoder", error))?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(partial);
        let file = file.as_mut().map_err(|error| self.io("open", io::Error::from(error.kind())))?;
        if let Err(reason) = self.resume(file, &mut incoming)? {
            return Err(self.refuse(partial, reason)?);
        }
        let received = match self.write(file, &mut incoming, pieces)? {
            Ok(received) => received,
            Err(reason) => return Err(self.refuse(partial, reason)?),
        };
        if !matches!(ended.blocking_recv(), Ok(Ending::Whole)) {
            return Err(Error::CutOff { received });
        }
        let verified = match incoming.finish() {
            Ok(verified) => verified,
            Err(reason) => return Err(self.refuse(partial, reason.0)?),
        };
        file.sync_all().map_err(|error| self.io("sync", error))?;
        let deriver = &self.lease.allocation.derivation;
        let export_hash = export::export_hash(
            verified.after_nar,
            &self.upload.path,
            &self.upload.output.references,
            Some(deriver),
        );
        Ok(Whole { output: self.upload.output, bytes: received, export_hash })
    }

    /// Feeds what came before to the judge.
    fn resume(&self, file: &mut File, incoming: &mut Incoming) -> Result<Result<(), String>, Error> {
        if self.offset == 0 {
            return Ok(Ok(()));
        }
        file.seek(SeekFrom::Start(0)).map_err(|error| self.io("read", error))?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = file.read(&mut buffer).map_err(|error| self.io("read", error))?;
            if n == 0 {
                return Ok(Ok(()));
            }
            if let Err(reason) = incoming.update(&buffer[..n]) {
                return Ok(Err(reason.0));
            }
        }
    }

    /// Writes and judges pieces until there are no more; gives the bytes that are here then.
    fn write(
        &self,
        file: &mut File,
        incoming: &mut Incoming,
        mut pieces: mpsc::Receiver<Bytes>,
    ) -> Result<Result<u64, String>, Error> {
        let mut received = self.offset;
        let mut look_at = received;
        let mut claim = None;
        let limit = packed_limit(self.upload.output.nar_size);
        while let Some(piece) = pieces.blocking_recv() {
            if received + piece.len() as u64 > limit {
                return Ok(Err(format!(
                    "has more than {limit} bytes compressed, which is not needed for it"
                )));
            }
            if received >= look_at {
                let full = || Error::StorageFull(format!("the rest of {}", self.upload.path));
                // What this claims is written before the next look, and is no claim any more.
                let more = at_once(&self.upload.output, received).max(piece.len() as u64);
                drop(claim.take());
                if !self.farm.has_place_for(received + piece.len() as u64, received)? {
                    return Err(full());
                }
                claim = Some(self.farm.storage.claim(more).ok_or_else(full)?);
                look_at = received + LOOK_EVERY;
            }
            if let Err(reason) = incoming.update(&piece) {
                return Ok(Err(reason.0));
            }
            if let Err(error) = file.write_all(&piece) {
                // A part of the piece may have been written: it would be in the way.
                let _ = file.set_len(received);
                return Err(self.io("write", error));
            }
            received += piece.len() as u64;
        }
        Ok(Ok(received))
    }

    /// It is not what was declared: the copy goes, and the agent may start again.
    fn refuse(&self, partial: &Path, reason: String) -> Result<Error, Error> {
        remove_if_there(partial).map_err(|error| self.io("remove", error))?;
        let reason = format!("its nar {reason}");
        tracing::warn!(lease = %self.lease.id, output = self.upload.path.base_name(), reason, "an output is refused");
        Ok(Error::BadOutput { path: self.upload.path.clone(), reason })
    }

    fn io(&self, what: &str, error: io::Error) -> Error {
        Error::io(format!("{what} the copy of {}", self.upload.path), error)
    }
}

/// Whether an output that came whole is still to be kept: its build has not ended otherwise, and it is no item yet.
fn is_wanted(sql_: &Connection, lease: LeaseId, id: i64) -> Result<bool, Error> {
    let state = sql_
        .prepare_cached(
            "SELECT b.state FROM attempts a JOIN builds b ON b.id = a.build \
             WHERE a.lease = ?1 AND a.ended_at IS NULL",
        )?
        .query_row([sql(lease.0)], |row| paths::state(row, 0))
        .optional()?
        .ok_or(Error::LeaseNotHeld(lease))?;
    let kept = sql_.prepare_cached("SELECT 1 FROM items WHERE path = ?1")?.exists([id])?;
    // Canceled: nobody wants it, and another lease may have one that is wanted. Or it came as a source meanwhile.
    Ok(!state.is_final() && !kept)
}

/// Notes that an output has its place. Where it is not wanted any more, the file is a leftover.
fn keep(
    tx: &Tx<'_>,
    lease: LeaseId,
    upload: &Upload,
    file: &NarFile,
    export_hash: &Sha256Hash,
) -> Result<(), Error> {
    if !is_wanted(tx, lease, upload.id)? {
        return Ok(());
    }
    let declared = find(tx, lease, &upload.path)?;
    if declared.is_none_or(|declared| declared.output != upload.output) {
        let reason = "something else was declared for it while it was uploaded".to_owned();
        return Err(Error::BadOutput { path: upload.path.clone(), reason });
    }
    tx.prepare_cached(
        "UPDATE uploads SET complete = 1, file_size = ?3, export_hash = ?4, place = ?5, name = ?6 \
         WHERE lease = ?1 AND path = ?2",
    )?
    .execute((
        sql(lease.0),
        upload.id,
        sql(file.size),
        export_hash.as_bytes(),
        file.place,
        files::unusual_name(file, &upload.path),
    ))?;
    files::keep(tx, file)
}

/// Where the file of an output is that came whole.
pub(super) fn file(
    sql_: &Connection,
    lease: i64,
    id: i64,
    path: &StorePath,
) -> Result<Option<NarFile>, Error> {
    let select = "SELECT place, name, file_size FROM uploads WHERE lease = ?1 AND path = ?2 AND complete = 1";
    let found: Option<(i64, Option<String>, i64)> = sql_
        .prepare_cached(select)?
        .query_row([lease, id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let compression = Compression::Zstd;
    Ok(found.map(|(place, name, size)| NarFile {
        compression,
        place,
        name: name.unwrap_or_else(|| Storage::usual_name(path, compression)),
        size: unsql(size),
    }))
}

/// Removes what an ended lease left behind: partial files, and whole outputs that became nobody's.
fn clean(tx: &mut Tx<'_>, lease: LeaseId, storage: &Storage) -> Result<(), Error> {
    let open = "SELECT 1 FROM attempts WHERE lease = ?1 AND ended_at IS NULL";
    if tx.prepare_cached(open)?.exists([sql(lease.0)])? {
        return Ok(());
    }
    let left = {
        let mut select = tx.prepare_cached(
            "SELECT u.path, p.base FROM uploads u JOIN paths p ON p.id = u.path WHERE u.lease = ?1",
        )?;
        let rows =
            select.query_map([sql(lease.0)], |row| Ok((row.get::<_, i64>(0)?, paths::base(row, 1)?)))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()?
    };
    for (id, path) in left {
        let file = storage.upload(lease, &path);
        remove_if_there(&file).map_err(|error| Error::io(format!("remove {}", file.display()), error))?;
        if let Some(whole) = self::file(tx, sql(lease.0), id, &path)? {
            files::leave(tx, whole.place, &whole.name, 0)?;
        }
        tx.prepare_cached("DELETE FROM uploads WHERE lease = ?1 AND path = ?2")?
            .execute([sql(lease.0), id])?;
    }
    Ok(())
}

/// At the start, before anybody uploads: removes what ended leases left behind.
pub(super) fn recover(tx: &mut Tx<'_>, storage: &Storage) -> Result<(), Error> {
    for lease in paths::numbers(tx, "SELECT DISTINCT lease FROM uploads WHERE lease >= ?1", 0)? {
        clean(tx, LeaseId(unsql(lease)), storage)?;
    }
    Ok(())
}
