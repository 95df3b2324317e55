//! Files in a bucket of an S3-compatible store. Everything blocks, within limits: each question is asked a few times, and
//! has its time; what is read is passed on as it comes, and its length is checked.

use std::future::Future;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drover_os::Deadline;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::{MultipartStore, PartId};
use object_store::{BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::opened::{Chunks, Opened};
use super::target::{StoreError, Target, below};
use crate::config::BucketConfig;

/// How often a question is asked.
const TRIES: u32 = 4;
/// The pause before it is asked again; the next is twice as long.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, and a stream may stand still.
const SILENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 15 });
/// How long the parts of a file may take to be put together.
const COMPLETE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// How many bytes of a part are sent in a second, at least.
const SLOWEST: u64 = if cfg!(test) { 64 << 20 } else { 64 << 10 };
/// How long a file waits for others that are being sent without a part of one being over; and in all.
const TURN: Duration = Duration::from_secs(180);
const LONGEST_TURN: Duration = Duration::from_secs(3600);
/// How often one reading may break off and go on.
const BREAKS: u32 = 8;
/// The bytes of a part, at least: what is smaller is sent in one. A file has 10,000 parts at most.
const PART: u64 = 8 << 20;
const PARTS: u64 = 9_000;
/// How many parts of a file are in memory at once, and of how many files.
const PARTS_AT_ONCE: usize = 2;
const FILES_AT_ONCE: usize = 4;
/// How many parts, of whatever files, are sent at once; one that took too long is sent alone the next time.
const SENT_AT_ONCE: u32 = 4;
/// How many chunks of a stream wait for their reader; each has less than half a MiB.
const QUEUE: usize = 4;
/// Whether something is being read.
type Begun = oneshot::Receiver<Result<(), StoreError>>;

/// A bucket that files are put into.
#[derive(Debug, Clone)]
pub struct Bucket {
    store: Arc<AmazonS3>,
    prefix: String,
    address: String,
    turns: Arc<Semaphore>,
    /// Until when answers are waited for, whatever else there would be time for.
    until: Deadline,
    line: Arc<Line>,
}

/// The way to a server, which may be narrow.
#[derive(Debug)]
struct Line {
    free: Semaphore,
    /// How many parts were sent.
    sent: AtomicU64,
}

/// How long so many bytes may take to be sent.
fn time_for(bytes: usize) -> Duration {
    SILENCE + Duration::from_secs((bytes as u64).div_ceil(SLOWEST))
}

/// The threads that speak with buckets: those of a listener must not have to wait for them, nor they for those.
fn runtime() -> Result<&'static Runtime, std::io::Error> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let made = builder.worker_threads(2).thread_name("buckets").enable_all().build()?;
    // Another thread may have been faster; then this one has done nothing yet, and may end.
    if let Err(second) = RUNTIME.set(made) {
        second.shutdown_background();
    }
    RUNTIME.get().ok_or_else(|| std::io::Error::other("the threads for buckets are gone"))
}

