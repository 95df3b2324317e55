//! The core against a model of a farm, with made-up graphs, agents and troubles.

mod graph;
mod order;
mod world;

use proptest::prelude::*;
use world::{Happening, World, happenings};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happens_no_build_runs_twice_none_idles_beside_a_free_slot_and_all_end(
        happenings in happenings()
    ) {
        let mut world = World::default();
        for happening in &happenings {
            world.apply(happening);
            world.check();
        }
        world.finish();
    }

    #[test]
    fn the_same_events_give_the_same_decisions(happenings in happenings()) {
        let run = || {
            let mut world = World::default();
            for happening in &happenings {
                world.apply(happening);
            }
            world.finish();
            world.decided
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn a_world_with_one_build_and_one_agent_ends() {
    let mut world = World::default();
    world.apply(&Happening::Agent { speed: 1.0, slots: 1, platforms: 1, tags: 0 });
    world.apply(&Happening::Build {
        platform: 0,
        priority: 0,
        inputs: vec![],
        needs: 0,
        share: 0,
        package: 0,
    });
    world.check();
    world.finish();
    assert_eq!(world.decided.len(), 1);
}
