//! Heartbeats, and the looks at the machine that go with them.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use drover_os::machine::{self, Disk};
use drover_wire::agent::{Heartbeat, Machine, Progress};

use super::Session;
use crate::executor::Unsaved;
use crate::http::IDLE_AGE;

/// How soon a build that waits for the load alone is looked at again.
const LOAD_LOOK: Duration = Duration::from_secs(2);
/// How soon an executor that does not answer is asked again.
const EXECUTOR_LOOK: Duration = Duration::from_secs(5);
/// No new builds with less disk for the store.
pub(crate) const LEAST_STORE: u64 = 1 << 30;
/// Nor with fewer files that can still be made there.
pub(super) const LEAST_STORE_FILES: u64 = 10_000;
/// No new builds with less disk for logs and results.
const LEAST_STATE: u64 = 64 << 20;
const LEAST_STATE_FILES: u64 = 1000;

impl Session {
    /// Sends heartbeats at the coordinator's pace, and at once when something changes.
    pub(super) fn heartbeats(&self) {
        let mut next = Instant::now();
        loop {
            let looked = self.wait_for_beat(next);
            self.look_at_executor();
            if looked {
                self.start_what_fits();
                continue;
            }
            next = Instant::now() + self.beat();
            self.come_to_rest();
        }
    }

    /// Waits until a heartbeat is due; whether something else is to be looked at before that.
    fn wait_for_beat(&self, next: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if state.beat || left.is_zero() {
                state.beat = false;
                return false;
            }
            let look = match (state.load_high, state.executor_away) {
                (true, _) => LOAD_LOOK,
                (false, true) => EXECUTOR_LOOK,
                (false, false) => left,
            };
            let (again, timeout) =
                self.changed.wait_timeout(state, left.min(look)).unwrap_or_else(PoisonError::into_inner);
            state = again;
            if timeout.timed_out() && look < left && !state.beat {
                return true;
            }
        }
    }

    /// Sends one; how long to wait before the next.
    fn beat(&self) -> Duration {
        let (store, own) = (machine::disk(self.executor.store()), machine::disk(self.journal.folder()));
        let machine = look_at_machine(store, own);
        self.tidy_if_due(store);
        self.save_if_due();
        let (heartbeat, every) = {
            let mut state = self.lock();
            let disk_low =
                low(store, LEAST_STORE, LEAST_STORE_FILES) || low(own, LEAST_STATE, LEAST_STATE_FILES);
            if disk_low != state.disk_low {
                state.disk_low = disk_low;
                let words = match (disk_low, state.tidying.is_under_way()) {
                    (true, true) => "too little disk is free: no builds are taken until the store is cleaned",
                    (true, false) => "too little disk is free: no builds are taken",
                    (false, _) => "disk is free again",
                };
                let files = [store, own].map(|disk| disk.map(|disk| disk.files));
                tracing::warn!("{words} ({machine:?}; files that can be made in the two: {files:?})");
            }
            let progress = |(lease, held): (&_, &super::Held)| Progress { lease: *lease, phase: held.phase };
            let leases = state.held.iter().map(progress).collect();
            (Heartbeat { accepting: self.accepting(&state), machine, leases }, state.heartbeat_every)
        };
        match self.coordinator.heartbeat(&heartbeat) {
            Ok(orders) => self.obey(orders),
            // The poll says so louder, and introduces us again.
            Err(error) => tracing::debug!("{error}"),
        }
        every
    }

    /// Has what came into the store written to the disk, in a thread of its own, when no builds are held: none has to wait for
    /// the disk, and nobody wakes for it alone. What is much does not wait for that.
    fn save_if_due(&self) {
        match self.executor.unsaved() {
            Unsaved::Nothing => return,
            Unsaved::Something if !self.lock().held.is_empty() => return,
            Unsaved::Something | Unsaved::Much => {}
        }
        if let Err(error) = self.spawn("save", |session| session.executor.save()) {
            tracing::warn!("no thread to save the store: {error}");
        }
    }

    /// Gives the memory back that the last builds took, when no more are held: at the first heartbeat after them, and at
    /// later ones until what outlives a build is gone, too.
    fn come_to_rest(&self) {
        let mut state = self.lock();
        let Some(ended) = state.worked else { return };
        if !state.held.is_empty() {
            return;
        }
        if ended.elapsed() > IDLE_AGE {
            state.worked = None;
        }
        drop(state);
        machine::release_stacks();
        machine::release_memory();
    }

    /// Notices when the executor goes and when it comes back, where that costs nothing.
    fn look_at_executor(&self) {
        let away = self.lock().executor_away;
        if !away && self.executor.seems_there() {
            return;
        }
        match self.executor.builtins() {
            Ok(_) if away => {
                tracing::info!("builds are possible again");
                self.executor_answers(true);
                // The coordinator may not know our builtin builders yet.
                self.lock().introduced = false;
                self.coordinator.interrupt_poll();
            }
            Ok(_) => {}
            Err(error) => {
                if !away {
                    tracing::error!("{error}; no builds are taken until it answers");
                }
                self.executor_answers(false);
            }
        }
    }
}

/// Whether so few bytes are free, or so few files can be made.
fn low(disk: Option<Disk>, bytes: u64, files: u64) -> bool {
    disk.is_some_and(|disk| disk.free < bytes || disk.files < files)
}

