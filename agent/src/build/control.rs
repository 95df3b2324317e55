//! Words from outside to a running build.

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::executor::Stopper;

/// Why a build is to end before its time. A later one in this list overrides an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Give it back unbuilt, with this reason; if it is built already, go on.
    HandBack(String),
    /// Somebody canceled it.
    Canceled,
    /// Another agent has it, or the coordinator has forgotten it: drop everything.
    Lost,
    /// The agent leaves now: what is on disk is for its next start.
    Leave,
}

/// The line to one build, shared between the build's own threads and whoever gives orders.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    order: Option<Order>,
    /// The build's result is there: handing it back is over.
    finishing: bool,
    stopper: Option<Stopper>,
}

/// Which orders a step ends for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heed {
    /// For all of them.
    Any,
    /// Only for those after which nothing of the build is wanted from us now: the last of a log, and a report, are sent
    /// for a build that was canceled as well.
    Gravest,
}

impl State {
    fn order(&self, heed: Heed) -> Option<Order> {
        let holds = match self.order.as_ref()? {
            Order::HandBack(_) => heed == Heed::Any && !self.finishing,
            Order::Canceled => heed == Heed::Any,
            Order::Lost | Order::Leave => true,
        };
        self.order.clone().filter(|_| holds)
    }
}

impl Control {
    /// Gives an order, and ends what runs.
    pub fn order(&self, order: Order) {
        let mut state = self.lock();
        if state.order.as_ref().is_none_or(|old| *old < order) {
            state.order = Some(order);
        }
        if let Some(stopper) = &state.stopper {
            stopper();
        }
        self.changed.notify_all();
    }

    /// The order that holds, if there is one.
    pub fn ordered(&self, heed: Heed) -> Option<Order> {
        self.lock().order(heed)
    }

    /// From now on the result counts, and an order to hand the build back does not.
    pub fn finishing(&self) {
        self.lock().finishing = true;
    }

    /// What an order calls, at once if there is one already.
    pub fn arm(&self, stopper: Stopper) {
        let mut state = self.lock();
        if state.order(Heed::Any).is_some() {
            stopper();
        }
        state.stopper = Some(stopper);
    }

    /// There is nothing to end any more.
    pub fn disarm(&self) {
        self.lock().stopper = None;
    }

    /// Waits; the order that ended that, if one did.
    pub fn pause(&self, time: Duration, heed: Heed) -> Option<Order> {
        let end = Instant::now() + time;
        let mut state = self.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let order = state.order(heed);
            if order.is_some() || left.is_zero() {
                return order;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("order", &self.lock().order).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_graver_order_wins_whatever_comes_first() {
        let control = Control::default();
        control.order(Order::Lost);
        control.order(Order::Canceled);
        assert_eq!(control.ordered(Heed::Any), Some(Order::Lost));
        control.order(Order::Leave);
        assert_eq!(control.ordered(Heed::Any), Some(Order::Leave));
    }

    #[test]
    fn a_result_is_not_handed_back() {
        let control = Control::default();
        control.order(Order::HandBack("stopping".into()));
        assert!(control.ordered(Heed::Any).is_some());
        control.finishing();
        assert_eq!(control.ordered(Heed::Any), None);
        control.order(Order::Canceled);
        assert_eq!(control.ordered(Heed::Any), Some(Order::Canceled));
        assert_eq!(control.ordered(Heed::Gravest), None);
    }

    #[test]
    fn an_order_stops_what_runs_and_what_starts_too_late() {
        let stopped = Arc::new(AtomicU32::new(0));
        let stopper = |stopped: &Arc<AtomicU32>| -> Stopper {
            let stopped = Arc::clone(stopped);
            Box::new(move || {
                stopped.fetch_add(1, Ordering::SeqCst);
            })
        };
        let control = Control::default();
        control.arm(stopper(&stopped));
        control.order(Order::Canceled);
        assert_eq!(stopped.load(Ordering::SeqCst), 1);
        control.disarm();
        control.arm(stopper(&stopped));
        assert_eq!(stopped.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn an_order_ends_a_pause() {
        let control = Arc::new(Control::default());
        let waiting = Arc::clone(&control);
        let waiter = std::thread::spawn(move || waiting.pause(Duration::from_secs(3600), Heed::Any));
        control.order(Order::Canceled);
        assert_eq!(waiter.join().unwrap(), Some(Order::Canceled));
    }
}
