use drover_wire::set::{DiffQuestion, DifferenceKind, SetDiff};

use super::*;

impl Ground {
    fn diff(&self, a: &str, b: &str) -> SetDiff {
        let question = DiffQuestion { a: a.parse().unwrap(), b: b.parse().unwrap() };
        self.runtime.block_on(self.farm.set_diff(question)).unwrap()
    }

    /// A derivation whose newest build is in this state.
    fn stands(&self, name: &str, state: &'static str) -> i64 {
        let derivation = self.derivation(name, &[]);
        self.build(derivation, state);
        derivation
    }
}

fn kinds(diff: &SetDiff) -> Vec<(&str, DifferenceKind)> {
    let counted: u64 = diff.counts.values().sum();
    assert_eq!(counted, diff.changes.len() as u64);
    diff.changes.iter().map(|change| (&*change.package, change.kind)).collect()
}

#[test]
fn each_package_is_of_the_kind_that_its_builds_say() {
    use DifferenceKind::*;
    const STATES: [(&str, &str, &str, DifferenceKind); 12] = [
        ("a", "succeeded", "failed", NewlyBroken),
        ("b", "succeeded", "dependency-failed", NewlyBroken),
        ("c", "timed-out", "succeeded", Fixed),
        ("d", "dependency-failed", "failed", StillBroken),
        ("e", "waiting", "failed", Broken),
        ("f", "canceled", "timed-out", Broken),
        ("g", "succeeded", "succeeded", Changed),
        ("h", "succeeded", "running", Changed),
        ("i", "failed", "ready", Changed),
        ("j", "waiting", "succeeded", Changed),
        ("k", "waiting", "waiting", Changed),
        ("l", "allocated", "canceled", Changed),
    ];
    let ground = Ground::new();
    let rows = |revision: &str| -> Vec<Row> {
        let state = |(_, before, after, _): &(_, &'static str, &'static str, _)| {
            if revision == "1" { *before } else { *after }
        };
        STATES
            .iter()
            .map(|all| row(all.0, ground.stands(&format!("{}-{revision}", all.0), state(all))))
            .collect()
    };
    let (mut one, mut two) = (rows("1"), rows("2"));
    one.push(row("gone", ground.stands("gone", "failed")));
    two.push(row("new", ground.stands("new", "succeeded")));
    // The same in both: it counts, and is named if it is broken.
    let both =
        [row("same", ground.stands("same", "waiting")), row("still", ground.stands("still", "failed"))];
    one.extend(both.clone());
    two.extend(both);
    ground.revision("master", "1", &one);
    ground.revision("master", "2", &two);
    let mut right: Vec<_> = STATES.iter().map(|(package, _, _, kind)| (*package, *kind)).collect();
    right.extend([("gone", Gone), ("new", New), ("still", StillBroken)]);
    right.sort();
    let diff = ground.diff("master@1", "master");
    assert_eq!(kinds(&diff), right);
    assert_eq!(diff.same, 1);
    assert_eq!((diff.a.to_string(), diff.b.to_string()), ("master@1".to_owned(), "master@2".to_owned()));
    let first = &diff.changes[0];
    let states = [&first.before, &first.after].map(|side| side.as_ref().unwrap().state.unwrap().as_str());
    assert_eq!(states, ["succeeded", "failed"]);
    let after = first.after.as_ref().unwrap();
    assert_eq!((after.derivation.as_ref(), after.build.is_some()), (Some(&path("a-2.drv")), true));
}

#[test]
fn the_other_way_round_what_was_broken_is_fixed() {
    let ground = Ground::new();
    let (good, bad) = (ground.stands("good", "succeeded"), ground.stands("bad", "failed"));
    ground.revision("master", "1", &[row("p", good), row("q", good)]);
    ground.revision("master", "2", &[row("p", bad), row("q", good)]);
    assert_eq!(kinds(&ground.diff("master@1", "master@2")), [("p", DifferenceKind::NewlyBroken)]);
    assert_eq!(kinds(&ground.diff("master@2", "master@1")), [("p", DifferenceKind::Fixed)]);
    let none = ground.diff("master", "master");
    assert_eq!((kinds(&none), none.same), (vec![("p", DifferenceKind::StillBroken)], 1));
}