fn look_at_machine(store: Option<Disk>, state: Option<Disk>) -> Machine {
    let free = |disk: Option<Disk>| disk.map(|disk| disk.free);
    Machine {
        load_1min: machine::load().map(|load| load.one),
        processors: machine::processors(),
        store_free: free(store),
        state_free: free(state),
        memory_available: machine::memory().map(|memory| memory.available),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Read;
    use std::path::Path;
    use std::sync::{Arc, mpsc};

    use drover_os::signal::Stop;
    use drover_store::path;
    use drover_wire::agent::{Allocation, Output};
    use drover_wire::{BuildId, LeaseId};

    use super::super::Held;
    use super::*;
    use crate::build::journal::Journal;
    use crate::config::{self, Request, Surroundings};
    use crate::executor::{Error, Executor, Workplace};

    /// Has something to save at any time.
    struct Saving(mpsc::Sender<()>, Unsaved);

    impl Executor for Saving {
        fn builtins(&self) -> Result<Vec<String>, Error> {
            Ok(Vec::new())
        }

        fn open(&self) -> Result<Box<dyn Workplace>, Error> {
            Err(Error::Away("nobody builds here".into()))
        }

        fn nar(&self, _item: &Output) -> Result<Box<dyn Read + Send>, Error> {
            Err(Error::Away("nobody builds here".into()))
        }

        fn warm_up(&self) {}

        fn store(&self) -> &Path {
            Path::new("/")
        }

        fn seems_there(&self) -> bool {
            true
        }

        fn unsaved(&self) -> Unsaved {
            self.1
        }

        fn save(&self) {
            self.0.send(()).unwrap();
        }
    }

    #[test]
    fn a_disk_is_low_in_bytes_or_in_files_and_not_where_nothing_is_known() {
        let disk = |free, files| Some(Disk { total: 100, free, files });
        assert!(low(disk(9, 10), 10, 10) && low(disk(10, 9), 10, 10));
        assert!(!low(disk(10, u64::MAX), 10, 10) && !low(None, 10, 10));
    }

    /// A session that holds one build, and the word of what it saves.
    fn session(folder: &Path, unsaved: Unsaved) -> (Arc<Session>, mpsc::Receiver<()>) {
        let arguments =
            ["--uuid", "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11", "--password", "pw"].map(OsString::from);
        let surroundings = Surroundings { default_file: "/no/such/file".into(), ..Surroundings::here() };
        let Request::Run(config) = config::read(arguments, &surroundings).unwrap() else { unreachable!() };
        let (saved, is_saved) = mpsc::channel();
        let journal = Journal::open(folder).unwrap();
        let session = Session::new(*config, Box::new(Saving(saved, unsaved)), journal, Stop::new().unwrap());
        let lease = LeaseId(1);
        let allocation = Allocation {
            lease,
            build: BuildId(uuid::Uuid::nil()),
            derivation: path::text("x.drv", b"", &[]).unwrap(),
            priority: 0,
            timeout: None,
            max_silent_time: None,
        };
        session.lock().held.insert(lease, Held::queued(allocation));
        (session, is_saved)
    }

    /// How often it is saved until the last thread has ended.
    fn saves(is_saved: &mpsc::Receiver<()>) -> usize {
        let mut saves = 0;
        loop {
            match is_saved.recv_timeout(Duration::from_secs(60)) {
                Ok(()) => saves += 1,
                Err(error) => {
                    assert_eq!(error, mpsc::RecvTimeoutError::Disconnected);
                    return saves;
                }
            }
        }
    }

    #[test]
    fn the_store_is_saved_when_the_agent_comes_to_rest_and_not_while_it_builds() {
        let folder = tempfile::tempdir().unwrap();
        let (session, is_saved) = session(folder.path(), Unsaved::Something);
        session.save_if_due();
        session.lock().held.clear();
        session.save_if_due();
        is_saved.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(session);
        assert_eq!(saves(&is_saved), 0);
    }

    #[test]
    fn what_is_much_is_saved_while_the_agent_builds() {
        let folder = tempfile::tempdir().unwrap();
        let (session, is_saved) = session(folder.path(), Unsaved::Much);
        session.save_if_due();
        drop(session);
        assert_eq!(saves(&is_saved), 1);
    }

    #[test]
    fn memory_is_given_back_at_rest_until_nothing_outlives_the_last_build() {
        let folder = tempfile::tempdir().unwrap();
        let (session, _) = session(folder.path(), Unsaved::Nothing);
        let long_ago = Instant::now().checked_sub(IDLE_AGE + Duration::from_secs(1));
        session.lock().worked = long_ago;
        session.come_to_rest();
        assert_eq!(session.lock().worked, long_ago, "a build is held");
        session.lock().held.clear();
        session.come_to_rest();
        assert_eq!(session.lock().worked, None);
        let now = Some(Instant::now());
        session.lock().worked = now;
        session.come_to_rest();
        assert_eq!(session.lock().worked, now, "connections are still kept");
    }

    #[test]
    fn the_store_is_saved_before_the_agent_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (session, is_saved) = session(folder.path(), Unsaved::Nothing);
        session.lock().held.clear();
        session.stop.escalate();
        session.wait_for_the_end();
        drop(session);
        assert_eq!(saves(&is_saved), 1);
    }
}
