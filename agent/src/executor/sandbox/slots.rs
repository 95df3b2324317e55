//! Which build users are taken.
//!
//! Builders see nothing of others that have the same number on the machine: neither their processes nor their files, nor
//! what they share memory by. But the kernel counts for each user of the machine, whatever namespaces there are, the
//! pages of its pipes, the open files on their way through its sockets and what it watches, and before Linux 5.14 its
//! processes; with the machine's network it lets a user's programs share a port. And a guix-daemon kills whatever runs as
//! one of its build users, for each of its own builds; on a Guix System that was installed long ago these have the very
//! numbers that we begin with.
//!
//! So as root an agent passes over numbers of users whom the machine knows, and those that other agents have: each locks a
//! file for every number that it uses, for as long as it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_os::file::{Lock, LockError};

use super::root;

/// Where the agents of a machine say which numbers are theirs.
const LOCKS: &str = "/run/drover-agent-users";
/// The users whom the machine knows.
const USERS: &str = "/etc/passwd";
/// More than there are builds at a time.
const MOST: u32 = 20_000;

/// Numbers from 0 on, each held by at most one build.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Whom they are to be told apart from; none: they are nobody on the machine.
    others: Option<Others>,
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    taken: BTreeSet<u32>,
    /// Those that no other agent takes, if there could be a lock.
    ours: BTreeMap<u32, Option<Lock>>,
}

/// A number that nobody else has while this lives.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u32,
}

impl Slots {
    /// Those of builders that are users of the machine.
    pub(super) fn of_machine() -> Self {
        Self { others: Some(Others::new(LOCKS.into(), USERS.into())), numbers: Mutex::default() }
    }

    /// A number that is free, the lowest if it can be.
    pub(super) fn take(self: &Arc<Self>) -> Slot {
        let mut numbers = self.numbers();
        let ours = numbers.ours.keys().copied().find(|number| !numbers.taken.contains(number));
        let number = ours.unwrap_or_else(|| self.claim(&mut numbers));
        numbers.taken.insert(number);
        Slot { slots: Arc::clone(self), number }
    }

    /// One that is not taken, with all of ours taken.
    fn claim(&self, numbers: &mut Numbers) -> u32 {
        let free = (0..MOST).filter(|number| !numbers.taken.contains(number));
        let Some(others) = &self.others else { return free.min().unwrap_or(MOST) };
        for number in free {
            if let Some(claimed) = others.claim(root::user(number)) {
                numbers.ours.insert(number, claimed);
                return number;
            }
        }
        MOST
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.numbers().taken.remove(&self.number);
    }
}

/// Who else may have a number on this machine.
#[derive(Debug)]
struct Others {
    locks: PathBuf,
    users: PathBuf,
}

impl Others {
    fn new(locks: PathBuf, users: PathBuf) -> Self {
        // If it cannot be made, then the lock says so.
        let _ = DirBuilder::new().mode(0o700).create(&locks);
        Self { locks, users }
    }

    /// Makes this user ours, with a lock if there can be one. None: it is somebody else's.
    fn claim(&self, user: u32) -> Option<Option<Lock>> {
        if is_known(&self.users, user) {
            return None;
        }
        match Lock::take(&self.locks.join(user.to_string())) {
            Ok(lock) => Some(Some(lock)),
            Err(LockError::Held { .. }) => None,
            Err(error) => {
                tracing::warn!(
                    "{error}; builders of another agent on this machine may have user {user}, too"
                );
                Some(None)
            }
        }
    }
}

/// Whether this user is in a list such as `/etc/passwd`.
fn is_known(users: &Path, user: u32) -> bool {
    let users = fs::read(users).unwrap_or_default();
    let user = user.to_string();
    let is_it = |line: &[u8]| line.split(|byte| *byte == b':').nth(2) == Some(user.as_bytes());
    users.split(|byte| *byte == b'\n').any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once_and_again_when_it_is_free() {
        let slots = Arc::new(Slots::default());
        let (first, second) = (slots.take(), slots.take());
        assert_eq!((first.number(), second.number()), (0, 1));
        drop(first);
        assert_eq!(slots.take().number(), 0);
        assert_eq!(second.number(), 1);
    }

    #[test]
    fn agents_of_one_machine_have_numbers_of_their_own_that_no_user_has() {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("passwd");
        let builder = format!("root:x:0:0::/:/bin/sh\nguixbuilder01:x:{}:30000::/:/bin/no\n", root::user(1));
        fs::write(&users, builder).unwrap();
        let agent = |locks: &str| {
            let others = Others::new(folder.path().join(locks), users.clone());
            Arc::new(Slots { others: Some(others), numbers: Mutex::default() })
        };
        let (one, other) = (agent("locks"), agent("locks"));
        let (a, b, c) = (one.take(), other.take(), one.take());
        assert_eq!([a.number(), b.number(), c.number()], [0, 2, 3]);
        // What an agent had is its own while it lives.
        drop((a, b));
        assert_eq!(other.take().number(), 2);
        assert_eq!(one.take().number(), 0);
        drop((c, one));
        let (a, b) = (other.take(), other.take());
        assert_eq!([a.number(), b.number()], [2, 0]);
        // Without locks there are builds all the same.
        fs::write(folder.path().join("file"), "").unwrap();
        let alone = agent("file");
        let (a, b) = (alone.take(), alone.take());
        assert_eq!([a.number(), b.number()], [0, 2]);
    }
}
