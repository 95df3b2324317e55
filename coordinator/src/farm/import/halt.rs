//! How an import is told to stop, and waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::source::SourceError;

/// Whether an import is to stop, and whether the coordinator does; for threads that block.
#[derive(Debug, Clone)]
pub(super) struct Halt {
    own: Arc<watch::Sender<bool>>,
    /// Whether one pass of it is given up.
    pass: Arc<watch::Sender<bool>>,
    coordinator: watch::Receiver<bool>,
    runtime: Handle,
}

impl Halt {
    /// Not stopped yet. Called within the runtime.
    pub(super) fn new(coordinator: watch::Receiver<bool>) -> Self {
        let no = || Arc::new(watch::channel(false).0);
        Self { own: no(), pass: no(), coordinator, runtime: Handle::current() }
    }

    /// The same for one pass, which may be given up alone.
    pub(super) fn of_pass(&self) -> Self {
        Self { pass: Arc::new(watch::channel(false).0), ..self.clone() }
    }

    /// Gives the pass up.
    pub(super) fn give_up(&self) {
        self.pass.send_replace(true);
    }

    /// Stops the import.
    pub(super) fn stop(&self) {
        self.own.send_replace(true);
    }

    /// Whether somebody stopped the import, and not the coordinator.
    pub(super) fn by_order(&self) -> bool {
        *self.own.borrow()
    }

    /// # Errors
    /// When it is to stop.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        let stopped = self.by_order() || *self.pass.borrow() || *self.coordinator.borrow();
        if stopped { Err(SourceError::Stopped) } else { Ok(()) }
    }

    /// Waits.
    ///
    /// # Errors
    /// As soon as it is to stop.
    pub(super) fn rest(&self, time: Duration) -> Result<(), SourceError> {
        let (mut own, mut pass) = (self.own.subscribe(), self.pass.subscribe());
        let mut coordinator = self.coordinator.clone();
        self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                _ = own.wait_for(|stopped| *stopped) => {}
                _ = pass.wait_for(|stopped| *stopped) => {}
                _ = coordinator.wait_for(|stopped| *stopped) => {}
            }
        });
        self.check()
    }
}
