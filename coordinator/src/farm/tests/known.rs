//! What a revision finds: builds that failed, that were canceled or took too long, outputs that are held, twins, and
//! agents that hold builds which nobody wants any more.

use drover_wire::agent::{GiveUp, GiveUpReason};
use drover_wire::set::SetSubmitted;

use super::*;

/// Two derivations of one output, one that needs the second of them, and one that needs that.
const FILE: usize = 0;
const MIRRORED: usize = 1;
const C: usize = 3;
const G: usize = 7;

/// A farm that has all sources.
fn farm() -> World {
    let mut world = World::new();
    for source in 0..2 {
        world.take(&Step::Source(source));
    }
    world
}

impl World {
    /// Makes these rows the current revision of a set.
    #[track_caller]
    fn want(&mut self, set: &str, rows: &[Row], keep: Option<bool>) -> SetSubmitted {
        self.revisions += 1;
        let coming = Coming {
            set: set.parse().unwrap(),
            revision: self.revisions.to_string().parse().unwrap(),
            terms: SetSubmission { rows: rows.len() as u64, keep },
        };
        let submitted = self.farm().submit_set(coming, std::io::Cursor::new(lines(rows)));
        let submitted = self.runtime.block_on(submitted).unwrap();
        invariants::check(self.farm(), "a revision");
        submitted
    }

    fn row(&self, node: usize) -> Row {
        row(&self.nodes[node].path, 0)
    }

    /// The builds of what a derivation makes: the oldest first, with their states.
    fn history(&self, node: usize) -> Vec<BuildState> {
        let path = self.nodes[node].outputs[0].1.clone();
        let states = self.farm().database.read_blocking::<_, Error>(move |sql| {
            let mut select = sql.prepare(
                "SELECT b.state FROM builds b JOIN paths p ON p.id = b.target WHERE p.base = ?1 ORDER BY b.id",
            )?;
            let rows = select.query_map([path.base_name()], |row| paths::state(row, 0))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        });
        states.unwrap()
    }

    /// An agent builds what is ready first, to this end.
    fn build(&mut self, node: usize, how: &How) {
        self.give(0, 1);
        assert_eq!(self.held[0].node, node, "{:?}", self.held);
        self.end(0, how);
        invariants::check(self.farm(), &format!("{how:?}"));
    }

    /// What the agent that holds something is told to give up.
    fn orders(&self) -> Vec<GiveUp> {
        let holding: Vec<LeaseId> = self.held.iter().map(|held| held.lease).collect();
        self.farm().live.give_up(self.agents[0].id, &holding)
    }

    /// The builder of what is held runs, and that is noted.
    fn start(&self) {
        self.building(0);
        let held = &self.held[0];
        while self.history(held.node).contains(&BuildState::Allocated) {
            thread::yield_now();
        }
    }
}

#[test]
fn what_failed_is_not_tried_again_by_a_set_and_what_needs_it_fails_with_it() {
    let mut world = farm();
    world.want("one", &[world.row(FILE)], None);
    world.build(FILE, &How::Failed);
    let taken = world.want("two", &[world.row(MIRRORED), world.row(G)], None);
    assert_eq!(world.history(FILE), [BuildState::Failed]);
    assert_eq!(world.history(C), [BuildState::DependencyFailed]);
    assert_eq!(world.history(G), [BuildState::DependencyFailed]);
    assert_eq!((taken.builds, taken.for_inputs), (1, 1));
    // A client that asks for it does try again, and all goes on.
    world.submit(MIRRORED, 0);
    assert_eq!(world.history(FILE), [BuildState::Failed, BuildState::Ready]);
    assert_eq!(world.history(G), [BuildState::Waiting]);
    invariants::check(world.farm(), "a retry");
}

#[test]
fn what_was_canceled_is_built_for_a_new_row_and_not_for_one_that_stays() {
    let mut world = farm();
    world.submit(FILE, 0);
    let stays = [world.row(FILE)];
    world.want("one", &stays, None);
    world.cancel(0);
    world.want("one", &stays, None);
    assert_eq!(world.history(FILE), [BuildState::Canceled]);
    world.want("two", &stays, None);
    assert_eq!(world.history(FILE), [BuildState::Canceled, BuildState::Ready]);
}

