//! Which row of one revision took the place of which of another.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What rows are paired by.
pub(super) trait Item {
    /// All that the row says, in short.
    type Digest: Clone + Eq + Hash;

    /// Package, system and cross target: only rows of the same are paired.
    fn group(&self) -> (&str, &str, Option<&str>);
    /// See [`Item::Digest`].
    fn digest(&self) -> &Self::Digest;
    /// What is to be built, if it could be evaluated.
    fn derivation(&self) -> Option<i64>;
    /// The package's version.
    fn version(&self) -> &str;
}

/// Two rows that belong together, or one that is alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair<T> {
    pub(super) before: Option<T>,
    pub(super) after: Option<T>,
}

/// Pairs rows of the same package, system and target: those that are the same first, then those with the same
/// derivation, then those of the same version, and what is left in the order of versions.
pub(super) fn pairs<T: Item>(before: Vec<T>, after: Vec<T>) -> Vec<Pair<T>> {
    let mut all = Vec::with_capacity(before.len().max(after.len()));
    let (mut before, mut after) =
        (sorted(before).into_iter().peekable(), sorted(after).into_iter().peekable());
    loop {
        let before_comes = match (before.peek(), after.peek()) {
            (None, None) => return all,
            (Some(a), Some(b)) => a.group() <= b.group(),
            (first, _) => first.is_some(),
        };
        // The group that comes next, of both.
        let (mut a, mut b) = (Vec::new(), Vec::new());
        if before_comes {
            take_group(&mut before, &mut a);
        }
        match a.first().map(Item::group) {
            None => take_group(&mut after, &mut b),
            Some(group) => {
                while let Some(item) = after.next_if(|item| item.group() == group) {
                    b.push(item);
                }
            }
        }
        pair(a, b, &mut all);
    }
}

fn sorted<T: Item>(mut items: Vec<T>) -> Vec<T> {
    items.sort_by(|a, b| {
        let versions = || by_version(a.version(), b.version());
        a.group().cmp(&b.group()).then_with(versions).then_with(|| a.derivation().cmp(&b.derivation()))
    });
    items
}

fn take_group<T: Item>(items: &mut std::iter::Peekable<impl Iterator<Item = T>>, group: &mut Vec<T>) {
    group.extend(items.next());
    while let Some(item) =
        items.next_if(|item| group.first().is_some_and(|first| first.group() == item.group()))
    {
        group.push(item);
    }
}

/// Pairs what is in one group, which is nearly always one row, or a few; but whoever submits may say otherwise.
fn pair<T: Item>(before: Vec<T>, after: Vec<T>, all: &mut Vec<Pair<T>>) {
    let mut before: Vec<Option<T>> = before.into_iter().map(Some).collect();
    let mut after: Vec<Option<T>> = after.into_iter().map(Some).collect();
    let steps = [
        |a: &[Option<T>], b: &[Option<T>]| alike(a, b, |item| Some(item.digest().clone())),
        |a: &[Option<T>], b: &[Option<T>]| alike(a, b, |item| item.derivation()),
        |a: &[Option<T>], b: &[Option<T>]| alike(a, b, |item| Some(item.version().to_owned())),
        |a: &[Option<T>], b: &[Option<T>]| alike(a, b, |_| Some(())),
    ];
    for step in steps {
        for (a, b) in step(&before, &after) {
            all.push(Pair { before: before[a].take(), after: after[b].take() });
        }
    }
    all.extend(before.into_iter().flatten().map(|item| Pair { before: Some(item), after: None }));
    all.extend(after.into_iter().flatten().map(|item| Pair { before: None, after: Some(item) }));
}

