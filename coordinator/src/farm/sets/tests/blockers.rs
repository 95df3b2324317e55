use drover_wire::BuildState;
use drover_wire::set::{Blocker, Blockers, BlockersQuestion};

use super::*;

impl Ground {
    fn blockers(&self, named: &str, limit: Option<u32>) -> Blockers {
        let question = BlockersQuestion { limit };
        self.runtime.block_on(self.farm.set_blockers(named.parse().unwrap(), question)).unwrap()
    }

    /// A source that these derivations name, and nobody has.
    fn lacks(&self, source: &'static str, derivations: &[i64], above: &[i64]) {
        let (derivations, above) = (derivations.to_vec(), above.to_vec());
        self.write(move |tx| {
            let source = paths::number(tx, &path(source)).unwrap();
            tx.execute("INSERT INTO missing_sources VALUES (?1)", [source]).unwrap();
            for derivation in &derivations {
                tx.execute("INSERT INTO derivation_sources VALUES (?1, ?2)", [*derivation, source]).unwrap();
            }
            for derivation in derivations.iter().chain(&above) {
                tx.execute("UPDATE derivations SET lacking = lacking + 1 WHERE id = ?1", [*derivation])
                    .unwrap();
            }
        });
    }
}

fn told(blockers: &Blockers) -> Vec<(String, Option<BuildState>, u64)> {
    let told = |one: &Blocker| {
        let path = one.missing_source.as_ref().unwrap_or(&one.derivation);
        (path.name().to_owned(), one.state, one.holds_up)
    };
    blockers.blockers.iter().map(told).collect()
}

fn named(name: &str, state: Option<BuildState>, rows: u64) -> (String, Option<BuildState>, u64) {
    (name.to_owned(), state, rows)
}

/// A library that failed, two programs that need it, one of which needs something canceled as well, one that needs
/// something that no build was ever submitted for, and one that is well.
fn farm() -> (Ground, Vec<Row>) {
    let ground = Ground::new();
    let library = ground.derivation("library", &[]);
    let canceled = ground.derivation("canceled", &[]);
    let never = ground.derivation("never", &[]);
    let well = ground.derivation("well", &[]);
    let one = ground.derivation("one", &[library, well]);
    let two = ground.derivation("two", &[one, canceled]);
    let three = ground.derivation("three", &[never]);
    ground.build(library, "failed");
    ground.build(canceled, "canceled");
    ground.build(well, "succeeded");
    for derivation in [one, two, three] {
        ground.build(derivation, "dependency-failed");
    }
    let rows = [("library", library), ("one", one), ("two", two), ("three", three), ("well", well)];
    (ground, rows.map(|(package, derivation)| row(package, derivation)).to_vec())
}

#[test]
fn what_failed_or_is_missing_comes_with_the_rows_that_it_holds_up() {
    let (ground, rows) = farm();
    ground.revision("master", "1", &rows);
    let answer = ground.blockers("master", None);
    let right = [
        named("library.drv", Some(BuildState::Failed), 3),
        named("canceled.drv", Some(BuildState::Canceled), 1),
        named("never.drv", None, 1),
    ];
    assert_eq!(told(&answer), right);
    assert_eq!((answer.count, answer.rows), (3, 4));
    assert!(answer.blockers[0].build.is_some() && answer.blockers[2].build.is_none());

    let first = ground.blockers("master", Some(1));
    assert_eq!((told(&first), first.count, first.rows), (right[..1].to_vec(), 3, 4));
}

#[test]
fn only_what_the_revision_needs_holds_it_up() {
    let (ground, rows) = farm();
    ground.revision("master", "1", &rows[4..]);
    ground.revision("master", "2", &rows[3..]);
    let (old, new) = (ground.blockers("master@1", None), ground.blockers("master", None));
    assert_eq!((told(&old), old.count, old.rows), (vec![], 0, 0));
    assert_eq!((told(&new), new.rows), (vec![named("never.drv", None, 1)], 1));
}

#[test]
fn a_missing_source_counts_once_for_all_that_name_it() {
    let ground = Ground::new();
    // A derivation that the revision does not need names the source, too.
    let aside = ground.derivation("aside", &[]);
    let (a, b) = (ground.derivation("a", &[]), ground.derivation("b", &[]));
    let c = ground.derivation("c", &[a, b]);
    for derivation in [aside, a, b, c] {
        ground.build(derivation, "waiting");
    }
    ground.lacks("source", &[aside, a, b], &[c]);
    ground.lacks("other", &[b], &[c]);
    ground.revision("master", "1", &[row("a", a), row("b", b), row("c", c)]);
    let answer = ground.blockers("master", None);
    let waiting = Some(BuildState::Waiting);
    assert_eq!(told(&answer), [named("source", waiting, 3), named("other", waiting, 2)]);
    assert_eq!(answer.blockers[0].derivation, path("a.drv"));
    assert_eq!((answer.count, answer.rows), (2, 3));
}

