//! The one writer: a thread that runs jobs in transactions and commits many at once.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use super::{Commits, Error};

/// Jobs that wait before senders have to.
const QUEUE: usize = 1024;
/// Pages in the log beyond which a commit brings them to their places: of 16 MB, and of 64 MB while large jobs write,
/// since they come back to many of the same pages.
pub(super) const CHECKPOINT: u32 = 4_000;
const LARGE_CHECKPOINT: u32 = 16_000;
/// KiB of pages that are kept in memory: the upper levels of the indexes. More of them made no job faster, since the
/// system has the rest of the file in memory.
pub(super) const CACHE: i64 = 2 << 10;
/// Jobs that share a commit at most, and how long they may take together.
const BATCH: usize = 256;
const BATCH_TIME: Duration = Duration::from_millis(50);

/// A transaction. It is a connection, with a place to note changes that are to be made known after the commit.
pub struct Tx<'c, C> {
    connection: &'c Connection,
    changes: Vec<C>,
}

impl<C> Tx<'_, C> {
    /// Notes a change: it is made known after the commit, and forgotten when there is none.
    pub fn note(&mut self, change: C) {
        self.changes.push(change);
    }

    /// The change that was noted last.
    pub fn last_noted(&self) -> Option<&C> {
        self.changes.last()
    }
}

impl<C> Deref for Tx<'_, C> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl<C> fmt::Debug for Tx<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("changes", &self.changes.len()).finish_non_exhaustive()
    }
}

/// Called with the outcome of the commit; answers whoever asked.
type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// A job: whether it went well, and how to answer. Without a transaction it does nothing, and whoever asked hears why
/// there is none.
type Job<C> = Box<dyn FnOnce(Result<&mut Tx<'_, C>, Error>) -> (bool, Reply) + Send>;

/// How much a job writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Little: it shares a transaction with others, in a savepoint of its own.
    Small,
    /// Much: a savepoint would have SQLite keep the old contents of every page in memory, and look through all of
    /// them at every statement. It has a transaction of its own.
    Large,
}

struct Task<C> {
    size: Size,
    job: Job<C>,
}

/// What happens after each commit.
struct After<F> {
    commits: Commits,
    committed: F,
}

pub(super) struct Writer<C> {
    tasks: mpsc::Sender<Task<C>>,
}

impl<C> fmt::Debug for Writer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl<C: Send + 'static> Writer<C> {
    /// Starts the thread, which ends when this is dropped and all jobs are done.
    pub(super) fn start(
        connection: Connection,
        commits: Commits,
        committed: impl FnMut(Vec<C>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (tasks, mut waiting) = mpsc::channel(QUEUE);
        let mut after = After { commits, committed };
        thread::Builder::new().name("database".to_owned()).spawn(move || {
            let mut met = None;
            while let Some(Task { size, job }) = met.take().or_else(|| waiting.blocking_recv()) {
                met = match size {
                    Size::Small => batch(&connection, job, &mut waiting, &mut after),
                    Size::Large => {
                        alone(&connection, job, &mut after);
                        None
                    }
                };
            }
        })?;
        Ok(Self { tasks })
    }

    pub(super) async fn write<R, E>(
        &self,
        size: Size,
        job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (job, answer) = boxed(job);
        self.tasks.send(Task { size, job }).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or_else(|_| Err(Error::Panicked.into()))
    }

    pub(super) fn write_blocking<R, E>(
        &self,
        size: Size,
        job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
    ) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (job, answer) = boxed(job);
        self.tasks.blocking_send(Task { size, job }).map_err(|_| Error::Closed)?;
        answer.blocking_recv().unwrap_or_else(|_| Err(Error::Panicked.into()))
    }
}

fn boxed<C, R, E>(
    job: impl FnOnce(&mut Tx<'_, C>) -> Result<R, E> + Send + 'static,
) -> (Job<C>, oneshot::Receiver<Result<R, E>>)
where
    R: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    // What it logs names the request that it is done for.
    let span = Span::current();
    let job: Job<C> = Box::new(move |tx| {
        let result = tx.map_err(E::from).and_then(|tx| span.in_scope(|| job(tx)));
        let went_well = result.is_ok();
        let reply: Reply = Box::new(move |committed| {
            // Whoever asked may be gone; what was committed stays.
            let _ = reply.send(match committed {
                Ok(()) => result,
                Err(error) => Err(error.into()),
            });
        });
        (went_well, reply)
    });
    (job, answer)
}

