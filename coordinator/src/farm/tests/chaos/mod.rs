//! The core as a whole, without HTTP: agents that do anything in any order, and a coordinator that dies in between.

pub(super) mod check;
pub(super) mod graph;
mod world;

use proptest::prelude::*;

use super::cases;
use graph::Shape;
use world::{Step, World};

pub(super) fn shape() -> impl Strategy<Value = Shape> {
    (
        any::<(u32, u32)>(),
        any::<(u8, u8)>(),
        any::<bool>(),
        proptest::option::weighted(0.2, 0..2_u8),
        any::<bool>(),
    )
        .prop_map(|((inputs, fewer), (sources, few), two_outputs, fixed, other)| Shape {
            inputs: inputs & fewer,
            sources: sources & few,
            two_outputs,
            fixed,
            other_system: other,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let flag = any::<bool>;
    let any = any::<u8>;
    prop_oneof![
        2 => (any(), flag()).prop_map(|(made, alone)| Step::Derivations { made, alone }),
        2 => any().prop_map(Step::Source),
        4 => (any(), -1..3_i64).prop_map(|(made, priority)| Step::Submit { made, priority }),
        2 => (any(), any(), flag()).prop_map(|(agent, forget, all)| Step::Hello { agent, forget, all }),
        8 => (any(), 0..4_u32, flag()).prop_map(|(agent, accepting, lost)| Step::Poll { agent, accepting, lost }),
        1 => (any(), any()).prop_map(|(agent, phase)| Step::Heartbeat { agent, phase }),
        2 => (any(), any(), any()).prop_map(|(agent, lease, how)| Step::Log { agent, lease, how }),
        10 => (any(), any(), any(), any()).prop_map(|(agent, lease, output, how)| Step::Output { agent, lease, output, how }),
        8 => (any(), any(), any(), any()).prop_map(|(agent, lease, how, path)| Step::Report { agent, lease, how, path }),
        6 => (any(), any()).prop_map(|(agent, lease)| Step::Finish { agent, lease }),
        1 => any().prop_map(Step::Repeat),
        1 => any().prop_map(Step::Foreign),
        1 => any().prop_map(Step::Cancel),
        2 => (any(), any()).prop_map(|(agent, lease)| Step::RunOut { agent, lease }),
        3 => any().prop_map(Step::Elsewhere),
        1 => Just(Step::Reopen),
        2 => Just(Step::Retry),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_the_database_and_the_files_stay_right(
        shapes in proptest::collection::vec(shape(), 2..7),
        known in proptest::bool::weighted(0.8),
        submits in proptest::bool::weighted(0.7),
        steps in proptest::collection::vec(step(), 10..90),
    ) {
        let mut world = World::new(&shapes, submits);
        if known {
            world.know_everything();
        }
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.check_blockers();
        world.step(&Step::Reopen);
        world.check();
    }
}
