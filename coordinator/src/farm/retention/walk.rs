//! What can be reached from where, over millions of items in little memory: a byte for each path that is known, and
//! walks level by level, each in the order of the numbers, in which the tables lie.

use rusqlite::Connection;

use super::super::error::Error;
use super::super::unsql;
use super::elsewhere;
use super::reason::Reason;

/// A bit for each path.
#[derive(Debug, Clone)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn new(paths: usize) -> Self {
        Self(vec![0; paths.div_ceil(64)])
    }

    pub(super) fn has(&self, path: u32) -> bool {
        self.0.get(path as usize / 64).is_some_and(|word| word >> (path % 64) & 1 == 1)
    }

    /// False if it is there already, or has no place.
    pub(super) fn put(&mut self, path: u32) -> bool {
        let Some(word) = self.0.get_mut(path as usize / 64) else { return false };
        let new = *word >> (path % 64) & 1 == 0;
        *word |= 1 << (path % 64);
        new
    }

    fn take(&mut self, path: u32) -> bool {
        let was = self.has(path);
        if let Some(word) = self.0.get_mut(path as usize / 64) {
            *word &= !(1 << (path % 64));
        }
        was
    }

    /// All of them, in ascending order.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.checked_sub(1)?;
                Some(place as u32 * 64 + bit)
            })
        })
    }
}

/// How many paths are known, and one more: there is none of a higher number.
pub(super) fn paths(sql: &Connection) -> Result<usize, Error> {
    let most: Option<i64> =
        sql.prepare_cached("SELECT max(id) FROM paths")?.query_row([], |row| row.get(0))?;
    let most = unsql(most.unwrap_or(0));
    if most >= u64::from(u32::MAX) {
        return Err(Error::Damaged(format!("{most} paths are more than can be looked through")));
    }
    Ok(usize::try_from(most).unwrap_or(usize::MAX).saturating_add(1))
}

/// A walk over what is held, or was and is another server's now, which finds for each item the first reason to keep it.
pub(super) struct Walk<'a> {
    sql: &'a Connection,
    /// The numbers of reasons by path; 0: none yet.
    reasons: Vec<u8>,
    /// What each was reached from, itself for a beginning; empty if nobody wants to know.
    from: Vec<u32>,
    held: Bits,
    open: Vec<u32>,
}

impl<'a> Walk<'a> {
    /// `explains`: whether somebody will ask how something was reached.
    pub(super) fn new(sql: &'a Connection, explains: bool) -> Result<Self, Error> {
        let paths = paths(sql)?;
        let mut held = Bits::new(paths);
        each(sql, "SELECT path FROM items", |path| {
            held.put(path);
        })?;
        elsewhere::held(sql, &mut held)?;
        let from = if explains { (0..paths as u32).collect() } else { Vec::new() };
        Ok(Self { sql, reasons: vec![0; paths], from, held, open: Vec::new() })
    }

    /// Something is to be kept for its own sake, or for the sake of `from`.
    pub(super) fn start(&mut self, path: u32, reason: Reason, from: Option<u32>) {
        match self.reasons.get_mut(path as usize) {
            Some(known) if *known == 0 && self.held.has(path) => *known = reason.number(),
            _ => return,
        }
        if let (Some(place), Some(from)) = (self.from.get_mut(path as usize), from) {
            *place = from;
        }
        self.open.push(path);
    }

    /// As [`Walk::start`] for the first column of a question that takes no parameters.
    pub(super) fn start_with(&mut self, question: &str, reason: Reason) -> Result<(), Error> {
        let sql = self.sql;
        each(sql, question, |path| self.start(path, reason, None))
    }