#[test]
fn what_took_too_long_is_tried_again_by_a_row_that_gives_it_more_time_and_by_no_other() {
    let mut world = farm();
    let with = |world: &World, silence: u64| Row { max_silent_time: Some(silence), ..world.row(FILE) };
    world.want("one", &[with(&world, 100)], None);
    world.build(FILE, &How::TimedOut);
    for (silence, builds) in [(99, 1), (100, 1), (101, 2)] {
        world.want("one", &[with(&world, silence), world.row(G)], None);
        assert_eq!(world.history(FILE).len(), builds, "{silence}");
    }
    // What had been given up for it goes on.
    assert_eq!(world.history(G), [BuildState::Waiting]);
}

#[test]
fn what_is_held_belongs_to_the_revision_and_is_not_built() {
    let mut world = farm();
    world.submit(FILE, 0);
    world.build(FILE, &How::Succeeded);
    let taken = world.want("one", &[world.row(FILE), world.row(MIRRORED)], None);
    assert_eq!((taken.rows, taken.builds, taken.for_inputs), (2, 0, 0));
    assert_eq!(world.history(FILE), [BuildState::Succeeded]);
    let total = world.runtime.block_on(world.farm().set("one".parse().unwrap())).unwrap().total;
    assert_eq!((total.wanted, total.done), (2, 2));
    world.give(0, 4);
    assert!(world.held.is_empty());
}

#[test]
fn two_derivations_of_the_same_outputs_are_one_build_and_both_rows_stand_as_it_does() {
    let mut world = farm();
    let taken = world.want("one", &[world.row(FILE), world.row(MIRRORED)], None);
    assert_eq!((taken.rows, taken.builds), (2, 1));
    let total =
        |world: &World| world.runtime.block_on(world.farm().set("one".parse().unwrap())).unwrap().total;
    assert_eq!(total(&world).waiting, 2);
    // Only one of the rows goes: the build is still wanted for the other.
    world.want("one", &[world.row(MIRRORED), world.row(G)], None);
    world.build(FILE, &How::Failed);
    assert_eq!((total(&world).failed, total(&world).dependency_failed), (1, 1));
    assert_eq!(world.history(MIRRORED), [BuildState::Failed]);
}

#[test]
fn an_agent_that_has_not_started_what_nobody_wants_any_more_is_told_to_give_it_up() {
    let mut world = farm();
    world.want("one", &[world.row(FILE)], None);
    world.give(0, 1);
    assert_eq!(world.orders(), []);
    // `c` has no input but the file, by its mirror, and so the file stays wanted; then nothing wants it.
    world.want("one", &[world.row(C)], None);
    assert_eq!(world.orders(), []);
    world.want("one", &[Row { wanted: RowWanted::NotEvaluated("e".to_owned()), ..world.row(C) }], None);
    let lease = world.held[0].lease;
    assert_eq!(world.orders(), [GiveUp { lease, reason: GiveUpReason::Canceled }]);
    world.end(0, &How::Succeeded);
    assert_eq!(world.history(FILE), [BuildState::Canceled]);
    assert_eq!(world.ended[0].1, BuildState::Canceled);
    invariants::check(world.farm(), "the end");
}

#[test]
fn a_build_that_runs_goes_on_when_nobody_wants_it_any_more_and_is_not_taken_up_again() {
    for (how, end) in [(How::Succeeded, BuildState::Succeeded), (How::HandedBack, BuildState::Canceled)] {
        let mut world = farm();
        world.want("one", &[world.row(FILE)], None);
        world.give(0, 1);
        world.start();
        world.runtime.block_on(world.farm().drop_set("one".parse().unwrap())).unwrap();
        assert_eq!(world.orders(), []);
        assert_eq!(world.history(FILE), [BuildState::Running]);
        world.end(0, &how);
        assert_eq!((world.history(FILE), world.ended[0].1), (vec![end], end));
        invariants::check(world.farm(), "the end");
    }
}

#[test]
fn kept_builds_go_on_until_keep_is_taken_back() {
    let mut world = farm();
    world.want("one", &[world.row(G)], Some(true));
    // Said once, it holds for later revisions, too.
    for _ in 0..2 {
        let other = [Row { version: world.revisions.to_string(), ..world.row(FILE) }];
        assert_eq!(world.want("one", &other, None).canceled, 0);
        assert_eq!(world.history(G), [BuildState::Waiting]);
    }
    let last = world.want("one", &[world.row(FILE)], Some(false));
    assert_eq!(last.canceled, 2);
    assert_eq!(
        (world.history(C), world.history(G)),
        (vec![BuildState::Canceled], vec![BuildState::Canceled])
    );
    assert_eq!(world.history(FILE), [BuildState::Ready]);
}
