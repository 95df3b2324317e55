//! A graceful stop.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::poll::{self, Interest};
use crate::{Deadline, posix};

/// How far a stop has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nobody asked to stop.
    Running,
    /// Asked once: begin nothing new, finish what can be finished in time.
    Drain,
    /// Asked again: leave now.
    Now,
}

/// A request to stop, shared by all threads of a program; clones are the same request.
///
/// It can be waited for by itself ([`Stop::wait`]), together with descriptors ([`Stop::descriptor`], which becomes
/// readable and stays so) and together with any condition variable ([`Stop::on_change`]).
#[derive(Clone)]
pub struct Stop(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    drain: Level,
    now: Level,
}

struct State {
    stage: Stage,
    watchers: Vec<Arc<dyn Fn(Stage) + Send + Sync>>,
}

/// A pipe whose reading end is readable from the moment on that its writing end is dropped.
struct Level {
    reader: OwnedFd,
    writer: Mutex<Option<OwnedFd>>,
}

impl Stop {
    /// A request that only [`Stop::escalate`] makes.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            state: Mutex::new(State { stage: Stage::Running, watchers: Vec::new() }),
            changed: Condvar::new(),
            drain: Level::new()?,
            now: Level::new()?,
        })))
    }

    /// A request that SIGTERM and SIGINT make: the first [`Stage::Drain`], the second [`Stage::Now`]. Once for a
    /// program: a later call takes the signals over. Also makes writing to a closed pipe an error instead of
    /// the program's end.
    ///
    /// # Errors
    /// When the system has no descriptors or threads left.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::new()?;
        let (reader, writer) = posix::pipe()?;
        ignore_broken_pipes();
        let listener = stop.clone();
        thread::Builder::new().name("signals".into()).stack_size(64 * 1024).spawn(move || {
            // Ends only if poll or read fail for good; the program then runs on, deaf to signals.
            while let Ok(true) = poll::wait_one(reader.as_fd(), Interest::Readable, Deadline::never()) {
                match nix::unistd::read(&reader, &mut [0; 1]) {
                    Ok(1) => listener.escalate(),
                    Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                    _ => break,
                }
            }
        })?;
        // Kept open for good: the handler may run at any moment from here on.
        WAKE.store(writer.into_raw_fd(), Ordering::SeqCst);
        handle(libc::SIGTERM)?;
        handle(libc::SIGINT)?;
        Ok(stop)
    }

    /// Goes one stage further.
    pub fn escalate(&self) {
        let stage = if self.stage() == Stage::Running { Stage::Drain } else { Stage::Now };
        self.advance(stage);
    }

    /// Goes on to a stage; never back.
    pub fn advance(&self, stage: Stage) {
        let watchers = {
            let mut state = self.state();
            if stage <= state.stage {
                return;
            }
            state.stage = stage;
            self.0.drain.raise();
            if stage == Stage::Now {
                self.0.now.raise();
            }
            self.0.changed.notify_all();
            state.watchers.clone()
        };
        // Without the lock: a watcher takes locks of its own.
        for watcher in watchers {
            watcher(stage);
        }
    }

    /// How far it has gone.
    pub fn stage(&self) -> Stage {
        self.state().stage
    }

    /// Whether anybody asked to stop.
    pub fn is_requested(&self) -> bool {
        self.stage() > Stage::Running
    }

    /// Waits until the stage is at least the given one or the deadline has passed; whether it is.
    pub fn wait(&self, stage: Stage, deadline: Deadline) -> bool {
        let mut state = self.state();
        while state.stage < stage {
            state = match deadline.remaining() {
                None => self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// A descriptor that is readable once the stage is at least the given one, for [`crate::poll::wait`]. Never
    /// read from it.
    pub fn descriptor(&self, stage: Stage) -> BorrowedFd<'_> {
        match stage {
            Stage::Running | Stage::Drain => self.0.drain.reader.as_fd(),
            Stage::Now => self.0.now.reader.as_fd(),
        }
    }

    /// Calls `watcher` at each change from now on, in the thread that makes it: to notify a condition variable,
    /// or to cancel a connection. If the stage is beyond running already, it is called at once as well.
    pub fn on_change(&self, watcher: impl Fn(Stage) + Send + Sync + 'static) {
        let watcher: Arc<dyn Fn(Stage) + Send + Sync> = Arc::new(watcher);
        let stage = {
            let mut state = self.state();
            state.watchers.push(watcher.clone());
            state.stage
        };
        if stage > Stage::Running {
            watcher(stage);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.stage()).finish()
    }
}

impl Level {
    fn new() -> io::Result<Self> {
        let (reader, writer) = posix::pipe()?;
        Ok(Self { reader, writer: Mutex::new(Some(writer)) })
    }

    fn raise(&self) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Makes a write to a closed pipe or socket an error of that write; the signal's default would end the program.
pub fn ignore_broken_pipes() {
    // SAFETY: installs no code of ours, only the system's "ignore".
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Where the handler writes; -1 until there is a reader.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn handler(_: libc::c_int) {
    // SAFETY: errno is the interrupted code's, so it is put back; write is safe within a handler, reads one byte
    // of a constant, and does not block, for the pipe is non-blocking. A full pipe has woken its reader already.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(WAKE.load(Ordering::SeqCst), b"!".as_ptr().cast(), 1);
        *libc::__errno_location() = errno;
    }
}

fn handle(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeroes are a valid sigaction: no flags, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
    // System calls go on after it; whoever must notice waits for the descriptor.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is fully set up, and its handler does only what handlers may.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    fn is_readable(stop: &Stop, stage: Stage) -> bool {
        poll::wait_one(stop.descriptor(stage), Interest::Readable, Deadline::after(Duration::ZERO)).unwrap()
    }

    #[test]
    fn the_first_request_drains_and_the_second_leaves() {
        let stop = Stop::new().unwrap();
        assert!(!stop.is_requested());
        assert!(!is_readable(&stop, Stage::Drain));
        stop.escalate();
        assert_eq!(stop.stage(), Stage::Drain);
        assert!(is_readable(&stop, Stage::Drain));
        assert!(!is_readable(&stop, Stage::Now));
        stop.escalate();
        assert_eq!(stop.stage(), Stage::Now);
        assert!(is_readable(&stop, Stage::Now));
        stop.escalate();
        stop.advance(Stage::Drain);
        assert_eq!(stop.stage(), Stage::Now);
    }

    #[test]
    fn leaving_at_once_also_wakes_those_who_wait_for_draining() {
        let stop = Stop::new().unwrap();
        stop.advance(Stage::Now);
        assert!(is_readable(&stop, Stage::Drain));
        assert!(stop.wait(Stage::Drain, Deadline::never()));
    }

    #[test]
    fn waiting_ends_with_the_request_or_the_deadline() {
        let stop = Stop::new().unwrap();
        assert!(!stop.wait(Stage::Drain, Deadline::after(Duration::from_millis(5))));
        let other = stop.clone();
        let waiting = thread::spawn(move || other.wait(Stage::Drain, Deadline::never()));
        stop.escalate();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn watchers_hear_every_change_and_the_present_one() {
        let stop = Stop::new().unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        let count = heard.clone();
        stop.escalate();
        stop.on_change(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        stop.escalate();
        assert_eq!(heard.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn signals_to_this_process_make_the_request() {
        let stop = Stop::on_signals().unwrap();
        let limit = || Deadline::after(Duration::from_secs(60));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(stop.wait(Stage::Drain, limit()));
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT).unwrap();
        assert!(stop.wait(Stage::Now, limit()));
    }
}