/// Pairs, by where they are, those that are left and have the same key; several of one key in their order.
fn alike<T, K: Eq + Hash>(
    before: &[Option<T>],
    after: &[Option<T>],
    key: impl Fn(&T) -> Option<K>,
) -> Vec<(usize, usize)> {
    let mut places: HashMap<K, VecDeque<usize>> = HashMap::new();
    for (place, item) in after.iter().enumerate() {
        if let Some(key) = item.as_ref().and_then(&key) {
            places.entry(key).or_default().push_back(place);
        }
    }
    let place = |item: &Option<T>| places.get_mut(&key(item.as_ref()?)?)?.pop_front();
    let found = before.iter().map(place).enumerate();
    found.filter_map(|(a, b)| Some((a, b?))).collect()
}

/// Numbers in versions by what they are worth: 1.9 is before 1.10.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (parts(a), parts(b));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// A version's numbers, by their digits without zeros before them, and what is between: words come before numbers.
fn parts(mut rest: &str) -> impl Iterator<Item = (bool, usize, &str)> {
    std::iter::from_fn(move || {
        let number = rest.starts_with(|c: char| c.is_ascii_digit());
        let end = rest.find(|c: char| c.is_ascii_digit() != number).unwrap_or(rest.len());
        let (part, next) = rest.split_at(end);
        rest = next;
        if part.is_empty() {
            return None;
        }
        let part = if number { part.trim_start_matches('0') } else { part };
        Some((number, if number { part.len() } else { 0 }, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A digest, a derivation, and a version.
    type Plain = (u8, Option<i64>, &'static str);

    impl Item for Plain {
        type Digest = u8;

        fn group(&self) -> (&str, &str, Option<&str>) {
            ("hello", "x86_64-linux", None)
        }

        fn digest(&self) -> &u8 {
            &self.0
        }

        fn derivation(&self) -> Option<i64> {
            self.1
        }

        fn version(&self) -> &str {
            self.2
        }
    }

    fn paired(before: &[Plain], after: &[Plain]) -> Vec<(u8, u8)> {
        let pairs = pairs(before.to_vec(), after.to_vec());
        let digest = |item: Option<Plain>| item.map_or(0, |item| item.0);
        pairs.into_iter().map(|pair| (digest(pair.before), digest(pair.after))).collect()
    }

    #[test]
    fn what_is_the_same_is_paired_before_what_is_only_alike() {
        // The whole row, the derivation, the version, and what is left.
        let before = [(1, Some(1), "1"), (2, Some(2), "2"), (3, Some(3), "3"), (4, Some(4), "4")];
        let after = [(11, Some(5), "3"), (12, Some(2), "1"), (1, Some(1), "1"), (13, Some(6), "5")];
        assert_eq!(paired(&before, &after), [(1, 1), (2, 12), (3, 11), (4, 13)]);
    }

    #[test]
    fn what_has_no_counterpart_is_new_or_gone() {
        assert_eq!(paired(&[(1, Some(1), "1"), (2, Some(2), "2")], &[(3, Some(3), "2")]), [(2, 3), (1, 0)]);
        assert_eq!(paired(&[], &[(3, Some(3), "2")]), [(0, 3)]);
        assert_eq!(paired(&[(1, None, "1")], &[]), [(1, 0)]);
    }

    #[test]
    fn what_is_left_is_paired_in_the_order_of_versions() {
        let before = [(1, Some(1), "1.10"), (2, Some(2), "1.9")];
        let after = [(3, Some(3), "2.0"), (4, Some(4), "1.11")];
        assert_eq!(paired(&before, &after), [(2, 4), (1, 3)]);
    }

    #[test]
    fn rows_that_could_not_be_evaluated_are_not_the_same_for_that() {
        let (before, after) = ([(1, None, "1"), (2, None, "2")], [(3, None, "2")]);
        assert_eq!(paired(&before, &after), [(2, 3), (1, 0)]);
    }

    #[test]
    fn versions_are_in_their_order() {
        let sorted =
            ["", "a", "0.9", "1", "1-rc", "1.9", "1.009-0", "1.10", "1.10.1", "1.10a", "2", "20200101"];
        for (n, a) in sorted.iter().enumerate() {
            for b in &sorted[..n] {
                assert_eq!(by_version(b, a), Ordering::Less, "{b} {a}");
            }
        }
    }
}
