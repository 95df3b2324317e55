//! What agents need of that which is used where it lies, and nobody has read yet, is read for them: once, and not once for
//! each that asks.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::check::unread_among;
use crate::farm::Farm;
use crate::farm::error::Error;

/// How many items are read at once.
const READERS: usize = 2;
/// How long somebody waits, who gives up after two minutes and asks again.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

/// The items that are to be read.
#[derive(Debug)]
pub(super) struct Reads {
    queue: Mutex<Queue>,
    /// Becomes another number whenever one was read.
    over: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<i64>,
    /// Those that wait, and those that are being read.
    open: HashSet<i64>,
    readers: usize,
}

impl Default for Reads {
    fn default() -> Self {
        Self { queue: Mutex::default(), over: watch::channel(0).0 }
    }
}

/// An item that is being read; however that ends, nobody waits for it afterwards.
struct Reading<'r> {
    reads: &'r Reads,
    item: i64,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.reads.queue().open.remove(&self.item);
        self.reads.over.send_modify(|number| *number = number.wrapping_add(1));
    }
}

/// A thread that reads.
struct Reader<'r> {
    reads: &'r Reads,
    ended: bool,
}

impl<'r> Reader<'r> {
    /// The next that waits. If none does, the reader has ended in the same moment: what comes then wants another.
    fn next(&mut self) -> Option<Reading<'r>> {
        let mut queue = self.reads.queue();
        match queue.waiting.pop_front() {
            Some(item) => Some(Reading { reads: self.reads, item }),
            None => {
                queue.readers -= 1;
                self.ended = true;
                None
            }
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.reads.queue().readers -= 1;
        }
    }
}

impl Reads {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are to be read; whether that wants one more reader.
    fn add(&self, items: &[i64]) -> bool {
        let mut queue = self.queue();
        for item in items {
            if queue.open.insert(*item) {
                queue.waiting.push_back(*item);
            }
        }
        let wanted = !queue.waiting.is_empty() && queue.readers < READERS;
        if wanted {
            queue.readers += 1;
        }
        wanted
    }

    fn has_any(&self, items: &[i64]) -> bool {
        let queue = self.queue();
        items.iter().any(|item| queue.open.contains(item))
    }
}

impl Farm {
    /// Has these items read, which were not yet, and waits for that a while.
    ///
    /// # Errors
    /// [`Error::NotYet`] when it takes longer, or one cannot be read now. It goes on, for whoever asks again.
    pub(in crate::farm) async fn read_soon(self: &Arc<Self>, items: Vec<i64>) -> Result<(), Error> {
        let mut over = self.imports.reads.over.subscribe();
        if self.imports.reads.add(&items) {
            let farm = Arc::clone(self);
            // Nobody waits for the thread: it ends when there is nothing to read.
            drop(crate::traced::spawn_blocking(move || farm.read_waiting()));
        }
        let all_over = over.wait_for(|_| !self.imports.reads.has_any(&items));
        let in_time = timeout(PATIENCE, all_over).await.is_ok();
        let unread = self.database.read(move |sql| unread_among(sql, &items)).await?;
        match unread.len() {
            0 => Ok(()),
            count => Err(Error::NotYet(format!(
                "{count} of the inputs lie in a folder that an import took over, and {}",
                if in_time { "cannot be read now; the coordinator's log says why" } else { "are being read" }
            ))),
        }
    }

    /// Reads what waits to be read. Blocks.
    fn read_waiting(self: &Arc<Self>) {
        let mut reader = Reader { reads: &self.imports.reads, ended: false };
        while let Some(reading) = reader.next() {
            if *self.stopping.borrow() {
                return;
            }
            // Another may have read it, or it may have gone.
            if let Err(error) = self.read_now(reading.item) {
                tracing::warn!(item = reading.item, %error, "what is used where it lies could not be read");
            }
        }
    }
}