impl Bucket {
    pub(super) fn new(config: &BucketConfig) -> Result<Self, StoreError> {
        let address = config.address();
        let failed = |reason: String| StoreError::Bucket { what: format!("use {address}"), reason };
        // An error when somebody has installed a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let secret = |file: &Path| match std::fs::read_to_string(file) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(error) => Err(StoreError::io(format!("read the key in {}", file.display()), error)),
        };
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout_disabled()
            .with_allow_http(config.endpoint.as_deref().is_some_and(|at| at.starts_with("http://")));
        // It is tried again here, where each try has its time.
        let once = RetryConfig { max_retries: 0, retry_timeout: COMPLETE, backoff: BackoffConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&config.bucket)
            .with_client_options(options)
            .with_retry(once);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        if let Some(region) = &config.region {
            builder = builder.with_region(region);
        }
        if let (Some(access), Some(key)) = (&config.access_key_file, &config.secret_key_file) {
            builder = builder.with_access_key_id(secret(access)?).with_secret_access_key(secret(key)?);
        }
        let store = builder.build().map_err(|error| failed(error.to_string()))?;
        let prefix = config.prefix.clone();
        let turns = Arc::new(Semaphore::new(FILES_AT_ONCE));
        let line = Arc::new(Line { free: Semaphore::new(SENT_AT_ONCE as usize), sent: AtomicU64::new(0) });
        Ok(Self { store: Arc::new(store), prefix, address, turns, until: Deadline::never(), line })
    }

    /// The same one, of which nothing is waited for beyond a deadline.
    pub(super) fn within(&self, until: Deadline) -> Target {
        Target::Bucket(Self { until, ..self.clone() })
    }

    fn asked(&self, what: String) -> Asked {
        Asked { what, until: self.until }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn path(&self, name: &str) -> Result<object_store::path::Path, StoreError> {
        below(Path::new(""), name)?;
        Ok(match self.prefix.as_str() {
            "" => object_store::path::Path::from(name),
            prefix => object_store::path::Path::from(format!("{prefix}/{name}")),
        })
    }

    /// Runs this to its end, here.
    fn run<T>(&self, what: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let runtime = runtime().map_err(|error| StoreError::io(format!("use {}", self.address), error))?;
        runtime.block_on(what)
    }

    pub(super) fn put(&self, from: &mut dyn Read, size: u64, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let asked = self.asked(format!("put {name} into {}", self.address));
        let _turn = self.run(self.turn(&asked))?;
        if size <= PART {
            let bytes = next(from, size, &asked)?;
            end(from, &asked)?;
            let put = asked.send(&self.line, bytes.len(), || self.store.put(&path, bytes.clone().into()));
            self.run(put).map_err(|error| asked.without_bucket(error))?;
        } else {
            let begin = asked.patiently(SILENCE, || self.store.create_multipart(&path));
            let id = self.run(begin).map_err(|error| asked.without_bucket(error))?;
            let put = self.put_parts(from, size, &path, &id, &asked);
            if let Err(error) = put {
                // Best effort: what is left of it has no name, and the bucket can be told to forget such after a while.
                let last = Asked { until: Deadline::after(SILENCE), ..asked };
                let _ = self.run(last.patiently(SILENCE, || self.store.abort_multipart(&path, &id)));
                return Err(error);
            }
        }
        match self.size(name)? {
            Some(found) if found == size => Ok(()),
            Some(found) => Err(StoreError::Length {
                name: name.to_owned(),
                place: self.address.clone(),
                found,
                expected: size,
            }),
            None => Err(asked.failed("the server said that it has it, and then that it has not")),
        }
    }

    /// Waits until fewer files are being put.
    async fn turn(&self, asked: &Asked) -> Result<OwnedSemaphorePermit, StoreError> {
        let since = Instant::now();
        let mut turn = std::pin::pin!(Arc::clone(&self.turns).acquire_owned());
        loop {
            let sent = self.line.sent.load(Ordering::Relaxed);
            let limit = self.until.remaining().map_or(TURN, |left| left.min(TURN));
            let taken = timeout(limit, &mut turn).await;
            let is_over = self.until.is_over() || since.elapsed() >= LONGEST_TURN;
            match taken {
                Ok(Ok(turn)) => return Ok(turn),
                Err(_) if !is_over && self.line.sent.load(Ordering::Relaxed) != sent => {}
                _ => return Err(asked.failed("others are still being put there")),
            }
        }
    }

    fn put_parts(
        &self,
        from: &mut dyn Read,
        size: u64,
        path: &object_store::path::Path,
        id: &str,
        asked: &Asked,
    ) -> Result<(), StoreError> {
        let part = PART.max(size.div_ceil(PARTS));
        let runtime = runtime().map_err(|error| StoreError::io(asked.what.clone(), error))?;
        let mut sending: JoinSet<Result<(usize, PartId), StoreError>> = JoinSet::new();
        let mut sent: Vec<(usize, PartId)> = Vec::new();
        let mut left = size;
        let mut number = 0;
        while left > 0 || !sending.is_empty() {
            if left > 0 && sending.len() < PARTS_AT_ONCE {
                let length = left.min(part);
                let bytes = next(from, length, asked)?;
                left -= length;
                let (store, path, id) = (Arc::clone(&self.store), path.clone(), id.to_owned());
                let (asked, line) = (asked.clone(), Arc::clone(&self.line));
                sending.spawn_on(
                    async move {
                        let put = || store.put_part(&path, &id, number, bytes.clone().into());
                        Ok((number, asked.send(&line, bytes.len(), put).await?))
                    },
                    runtime.handle(),
                );
                number += 1;
                continue;
            }
            let ended = runtime.block_on(sending.join_next());
            sent.extend(ended.transpose().map_err(|error| asked.failed(error))?.transpose()?);
        }
        end(from, asked)?;
        sent.sort_unstable_by_key(|(number, _)| *number);
        let parts: Vec<PartId> = sent.into_iter().map(|(_, part)| part).collect();
        let id = id.to_owned();
        let complete = || self.store.complete_multipart(path, &id, parts.clone());
        match self.run(asked.patiently(COMPLETE, complete)) {
            // Where the answer to the first try was lost, the second is told that there is no such upload: whether the
            // file is there is asked afterwards in any case.
            Ok(_) | Err(StoreError::Gone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn open(&self, name: &str, size: u64, range: Range<u64>) -> Result<Opened, StoreError> {
        let (begun, opened) = self.begin(name, size, range)?;
        begun.blocking_recv().unwrap_or_else(|_| Err(self.ended(name)))?;
        Ok(opened)
    }

    /// As [`super::Target::open`], without a thread that waits.
    pub(crate) async fn open_soon(
        &self,
        name: &str,
        size: u64,
        range: Range<u64>,
    ) -> Result<Opened, StoreError> {
        let (begun, opened) = self.begin(name, size, range)?;
        begun.await.unwrap_or_else(|_| Err(self.ended(name)))?;
        Ok(opened)
    }

    /// Begins to read. Whether the file can be read is heard before its first bytes come.
    fn begin(&self, name: &str, size: u64, range: Range<u64>) -> Result<(Begun, Opened), StoreError> {
        let (to, coming) = mpsc::channel(QUEUE);
        let (tell, begun) = oneshot::channel();
        let opened = Opened::Stream(Chunks::new(coming));
        if range.is_empty() {
            // Whoever waits for it has not begun yet.
            let _ = tell.send(Ok(()));
            return Ok((begun, opened));
        }
        let reading = Reading {
            store: Arc::clone(&self.store),
            path: self.path(name)?,
            name: name.to_owned(),
            address: self.address.clone(),
            asked: self.asked(format!("read {name} in {}", self.address)),
            size,
        };
        let runtime = runtime().map_err(|error| StoreError::io(reading.asked.what.clone(), error))?;
        runtime.spawn(async move {
            let first = match reading.ask(range.clone()).await {
                Ok(first) => first,
                Err(error) => {
                    // Who asked may have gone.
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            if tell.send(Ok(())).is_ok() {
                reading.pass_on(first, range, to).await;
            }
        });
        Ok((begun, opened))
    }

    fn ended(&self, name: &str) -> StoreError {
        let what = format!("read {name} in {}", self.address);
        StoreError::Bucket { what, reason: "the thread that asks for it has ended".to_owned() }
    }

    pub(super) fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let path = self.path(name)?;
        let asked = self.asked(format!("look for {name} in {}", self.address));
        match self.run(asked.patiently(SILENCE, || self.store.head(&path))) {
            Ok(found) => Ok(Some(found.size)),
            Err(StoreError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`super::Target::read`].
    pub(super) fn read(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name)?;
        let asked = self.asked(format!("read {name} in {}", self.address));
        let read = || async {
            let mut pieces = self.store.get(&path).await?.into_stream();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                bytes.extend_from_slice(&piece[..piece.len().min(most - bytes.len())]);
                if bytes.len() == most {
                    break;
                }
            }
            Ok(bytes)
        };
        match self.run(asked.patiently(SILENCE, read)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let asked = self.asked(format!("remove {name} from {}", self.address));
        match self.run(asked.patiently(SILENCE, || self.store.delete(&path))) {
            Ok(()) | Err(StoreError::Gone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The next `length` bytes.
fn next(from: &mut dyn Read, length: u64, asked: &Asked) -> Result<Bytes, StoreError> {
    let mut bytes = Vec::new();
    let read = from.take(length).read_to_end(&mut bytes);
    read.map_err(|error| StoreError::io(asked.what.clone(), error))?;
    if bytes.len() as u64 == length {
        return Ok(bytes.into());
    }
    let early = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "its bytes end too early");
    Err(StoreError::io(asked.what.clone(), early))
}

/// Nothing more may come.
fn end(from: &mut dyn Read, asked: &Asked) -> Result<(), StoreError> {
    let more = from.read(&mut [0]).map_err(|error| StoreError::io(asked.what.clone(), error))?;
    if more == 0 {
        return Ok(());
    }
    let late = std::io::Error::new(std::io::ErrorKind::InvalidData, "more bytes come than it should have");
    Err(StoreError::io(asked.what.clone(), late))
}

/// What is asked of a server.
#[derive(Debug, Clone)]
struct Asked {
    what: String,
    until: Deadline,
}

impl Asked {
    fn failed(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Bucket { what: self.what.clone(), reason: reason.to_string() }
    }

    /// What is being put cannot be absent: the bucket is.
    fn without_bucket(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Gone { .. } => self.failed("there is no such bucket"),
            other => other,
        }
    }

    /// Asks a few times, for errors that may pass; each try has its time, as long as there is any.
    async fn patiently<T, F>(&self, limit: Duration, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.ask(None, limit, ask).await
    }

    /// As [`Asked::patiently`], with so many bytes in the question.
    async fn send<T, F>(&self, line: &Line, bytes: usize, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let answer = self.ask(Some(line), time_for(bytes), ask).await?;
        line.sent.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    async fn ask<T, F>(
        &self,
        line: Option<&Line>,
        limit: Duration,
        ask: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut pause = PAUSE;
        let mut tries = 0;
        let mut beside = 1;
        loop {
            // Each of those who have the line has its time.
            let on_the_line = match line {
                Some(line) => {
                    let limit = self.until.remaining().unwrap_or(LONGEST_TURN);
                    match timeout(limit, line.free.acquire_many(beside)).await {
                        Ok(Ok(taken)) => Some(taken),
                        _ => return Err(self.failed("others are still being put there")),
                    }
                }
                None => None,
            };
            let left = self.until.remaining();
            let answer = timeout(left.map_or(limit, |left| left.min(limit)), ask()).await;
            drop(on_the_line);
            let error = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(object_store::Error::NotFound { .. })) => {
                    return Err(StoreError::Gone { name: self.what.clone(), place: "it".to_owned() });
                }
                Ok(Err(error)) if is_final(&error) => return Err(self.failed(one_line(&error))),
                Ok(Err(error)) => self.failed(one_line(&error)),
                Err(_) if self.until.is_over() => self.failed("nothing came as long as there was time"),
                Err(_) => {
                    beside = SENT_AT_ONCE;
                    self.failed(format_args!("nothing came within {} s", limit.as_secs()))
                }
            };
            tries += 1;
            if tries == TRIES || self.until.remaining().is_some_and(|left| left <= pause) {
                return Err(error);
            }
            tracing::debug!(%error, "a bucket is asked again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Whether the same question would have the same answer.
fn is_final(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(
        error,
        E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::InvalidPath { .. }
            | E::NotSupported { .. }
    )
}

/// What a server says may have lines, and no end.
fn one_line(error: &object_store::Error) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

/// A file that is being read.
struct Reading {
    store: Arc<AmazonS3>,
    path: object_store::path::Path,
    name: String,
    address: String,
    asked: Asked,
    size: u64,
}

type Pieces = BoxStream<'static, object_store::Result<Bytes>>;

impl Reading {
    /// Asks for a part that is not empty; the file must have its length.
    async fn ask(&self, range: Range<u64>) -> Result<Pieces, StoreError> {
        let whole = range == (0..self.size);
        let options = || GetOptions {
            range: (!whole).then(|| GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let got = self.asked.patiently(SILENCE, || self.store.get_opts(&self.path, options())).await;
        let got = got.map_err(|error| match error {
            StoreError::Gone { .. } => {
                StoreError::Gone { name: self.name.clone(), place: self.address.clone() }
            }
            other => other,
        })?;
        if got.meta.size != self.size {
            return Err(StoreError::Length {
                name: self.name.clone(),
                place: self.address.clone(),
                found: got.meta.size,
                expected: self.size,
            });
        }
        Ok(got.into_stream())
    }

    /// Passes on what comes, to the end of the part; where it breaks off or stands still, it is asked for the rest.
    async fn pass_on(
        self,
        mut pieces: Pieces,
        mut range: Range<u64>,
        to: mpsc::Sender<std::io::Result<Bytes>>,
    ) {
        let mut breaks = 0;
        while range.start < range.end {
            let reason = match timeout(SILENCE, pieces.next()).await {
                Ok(Some(Ok(piece))) => {
                    let left = range.end - range.start;
                    if piece.len() as u64 > left {
                        let error = self.asked.failed("more bytes came than were asked for");
                        let _ = to.send(Err(error.into())).await;
                        return;
                    }
                    range.start += piece.len() as u64;
                    // Nobody reads any more: the rest is not needed.
                    if !piece.is_empty() && to.send(Ok(piece)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Some(Err(error))) => one_line(&error),
                Ok(None) => format!("its bytes ended {} before the end", range.end - range.start),
                Err(_) => format!("nothing came for {} s", SILENCE.as_secs()),
            };
            breaks += 1;
            let again = if breaks > BREAKS {
                Err(self.asked.failed(reason))
            } else {
                tokio::time::sleep(PAUSE * breaks).await;
                self.ask(range.clone()).await
            };
            match again {
                Ok(again) => pieces = again,
                Err(error) => {
                    tracing::error!(%error, "a nar breaks off");
                    let _ = to.send(Err(error.into())).await;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
