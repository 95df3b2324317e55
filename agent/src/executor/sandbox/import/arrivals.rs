//! Items that arrive several at a time, and are each put into the store after what they refer to.
//!
//! Whoever is free takes what can be placed, else an item that can be placed once it is here, else the next one; so the
//! store is closed under references at any moment, and yet nothing waits for the order in which things come. What is
//! referred to is begun with first: little that has come is lost when something else cannot be had, or the agent ends.
//! What another build brings is not brought again, but waited for, when there is nothing else to do.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use drover_store::path::StorePath;

use crate::executor::Error;
use crate::executor::sandbox::Stopping;
use crate::store::{Coming, Hold, Item, Received, Store, StoreError};

/// How many come at a time.
pub(in crate::executor::sandbox) const AT_A_TIME: usize = 4;
/// The stack of each thread: TLS and the layers of compression are on it.
pub(in crate::executor::sandbox) const STACK: usize = 256 * 1024;
/// How often who waits for others looks whether to stop.
const LOOK: Duration = Duration::from_millis(500);
/// How long what others bring is waited for, before it is brought here as well.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Why an item did not come.
pub(in crate::executor::sandbox) enum Miss {
    /// It is left out, for this reason, and what refers to it as well.
    LeftOut(String),
    /// Everything ends.
    Fatal(Error),
}

impl From<StoreError> for Miss {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error.into())
    }
}

/// Whether something is still worth being read to its end.
#[derive(Clone, Copy)]
pub(in crate::executor::sandbox) struct Wanted<'a> {
    stop: &'a Stopping,
    /// Another item has failed.
    is_over: &'a AtomicBool,
}

impl Wanted<'_> {
    pub(in crate::executor::sandbox) fn holds(&self) -> bool {
        !self.stop.is_stopped() && !self.is_over.load(Ordering::Relaxed)
    }
}

