//! Builds without anybody's help: a sandbox of our own over a store of our own.
//!
//! A build goes through here in this order: `plan` reads the derivation, says whether this machine can build it, and
//! finds its inputs; `root` makes what the builder sees as `/`, with the inputs in it, in a `room` on the disk; `environment` and
//! `graph` make what else the builder is given; `build` starts it (`builder` says why that is not to be) and `run`
//! follows it to its end, within its `limits`; `outputs` checks what it made (or a `copy`, where somebody else may
//! still have that in hand), against `restrictions` too, and puts it into the store. All of this lies in one folder
//! of the store, which is removed at the end, whatever that is.

mod build;
mod builder;
mod copy;
mod download;
mod environment;
mod fetch;
mod graph;
mod import;
mod keep;
mod limits;
mod outputs;
mod plan;
mod restrictions;
mod room;
mod root;
mod run;
mod slots;
mod stopping;
mod substitute;
mod workplace;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use drover_os::sandbox::cgroup::{Amounts, Cgroups};
use drover_os::{machine, sandbox, user};
use drover_store::nar::Packer;
use drover_wire::agent::Output;

use super::{Error, Executor, Files, Unsaved, Workplace};
use crate::config::SandboxSettings;
use crate::store::{Hold, Store, StoreError};
pub(crate) use plan::runs;
use room::Rooms;
use slots::Slots;
pub(crate) use stopping::Stopping;
pub use workplace::SandboxWorkplace;

/// How long what came into the store may wait for being written to the disk. What a loss of power takes is made again.
const BETWEEN_SAVES: Duration = Duration::from_secs(60);
/// So many bytes do not wait for the end of the builds: they would be read again before the agent says hello.
const MUCH: u64 = 1 << 30;

/// What a build may use of the machine.
fn amounts(settings: &SandboxSettings) -> Amounts {
    Amounts {
        memory: settings.memory,
        processors: settings.processors,
        processes: Some(settings.max_processes),
    }
}

/// A sandbox of our own over a store of our own.
#[derive(Debug)]
pub struct SandboxExecutor(Arc<Ground>);

/// What all builds share.
#[derive(Debug)]
struct Ground {
    settings: SandboxSettings,
    store: Arc<Store>,
    /// Asked first for what is to be downloaded.
    files: Option<Box<dyn Files>>,
    /// Links in here keep items.
    roots: PathBuf,
    slots: Arc<Slots>,
    rooms: Rooms,
    cgroups: Option<Cgroups>,
    /// When all of the store was written to the disk last. Held by who does that.
    saved: Mutex<Instant>,
    /// What builders this machine has.
    system: String,
    /// How many processors builders are told to use.
    cores: u32,
    is_root: bool,
}

impl SandboxExecutor {
    /// Tries whether there can be sandboxes, and opens the store. Symbolic links in `roots` keep items of the store;
    /// `files` are asked first for what is to be downloaded.
    ///
    /// # Errors
    /// When one of the two cannot be; in words that say what to do about it.
    pub fn new(
        settings: SandboxSettings,
        roots: &Path,
        files: Option<Box<dyn Files>>,
    ) -> Result<Self, Error> {
        sandbox::available().map_err(|error| Error::Refused(error.to_string()))?;
        let system = machine::system()
            .ok_or_else(|| Error::Refused("Guix has no name for this machine's processor".to_owned()))?;
        let cgroups = cgroups(&settings);
        let store = Arc::new(Store::open(&settings.store_root, roots)?);
        // Every builder would be refused with the words for a file that is none, and that would be taken for its own fault.
        if machine::is_noexec(store.folder()) == Some(true) {
            return Err(Error::Refused(format!(
                "the store {} is on a file system from which no programs run: mount it without noexec, or choose \
                 another --store-root",
                store.folder().display()
            )));
        }
        let cores = match settings.build_cores {
            0 => machine::processors().unwrap_or(1),
            cores => cores,
        };
        let is_root = user::is_root();
        Ok(Self(Arc::new(Ground {
            settings,
            store,
            files,
            roots: roots.to_owned(),
            slots: Arc::new(if is_root { Slots::of_machine() } else { Slots::default() }),
            rooms: Rooms::default(),
            cgroups,
            saved: Mutex::new(Instant::now()),
            system,
            cores,
            is_root,
        })))
    }
}

impl Ground {
    /// What came into the store, is not on the disk, and is to be written there by now.
    fn unsaved(&self) -> Unsaved {
        // Somebody is at it, for as long as that takes.
        let Some(saved) = self.try_saved() else { return Unsaved::Nothing };
        match saved.elapsed() >= BETWEEN_SAVES {
            true if self.store.unsaved() >= MUCH => Unsaved::Much,
            true if self.store.is_unsaved() => Unsaved::Something,
            _ => Unsaved::Nothing,
        }
    }

    /// Writes the store to the disk, unless somebody else does.
    fn save(&self) {
        let Some(mut saved) = self.try_saved() else { return };
        if let Err(error) = self.store.checkpoint() {
            tracing::warn!("save the store: {error}");
        }
        *saved = Instant::now();
    }

