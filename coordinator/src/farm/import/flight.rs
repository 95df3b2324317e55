//! Items on their way: several are taken at a time, each after what it refers to.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use drover_store::StorePath;

use super::run::{Trouble, weight};
use super::said::Said;
use crate::database;
use crate::farm::error::Error;

/// The most items that are on their way, and the most bytes of their narinfos, while more are looked for.
const MANY: usize = 1000;
const HELD: usize = 64 << 20;

/// An item whose narinfo is here.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) said: Said,
    /// The file of its narinfo, below a folder.
    pub(super) file: Option<PathBuf>,
    /// The root that it is below of.
    pub(super) root: u64,
}

/// What came of taking an item.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) path: StorePath,
    pub(super) outcome: Result<(), Trouble>,
}

/// An item on its way.
#[derive(Debug)]
struct Airborne {
    root: u64,
    weight: usize,
    /// Those that refer to it, and wait.
    waiters: Vec<StorePath>,
}

/// All items that are on their way.
#[derive(Debug)]
pub(super) struct Flight {
    at_once: usize,
    all: HashMap<StorePath, Airborne>,
    weight: usize,
    /// Those that refer to some which are on their way: to how many.
    waiting: HashMap<StorePath, (usize, Item)>,
    ready: VecDeque<Item>,
    running: usize,
    outcomes: (Sender<Landed>, Receiver<Landed>),
}

impl Flight {
    /// Nothing is on its way; at most so many will be taken at a time.
    pub(super) fn new(at_once: u32) -> Self {
        Self {
            at_once: usize::try_from(at_once).unwrap_or(1).max(1),
            all: HashMap::new(),
            weight: 0,
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            running: 0,
            outcomes: channel(),
        }
    }

    /// Whether an item is on its way.
    pub(super) fn has(&self, path: &StorePath) -> bool {
        self.all.contains_key(path)
    }

    /// Whether some should land before there are more.
    pub(super) fn is_full(&self) -> bool {
        self.all.len() >= MANY || self.weight >= HELD
    }

    /// One more. It waits for those that it refers to and that are on their way.
    pub(super) fn add(&mut self, item: Item) {
        let path = item.said.info.store_path.clone();
        let mut awaited = 0;
        for other in item.said.others() {
            if let Some(airborne) = self.all.get_mut(other) {
                airborne.waiters.push(path.clone());
                awaited += 1;
            }
        }
        let weight = weight(&item.said);
        self.weight += weight;
        self.all.insert(path.clone(), Airborne { root: item.root, weight, waiters: Vec::new() });
        if awaited == 0 {
            self.ready.push_back(item);
        } else {
            self.waiting.insert(path, (awaited, item));
        }
    }

    /// The next whose turn it is; none while as many are being taken as may be.
    pub(super) fn next(&mut self) -> Option<Item> {
        if self.running < self.at_once { self.ready.pop_front() } else { None }
    }

    /// Has something done about an item, on a thread of its own.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn launch(
        &mut self,
        path: StorePath,
        work: impl FnOnce() -> Result<(), Trouble> + Send + 'static,
    ) -> io::Result<()> {
        let sender = self.outcomes.0.clone();
        thread::Builder::new().name("import-item".to_owned()).spawn(move || {
            // Whatever happens, somebody waits to hear of it.
            let outcome = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(Error::from(database::Error::Panicked).into()));
            // Nobody is there any more: the import has ended.
            let _ = sender.send(Landed { path, outcome });
        })?;
        self.running += 1;
        Ok(())
    }

    /// What came of one that was launched; with `patience` that of the next, whenever it comes. None: nothing, so far or at
    /// all. Whatever is done about an item has deadlines of its own.
    pub(super) fn landed(&mut self, patience: bool) -> Option<Landed> {
        let receiver = &self.outcomes.1;
        let landed =
            if patience && self.running > 0 { receiver.recv().ok() } else { receiver.try_recv().ok() };
        self.running -= usize::from(landed.is_some());
        landed
    }

    /// An item is on its way no more, however that ended; the root that it is below of. Those that waited for nothing else
    /// have their turn.
    pub(super) fn done(&mut self, path: &StorePath) -> Option<u64> {
        let Airborne { root, weight, waiters } = self.all.remove(path)?;
        self.weight = self.weight.saturating_sub(weight);
        for waiter in waiters {
            let Some((awaited, _)) = self.waiting.get_mut(&waiter) else { continue };
            *awaited -= 1;
            if *awaited == 0 {
                self.ready.extend(self.waiting.remove(&waiter).map(|(_, item)| item));
            }
        }
        Some(root)
    }
}

#[cfg(test)]
mod tests {
    use drover_store::{Sha256Hash, path};

    use super::*;

    fn of(name: &str) -> StorePath {
        path::text(name, b"", &[]).unwrap()
    }

    fn item(name: &str, references: &[&str]) -> Item {
        let info = drover_store::narinfo::NarInfo {
            store_path: of(name),
            urls: Vec::new(),
            nar_hash: Sha256Hash::of(b"nar"),
            nar_size: 1,
            references: references.iter().map(|name| of(name)).collect(),
            deriver: None,
            system: None,
            signature: None,
        };
        Item { said: Said { info, signed: true, forms: Vec::new() }, file: None, root: 7 }
    }

    fn names(flight: &mut Flight) -> Vec<String> {
        std::iter::from_fn(|| flight.next()).map(|item| item.said.info.store_path.name().to_owned()).collect()
    }

    #[test]
    fn an_item_has_its_turn_when_all_that_it_refers_to_has_landed_also_what_was_refused() {
        let mut flight = Flight::new(4);
        flight.add(item("a", &[]));
        flight.add(item("b", &[]));
        flight.add(item("top", &["a", "b", "top", "elsewhere"]));
        flight.add(item("above", &["top"]));
        assert_eq!(names(&mut flight), ["a", "b"]);
        assert_eq!(flight.done(&of("a")), Some(7));
        assert!(names(&mut flight).is_empty() && flight.has(&of("top")));
        flight.done(&of("b"));
        assert_eq!(names(&mut flight), ["top"]);
        flight.done(&of("top"));
        assert_eq!(names(&mut flight), ["above"]);
        flight.done(&of("above"));
        assert_eq!((flight.done(&of("above")), flight.weight, flight.is_full()), (None, 0, false));
    }

    #[test]
    fn no_more_are_taken_at_a_time_than_may_be_and_a_panic_is_an_outcome() {
        let mut flight = Flight::new(2);
        for name in ["a", "b", "c"] {
            flight.add(item(name, &[]));
        }
        for _ in 0..2 {
            let path = flight.next().unwrap().said.info.store_path;
            let work = if path == of("a") { || panic!("as the test wants it") } else { || Ok(()) };
            flight.launch(path, work).unwrap();
        }
        assert!(flight.next().is_none());
        let mut landed = [flight.landed(true).unwrap(), flight.landed(true).unwrap()];
        landed.sort_by(|one, other| one.path.name().cmp(other.path.name()));
        assert!(landed[0].outcome.is_err() && landed[1].outcome.is_ok());
        assert!(flight.landed(true).is_none());
        assert_eq!(names(&mut flight), ["c"]);
    }
}
