//! Threads, and what they wait for one another by.

use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::{Finding, Glance, Outcome, expect, failed};

const THREADS: usize = 8;
/// As small as the agent's smallest.
const STACK: usize = 64 * 1024;
const WAIT: Duration = Duration::from_millis(20);

pub(super) fn examine(_: &Glance) -> Outcome {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let (sender, receiver) = mpsc::channel();
    let mut threads = Vec::new();
    for number in 0..THREADS {
        let (shared, sender) = (Arc::clone(&shared), sender.clone());
        let start = thread::Builder::new().stack_size(STACK).spawn(move || {
            let (count, changed) = &*shared;
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            changed.notify_all();
            sender.send(number).is_ok()
        });
        threads.push(start.map_err(failed("start a thread"))?);
    }
    let (count, changed) = &*shared;
    let mut counted = count.lock().unwrap_or_else(PoisonError::into_inner);
    while *counted < THREADS {
        counted = changed.wait(counted).unwrap_or_else(PoisonError::into_inner);
    }
    // And one that nobody ends.
    let (counted, waited) = changed.wait_timeout(counted, WAIT).unwrap_or_else(PoisonError::into_inner);
    expect(*counted == THREADS && waited.timed_out(), || "a wait with a limit is ended by nobody".into())?;
    drop(counted);
    let ended = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|sent| *sent).count();
    drop(sender);
    let sum: usize = receiver.iter().sum();
    expect(ended == THREADS && sum == THREADS * (THREADS - 1) / 2, || {
        format!("{ended} of {THREADS} threads ended well, and sent numbers that add up to {sum}")
    })?;
    let processors = drover_os::machine::processors().map_or("unknown".into(), |count| count.to_string());
    Ok(Finding::Works(format!("{THREADS} at a time; processors: {processors}")))
}