#[test]
fn a_package_that_could_not_be_evaluated_is_broken() {
    let ground = Ground::new();
    let good = row("p", ground.stands("good", "succeeded"));
    let bad = Row { derivation: None, ..good.clone() };
    ground.revision("master", "1", std::slice::from_ref(&good));
    ground.revision("master", "2", std::slice::from_ref(&bad));
    ground.revision("master", "3", &[good]);
    ground.revision("patch", "1", std::slice::from_ref(&bad));
    ground.revision("patch", "2", &[bad]);
    assert_eq!(kinds(&ground.diff("patch@1", "patch@2")), [("p", DifferenceKind::StillBroken)]);
    let broken = ground.diff("master@1", "master@2");
    assert_eq!(kinds(&broken), [("p", DifferenceKind::NewlyBroken)]);
    let after = broken.changes[0].after.as_ref().unwrap();
    assert_eq!((after.derivation.as_ref(), after.build, after.state), (None, None, None));
    assert_eq!(kinds(&ground.diff("master@2", "master@3")), [("p", DifferenceKind::Fixed)]);
    // The row went and came back: there are two of it, which say the same.
    let same = ground.diff("master@1", "master@3");
    assert_eq!((kinds(&same), same.same), (vec![], 1));
}

#[test]
fn two_sets_are_compared_by_what_their_rows_say() {
    let ground = Ground::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| ground.stands(name, "waiting"));
    let urgent = Row { priority: 5, ..row("b", b) };
    ground.revision("master", "1", &[row("a", a), row("b", b), row("c", c)]);
    ground.revision("patch-1", "v1", &[row("c", c)]);
    ground.revision("patch-1", "v2", &[row("a", a), urgent]);
    let diff = ground.diff("master", "patch-1");
    assert_eq!(kinds(&diff), [("b", DifferenceKind::Changed), ("c", DifferenceKind::Gone)]);
    assert_eq!(diff.same, 1);
    let diff = ground.diff("patch-1@v1", "master");
    assert_eq!(kinds(&diff), [("a", DifferenceKind::New), ("b", DifferenceKind::New)]);
    assert_eq!(diff.same, 1);
}

#[test]
fn systems_and_targets_are_apart_and_in_order() {
    let ground = Ground::new();
    let [a, b] = ["a", "b"].map(|name| ground.stands(name, "waiting"));
    let hurd = |derivation| Row { cross: Some("i586-pc-gnu"), ..row("p", derivation) };
    let arm = |derivation| Row { system: "aarch64-linux", ..row("p", derivation) };
    ground.revision("master", "1", &[hurd(a), arm(a), row("o", a)]);
    ground.revision("master", "2", &[hurd(b), row("p", a), row("o", b)]);
    let diff = ground.diff("master@1", "master@2");
    let all: Vec<_> = diff
        .changes
        .iter()
        .map(|change| (&*change.package, &*change.system, change.target.is_some(), change.kind))
        .collect();
    use DifferenceKind::{Changed, Gone, New};
    let right = [
        ("o", "x86_64-linux", false, Changed),
        ("p", "aarch64-linux", false, Gone),
        ("p", "x86_64-linux", false, New),
        ("p", "x86_64-linux", true, Changed),
    ];
    assert_eq!(all, right);
}

#[test]
fn a_revision_that_is_not_there_is_named() {
    let ground = Ground::new();
    ground.revision("master", "1", &[]);
    let question = DiffQuestion { a: "master".parse().unwrap(), b: "master@2".parse().unwrap() };
    let refused = ground.runtime.block_on(ground.farm.set_diff(question));
    assert!(matches!(refused, Err(Error::NotFound { name, .. }) if name == "master@2"));
}
