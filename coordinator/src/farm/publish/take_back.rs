//! Withdrawing something with all that refers to it, what refers before what is referred to, so that it can end
//! anywhere: half of it done is as good as none.

use std::time::{Duration, Instant};

use rusqlite::OptionalExtension;

use super::{hold, is_published, withdraw};
use crate::farm::error::Error;
use crate::farm::{Farm, Tx};

/// How long a job may hold up others.
const BATCH_TIME: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_millis(80) };

/// Withdraws an item with all that refers to it. That waits for it then.
pub(in crate::farm) fn take_back(tx: &Tx<'_>, item: i64) -> Result<(), Error> {
    TakeBack::new(item).go_on(tx, || false).map(drop)
}

impl Farm {
    /// As [`take_back`], in jobs of the database that are short: there may be a hundred thousand. Blocks.
    pub(in crate::farm) fn take_back_in_batches(&self, item: i64) -> Result<(), Error> {
        let mut rest = TakeBack::new(item);
        loop {
            let (next, done) = self.database.write_alone_blocking::<_, Error>(move |tx| {
                let start = Instant::now();
                let done = rest.go_on(tx, || start.elapsed() >= BATCH_TIME)?;
                Ok((rest, done))
            })?;
            if done {
                return Ok(());
            }
            if *self.stopping().borrow() {
                return Err(Error::Stopping);
            }
            rest = next;
        }
    }
}

/// How far it has come.
struct TakeBack {
    item: i64,
    /// Each refers to the one before.
    stack: Vec<Frame>,
}

struct Frame {
    item: i64,
    /// What refers to it was seen to up to this one.
    after: i64,
    /// Whether all of it was seen in one transaction: some may have come between two.
    at_once: bool,
}

impl Frame {
    fn new(item: i64) -> Self {
        Self { item, after: i64::MIN, at_once: true }
    }
}

impl TakeBack {
    fn new(item: i64) -> Self {
        Self { item, stack: vec![Frame::new(item)] }
    }

    /// Goes on until it is done, or it is enough, which is asked after each item; true: it is done.
    fn go_on(&mut self, tx: &Tx<'_>, enough: impl Fn() -> bool) -> Result<bool, Error> {
        const ABOVE: &str = "SELECT r.item FROM item_references r JOIN published p ON p.path = r.item \
             WHERE r.reference = ?1 AND r.item <> ?1 AND r.item > ?2 ORDER BY r.item LIMIT 1";
        // It goes last. Where it is not published, what refers to it has it from elsewhere and stays.
        if !is_published(tx, self.item)? {
            return Ok(true);
        }
        for frame in &mut self.stack {
            frame.at_once = false;
        }
        // What refers to each other goes in one transaction: up to which place in the stack that is.
        let mut circle = None;
        while let Some(frame) = self.stack.last_mut() {
            let above: Option<i64> = tx
                .prepare_cached(ABOVE)?
                .query_row([frame.item, frame.after], |row| row.get(0))
                .optional()?;
            if let Some(above) = above {
                frame.after = above;
                match self.stack.iter().position(|below| below.item == above) {
                    Some(place) => circle = Some(circle.map_or(place, |known: usize| known.min(place))),
                    None => self.stack.push(Frame::new(above)),
                }
                continue;
            }
            if !frame.at_once {
                *frame = Frame::new(frame.item);
                continue;
            }
            let item = frame.item;
            if is_published(tx, item)? {
                if item != self.item {
                    hold::wait_for(tx, item, self.item)?;
                }
                withdraw(tx, item)?;
            }
            self.stack.pop();
            circle = circle.filter(|place| self.stack.len() > *place);
            if circle.is_none() && enough() {
                break;
            }
        }
        Ok(self.stack.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::farm::paths;

    #[test]
    fn wherever_it_ends_nothing_that_is_published_refers_to_what_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), disk_reserve_mib: 0, ..Config::default() };
        let farm = Farm::open(config).unwrap();
        let edges = [(1, 1), (2, 1), (3, 1), (3, 2), (4, 3), (5, 4), (4, 5), (6, 2), (7, 6), (9, 8), (4, 8)];
        let published = |tx: &Tx<'_>| paths::numbers(tx, "SELECT path FROM published WHERE path > ?1", 0);
        let open = "SELECT r.item FROM published u JOIN item_references r ON r.item = u.path \
                    WHERE u.path > ?1 AND NOT EXISTS (SELECT 1 FROM published v WHERE v.path = r.reference)";
        farm.database
            .write_blocking::<_, Error>(move |tx| {
                let publish = |tx: &Tx<'_>, item: i64| {
                    tx.execute("INSERT INTO published VALUES (?1, x'', NULL, 0, NULL, 0)", [item])
                };
                for item in 1..10 {
                    publish(tx, item)?;
                }
                for edge in edges {
                    tx.execute("INSERT INTO item_references VALUES (?1, ?2)", edge)?;
                }
                let mut rest = TakeBack::new(1);
                let mut steps = 0;
                while !rest.go_on(tx, || true)? {
                    assert_eq!(paths::numbers(tx, open, 0)?, [0; 0], "step {steps}");
                    steps += 1;
                    if steps == 3 {
                        // It came before what was seen already.
                        publish(tx, 0)?;
                        tx.execute("INSERT INTO item_references VALUES (0, 1)", [])?;
                    }
                }
                assert!(steps >= 5, "{steps}");
                assert_eq!(published(tx)?, [8, 9]);
                let waits = paths::numbers(tx, "SELECT path FROM withheld WHERE reference = ?1", 1)?;
                assert_eq!(waits, [0, 2, 3, 4, 5, 6, 7]);
                Ok(())
            })
            .unwrap();
    }
}
