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
    coordinator: watch::Receiver<bool>,
    runtime: Handle,
}

impl Halt {
    /// Not stopped yet. Called within the runtime.
    pub(super) fn new(coordinator: watch::Receiver<bool>) -> Self {
        Self { own: Arc::new(watch::channel(false).0), coordinator, runtime: Handle::current() }
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
        if self.by_order() || *self.coordinator.borrow() { Err(SourceError::Stopped) } else { Ok(()) }
    }

    /// Waits.
    ///
    /// # Errors
    /// As soon as it is to stop.
    pub(super) fn rest(&self, time: Duration) -> Result<(), SourceError> {
        let (mut own, mut coordinator) = (self.own.subscribe(), self.coordinator.clone());
        self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                _ = own.wait_for(|stopped| *stopped) => {}
                _ = coordinator.wait_for(|stopped| *stopped) => {}
            }
        });
        self.check()
    }
}
