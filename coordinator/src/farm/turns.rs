//! What takes threads and memory for as long as its reader takes: so much of it at once, and no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::Error;

/// How many nars are unpacked for the public at once. Each has a thread, and takes at most the window of its compression
/// (8 MiB of what agents send, and 128 MiB of the very largest that is taken) and 1 MiB.
const UNPACKED: usize = 16;
/// How many nars are packed anew for agents at once, each as the above.
const REPACKED: usize = 32;
/// How many files are unpacked for agents at once, each as the above.
const FILES: usize = 32;
/// How many parts of files in buckets the public reads at once: each takes at most 3 MiB.
const FROM_BUCKETS: usize = 128;
/// How many logs the public reads at once: each takes the window of its compression, 4 MiB, and half a MiB.
const LOGS: usize = 32;
/// How many parts of logs, of a megabyte at most, are read for pages at once, each as the above: not among those that the public
/// reads as slowly as it likes. And how many logs everybody follows at once in pages that are open to all.
const PARTS: usize = 32;
const FOLLOWED: usize = 64;
/// How many read events at once, each with a connection and what is on its way there; and how many of them are behind and
/// read what they missed at once.
const EVENT_READERS: usize = 8192;
const CATCHING_UP: usize = 8;
/// How many people log in at once: the rest of the coordinator is not to notice who only tries.
const LOGINS: usize = 4;
/// How many look through all names at once, and how many of everybody look at pages: each reads from the database for a
/// while.
const SEARCHES: usize = 2;
const PUBLIC_PAGES: usize = 4;
/// How long somebody waits for a turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Those that wait for a turn, and have one.
#[derive(Debug)]
pub struct Turns {
    /// To unpack a nar for the public.
    pub unpack: Turn,
    /// To pack a nar anew for an agent.
    pub repack: Turn,
    /// To unpack a file for an agent.
    pub unpack_file: Turn,
    /// To read from a bucket for the public.
    pub read_bucket: Turn,
    /// To read a log for the public.
    pub read_log: Turn,
    /// To read a part of a log for a page.
    pub show_log: Turn,
    /// To follow a log as one of everybody.
    pub follow_log: Turn,
    /// To read events.
    pub read_events: Turn,
    /// To read events that are over.
    pub catch_up: Turn,
    /// To log in with a browser.
    pub log_in: Turn,
    /// To look through all names.
    pub search: Turn,
    /// To look at a page as one of everybody.
    pub public_page: Turn,
}

/// Something that few do at a time.
#[derive(Debug)]
pub struct Turn {
    free: Arc<Semaphore>,
    what: &'static str,
}

/// A turn that was given; it ends when this is dropped.
#[derive(Debug)]
pub struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        let turn = |most, what| Turn { free: Arc::new(Semaphore::new(most)), what };
        Self {
            unpack: turn(UNPACKED, "nars that are unpacked on their way out"),
            repack: turn(REPACKED, "nars that are compressed anew on their way out"),
            unpack_file: turn(FILES, "files that are unpacked on their way to agents"),
            read_bucket: turn(FROM_BUCKETS, "nars that are read from buckets"),
            read_log: turn(LOGS, "logs that are not asked for in compressed form"),
            show_log: turn(PARTS, "people who look at logs"),
            follow_log: turn(FOLLOWED, "people who follow logs"),
            read_events: turn(EVENT_READERS, "readers of events"),
            catch_up: turn(CATCHING_UP, "readers of events that are over"),
            log_in: turn(LOGINS, "people who log in"),
            search: turn(SEARCHES, "people who search"),
            public_page: turn(PUBLIC_PAGES, "people who look at pages"),
        }
    }
}

impl Turn {
    /// Waits for a turn, for a few seconds.
    ///
    /// # Errors
    /// [`Error::Busy`], when there was none.
    pub async fn take(&self) -> Result<Taken, Error> {
        match timeout(PATIENCE, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Taken { _permit: permit }),
            _ => Err(Error::Busy(self.what)),
        }
    }
}
