//! How far an import came: what was begun after one that has not ended does not count yet.

use std::collections::VecDeque;

use super::rows::Cursor;

/// The most roots that are open, while more are looked for.
const MANY: usize = 10_000;

/// The roots from the first on that has items which are on their way.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// How many are over: the number of the first that is open.
    over: u64,
    open: VecDeque<Root>,
}

#[derive(Debug)]
struct Root {
    cursor: Cursor,
    /// The items below it that are on their way, and one while they are looked for.
    items: usize,
}

impl Roots {
    /// Another root is looked at, after which the import goes on there if it is over with all before it. Its number.
    pub(super) fn begin(&mut self, cursor: Cursor) -> u64 {
        self.open.push_back(Root { cursor, items: 1 });
        self.over + self.open.len() as u64 - 1
    }

    /// An item below it is on its way.
    pub(super) fn more(&mut self, root: u64) {
        if let Some(root) = self.get(root) {
            root.items += 1;
        }
    }

    /// One is not any more, or all were looked for.
    pub(super) fn less(&mut self, root: u64) {
        if let Some(root) = self.get(root) {
            root.items = root.items.saturating_sub(1);
        }
    }

    /// After which root the import can go on, if that has changed.
    pub(super) fn passed(&mut self) -> Option<Cursor> {
        let mut passed = None;
        while self.open.front().is_some_and(|root| root.items == 0) {
            self.over += 1;
            passed = self.open.pop_front().map(|root| root.cursor);
        }
        passed
    }

    /// Whether some should come to their end before there are more.
    pub(super) fn are_many(&self) -> bool {
        self.open.len() >= MANY
    }

    fn get(&mut self, root: u64) -> Option<&mut Root> {
        let place = usize::try_from(root.checked_sub(self.over)?).ok()?;
        self.open.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Kind;
    use super::*;

    fn at(number: u64) -> Cursor {
        Cursor::at(Kind::Told, number)
    }

    #[test]
    fn a_root_counts_when_all_before_it_are_over_with_all_that_is_below_them() {
        let mut roots = Roots::default();
        let (a, b, c) = (roots.begin(at(10)), roots.begin(at(20)), roots.begin(at(30)));
        roots.more(a);
        roots.less(a);
        roots.less(c);
        assert_eq!(roots.passed(), None);
        roots.less(b);
        assert_eq!(roots.passed(), None);
        roots.less(a);
        assert_eq!(roots.passed(), Some(at(30)));
        assert_eq!(roots.passed(), None);
        let d = roots.begin(at(40));
        assert_eq!(d, 3);
        // Of one that is over nothing is heard any more.
        roots.less(a);
        assert_eq!(roots.passed(), None);
        roots.less(d);
        assert_eq!(roots.passed(), Some(at(40)));
    }
}
