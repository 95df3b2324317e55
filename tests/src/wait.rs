//! Waiting for what a test cannot be told of: asked again and again, but never for ever.

use std::time::Duration;

use drover_os::Deadline;

/// How long anything may take before a test gives up: long, for machines that are busy.
pub const LONG: Duration = Duration::from_secs(120);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within [`LONG`]; the test fails with `what`.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_within(LONG, what, ask)
}

/// [`until`] with another deadline.
///
/// # Panics
/// When there is no answer within that time.
#[track_caller]
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn until_within<T>(time: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    Deadline::after(time).ask(ask).unwrap_or_else(|| panic!("waited {} s in vain: {what}", time.as_secs()))
}