/// Takes an item from wherever it is, after checking all that is to be checked about it.
pub(in crate::executor::sandbox) type Obtain<'a> =
    dyn Fn(usize, Wanted<'_>) -> Result<Received, Miss> + Sync + 'a;

/// Brings items into the store; `obtain` takes the one of that number. What is left out is said in the log,
/// also what refers to something that is neither among them nor in the store. They and what they refer to are held from
/// the beginning on.
///
/// # Errors
/// [`Error::Away`] after a stop; what `obtain` and the store say. Items that were placed until then stay.
pub(in crate::executor::sandbox) fn bring_in(
    store: &Store,
    hold: &mut Hold,
    items: &[Item],
    obtain: &Obtain<'_>,
    stop: &Stopping,
) -> Result<(), Error> {
    // Before anybody looks whether it is there: what is there then stays.
    hold.add(items.iter().flat_map(|item| item.others().chain([&item.path])).cloned());
    let mut state = State::new(entries(store, items));
    state.leave_out(items);
    let is_over = AtomicBool::new(false);
    let (state, changed) = (Mutex::new(state), Condvar::new());
    let hall = Hall { store, items, obtain, wanted: Wanted { stop, is_over: &is_over }, state, changed };
    thread::scope(|scope| {
        for _ in 1..AT_A_TIME.min(items.len()) {
            let thread = thread::Builder::new().name("inputs".into()).stack_size(STACK);
            if let Err(error) = thread.spawn_scoped(scope, || hall.work()) {
                tracing::warn!("inputs come fewer at a time: start a thread for them: {error}");
                break;
            }
        }
        hall.work();
    });
    let state = hall.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = state.failure {
        return Err(failure);
    }
    let is_stuck = |entry: &&Entry| !matches!(entry.stage, Stage::Placed | Stage::Out);
    match state.entries.iter().zip(items).find(|(entry, _)| is_stuck(entry)) {
        Some((_, item)) => Err(Error::Refused(format!(
            "put {} into the store: it is among items that refer to each other in a circle, which no store has",
            item.path
        ))),
        None => Ok(()),
    }
}

/// Where an item is.
enum Stage {
    /// Nobody has begun with it.
    Absent,
    /// On its way, or being placed.
    InWork,
    /// Here, and not placed.
    Here(Box<Received>, Option<Coming>),
    /// In the store.
    Placed,
    /// Left out.
    Out,
}

/// An item, and the numbers of those among the others that it refers to.
struct Entry {
    stage: Stage,
    needs: Vec<usize>,
    /// What it refers to that will not be there.
    lacks: Option<StorePath>,
}

fn entries(store: &Store, items: &[Item]) -> Vec<Entry> {
    let numbers: HashMap<&StorePath, usize> =
        items.iter().zip(0..).map(|(item, n)| (&item.path, n)).collect();
    let mut present = HashSet::new();
    let entry = |item: &Item| {
        let (mut needs, mut lacks) = (Vec::new(), None);
        for reference in item.others() {
            if let Some(number) = numbers.get(reference) {
                needs.push(*number);
            } else if !present.contains(reference) {
                if store.has(reference) {
                    present.insert(reference.clone());
                } else {
                    lacks = Some(reference.clone());
                }
            }
        }
        Entry { stage: Stage::Absent, needs, lacks }
    };
    items.iter().map(entry).collect()
}

/// The numbers of the entries, each after those that it needs, except in a circle.
fn needed_first(entries: &[Entry]) -> Vec<usize> {
    let (mut order, mut seen, mut stack) = (Vec::new(), HashSet::new(), Vec::new());
    for start in 0..entries.len() {
        stack.push((start, false));
        while let Some((number, is_next)) = stack.pop() {
            if is_next {
                order.push(number);
            } else if seen.insert(number) {
                stack.push((number, true));
                let needs = entries.get(number).into_iter().flat_map(|entry| &entry.needs);
                stack.extend(needs.rev().map(|need| (*need, false)));
            }
        }
    }
    order
}

struct State {
    entries: Vec<Entry>,
    /// The order in which to begin with them.
    order: Vec<usize>,
    /// Threads that do something.
    busy: usize,
    /// Since when there is nothing to do but to wait for others.
    idle: Option<Instant>,
    /// Whether any was left out.
    is_partial: bool,
    failure: Option<Error>,
}

enum Work {
    /// With the word to others, if they are to wait.
    Obtain(Option<Coming>),
    Place(Box<Received>, Option<Coming>),
    /// Somebody else brings it.
    Wait,
}

impl State {
    fn new(entries: Vec<Entry>) -> Self {
        Self { order: needed_first(&entries), entries, busy: 0, idle: None, is_partial: false, failure: None }
    }

    fn is(&self, number: &usize, is: impl Fn(&Stage) -> bool) -> bool {
        self.entries.get(*number).is_some_and(|entry| is(&entry.stage))
    }

    /// The numbers of those at such a stage, in the order in which to begin with them.
    fn at(&self, is: fn(&Stage) -> bool) -> impl Iterator<Item = usize> {
        self.order.iter().copied().filter(move |number| self.is(number, is))
    }

    /// Something that can be done now, which is taken. `bring` takes it on to bring one, unless somebody else does.
    fn take(&mut self, bring: impl Fn(usize) -> Option<Coming>) -> Option<(usize, Work)> {
        let is_placed = |number: &usize| self.is(number, |stage| matches!(stage, Stage::Placed));
        let is_ready =
            |number: &usize| self.entries.get(*number).is_some_and(|entry| entry.needs.iter().all(is_placed));
        let ready = self.at(|stage| matches!(stage, Stage::Here(..))).find(is_ready);
        if let Some(number) = ready {
            let Stage::Here(received, coming) = self.begin(number)? else { return None };
            return Some((number, Work::Place(received, coming)));
        }
        let absent = || self.at(|stage| matches!(stage, Stage::Absent));
        let first = absent().next()?;
        let free = absent().filter(is_ready).chain(absent()).find_map(|n| Some((n, bring(n)?)));
        let (number, coming) = match free {
            Some((number, coming)) => (number, Some(coming)),
            None if self.idle.get_or_insert_with(Instant::now).elapsed() < PATIENCE => {
                return Some((first, Work::Wait));
            }
            None => (first, None),
        };
        self.begin(number)?;
        Some((number, Work::Obtain(coming)))
    }

    /// Puts one in work, and gives the stage that it was at.
    fn begin(&mut self, number: usize) -> Option<Stage> {
        self.idle = None;
        Some(std::mem::replace(&mut self.entries.get_mut(number)?.stage, Stage::InWork))
    }

    /// Leaves out what cannot be placed, for want of what it refers to.
    fn leave_out(&mut self, items: &[Item]) {
        loop {
            let is_out = |number: &usize| self.is(number, |stage| matches!(stage, Stage::Out));
            let lacks = |entry: &Entry| {
                let lacking = entry.needs.iter().copied().find(|number| is_out(number));
                let lacking = lacking.and_then(|number| items.get(number)).map(|item| item.path.clone());
                entry.lacks.clone().or(lacking)
            };
            let is_open = |entry: &Entry| matches!(entry.stage, Stage::Absent | Stage::Here(..));
            let mut open = self.entries.iter().enumerate().filter(|(_, entry)| is_open(entry));
            let Some((number, lacking)) = open.find_map(|(number, entry)| Some((number, lacks(entry)?)))
            else {
                return;
            };
            self.set(number, Stage::Out);
            if let Some(item) = items.get(number) {
                tracing::warn!("{} is left out: it refers to {lacking}, which cannot be had", item.path);
            }
        }
    }

    fn set(&mut self, number: usize, stage: Stage) {
        self.is_partial |= matches!(stage, Stage::Out);
        if let Some(entry) = self.entries.get_mut(number) {
            entry.stage = stage;
        }
    }

    /// Notes the first failure; what fails after a stop fails because of it.
    fn fail(&mut self, error: Error, wanted: Wanted<'_>) {
        wanted.is_over.store(true, Ordering::Relaxed);
        let error = if wanted.stop.is_stopped() { Stopping::error() } else { error };
        self.failure.get_or_insert(error);
    }
}

/// What the threads share.
struct Hall<'a> {
    store: &'a Store,
    items: &'a [Item],
    obtain: &'a Obtain<'a>,
    wanted: Wanted<'a>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Hall<'_> {
    /// Works until there is nothing left to do.
    fn work(&self) {
        while let Some((number, work)) = self.next() {
            let done = match (self.items.get(number), work) {
                (_, Work::Place(received, _coming)) => self.place(&received),
                (Some(item), Work::Obtain(coming)) => self.obtain(number, item, coming),
                (Some(item), Work::Wait) => {
                    self.store.wait_for(&item.path, LOOK);
                    continue;
                }
                (None, _) => Ok(Stage::Out),
            };
            let mut state = self.lock();
            state.busy -= 1;
            match done {
                Ok(stage) => state.set(number, stage),
                Err(Miss::LeftOut(why)) => {
                    if let Some(item) = self.items.get(number) {
                        tracing::warn!("{} is left out: {why}", item.path);
                    }
                    state.set(number, Stage::Out);
                }
                Err(Miss::Fatal(error)) => state.fail(error, self.wanted),
            }
            // What it needs may have been left out while this one was on its way.
            if state.is_partial {
                state.leave_out(self.items);
            }
            self.changed.notify_all();
        }
    }

    /// Waits for something to do.
    fn next(&self) -> Option<(usize, Work)> {
        let mut state = self.lock();
        loop {
            if self.wanted.stop.is_stopped() {
                state.fail(Stopping::error(), self.wanted);
            }
            if state.failure.is_some() {
                return None;
            }
            let bring = |number: usize| self.store.bring(&self.items.get(number)?.path);
            if let Some((number, work)) = state.take(bring) {
                // Who waits for others does nothing.
                state.busy += usize::from(!matches!(work, Work::Wait));
                return Some((number, work));
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn obtain(&self, number: usize, item: &Item, coming: Option<Coming>) -> Result<Stage, Miss> {
        if self.store.has(&item.path) {
            // Another build has brought it meanwhile.
            return Ok(Stage::Placed);
        }
        let received = (self.obtain)(number, self.wanted)?;
        Ok(Stage::Here(Box::new(received), coming))
    }

    fn place(&self, received: &Received) -> Result<Stage, Miss> {
        self.store.settle(received)?;
        Ok(Stage::Placed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_store::nar::Limits;
    use drover_store::{Sha256Hash, path};
    use std::sync::mpsc;
    use tempfile::TempDir;

    fn store() -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("roots");
        std::fs::create_dir(&roots).unwrap();
        let store = Store::open(&folder.path().join("root"), &roots).unwrap();
        (folder, store)
    }

    fn path(name: impl ToString) -> StorePath {
        path::text(&name.to_string(), b"", &[]).unwrap()
    }

    /// Entries that need those of these numbers.
    fn state(needs: &[&[usize]]) -> State {
        let entry = |needs: &&[usize]| Entry { stage: Stage::Absent, needs: needs.to_vec(), lacks: None };
        State::new(needs.iter().map(entry).collect())
    }

    fn taken(state: &mut State, store: &Store) -> Option<usize> {
        state.take(|number| store.bring(&path(number))).map(|(number, _)| number)
    }

    #[test]
    fn what_is_needed_is_begun_with_first_and_what_must_wait_last() {
        let ((_folder, store), mut state) = (store(), state(&[&[1, 3], &[2], &[], &[]]));
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut state, &store)).collect();
        assert_eq!(order, [2, 3, 1, 0]);
        // A circle has no such order, and all of it is there.
        assert_eq!(needed_first(&self::state(&[&[1], &[2], &[0], &[1]]).entries), [2, 1, 0, 3]);
    }

    #[test]
    fn what_can_be_placed_at_once_comes_before_what_would_wait() {
        let ((_folder, store), mut state) = (store(), state(&[&[], &[0], &[1], &[4], &[]]));
        assert_eq!((taken(&mut state, &store), taken(&mut state, &store)), (Some(0), Some(4)));
        state.set(4, Stage::Placed);
        assert_eq!((taken(&mut state, &store), taken(&mut state, &store)), (Some(3), Some(1)));
    }

    #[test]
    fn what_others_bring_is_waited_for_and_not_for_ever() {
        let ((_folder, store), mut state) = (store(), state(&[&[], &[]]));
        let coming = store.bring(&path(0)).unwrap();
        let work = |state: &mut State| state.take(|number| store.bring(&path(number)));
        assert!(matches!(work(&mut state), Some((1, Work::Obtain(Some(_))))));
        assert!(matches!(work(&mut state), Some((0, Work::Wait))));
        state.idle = Instant::now().checked_sub(PATIENCE);
        assert!(matches!(work(&mut state), Some((0, Work::Obtain(None)))));
        assert!(state.idle.is_none() && work(&mut state).is_none());
        drop(coming);
        assert!(store.bring(&path(0)).is_some());
    }

    /// Two builds that want an item `shared`; the second one wants `own`, too, and asks for it while the first one is
    /// fetching. How often each of the two was asked for `shared`, where the first one gets it or does not.
    fn asked_for_by_two(first_gets_it: bool) -> [usize; 2] {
        let ((_folder, store), stop) = (store(), Stopping::new().unwrap());
        let nar = drover_store::nar::Node::file("x").to_nar();
        let item = |name| Item {
            path: path(name),
            nar_hash: Sha256Hash::of(&nar),
            nar_size: nar.len() as u64,
            references: Vec::new(),
            deriver: None,
        };
        let ((begun, first_begins), (asked, second_asks)) = (mpsc::channel(), mpsc::channel::<()>());
        let (counts, gate) = ([0, 0].map(Mutex::new), Mutex::new(second_asks));
        let take = |item: &Item| Ok(store.receive(item, &mut &nar[..], Limits::default()).unwrap());
        let count = |who: usize| *counts[who].lock().unwrap() += 1;
        let items = [item("shared"), item("own")];
        let first = |number: usize, _: Wanted<'_>| {
            count(0);
            begun.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            if first_gets_it { take(&items[number]) } else { Err(Miss::LeftOut("it is torn".to_owned())) }
        };
        let second = |number: usize, _: Wanted<'_>| {
            if number == 0 {
                count(1);
            } else {
                asked.send(()).unwrap();
            }
            take(&items[number])
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut hold = store.hold([]);
                bring_in(&store, &mut hold, &items[..1], &first, &stop).unwrap();
            });
            first_begins.recv().unwrap();
            let mut hold = store.hold([]);
            bring_in(&store, &mut hold, &items, &second, &stop).unwrap();
        });
        assert!(store.has(&path("shared")) && store.has(&path("own")));
        counts.map(|count| count.into_inner().unwrap())
    }

    #[test]
    fn builds_that_want_the_same_fetch_it_once() {
        assert_eq!(asked_for_by_two(true), [1, 0]);
    }

    #[test]
    fn what_one_build_could_not_get_another_asks_for_itself() {
        assert_eq!(asked_for_by_two(false), [1, 1]);
    }

    #[test]
    fn a_stop_ends_a_wait_for_another_build() {
        let ((_folder, store), stop) = (store(), Stopping::new().unwrap());
        let _coming = store.bring(&path("shared")).unwrap();
        stop.stop();
        let item = Item {
            path: path("shared"),
            nar_hash: Sha256Hash::of(b""),
            nar_size: 0,
            references: Vec::new(),
            deriver: None,
        };
        let obtain = |_: usize, _: Wanted<'_>| panic!("another build brings it");
        let result = bring_in(&store, &mut store.hold([]), &[item], &obtain, &stop);
        assert!(matches!(result, Err(Error::Away(_))), "{result:?}");
    }
}
