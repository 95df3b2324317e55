//! Hooks: what is done when something happened. What they are to do is in the database, so that it survives a restart;
//! what was under way at one runs again: each run happens at least once.

mod queue;

pub(super) use queue::enqueue;
