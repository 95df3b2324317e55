//! What is kept for how long, and how the rest goes.
//!
//! From time to time everything is looked through (`mark`), in one moment of the database and without holding anybody
//! up. What nothing keeps is announced; what was announced long enough ago and is still not kept at a later look is
//! withdrawn from the public, and then it goes (`removal`). So nothing goes that one look alone has found: what came to
//! be needed before the second look is found by it, and what comes to be needed after something was announced takes it
//! back itself (`rescue`). Nothing goes before all that is held and refers to it, whenever that was announced. Whatever is
//! interrupted goes on at the next look, which begins from what the database has.

mod elsewhere;
mod mark;
mod promise;
mod reason;
mod removal;
mod rescue;
mod revisions;
mod status;
mod walk;
mod why;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use drover_os::machine;
use drover_wire::retention::RetentionRun;
use rusqlite::Connection;
use tokio::sync::Notify;

use super::error::Error;
use super::{Farm, now, sql};
use elsewhere::Open;
pub(super) use elsewhere::{Elsewhere, build_again, file_url, is_away};
use mark::{Mark, mark};
pub(super) use promise::{believed_until, promise};
pub(super) use rescue::{forget, rescue, rescue_for_build, rescue_outputs, rescue_references};
use walk::{Bits, hold_back, paths, referrers_first};

/// How long a job may hold up others.
const BATCH_TIME: Duration = Duration::from_millis(80);
/// How long something that is not served any more can still be had by whoever was just told where it is.
const GRACE_MS: u64 = 10 * 60 * 1000;
/// After how long what failed is tried again; there is no more than one look in so long.
const AGAIN: Duration = Duration::from_secs(60);
/// How long after the start it is looked first.
const FIRST: Duration = Duration::from_secs(10 * 60);

/// Days as milliseconds.
fn days(days: u64) -> u64 {
    days.saturating_mul(24 * 60 * 60 * 1000)
}

/// How looking through everything stands.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    state: Mutex<State>,
    wanted: Notify,
    /// One at a time.
    turn: Mutex<()>,
    #[cfg(test)]
    pub(super) between_jobs: BetweenJobs,
}

/// What a test does between two jobs of a look; true: it ends as if the coordinator stopped.
#[cfg(test)]
#[derive(Default)]
pub(super) struct BetweenJobs(pub(super) Mutex<Option<Box<dyn FnMut() -> bool + Send>>>);

#[cfg(test)]
impl std::fmt::Debug for BetweenJobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BetweenJobs")
    }
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    runs: u64,
    last: Option<RetentionRun>,
}

impl Sweeps {
    /// Whether a test wants it to end here.
    #[cfg(test)]
    fn is_over(&self) -> bool {
        let mut between = self.between_jobs.0.lock().unwrap_or_else(PoisonError::into_inner);
        between.as_mut().is_some_and(|between| between())
    }

    #[cfg(not(test))]
    fn is_over(&self) -> bool {
        false
    }