    /// When all of the store was written to the disk last; none while it is.
    fn try_saved(&self) -> Option<MutexGuard<'_, Instant>> {
        match self.saved.try_lock() {
            Ok(saved) => Some(saved),
            Err(TryLockError::Poisoned(saved)) => Some(saved.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Executor for SandboxExecutor {
    fn builtins(&self) -> Result<Vec<String>, Error> {
        Ok(plan::BUILTINS.map(str::to_owned).to_vec())
    }

    fn open(&self) -> Result<Box<dyn Workplace>, Error> {
        Ok(Box::new(SandboxWorkplace::new(Arc::clone(&self.0))?))
    }

    fn nar(&self, item: &Output) -> Result<Box<dyn Read + Send>, Error> {
        let store = &self.0.store;
        let hold = store.hold([item.path.clone()]);
        if !store.has(&item.path) {
            return Err(Error::Refused(format!("{} is not in the store", item.path)));
        }
        Ok(Box::new(HeldNar { packer: Packer::new(store.on_disk(&item.path)), _hold: hold }))
    }

    fn warm_up(&self) {
        if self.unsaved() != Unsaved::Nothing {
            self.save();
        }
    }

    fn unsaved(&self) -> Unsaved {
        self.0.unsaved()
    }

    fn save(&self) {
        self.0.save();
    }

    fn store(&self) -> &Path {
        self.0.store.folder()
    }

    fn seems_there(&self) -> bool {
        true
    }

    fn excess(&self) -> u64 {
        let Some(budget) = self.0.settings.store_budget else { return 0 };
        match self.0.store.used() {
            Ok(used) => used.saturating_sub(budget),
            Err(error) => {
                tracing::warn!("look how large the store is: {error}");
                0
            }
        }
    }

    fn tidy(&self, bytes: u64) -> Result<u64, Error> {
        Ok(self.0.store.clean_until(&mut |cleaned| cleaned.freed >= bytes)?.freed)
    }
}

/// The machine's control groups, after saying which limits do without them.
fn cgroups(settings: &SandboxSettings) -> Option<Cgroups> {
    let amounts = amounts(settings);
    match Cgroups::find() {
        Ok(cgroups) => {
            for words in cgroups.left() {
                tracing::warn!("{words}");
            }
            let lacking = cgroups.lacking(&amounts);
            if !lacking.is_empty() {
                tracing::warn!(
                    "builds are not limited as they should be: no controllers for {}",
                    lacking.join(", ")
                );
            }
            Some(cgroups)
        }
        Err(why) if amounts.memory.is_some() || amounts.processors.is_some() => {
            tracing::warn!("builds are not limited in memory and processors: {why}");
            None
        }
        Err(why) => {
            tracing::info!("builds run without control groups: {why}");
            None
        }
    }
}

/// A nar that is read, of an item that is kept meanwhile.
struct HeldNar {
    packer: Packer,
    _hold: Hold,
}

impl Read for HeldNar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.packer.read(buffer)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::refused(error.to_string(), &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Item;
    use drover_store::path;

    /// One that cannot build, and its store.
    pub(super) fn executor(folder: &Path) -> (SandboxExecutor, Arc<Store>) {
        let roots = folder.join("roots");
        let settings = SandboxSettings { store_root: folder.join("root"), ..SandboxSettings::default() };
        let store = Arc::new(Store::open(&settings.store_root, &roots).unwrap());
        let executor = SandboxExecutor(Arc::new(Ground {
            settings,
            store: Arc::clone(&store),
            files: None,
            roots,
            slots: Arc::default(),
            rooms: Rooms::default(),
            cgroups: None,
            saved: Mutex::new(Instant::now()),
            system: "x86_64-linux".into(),
            cores: 1,
            is_root: false,
        }));
        (executor, store)
    }

    #[test]
    fn what_came_into_the_store_is_to_be_saved_once_and_not_too_soon() {
        let folder = tempfile::tempdir().unwrap();
        let (executor, store) = executor(folder.path());
        let Some(long_ago) = Instant::now().checked_sub(BETWEEN_SAVES) else {
            eprintln!("SKIPPED: this machine has just been started");
            return;
        };
        let a_while_passes = || *executor.0.saved.lock().unwrap() = long_ago;
        a_while_passes();
        // For the sake of what an earlier run may have left.
        assert_eq!(executor.unsaved(), Unsaved::Something);
        executor.save();
        a_while_passes();
        assert_eq!(executor.unsaved(), Unsaved::Nothing, "nothing came");
        executor.save();
        let path = path::text("text", b"text", &[]).unwrap();
        store.add_text(&path, b"text", &[]).unwrap();
        assert_eq!(executor.unsaved(), Unsaved::Nothing, "it was saved a moment ago");
        a_while_passes();
        assert_eq!(executor.unsaved(), Unsaved::Something);
        let saving = executor.0.saved.lock().unwrap();
        assert_eq!(executor.unsaved(), Unsaved::Nothing, "somebody is at it");
        executor.save();
        assert!(store.is_unsaved());
        drop(saving);
        executor.warm_up();
        assert!(!store.is_unsaved());
    }

    #[test]
    fn what_would_take_long_to_read_again_is_much() {
        let folder = tempfile::tempdir().unwrap();
        let (executor, store) = executor(folder.path());
        let Some(long_ago) = Instant::now().checked_sub(BETWEEN_SAVES) else {
            eprintln!("SKIPPED: this machine has just been started");
            return;
        };
        *executor.0.saved.lock().unwrap() = long_ago;
        let making = store.making().unwrap();
        for (name, size, unsaved) in [("a", MUCH - 1, Unsaved::Something), ("b", 1, Unsaved::Much)] {
            let tree = making.path().join(name);
            std::fs::write(&tree, name).unwrap();
            let (path, nar_hash) = (path::text(name, b"", &[]).unwrap(), drover_store::Sha256Hash::of(b""));
            // As large as it says: nobody looks again.
            let item = Item { path, nar_hash, nar_size: size, references: Vec::new(), deriver: None };
            store.place(&tree, &item).unwrap();
            assert_eq!(executor.unsaved(), unsaved);
        }
        executor.save();
        assert_eq!(store.unsaved(), 0);
    }
}