    /// Follows what is open to all that it refers to.
    pub(super) fn run(&mut self, reason: Reason) -> Result<(), Error> {
        let sql = self.sql;
        let mut select = sql.prepare_cached("SELECT reference FROM item_references WHERE item = ?1")?;
        while !self.open.is_empty() {
            let mut level = std::mem::take(&mut self.open);
            level.sort_unstable();
            for item in level {
                let mut rows = select.query([item])?;
                while let Some(row) = rows.next()? {
                    if let Ok(reference) = row.get(0) {
                        self.start(reference, reason, Some(item));
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes how a path was reached that is no item: a derivation.
    pub(super) fn reached(&mut self, path: u32, from: u32) {
        if let Some(place) = self.from.get_mut(path as usize) {
            *place = from;
        }
    }

    pub(super) fn end(self) -> Reached {
        Reached { reasons: self.reasons, from: self.from, held: self.held }
    }
}

/// What a [`Walk`] found.
#[derive(Debug)]
pub(super) struct Reached {
    reasons: Vec<u8>,
    from: Vec<u32>,
    pub(super) held: Bits,
}

impl Reached {
    /// Why a path is kept, if it is.
    pub(super) fn reason(&self, path: u32) -> Option<Reason> {
        Reason::of(*self.reasons.get(path as usize)?)
    }

    /// How a path was reached: from which one, and that from which, up to where the walk began.
    pub(super) fn way(&self, path: u32) -> Vec<u32> {
        let mut way = vec![path];
        let mut at = path;
        while let Some(from) = self.from.get(at as usize).copied().filter(|from| *from != at) {
            way.push(from);
            at = from;
            // No circle is followed, whatever the database has.
            if way.len() > self.from.len() {
                break;
            }
        }
        way
    }
}

/// The numbers in the first column of all rows of a question; those that are no paths are left out.
pub(super) fn each(sql: &Connection, question: &str, mut take: impl FnMut(u32)) -> Result<(), Error> {
    let mut statement = sql.prepare_cached(question)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Ok(path) = row.get(0) {
            take(path);
        }
    }
    Ok(())
}

/// Takes out of what is going whatever is referred to by something that is held and does not go, with all that it refers
/// to in turn. Gives what was taken out.
pub(super) fn hold_back(sql: &Connection, going: &mut Bits, held: &Bits) -> Result<Vec<u32>, Error> {
    let mut above = sql.prepare_cached("SELECT item FROM item_references WHERE reference = ?1")?;
    let mut back = Vec::new();
    for item in going.all() {
        let mut rows = above.query([item])?;
        while let Some(row) = rows.next()? {
            match row.get(0) {
                Ok(referrer) if referrer != item && held.has(referrer) && !going.has(referrer) => {
                    back.push(item);
                    break;
                }
                _ => {}
            }
        }
    }
    for item in &back {
        going.take(*item);
    }
    let mut below = sql.prepare_cached("SELECT reference FROM item_references WHERE item = ?1")?;
    let mut next = 0;
    while let Some(item) = back.get(next).copied() {
        next += 1;
        let mut rows = below.query([item])?;
        while let Some(row) = rows.next()? {
            if let Some(reference) = row.get(0).ok().filter(|reference| going.take(*reference)) {
                back.push(reference);
            }
        }
    }
    Ok(back)
}

/// In which order these can go so that each goes before what it refers to. Those that refer to each other in a circle
/// come last, together, with what is below them; from where, is the second value.
pub(super) fn referrers_first(sql: &Connection, going: &Bits) -> Result<(Vec<u32>, usize), Error> {
    let mut select = sql.prepare_cached("SELECT reference FROM item_references WHERE item = ?1")?;
    let mut below = |item: u32, take: &mut dyn FnMut(u32)| -> Result<(), Error> {
        let mut rows = select.query([item])?;
        while let Some(row) = rows.next()? {
            match row.get(0) {
                Ok(reference) if reference != item && going.has(reference) => take(reference),
                _ => {}
            }
        }
        Ok(())
    };
    // By their places among those that go, not by path: there may be few of them.
    let all: Vec<u32> = going.all().collect();
    let place = |path: u32| all.binary_search(&path).ok();
    let mut above = vec![0_u32; all.len()];
    for item in &all {
        below(*item, &mut |reference| {
            if let Some(count) = place(reference).and_then(|place| above.get_mut(place)) {
                *count += 1;
            }
        })?;
    }
    let mut order = Vec::with_capacity(all.len());
    order.extend(all.iter().zip(&above).filter(|(_, count)| **count == 0).map(|(item, _)| *item));
    let mut next = 0;
    while let Some(item) = order.get(next).copied() {
        next += 1;
        below(item, &mut |reference| {
            if let Some(place) = place(reference) {
                if let Some(count) = above.get_mut(place) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        order.push(reference);
                    }
                }
            }
        })?;
    }
    let together = order.len();
    order.extend(all.iter().zip(&above).filter(|(_, count)| **count > 0).map(|(item, _)| *item));
    Ok((order, together))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_listed_in_their_order() {
        let mut bits = Bits::new(200);
        for path in [199, 0, 64, 63, 130] {
            assert!(bits.put(path) && !bits.put(path) && bits.has(path));
        }
        assert!(!bits.has(65) && !bits.has(1000) && !bits.put(1000));
        assert_eq!(bits.all().collect::<Vec<_>>(), [0, 63, 64, 130, 199]);
    }

    #[test]
    fn what_is_below_something_that_is_held_and_stays_is_held_back() {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch(
            "CREATE TABLE item_references (item, reference, PRIMARY KEY (item, reference)) WITHOUT ROWID;
             INSERT INTO item_references VALUES (1, 2), (2, 2), (2, 3), (3, 4), (5, 6), (6, 5), (7, 6), (8, 8), (9, 3);",
        )
        .unwrap();
        let bits = |all: &[u32]| {
            let mut bits = Bits::new(10);
            all.iter().for_each(|path| assert!(bits.put(*path)));
            bits
        };
        // 1 stays; 7 is not held any more; 9 goes, too.
        let (mut going, held) = (bits(&[2, 3, 4, 5, 6, 8, 9]), bits(&[1, 2, 3, 4, 5, 6, 8, 9]));
        assert_eq!(hold_back(&sql, &mut going, &held).unwrap(), [2, 3, 4]);
        assert_eq!(going.all().collect::<Vec<_>>(), [5, 6, 8, 9]);
    }

    #[test]
    fn what_refers_to_something_goes_before_it_and_circles_go_together_at_the_end() {
        let sql = Connection::open_in_memory().unwrap();
        sql.execute_batch(
            "CREATE TABLE item_references (item, reference, PRIMARY KEY (item, reference)) WITHOUT ROWID;
             INSERT INTO item_references VALUES (1, 1), (1, 2), (3, 1), (3, 2), (2, 9), (5, 6), (6, 5), (6, 7), (8, 4);",
        )
        .unwrap();
        let mut going = Bits::new(10);
        (1..=8).for_each(|path| assert!(going.put(path)));
        let (order, together) = referrers_first(&sql, &going).unwrap();
        assert_eq!(order[..together], [3, 8, 1, 4, 2]);
        assert_eq!(order[together..], [5, 6, 7]);
    }
}
