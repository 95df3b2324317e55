//! What a folder's disk has free, for those who only want to know: a disk that hangs, as one of a server that is away does,
//! holds nobody up for long.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use drover_os::machine;

/// How long a disk may take. One that took longer is not waited for again before it has answered.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks a disk.
#[derive(Debug, Default)]
pub(crate) struct Meter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A thread asks now.
    asking: bool,
    /// It takes too long.
    late: bool,
    /// How many answers there were, and the last of them.
    answers: u64,
    free: Option<u64>,
}

impl Meter {
    /// The bytes that the folder's disk has free now; none where that is not known, or not in time. Blocks, but not for long.
    pub(crate) fn free(&self, folder: PathBuf) -> Option<u64> {
        self.ask(move || machine::disk(&folder).map(|disk| disk.free))
    }

    fn ask(&self, look: impl FnOnce() -> Option<u64> + Send + 'static) -> Option<u64> {
        let shared = &*self.0;
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.late {
            return None;
        }
        if !state.asking {
            let to = Arc::clone(&self.0);
            let asking = thread::Builder::new().name("disk".to_owned()).spawn(move || to.answer(look()));
            state.asking = asking.is_ok();
            asking.ok()?;
        }
        let before = state.answers;
        let waited = shared.answered.wait_timeout_while(state, PATIENCE, |state| state.answers == before);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.answers == before {
            state.late = true;
            return None;
        }
        state.free
    }
}

impl Shared {
    fn answer(&self, free: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { asking: false, late: false, answers: state.answers.wrapping_add(1), free };
        self.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_disk_that_hangs_is_waited_for_once_and_asked_again_when_it_has_answered() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Meter::default();
        assert!(meter.free(folder.path().to_owned()).is_some());
        let (hangs, hung) = mpsc::channel();
        assert_eq!(meter.ask(move || hung.recv().unwrap()), None);
        // Nobody asks meanwhile: each would be one thread more that hangs.
        assert_eq!(meter.ask(|| panic!("asked")), None);
        hangs.send(Some(7)).unwrap();
        let shared = Arc::clone(&meter.0);
        let state = shared.state.lock().unwrap();
        drop(shared.answered.wait_while(state, |state| state.late).unwrap());
        assert_eq!(meter.ask(|| Some(8)), Some(8));
        assert_eq!(meter.free(folder.path().join("not there")), None);
    }
}
