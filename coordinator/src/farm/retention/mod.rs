//! What is kept for how long, and how the rest goes.

mod promise;
mod rescue;

pub(super) use promise::{believed_until, promise};
pub(super) use rescue::{forget, rescue, rescue_for_build, rescue_outputs, rescue_references};
