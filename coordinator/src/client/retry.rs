//! Growing waits between attempts at something that may succeed later.

use std::time::Duration;

use super::{ClientError, Watch};

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(30);
/// Twenty-five seconds in all: a coordinator that is restarted is back by then.
const SOME: u32 = 9;

/// How long is still waited for something.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Option<u32>,
    next: Duration,
    warned: bool,
}

impl Patience {
    /// For a restart of the coordinator, not for longer.
    pub(crate) fn some() -> Self {
        Self { left: Some(SOME), next: FIRST, warned: false }
    }

    /// For ever.
    pub(crate) fn endless() -> Self {
        Self { left: None, next: FIRST, warned: false }
    }

    /// Waits, or gives the error back when it was the last time. The first time is said, others are not.
    pub(crate) fn wait_after(&mut self, error: ClientError, watch: &dyn Watch) -> Result<(), ClientError> {
        match &mut self.left {
            Some(0) => return Err(error),
            Some(left) => *left -= 1,
            None => {}
        }
        if !std::mem::replace(&mut self.warned, true) {
            watch.warn(&format!("{error}; trying again"));
        }
        std::thread::sleep(self.pause());
        Ok(())
    }

    /// How long to wait now; the next time it is longer.
    pub(crate) fn pause(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(LONGEST);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        let mut patience = Patience::endless();
        let pauses: Vec<_> = (0..12).map(|_| patience.pause()).collect();
        assert!(pauses.windows(2).all(|w| w[0] <= w[1]));
        assert_eq!((pauses[0], pauses[11]), (FIRST, LONGEST));
    }

    #[test]
    fn the_last_error_comes_back() {
        let mut patience = Patience { left: Some(0), ..Patience::some() };
        let error = ClientError::Usage("x".into());
        assert!(patience.wait_after(error, &crate::client::Nobody).is_err());
    }
}
