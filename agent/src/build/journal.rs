//! What survives the agent: results that are not delivered yet.
//!
//! `leases/LEASE/log` is a build's log as it grows; `leases/LEASE/report.json` appears when the build has ended, whole
//! and synced, and goes with its folder when the coordinator has the report. `roots/LEASE-ITEM` are symbolic links that
//! keep outputs from garbage collection until then. A lease without a report died with the agent that had it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use drover_os::file::{self, Access, Lock, LockError};
use drover_store::path::StorePath;
use drover_wire::LeaseId;
use drover_wire::agent::{Allocation, Report};
use serde::{Deserialize, Serialize};

use crate::json;

/// The most bytes of a report. An output has some hundred bytes for each of its references.
const REPORT_LIMIT: u64 = 64 << 20;
const REPORT: &str = "report.json";
const ROOTS: &str = "roots";

/// A build that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// What was to be built.
    pub allocation: Allocation,
    /// How that ended.
    pub report: Report,
}

/// The agent's state folder could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent has it.
    #[error("use the state folder: {0}")]
    Lock(#[from] LockError),
    /// It cannot be made or read.
    #[error("use the state folder {}: {source}; see --state-dir", path.display())]
    Io {
        /// Which path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The state folder, held by this process alone.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    _lock: Lock,
}

/// One lease's part of the state folder.
#[derive(Debug, Clone)]
pub struct LeaseFolder {
    lease: LeaseId,
    folder: PathBuf,
    roots: PathBuf,
}

impl Journal {
    /// Takes the folder, making it if it is not there.
    ///
    /// # Errors
    /// When another agent has it, or it cannot be written.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        for folder in [folder.to_owned(), folder.join("leases"), folder.join(ROOTS)] {
            fs::create_dir_all(&folder).map_err(failed(&folder))?;
        }
        let lock = Lock::take(&folder.join("lock"))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// The state folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the links that keep outputs.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.folder.join(ROOTS)
    }

    /// The place for a lease; nothing is made yet.
    #[must_use]
    pub fn lease(&self, lease: LeaseId) -> LeaseFolder {
        LeaseFolder { lease, folder: self.folder.join("leases").join(lease.to_string()), roots: self.roots() }
    }

    /// The results that an earlier run left; what it left of builds without a result is removed.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn recover(&self) -> Result<Vec<Finished>, JournalError> {
        let leases = self.folder.join("leases");
        let failed = |source| JournalError::Io { path: leases.clone(), source };
        let mut results = Vec::new();
        for entry in fs::read_dir(&leases).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(lease) = entry.file_name().to_str().and_then(|name| name.parse::<LeaseId>().ok()) else {
                tracing::warn!("{} is not of this agent; it is left alone", entry.path().display());
                continue;
            };
            let folder = self.lease(lease);
            match folder.read_report() {
                Ok(finished) if finished.allocation.lease == lease => results.push(finished),
                Ok(_) => folder.remove(),
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::error!("the result of lease {lease} is lost: {error}");
                    }
                    folder.remove();
                }
            }
        }
        self.remove_stray_roots(&results);
        Ok(results)
    }

    fn remove_stray_roots(&self, results: &[Finished]) {
        let wanted: BTreeSet<String> = results.iter().map(|f| f.allocation.lease.to_string()).collect();
        for entry in fs::read_dir(self.roots()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let lease = name.to_str().and_then(|name| name.split_once('-')).map(|(lease, _)| lease);
            if !lease.is_some_and(|lease| wanted.contains(lease)) {
                remove_file(&entry.path());
            }
        }
    }
}

impl LeaseFolder {
    /// Makes the folder.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(io::Error::new(error.kind(), format!("make {}: {error}", self.folder.display())))
            }
            _ => Ok(()),
        }
    }

    /// Where the log is kept.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Keeps the result: after this, it survives everything but the disk.
    ///
    /// # Errors
    /// What the system says, with the path.
    pub fn write_report(&self, finished: &Finished) -> io::Result<()> {
        let text = serde_json::to_vec(finished).map_err(io::Error::other)?;
        file::replace(&self.folder.join(REPORT), &text, Access::Private)
    }

    fn read_report(&self) -> io::Result<Finished> {
        let path = self.folder.join(REPORT);
        if fs::metadata(&path)?.len() > REPORT_LIMIT {
            return Err(io::Error::other(format!("{} is larger than any report", path.display())));
        }
        json::read(&mut File::open(&path)?).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
    }

    /// Makes the link that is to keep an output.
    ///
    /// # Errors
    /// What the system says.
    pub fn link(&self, output: &StorePath) -> io::Result<PathBuf> {
        let link = self.roots.join(format!("{}-{}", self.lease, output.base_name()));
        match symlink(output.as_str(), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(io::Error::new(error.kind(), format!("make {}: {error}", link.display())))
            }
            _ => Ok(link),
        }
    }

    /// Removes everything of this lease; the report goes first, so that half of it is never taken for a result.
    pub fn remove(&self) {
        remove_file(&self.folder.join(REPORT));
        let of_lease = format!("{}-", self.lease);
        for entry in fs::read_dir(&self.roots).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&of_lease)) {
                remove_file(&entry.path());
            }
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.folder.display());
            }
            _ => {}
        }
    }
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use drover_wire::BuildId;

    use super::*;

    fn finished(lease: u64) -> Finished {
        let allocation = Allocation {
            lease: LeaseId(lease),
            build: "7a3c0d9e-52ef-4c5b-9a37-0f8e6f0f9a11".parse::<BuildId>().unwrap(),
            derivation: StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x.drv").unwrap(),
            priority: 0,
            timeout: None,
            max_silent_time: None,
        };
        Finished { allocation, report: Report::Failed { message: "exit code 1".into() } }
    }

    #[test]
    fn results_come_back_and_builds_without_a_result_are_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let output = StorePath::parse_base("00a3xasf5iyzfv23danwy7pilf2yyxjz-x").unwrap();
        for lease in [1, 2] {
            let place = journal.lease(LeaseId(lease));
            place.make().unwrap();
            fs::write(place.log(), "log").unwrap();
            place.link(&output).unwrap();
        }
        journal.lease(LeaseId(1)).write_report(&finished(1)).unwrap();
        drop(journal);

        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.recover().unwrap(), [finished(1)]);
        assert!(journal.lease(LeaseId(1)).log().exists());
        assert!(!journal.lease(LeaseId(2)).log().exists());
        assert_eq!(fs::read_dir(folder.path().join("roots")).unwrap().count(), 1);
        journal.lease(LeaseId(1)).remove();
        assert_eq!(fs::read_dir(folder.path().join("roots")).unwrap().count(), 0);
        assert_eq!(journal.recover().unwrap(), []);
    }

    #[test]
    fn a_report_that_cannot_be_read_is_no_result_and_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let place = journal.lease(LeaseId(3));
        place.make().unwrap();
        fs::write(folder.path().join("leases/3/report.json"), "{").unwrap();
        assert_eq!(journal.recover().unwrap(), []);
        assert!(!folder.path().join("leases/3").exists());
    }

    #[test]
    fn two_agents_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Journal::open(folder.path()).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(JournalError::Lock(_))));
    }
}
