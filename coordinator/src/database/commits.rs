//! How the writer does, in numbers.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds that a commit takes: of an idle solid-state disk, to that of one that does much else.
const TIMES: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Jobs in a commit.
const JOBS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// What is counted of commits. Copies count together.
#[derive(Debug, Clone)]
pub struct Commits {
    jobs: Histogram,
    commit: Histogram,
    job: Histogram,
    undone: Counter,
}

impl Commits {
    /// Has them written with others.
    pub fn register(&self, registry: &mut Registry) {
        let jobs = "Jobs that went into each commit of the database";
        registry.register("database_commit_jobs", jobs, self.jobs.clone());
        let commit = "How long commits of the database took, from their word to the disk's";
        registry.register_with_unit("database_commit", commit, Unit::Seconds, self.commit.clone());
        let job = "How long the jobs of each commit took, until the commit";
        registry.register_with_unit("database_jobs", job, Unit::Seconds, self.job.clone());
        let undone = "Transactions of the database that were undone, whole";
        registry.register("database_undone", undone, self.undone.clone());
    }

    /// A transaction was committed, or undone.
    pub(super) fn ended(&self, jobs: usize, before: Duration, commit: Duration, committed: bool) {
        if !committed {
            self.undone.inc();
            return;
        }
        // No more than some hundreds.
        self.jobs.observe(f64::from(u32::try_from(jobs).unwrap_or(u32::MAX)));
        self.job.observe(before.as_secs_f64());
        self.commit.observe(commit.as_secs_f64());
    }
}

impl Default for Commits {
    /// Nothing was counted yet.
    fn default() -> Self {
        Self {
            jobs: Histogram::new(JOBS),
            commit: Histogram::new(TIMES),
            job: Histogram::new(TIMES),
            undone: Counter::default(),
        }
    }
}
