//! Work that goes on elsewhere keeps the span of whoever started it: what it logs names the same request.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span};

/// As tokio's.
pub(crate) fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(work.in_current_span())
}

/// As tokio's.
pub(crate) fn spawn_blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}
