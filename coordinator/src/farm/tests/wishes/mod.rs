//! Who wants what, held against a model that knows nothing of how the farm keeps it: whatever clients and sets ask
//! for and take back, and whatever becomes of builds meanwhile.

mod model;
mod world;

use drover_wire::BuildState;
use proptest::prelude::*;

use super::chaos::graph::Shape;
use super::chaos::shape;
use super::{RETRIES, cases};
use model::Facts;
use world::{How, Step, World};

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        4 => Just(How::Succeeds),
        3 => Just(How::Fails),
        1 => Just(How::TakesTooLong),
        2 => Just(How::GivenBack),
        3 => any::<usize>().prop_map(How::Lacks),
    ]
}

fn set() -> impl Strategy<Value = Step> {
    // Few rows and many, so that there is often something below that no row names.
    let wanted = prop_oneof![any::<u16>(), any::<(u16, u16, u16)>().prop_map(|(a, b, c)| a & b & c)];
    (0..2_usize, wanted, any::<u32>(), proptest::option::weighted(0.3, any::<bool>()))
        .prop_map(|(set, wanted, priorities, keep)| Step::Supersede { set, wanted, priorities, keep })
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    prop_oneof![
        4 => (any(), -1..5_i64).prop_map(|(made, priority)| Step::Ask { made, priority }),
        8 => set(),
        1 => (0..2_usize).prop_map(Step::Again),
        2 => (0..2_usize).prop_map(Step::Drop),
        6 => (1..5_u32).prop_map(Step::Give),
        8 => any().prop_map(Step::Start),
        6 => (any(), how()).prop_map(|(held, how)| Step::End { held, how }),
        2 => any().prop_map(Step::Cancel),
        2 => any().prop_map(Step::Elsewhere),
        1 => Just(Step::Retry),
        2 => (1..4_u32).prop_map(Step::Failing),
    ]
}

/// Every open build has the priority that the model finds, and one that nobody wants runs.
fn check_priorities(world: &World, now: &Facts, after: &Step) {
    let wishes = world.wishes.all(&world.graph, now);
    for build in now.builds.iter().filter(|build| build.is_open()) {
        match wishes[&build.id] {
            Some(wish) => assert_eq!(build.priority, wish, "after {after:?}: {build:?}"),
            None => assert_eq!(build.state, BuildState::Running, "after {after:?}: nobody wants {build:?}"),
        }
    }
}

/// Nothing was given up that anybody wants, and what nobody wants was.
fn check_wanted(world: &World, now: &Facts, after: &Step) {
    for id in world.given_up(now) {
        let build = now.builds.iter().find(|build| build.id == id).unwrap();
        let wish = world.wishes.would_be(&world.graph, now, build);
        assert_eq!(wish, None, "after {after:?}: {build:?} was canceled and is wanted");
        let ran = world.before.state(id) == Some(BuildState::Running);
        // Only its own agent ends one that runs: given back, it is not taken up again.
        let ended = matches!(after, Step::End { .. });
        assert!(!ran || ended, "after {after:?}: {build:?} had started and was canceled");
    }
    for (name, set) in &world.wishes.sets {
        for made in set.current.keys() {
            let newest = now.newest(&world.graph, *made);
            let newest = newest.unwrap_or_else(|| panic!("after {after:?}: nothing for a row of {name}"));
            let given_up =
                newest.state == BuildState::Canceled && !world.wishes.canceled.contains(&newest.id);
            assert!(!given_up, "after {after:?}: {newest:?} was canceled and is a row of {name}");
        }
    }
    let wishes = world.wishes.all(&world.graph, now);
    for build in now.builds.iter().filter(|build| build.is_open() && build.state != BuildState::Running) {
        assert!(wishes[&build.id].is_some(), "after {after:?}: nobody wants {build:?}, and it goes on");
    }
}

/// Once the hook has done its part, what failed and is wanted is built again, unless it failed too often.
fn check_retries(world: &World, now: &Facts, after: &Step) {
    assert!(now.builds.iter().all(|build| build.retries <= RETRIES), "after {after:?}: {:?}", now.builds);
    if !matches!(after, Step::Retry | Step::Failing(_)) {
        return;
    }
    for build in &now.builds {
        let failed = matches!(build.state, BuildState::Failed | BuildState::TimedOut);
        let newest = now.newest(&world.graph, build.made).is_some_and(|newest| newest.id == build.id);
        if failed && newest && build.retries < RETRIES && !now.is_held(&world.graph, build.made) {
            let wish = world.wishes.would_be(&world.graph, now, build);
            assert_eq!(wish, None, "{build:?} failed, is wanted, and is not built again");
        }
    }
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    proptest::collection::vec(shape(), 2..10)
}

const CASES: u32 = 32;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(CASES), max_shrink_iters: 1000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn a_build_has_the_highest_priority_of_all_that_wait_for_it(
        shapes in shapes(),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new(&shapes);
        for step in &steps {
            let now = world.take(step);
            check_priorities(&world, &now, step);
            check_retries(&world, &now, step);
            world.before = now;
        }
    }

    #[test]
    fn superseding_never_cancels_what_another_set_or_client_wants(
        shapes in shapes(),
        steps in proptest::collection::vec(prop_oneof![2 => set(), 3 => step()], 1..40),
    ) {
        let mut world = World::new(&shapes);
        for step in &steps {
            let now = world.take(step);
            check_wanted(&world, &now, step);
            world.before = now;
        }
    }

    #[test]
    fn submitting_the_same_revision_again_changes_nothing(
        shapes in shapes(),
        steps in proptest::collection::vec(prop_oneof![2 => (0..2_usize).prop_map(Step::Again), 3 => step()], 1..30),
    ) {
        let mut world = World::new(&shapes);
        for step in &steps {
            world.before = world.take(step);
        }
        for set in 0..2 {
            world.take(&Step::Again(set));
        }
    }
}

fn plain(inputs: u32) -> Shape {
    Shape { inputs, sources: 0, two_outputs: false, fixed: None, other_system: false }
}

#[test]
fn what_failed_and_nobody_wanted_when_the_hook_looked_is_built_again_once_a_set_wants_it() {
    let set = |wanted| Step::Supersede { set: 0, wanted, priorities: 0, keep: None };
    let fails = Step::End { held: 0, how: How::Fails };
    // Wanted itself, or by what a row wants.
    for later in [set(0b01), set(0b10)] {
        let mut world = World::new(&[plain(0), plain(1)]);
        for step in [set(0b01), Step::Give(4), fails.clone(), Step::Drop(0), Step::Retry, later, Step::Retry]
        {
            let now = world.take(&step);
            check_priorities(&world, &now, &step);
            check_retries(&world, &now, &step);
            world.before = now;
        }
        let again = world.before.builds.iter().filter(|build| build.made == 0 && build.is_open());
        assert_eq!(again.count(), 1, "{:?}", world.before.builds);
    }
}