#[test]
fn a_source_that_is_missing_below_what_is_here_holds_up_what_is_built_with_it() {
    let ground = Ground::new();
    let below = ground.derivation("below", &[]);
    let top = ground.derivation("top", &[below]);
    ground.build(below, "succeeded");
    ground.build(top, "waiting");
    ground.lacks("source", &[below], &[top]);
    ground.revision("master", "1", &[row("below", below), row("top", top)]);
    let answer = ground.blockers("master", None);
    assert_eq!(told(&answer), [named("source", Some(BuildState::Succeeded), 1)]);
}

#[test]
fn an_output_that_was_built_and_lost_holds_up_what_needs_it_and_not_its_row() {
    let ground = Ground::new();
    let lost = ground.derivation("lost", &[]);
    let top = ground.derivation("top", &[lost]);
    ground.build(lost, "succeeded");
    ground.build(top, "dependency-failed");
    ground.write(|tx| tx.execute("UPDATE paths SET provided = 0", []).unwrap());
    ground.revision("master", "1", &[row("lost", lost), row("top", top)]);
    let answer = ground.blockers("master", None);
    assert_eq!(told(&answer), [named("lost.drv", Some(BuildState::Succeeded), 1)]);
}

#[test]
fn what_a_substitute_server_has_is_no_blocker_of_others() {
    let (ground, rows) = farm();
    ground.write(|tx| {
        let provide =
            "UPDATE paths SET provided = 2 WHERE id = (SELECT target FROM derivations WHERE id = ?1)";
        let library = paths::find(tx, &path("library.drv")).unwrap();
        tx.execute(provide, [library]).unwrap();
    });
    ground.revision("master", "1", &rows);
    let right = [
        named("canceled.drv", Some(BuildState::Canceled), 1),
        named("library.drv", Some(BuildState::Failed), 1),
        named("never.drv", None, 1),
    ];
    let mut told = told(&ground.blockers("master", None));
    told.sort();
    assert_eq!(told, right);
}

#[test]
fn of_two_outputs_the_one_that_is_not_there_holds_up_what_takes_it() {
    let ground = Ground::new();
    let library = ground.derivation("library", &[]);
    let takes_out = ground.derivation("takes-out", &[library]);
    ground.write(move |tx| {
        let lib = paths::number(tx, &path("library-lib")).unwrap();
        tx.execute("INSERT INTO derivation_outputs VALUES (?1, 'lib', ?2)", [library, lib]).unwrap();
        let provide =
            "UPDATE paths SET provided = 2 WHERE id = (SELECT target FROM derivations WHERE id = ?1)";
        tx.execute(provide, [library]).unwrap();
    });
    let takes_both = ground.derivation("takes-both", &[library]);
    ground.build(library, "failed");
    ground.build(takes_out, "waiting");
    ground.build(takes_both, "dependency-failed");
    ground.revision("master", "1", &[row("out", takes_out), row("both", takes_both)]);
    let answer = ground.blockers("master", None);
    assert_eq!(told(&answer), [named("library.drv", Some(BuildState::Failed), 1)]);
}

#[test]
fn what_inputs_refer_to_holds_up_the_build_that_waits_for_it() {
    let ground = Ground::new();
    let (far, top) = (ground.derivation("far", &[]), ground.derivation("top", &[]));
    ground.build(far, "failed");
    let build = ground.build(top, "dependency-failed");
    ground.write(move |tx| {
        let await_ = "INSERT INTO awaited SELECT target, ?2 FROM derivations WHERE id = ?1";
        tx.execute(await_, [far, build]).unwrap();
    });
    ground.revision("master", "1", &[row("top", top)]);
    let answer = ground.blockers("master", None);
    assert_eq!(told(&answer), [named("far.drv", Some(BuildState::Failed), 1)]);
}

#[test]
fn a_build_that_goes_on_by_another_way_is_no_blocker() {
    let ground = Ground::new();
    let library = ground.derivation("library", &[]);
    let twin = ground.write(|tx| derivation(tx, "twin", "library", &[]));
    let [above, beside] = ["above", "beside"].map(|name| ground.derivation(name, &[library]));
    ground.build(library, "failed");
    for (derivation, state) in [(twin, "running"), (above, "waiting"), (beside, "ready")] {
        ground.build(derivation, state);
    }
    ground.revision("master", "1", &[row("library", library), row("above", above), row("beside", beside)]);
    let answer = ground.blockers("master", None);
    assert_eq!((told(&answer), answer.count, answer.rows), (vec![], 0, 0));
}
