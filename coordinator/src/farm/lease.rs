//! A lease while it is open, with the log that grows.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use drover_store::{Sha256Hash, StorePath};
use drover_wire::agent::{Allocation, Output};
use drover_wire::{BuildId, LeaseId, Phase};
use tokio::sync::watch;

use super::change::Opened;
use super::error::Error;
use super::live::Flag;
use crate::storage::make_folder_of;

/// What an agent does for a lease, and has done since events told of it, in its order.
#[derive(Debug, Default)]
struct Phases {
    now: Option<Phase>,
    /// The last one of which an event told, or will.
    told: Option<Phase>,
    untold: VecDeque<Phase>,
}

/// An agent's hold on a build.
#[derive(Debug)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// The agent's number in the database.
    pub agent: i64,
    /// The agent's name.
    pub agent_name: String,
    /// The build.
    pub build: BuildId,
    /// Which try at the build it is.
    pub attempt: u32,
    /// Where the build can go.
    pub platform: i64,
    /// What the agent is told.
    pub allocation: Allocation,
    deadline: Mutex<Instant>,
    phases: Mutex<Phases>,
    canceled: Flag,
    started: Flag,
    log: Log,
    uploads: Mutex<HashMap<StorePath, Arc<UploadLock>>>,
}

impl Lease {
    pub(super) fn new(opened: Opened, deadline: Instant) -> Self {
        let lease = Self {
            id: opened.allocation.lease,
            agent: opened.agent,
            agent_name: opened.agent_name,
            build: opened.allocation.build,
            attempt: opened.attempt,
            platform: opened.platform,
            allocation: opened.allocation,
            deadline: Mutex::new(deadline),
            phases: Mutex::new(Phases { now: opened.phase, told: opened.phase, untold: VecDeque::new() }),
            canceled: Flag::default(),
            started: Flag::default(),
            log: Log::new(opened.log_size),
            uploads: Mutex::default(),
        };
        if opened.started {
            lease.started.set();
        }
        if opened.canceled {
            lease.canceled.set();
        }
        lease
    }

    pub(super) fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn renew(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// What the agent does for it, as far as it said.
    pub fn phase(&self) -> Option<Phase> {
        self.phases().now
    }

    fn phases(&self) -> MutexGuard<'_, Phases> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is another one than events tell of.
    pub(super) fn set_phase(&self, phase: Phase) -> bool {
        let mut phases = self.phases();
        phases.now = Some(phase);
        let is_other = phases.told.replace(phase) != Some(phase);
        if is_other {
            phases.untold.push_back(phase);
        }
        is_other
    }

    /// The next of its phases that no event tells of yet.
    pub(super) fn untold_phase(&self) -> Option<Phase> {
        self.phases().untold.pop_front()
    }

    /// What was to be told could not be: it is when the agent says it again.
    pub(super) fn tell_again(&self, started: bool) {
        self.phases().told = None;
        if started {
            self.started.unset();
        }
    }

    /// Whether its build was canceled.
    pub fn is_canceled(&self) -> bool {
        self.canceled.is_set()
    }

    pub(super) fn set_canceled(&self) {
        self.canceled.set();
    }

    /// The builder was seen to run; whether nobody had seen it before.
    pub(super) fn set_started(&self) -> bool {
        self.started.set()
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn upload(&self, path: &StorePath) -> Arc<UploadLock> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(uploads.entry(path.clone()).or_default())
    }
}

/// Lets one request at a time write to an upload: the newest, because an older one may hang on a dead connection.
#[derive(Debug)]
pub(super) struct UploadLock {
    /// Whoever writes holds it.
    pub(super) writing: Arc<tokio::sync::Mutex<()>>,
    /// Counts those who want to write; a writer stops when another one comes.
    pub(super) newest: watch::Sender<u64>,
    /// What has come to its end, and was verified, and is to get its place.
    whole: Mutex<Option<Whole>>,
}

/// A copy that is whole.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    /// What was declared, and what it is.
    pub(super) output: Output,
    /// Its bytes.
    pub(super) bytes: u64,
    /// The hash of its export.
    pub(super) export_hash: Sha256Hash,
}

impl Default for UploadLock {
    fn default() -> Self {
        Self { writing: Arc::default(), newest: watch::channel(0).0, whole: Mutex::default() }
    }
}

impl UploadLock {
    /// The whole copy, if there is one of this output.
    pub(super) fn whole(&self, output: &Output) -> Option<Whole> {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.as_ref().filter(|whole| whole.output == *output).cloned()
    }

    pub(super) fn set_whole(&self, whole: Option<Whole>) {
        *self.whole.lock().unwrap_or_else(PoisonError::into_inner) = whole;
    }
}

/// How much of a log there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLength {
    /// Its bytes.
    pub bytes: u64,
    /// Whether no more will come.
    pub ended: bool,
}

/// A log that grows.
#[derive(Debug)]
pub struct Log {
    file: Mutex<Option<File>>,
    length: watch::Sender<LogLength>,
}

impl Log {
    fn new(bytes: u64) -> Self {
        Self { file: Mutex::new(None), length: watch::channel(LogLength { bytes, ended: false }).0 }
    }

    /// Its length, now and as it grows.
    pub fn length(&self) -> watch::Receiver<LogLength> {
        self.length.subscribe()
    }

    /// Adds a chunk at its end, which must be at `offset`, and gives the new length. Blocks on the disk.
    ///
    /// # Errors
    /// When it ends elsewhere, would be longer than `limit`, cannot be written, or has ended.
    pub(super) fn append(
        &self,
        lease: LeaseId,
        path: &Path,
        offset: u64,
        chunk: &[u8],
        limit: u64,
    ) -> Result<u64, Error> {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let LogLength { bytes, ended } = *self.length.borrow();
        if ended {
            return Err(Error::LeaseNotHeld(lease));
        }
        if offset != bytes {
            return Err(Error::WrongOffset { what: "the log", offset, received: bytes });
        }
        let length = bytes + chunk.len() as u64;
        if length > limit {
            return Err(Error::TooLarge { what: format!("the log of the lease {lease}"), limit });
        }
        if chunk.is_empty() {
            return Ok(bytes);
        }
        let written = write(&mut open, path, bytes, chunk);
        if let Err(source) = written {
            // What was written of the chunk goes when the file is opened again.
            *open = None;
            return Err(Error::io(format!("a chunk of the log {}", path.display()), source));
        }
        self.length.send_replace(LogLength { bytes: length, ended: false });
        Ok(length)
    }

    /// No more will come.
    pub(super) fn close(&self) {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        *open = None;
        self.length.send_modify(|length| length.ended = true);
    }
}

fn write(open: &mut Option<File>, path: &Path, length: u64, chunk: &[u8]) -> std::io::Result<()> {
    if let Some(file) = open {
        return file.write_all(chunk);
    }
    make_folder_of(path)?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.set_len(length)?;
    file.write_all(chunk)?;
    *open = Some(file);
    Ok(())
}
