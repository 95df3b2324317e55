//! Whether the farm can do its work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::Error;
use super::{Farm, now, sql};

/// How long an answer is good for: whoever asks more often does not have the disk do more.
const GOOD: Duration = Duration::from_secs(1);
/// How long the database may take. Some of its jobs take seconds, and all others wait for them.
const PATIENCE: Duration = Duration::from_secs(10);
/// What must fit into the state folder, at least.
const ROOM: u64 = 1 << 20;

/// Why it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unready {
    /// It is about to end.
    Stopping,
    /// Nothing can be noted.
    Database,
    /// Nothing more is taken.
    Full,
}

impl Unready {
    /// In words for anybody.
    pub fn words(self) -> &'static str {
        match self {
            Self::Stopping => "The coordinator is stopping.",
            Self::Database => "The coordinator's database cannot be written.",
            Self::Full => "The disk of the coordinator's state folder is full, but for its reserve.",
        }
    }
}

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct Readiness(Mutex<Option<(Instant, Option<Unready>)>>);

impl Farm {
    /// Why the farm cannot do its work; none if it can.
    pub async fn readiness(self: &Arc<Self>) -> Option<Unready> {
        if *self.stopping.borrow() {
            return Some(Unready::Stopping);
        }
        // Held meanwhile: those who ask at the same time get the same answer.
        let mut last = self.readiness.0.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| at.elapsed() < GOOD) {
            return *answer;
        }
        let answer = self.look_whether_ready().await;
        *last = Some((Instant::now(), answer));
        answer
    }

    async fn look_whether_ready(self: &Arc<Self>) -> Option<Unready> {
        let written = self.database.write::<_, Error>(|tx| {
            // In memory it could be noted on the sickest of disks: this reaches it.
            tx.prepare_cached("UPDATE probe SET at = ?1")?.execute([sql(now())])?;
            Ok(())
        });
        match timeout(PATIENCE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(Error::StorageFull(_))) => return Some(Unready::Full),
            failed => {
                tracing::error!(?failed, "the database cannot be written");
                return Some(Unready::Database);
            }
        }
        let farm = Arc::clone(self);
        let has_room = crate::traced::spawn_blocking(move || farm.storage.has_room(ROOM));
        match timeout(PATIENCE, has_room).await {
            Ok(Ok(true)) => None,
            Ok(_) => Some(Unready::Full),
            Err(_) => {
                tracing::error!("the disk of the state folder does not say what it has free");
                Some(Unready::Database)
            }
        }
    }
}