/// Runs a small job and those that wait behind it in one transaction. Gives the large one that it came upon, if it
/// did.
fn batch<C>(
    connection: &Connection,
    first: Job<C>,
    waiting: &mut mpsc::Receiver<Task<C>>,
    after: &mut After<impl FnMut(Vec<C>)>,
) -> Option<Task<C>> {
    let mut replies = Vec::new();
    let mut changes = Vec::new();
    let start = Instant::now();
    let mut outcome = execute(connection, "BEGIN IMMEDIATE");
    let mut next = Some(first);
    let mut met = None;
    while let Some(job) = next {
        match &outcome {
            Ok(()) => {
                let (job_outcome, reply, job_changes) = run(connection, job);
                changes.extend(job_changes);
                replies.extend(reply);
                outcome = job_outcome;
            }
            Err(error) => replies.push(refuse(job, error)),
        }
        let full = replies.len() >= BATCH || start.elapsed() >= BATCH_TIME || outcome.is_err();
        next = match if full { None } else { waiting.try_recv().ok() } {
            Some(Task { size: Size::Small, job }) => Some(job),
            large => {
                met = large;
                None
            }
        };
    }
    end(connection, start, outcome, replies, changes, after);
    met
}

/// Commits, or undoes what is lost, and answers.
fn end<C>(
    connection: &Connection,
    start: Instant,
    outcome: Result<(), Error>,
    replies: Vec<Reply>,
    changes: Vec<C>,
    after: &mut After<impl FnMut(Vec<C>)>,
) {
    let before = start.elapsed();
    let outcome = outcome.and_then(|()| execute(connection, "COMMIT"));
    let commit = start.elapsed().saturating_sub(before);
    after.commits.ended(replies.len(), before, commit, outcome.is_ok());
    match &outcome {
        Ok(()) => (after.committed)(changes),
        Err(error) => {
            tracing::error!(%error, jobs = replies.len(), "a transaction was undone");
            undo(connection);
        }
    }
    for reply in replies {
        reply(outcome.clone());
    }
}

fn undo(connection: &Connection) {
    if !connection.is_autocommit() {
        let _ = execute(connection, "ROLLBACK");
    }
}

/// Runs a job in a transaction of its own, which is undone when it fails.
fn alone<C>(connection: &Connection, job: Job<C>, after: &mut After<impl FnMut(Vec<C>)>) {
    let start = Instant::now();
    if let Err(error) = execute(connection, "BEGIN IMMEDIATE") {
        tracing::error!(%error, "a transaction could not be begun");
        refuse(job, &error)(Err(error));
        return;
    }
    let mut tx = Tx { connection, changes: Vec::new() };
    let result = catch_unwind(AssertUnwindSafe(|| job(Ok(&mut tx))));
    let lost = connection.is_autocommit();
    let checkpoint = |pages: u32| connection.pragma_update(None, "wal_autocheckpoint", pages);
    if let Err(error) = checkpoint(LARGE_CHECKPOINT) {
        tracing::warn!(%error, "the database's log cannot be let grow");
    }
    match result {
        Ok((true, reply)) => {
            let outcome = if lost { Err(Error::Full) } else { Ok(()) };
            end(connection, start, outcome, vec![reply], tx.changes, after);
        }
        Ok((false, reply)) => {
            undo(connection);
            reply(if lost { Err(Error::Full) } else { Ok(()) });
        }
        Err(_) => undo(connection),
    }
    if let Err(error) = checkpoint(CHECKPOINT) {
        tracing::warn!(%error, "the database's log cannot be kept small");
    }
}

/// Has the sender of a job for which there is no transaction hear why.
fn refuse<C>(job: Job<C>, error: &Error) -> Reply {
    job(Err(error.clone())).1
}

/// Runs one job in a savepoint, which is undone when it fails. The outcome is an error when the whole transaction
/// is lost with it.
fn run<C>(connection: &Connection, job: Job<C>) -> (Result<(), Error>, Option<Reply>, Vec<C>) {
    if let Err(error) = execute(connection, "SAVEPOINT job") {
        let reply = refuse(job, &error);
        return (Err(error), Some(reply), Vec::new());
    }
    let mut tx = Tx { connection, changes: Vec::new() };
    let result = catch_unwind(AssertUnwindSafe(|| job(Ok(&mut tx))));
    let (went_well, reply) = match result {
        Ok((went_well, reply)) => (went_well, Some(reply)),
        Err(_) => (false, None),
    };
    let end = if went_well { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    // Some errors end the whole transaction: a full disk, for one.
    let outcome = if connection.is_autocommit() { Err(Error::Full) } else { execute(connection, end) };
    let changes = if went_well { tx.changes } else { Vec::new() };
    (outcome, reply, changes)
}

fn execute(connection: &Connection, sql: &str) -> Result<(), Error> {
    connection.execute_batch(sql).map_err(Error::from)
}
