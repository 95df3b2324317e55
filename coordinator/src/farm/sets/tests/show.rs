use drover_wire::set::{SetsQuestion, Tally};

use super::*;

const STATES: [&str; 9] = [
    "succeeded",
    "failed",
    "timed-out",
    "dependency-failed",
    "allocated",
    "running",
    "waiting",
    "ready",
    "canceled",
];

#[test]
fn each_row_counts_once_in_the_column_of_its_newest_build() {
    let ground = Ground::new();
    let mut rows = Vec::new();
    for state in STATES {
        let derivation = ground.derivation(state, &[]);
        ground.build(derivation, "failed");
        ground.build(derivation, state);
        rows.push(row("p", derivation));
    }
    rows.push(row("never-submitted", ground.derivation("none", &[])));
    rows.push(Row { derivation: None, ..row("broken", 0) });
    ground.revision("master", "1", &rows);
    let shown = ground.show("master");
    let tally = Tally {
        wanted: 11,
        done: 1,
        failed: 2,
        dependency_failed: 1,
        running: 2,
        waiting: 2,
        canceled: 2,
        not_evaluated: 1,
    };
    assert_eq!(shown.total, tally);
    assert_eq!(shown.parts.len(), 1);
    assert_eq!(shown.parts[0].tally, tally);
    assert_eq!(shown.estimate, None);
}

#[test]
fn a_build_of_another_derivation_with_the_same_output_is_the_rows_build() {
    let ground = Ground::new();
    let derivation = ground.derivation("made", &[]);
    let twin = ground.write(|tx| super::derivation(tx, "other", "made", &[]));
    ground.revision("master", "1", &[row("p", derivation)]);
    ground.build(twin, "succeeded");
    assert_eq!(ground.show("master").total.done, 1);
}

#[test]
fn systems_and_cross_targets_are_apart_and_by_name() {
    let ground = Ground::new();
    let derivation = ground.derivation("made", &[]);
    let for_ = |system, cross| Row { system, cross, ..row("p", derivation) };
    let hurd = Some("i586-pc-gnu");
    let rows = [
        for_("x86_64-linux", hurd),
        for_("x86_64-linux", None),
        for_("riscv64-linux", None),
        row("q", derivation),
    ];
    ground.revision("master", "1", &rows);
    let parts = ground.show("master").parts;
    let parts: Vec<_> =
        parts.iter().map(|part| (&*part.system, part.target.as_deref(), part.tally.wanted)).collect();
    assert_eq!(parts, [("riscv64-linux", None, 1), ("x86_64-linux", None, 2), ("x86_64-linux", hurd, 1)]);
}

#[test]
fn a_superseded_revision_still_has_its_rows_and_no_other() {
    let ground = Ground::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| ground.derivation(name, &[]));
    ground.build(a, "succeeded");
    ground.revision("master", "1", &[row("a", a), row("b", b)]);
    ground.revision("master", "2", &[row("a", a), row("c", c)]);
    ground.revision("master", "3", &[row("b", b)]);
    for (revision, wanted, done, current) in [("1", 2, 1, false), ("2", 2, 1, false), ("3", 1, 0, true)] {
        let shown = ground.show(&format!("master@{revision}"));
        assert_eq!(
            (shown.total.wanted, shown.total.done, shown.current),
            (wanted, done, current),
            "{revision}"
        );
    }
    let shown = ground.show("master");
    assert_eq!(shown.revision.as_str(), "3");
    let revisions: Vec<_> =
        shown.revisions.iter().map(|one| (one.revision.as_str().to_owned(), one.rows)).collect();
    assert_eq!(revisions, [("3".to_owned(), 1), ("2".to_owned(), 2), ("1".to_owned(), 2)]);
}

#[test]
fn sets_are_listed_by_name_with_their_current_revision() {
    let ground = Ground::new();
    let [a, b] = ["a", "b"].map(|name| ground.derivation(name, &[]));
    ground.revision("patch-1", "v1", &[row("a", a)]);
    ground.revision("master", "1", &[row("a", a)]);
    ground.revision("master", "2", &[row("a", a), row("b", b)]);
    let sets = ground.runtime.block_on(ground.farm.sets(SetsQuestion::default())).unwrap();
    let sets: Vec<_> = sets
        .iter()
        .map(|set| (set.set.as_str(), set.revision.as_str(), set.revisions, set.total.wanted))
        .collect();
    assert_eq!(sets, [("master", "2", 2, 2), ("patch-1", "v1", 1, 1)]);
}

#[test]
fn a_set_or_revision_that_is_not_there_is_named() {
    let ground = Ground::new();
    ground.revision("master", "1", &[]);
    for name in ["master@2", "other"] {
        let refused = ground.runtime.block_on(ground.farm.set(name.parse().unwrap()));
        assert!(matches!(refused, Err(Error::NotFound { what: "set", name: named }) if named == name));
    }
    assert_eq!(ground.show("master").total.per_myriad(), None);
}

/// So many rows whose builds ended just now, and one that waits.
fn ended(ground: &Ground, rows: usize) -> Vec<Row> {
    let ended = (0..rows).map(|n| {
        let derivation = ground.derivation(&format!("made-{n}"), &[]);
        ground.build(derivation, if n % 2 == 0 { "succeeded" } else { "failed" });
        derivation
    });
    let waits = ground.derivation("waits", &[]);
    ground.build(waits, "waiting");
    ended.chain([waits]).map(|derivation| row("p", derivation)).collect()
}

/// Everything that has ended was an agent's.
fn by_an_agent(ground: &Ground) {
    ground.write(|tx| {
        tx.execute("INSERT INTO agents (uuid, name, created_at) VALUES (x'00', 'one', 0)", []).unwrap();
        tx.execute("UPDATE builds SET agent = last_insert_rowid() WHERE ended_at IS NOT NULL", []).unwrap();
    });
}

#[test]
fn an_estimate_says_what_it_rests_on() {
    let ground = Ground::new();
    let rows = ended(&ground, 30);
    ground.revision("master", "1", &rows);
    by_an_agent(&ground);
    let shown = ground.show("master");
    let estimate = shown.estimate.unwrap();
    assert_eq!((estimate.ended, shown.parts[0].estimate), (30, Some(estimate)));
    assert!(estimate.seconds > 0 && estimate.seconds * 30 <= estimate.within, "{estimate:?}");
}

#[test]
fn nothing_is_promised_of_what_no_agent_did_of_few_rows_of_old_revisions_or_in_part() {
    let ground = Ground::new();
    let rows = ended(&ground, 30);
    ground.revision("master", "1", &rows);
    assert_eq!(ground.show("master").estimate, None, "nobody built anything");
    by_an_agent(&ground);
    assert!(ground.show("master").estimate.is_some());

    ground.revision("small", "1", &rows[12..]);
    assert_eq!(ground.show("small").estimate, None, "too few");
    let mut more = rows.clone();
    more.push(Row { system: "riscv64-linux", ..rows[30].clone() });
    ground.revision("master", "2", &more);
    let shown = ground.show("master");
    assert_eq!(shown.estimate, None, "one part cannot be said");
    assert_eq!(shown.parts.iter().map(|part| part.estimate.is_some()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(ground.show("master@1").parts[0].estimate, None, "superseded");
}
