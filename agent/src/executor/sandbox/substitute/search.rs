//! What is missing below some paths, and which server has it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use drover_store::path::StorePath;

use super::server::{Server, Source};
use crate::executor::Error;
use crate::executor::sandbox::Stopping;
use crate::executor::sandbox::import::arrivals::{AT_A_TIME, STACK};
use crate::store::{Hold, Item, Store};

/// How often who waits for others looks whether to stop.
const LOOK: Duration = Duration::from_millis(500);

/// An item that can be had.
#[derive(Debug)]
pub(super) struct Offer {
    /// What it is.
    pub(super) item: Item,
    /// The number of the first server that has it.
    pub(super) server: usize,
    /// Where that one has it.
    pub(super) sources: Vec<Source>,
}

/// Finds out what servers have of these paths, and of what they refer to, as far as it is not in the store. What nobody
/// has is said in the log. All of them are held before it is looked whether they are there, so that they stay.
///
/// # Errors
/// [`Error::Away`] after a stop.
pub(super) fn search(
    store: &Store,
    hold: &mut Hold,
    servers: &[Server<'_>],
    paths: &[StorePath],
    stop: &Stopping,
) -> Result<Vec<Offer>, Error> {
    let mut state = State { hold, queue: VecDeque::new(), seen: HashSet::new(), offers: Vec::new(), busy: 0 };
    state.want(store, paths);
    let search = Search { store, servers, stop, state: Mutex::new(state), changed: Condvar::new() };
    thread::scope(|scope| {
        for _ in 1..AT_A_TIME {
            let thread = thread::Builder::new().name("substitutes".into()).stack_size(STACK);
            if let Err(error) = thread.spawn_scoped(scope, || search.work()) {
                tracing::warn!("fewer substitutes are asked for at a time: start a thread for them: {error}");
                break;
            }
        }
        search.work();
    });
    stop.check()?;
    Ok(search.state.into_inner().unwrap_or_else(PoisonError::into_inner).offers)
}

struct State<'a> {
    /// Keeps all that was seen.
    hold: &'a mut Hold,
    queue: VecDeque<StorePath>,
    seen: HashSet<StorePath>,
    offers: Vec<Offer>,
    /// Threads that ask.
    busy: usize,
}

impl State<'_> {
    /// Will look for those that are neither in the store nor looked for.
    fn want<'a>(&mut self, store: &Store, paths: impl IntoIterator<Item = &'a StorePath>) {
        let new: Vec<_> = paths.into_iter().filter(|path| self.seen.insert((*path).clone())).collect();
        self.hold.add(new.iter().copied().cloned());
        self.queue.extend(new.into_iter().filter(|path| !store.has(path)).cloned());
    }
}

struct Search<'a> {
    store: &'a Store,
    servers: &'a [Server<'a>],
    stop: &'a Stopping,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

impl<'a> Search<'a> {
    fn work(&self) {
        while let Some(path) = self.next() {
            let offer = self.ask(&path);
            let mut state = self.lock();
            state.busy -= 1;
            match offer {
                Ok(offer) => {
                    state.want(self.store, offer.item.others());
                    state.offers.push(offer);
                }
                Err(why) => tracing::warn!("there is no substitute for {path}{why}"),
            }
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<StorePath> {
        let mut state = self.lock();
        loop {
            if self.stop.is_stopped() {
                return None;
            }
            if let Some(path) = state.queue.pop_front() {
                state.busy += 1;
                return Some(path);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first server's offer, or why there is none.
    fn ask(&self, path: &StorePath) -> Result<Offer, String> {
        let mut reasons = String::new();
        for (server, asked) in self.servers.iter().enumerate() {
            match asked.offer(path) {
                Ok(Some((item, sources))) => return Ok(Offer { item, server, sources }),
                Ok(None) => {}
                Err(why) => reasons.push_str(&format!("; {why}")),
            }
        }
        Err(reasons)
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