    fn change<R>(&self, how: impl FnOnce(&mut State) -> R) -> R {
        how(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a look is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All that is to be done from time to time.
    All,
    /// Only what was announced and is due. It announces nothing: what it announced would be due at another time, for
    /// which there would be a look, and so on.
    Due,
}

/// What is to be done after a look.
struct Findings {
    mark: Mark,
    /// What is kept and was announced or withdrawn.
    kept: Vec<u32>,
    /// What is announced and due, or withdrawn, and not kept: each after what refers to it, up to the second value.
    due: (Vec<u32>, usize),
    /// What would be due as well, but something that is held and is not due refers to it.
    held_back: Vec<u32>,
    /// What is not kept and was not announced, in the same order.
    new: Vec<u32>,
    /// What need not be here if another server has it.
    open: Open,
}

impl Farm {
    /// Looks through everything once, and does what is to be done about what is not kept. Blocks, for minutes on a
    /// large farm.
    ///
    /// # Errors
    /// When the database fails, or the coordinator stops: what was done stays done.
    pub fn sweep_items(&self) -> Result<RetentionRun, Error> {
        self.sweep_for(Look::All)
    }

    fn sweep_for(&self, look: Look) -> Result<RetentionRun, Error> {
        let _turn = self.sweeps.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.sweeps.change(|state| state.running = look == Look::All);
        let mut run = RetentionRun { started_at: now(), ..RetentionRun::default() };
        let swept = self.sweep_all(look, &mut run);
        run.ended_at = now();
        run.error = swept.as_ref().err().map(ToString::to_string);
        tracing::info!(
            revisions = run.revisions,
            announced = run.announced,
            rescued = run.rescued,
            withdrawn = run.withdrawn,
            removed = run.removed.items,
            bytes = run.removed.bytes,
            asked = run.asked,
            announced_elsewhere = run.announced_elsewhere,
            redirected = run.redirected.items,
            redirected_bytes = run.redirected.bytes,
            lost = run.lost,
            milliseconds = run.ended_at - run.started_at,
            "looked at what may go"
        );
        self.sweeps.change(|state| {
            state.running = false;
            state.runs += u64::from(look == Look::All);
            state.last = Some(run.clone());
        });
        swept.map(|()| run)
    }

    fn sweep_all(&self, look: Look, run: &mut RetentionRun) -> Result<(), Error> {
        if look == Look::All {
            run.revisions = self.forget_revisions(now())?;
        }
        self.end_redirects()?;
        // What is announced for no time at all, because nobody is told to keep anything, goes at the second look.
        let mut elsewhere = Vec::new();
        for _ in 0..2 {
            let Findings { mark, kept, due: (due, together), held_back, new, open } = self.look(look)?;
            run.rescued += removal::keep(self, &kept)?;
            removal::note_needed(self, &mark.needed, now())?;
            drop(mark);
            // What is gone from here for the sake of another server is what was found a moment ago not to be needed.
            self.settle_elsewhere(&open.due, run)?;
            elsewhere = open.new;
            run.withdrawn += removal::withdraw(self, &due, together)?;
            let removed = removal::remove(self, &due, together)?;
            run.removed.items += removed.items;
            run.removed.bytes += removed.bytes;
            removal::postpone(self, &held_back)?;
            run.announced += removal::announce(self, &new)?;
            if new.is_empty() || self.next_due()?.is_none_or(|due| due > now()) {
                break;
            }
        }
        if look == Look::All { self.look_elsewhere(&elsewhere, run) } else { Ok(()) }
    }

    fn look(&self, look: Look) -> Result<Findings, Error> {
        let config = &self.config.retention;
        self.database.read_blocking(|sql_| {
            let at = now();
            let mark = mark(sql_, config, at, false)?;
            let mut known = Bits::new(paths(sql_)?);
            let mut due = known.clone();
            let mut new = known.clone();
            let mut kept = Vec::new();
            let mut open = Open::default();
            let is_weak = |path| mark.reached.reason(path).is_some_and(|reason| reason.is_weak(config));
            let mut select = sql_.prepare_cached(
                "SELECT path, step = 'withdrawn' OR due <= ?1, reason = 'elsewhere' FROM removals",
            )?;
            let mut rows = select.query([sql(at)])?;
            while let Some(row) = rows.next()? {
                let Ok(path) = row.get(0) else { continue };
                let is_elsewhere: bool = row.get(2)?;
                let is_kept = mark.reached.reason(path).is_some();
                if is_kept || !is_elsewhere {
                    known.put(path);
                }
                if is_elsewhere && is_weak(path) {
                    if row.get(1)? && open.due.len() < elsewhere::AT_ONE_LOOK {
                        open.due.push(path);
                    }
                } else if is_elsewhere || is_kept {
                    // What is not kept is announced anew, with what it refers to.
                    kept.push(path);
                } else if row.get(1)? && mark.reached.held.has(path) {
                    due.put(path);
                }
            }
            let held = &mark.reached.held;
            // What was announced at different times goes in the order of the graph for all that.
            let held_back = hold_back(sql_, &mut due, held)?;
            let due = referrers_first(sql_, &due)?;
            if look == Look::All {
                let is_new = |path: &u32| !known.has(*path) && mark.reached.reason(*path).is_none();
                held.all().filter(is_new).for_each(|path| {
                    new.put(path);
                });
                open.new = elsewhere::candidates(sql_, config, at, &known, is_weak)?;
            }
            let (new, _) = referrers_first(sql_, &new)?;
            Ok(Findings { mark, kept, due, held_back, new, open })
        })
    }

    /// When the next step of a removal is due.
    fn next_due(&self) -> Result<Option<u64>, Error> {
        self.database.read_blocking(next_due)
    }

    /// Has it looked soon. False: it is being looked already.
    pub fn sweep_soon(&self) -> bool {
        self.sweeps.wanted.notify_one();
        !self.sweeps.change(|state| state.running)
    }
}

fn next_due(sql: &Connection) -> Result<Option<u64>, Error> {
    let mut next = None;
    for step in ["announced", "withdrawn"] {
        let select = "SELECT min(due) FROM removals WHERE step = ?1";
        let due: Option<i64> = sql.prepare_cached(select)?.query_row([step], |row| row.get(0))?;
        next = [next, due.map(super::unsql)].into_iter().flatten().min();
    }
    Ok(next)
}

/// Looks from time to time, and when something is due. It ends with the farm, or when that stops.
pub(super) fn start(farm: &Arc<Farm>) {
    let every = Duration::from_secs(farm.config.retention.sweep_hours.saturating_mul(3600));
    let mut stopping = farm.stopping();
    let weak: Weak<Farm> = Arc::downgrade(farm);
    tokio::spawn(async move {
        let (mut since, mut rest) = (Instant::now(), FIRST.min(every));
        let mut due = Duration::MAX;
        loop {
            let Some(farm) = weak.upgrade() else { return };
            let sweeps = Arc::clone(&farm.sweeps);
            drop(farm);
            let is_asked_for = tokio::select! {
                () = tokio::time::sleep(rest.saturating_sub(since.elapsed()).min(due)) => false,
                () = sweeps.wanted.notified() => true,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let Some(farm) = weak.upgrade() else { return };
            let look = if is_asked_for || since.elapsed() >= rest { Look::All } else { Look::Due };
            let swept = farm.sweep_apart(look, is_asked_for).await;
            if look == Look::All {
                (since, rest) = (Instant::now(), swept.map_or(AGAIN, |_| every));
            }
            due = swept.unwrap_or(AGAIN);
        }
    });
}

impl Farm {
    /// Looks on a thread of its own; gives after which time something is due, none if it failed. `ages`: whether what
    /// goes by its age alone does, too, which has its own time otherwise.
    async fn sweep_apart(self: Arc<Self>, look: Look, ages: bool) -> Option<Duration> {
        let (end, ended) = tokio::sync::oneshot::channel();
        let started = thread::Builder::new().name("retention".to_owned()).spawn(move || {
            if ages {
                // What goes wrong is logged there, and tried again.
                let _ = self.age();
            }
            let next = self.sweep_for(look).and_then(|_| self.next_due());
            drop(self);
            machine::release_memory();
            let _ = end.send(next);
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for looking at what may go; it is tried again");
            return None;
        }
        match ended.await {
            Ok(Ok(Some(due))) => Some(Duration::from_millis(due.saturating_sub(now())).max(AGAIN)),
            Ok(Ok(None)) => Some(Duration::MAX),
            Ok(Err(Error::Stopping)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::error!(%error, "looking at what may go failed; it is tried again");
                None
            }
        }
    }
}
