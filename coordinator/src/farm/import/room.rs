//! An item is taken as soon as there is room for it, in a place that answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::flight::Item;
use super::halt::Halt;
use super::keep::{self, New};
use super::run::Trouble;
use super::source::Source;
use super::take::Taking;
use crate::farm::Farm;
use crate::farm::error::Error;

/// How soon it is looked again whether there is room: twice as late each time, up to this.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The same for a place that does not answer, for each time all of the nar comes again; and how long it is waited for.
const LONGEST_OUTAGE_WAIT: Duration = Duration::from_secs(600);
const OUTAGE: Duration = Duration::from_secs(24 * 3600);

/// The imports that wait for room: for what, and by how many items.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits(Arc<Mutex<HashMap<i64, (usize, String)>>>);

/// An item of an import waits.
#[derive(Debug)]
struct Wait {
    waits: Waits,
    import: i64,
}

impl Waits {
    fn all(&self) -> MutexGuard<'_, HashMap<i64, (usize, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an import waits for, in words.
    pub(super) fn of(&self, import: i64) -> Option<String> {
        self.all().get(&import).map(|(_, why)| why.clone())
    }

    fn begin(&self, import: i64, why: &str) -> Wait {
        self.all().entry(import).or_insert_with(|| (0, why.to_owned())).0 += 1;
        Wait { waits: self.clone(), import }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut all = self.waits.all();
        let Some((items, _)) = all.get_mut(&self.import) else { return };
        *items -= 1;
        if *items == 0 {
            all.remove(&self.import);
        }
    }
}

/// What is needed to take items.
#[derive(Debug, Clone)]
pub(super) struct Taker {
    pub(super) farm: Arc<Farm>,
    pub(super) source: Arc<Source>,
    pub(super) halt: Halt,
    pub(super) import: i64,
    pub(super) sign: bool,
}

impl Taker {
    /// Takes an item, and keeps and publishes it. Where there is no room, or the places do not answer, waits until there is,
    /// and they do. Blocks.
    ///
    /// # Errors
    /// When it is not what it must be, the source does not give it, no place has answered for a day, or the import is to
    /// stop.
    pub(super) fn take(&self, item: &Item) -> Result<(), Trouble> {
        patiently(&self.farm, &self.halt, self.import, || self.try_to(item))
    }

    fn try_to(&self, item: &Item) -> Result<(), Trouble> {
        let Self { farm, source, halt, .. } = self;
        let taken = Taking { farm, source, halt }.take(&item.said, item.file.as_deref())?;
        let new = Arc::new(vec![New::taken(item.said.clone(), taken)]);
        Ok(keep::all(farm, self.import, &new, self.sign)?)
    }
}

/// Does something of an import; while there is no room for it, or the places do not answer, waits, says so, and tries
/// again. Blocks.
///
/// # Errors
/// Those of the work, such as no place that has answered for a day; when the import is to stop.
pub(super) fn patiently<T, E: Into<Trouble>>(
    farm: &Arc<Farm>,
    halt: &Halt,
    import: i64,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, Trouble> {
    let since = Instant::now();
    let mut pause = FIRST_WAIT;
    let mut wait = None;
    loop {
        let (why, longest) = match work().map_err(Into::into) {
            Err(Trouble::Farm(Error::StorageFull(what))) => {
                let why = format!("there is no room for {what}; `drover storage` says how full it is where");
                (why, LONGEST_WAIT)
            }
            Err(Trouble::Farm(Error::Store(error))) if error.is_outage() && since.elapsed() < OUTAGE => {
                (format!("a place for nars is away: {error}"), LONGEST_OUTAGE_WAIT)
            }
            ended => return ended,
        };
        if wait.is_none() {
            tracing::warn!(import, why, "an import waits");
            wait = Some(farm.imports.waits.begin(import, &why));
        }
        halt.rest(pause)?;
        pause = (pause * 2).min(longest);
    }
}
