//! The longest ways against what is computed from nothing.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::Build;
use super::super::graph::{Graph, Index};

#[derive(Debug, Clone)]
enum Step {
    Add { above: Vec<usize>, below: Vec<usize>, estimate: u64 },
    Remove { which: usize },
    Estimate { which: usize, estimate: u64 },
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (vec(0..1000_usize, 0..3), vec(0..1000_usize, 0..4), 1..100_u64)
            .prop_map(|(above, below, estimate)| Step::Add { above, below, estimate }),
        2 => (0..1000_usize).prop_map(|which| Step::Remove { which }),
        1 => (0..1000_usize, 1..100_u64).prop_map(|(which, estimate)| Step::Estimate { which, estimate }),
        1 => Just(Step::Settle),
    ];
    vec(step, 1..150)
}

fn reaches(edges: &BTreeSet<(Index, Index)>, from: Index, to: Index) -> bool {
    let mut all = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(one) = all.pop() {
        if one == to {
            return true;
        }
        if seen.insert(one) {
            all.extend(edges.iter().filter(|(above, _)| *above == one).map(|(_, below)| *below));
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_longest_way_follows_whatever_comes_and_goes(steps in steps()) {
        let mut graph = Graph::default();
        let mut estimates: BTreeMap<Index, u64> = BTreeMap::new();
        // What is above, and what is below it.
        let mut edges: BTreeSet<(Index, Index)> = BTreeSet::new();
        let nth = |estimates: &BTreeMap<Index, u64>, which: usize| {
            estimates.keys().nth(which % estimates.len().max(1)).copied()
        };
        for step in steps.iter().chain([&Step::Settle]) {
            match step {
                Step::Add { above, below, estimate } => {
                    let number = i64::try_from(estimates.len()).unwrap();
                    let build = Build { number, ..Build::default() };
                    let index = graph.add(&build, 0, 0, None, *estimate);
                    let below: BTreeSet<Index> = below.iter().filter_map(|b| nth(&estimates, *b)).collect();
                    let above: BTreeSet<Index> = above.iter().filter_map(|a| nth(&estimates, *a)).collect();
                    estimates.insert(index, *estimate);
                    for input in below {
                        graph.link(index, input);
                        edges.insert((index, input));
                    }
                    for top in above {
                        if !reaches(&edges, index, top) {
                            graph.link(top, index);
                            edges.insert((top, index));
                        }
                    }
                }
                Step::Remove { which } => {
                    let Some(index) = nth(&estimates, *which) else { continue };
                    graph.remove(index);
                    estimates.remove(&index);
                    edges.retain(|(above, below)| *above != index && *below != index);
                }
                Step::Estimate { which, estimate } => {
                    let Some(index) = nth(&estimates, *which) else { continue };
                    graph.estimate(index, *estimate);
                    estimates.insert(index, *estimate);
                }
                Step::Settle => {
                    graph.settle();
                    let mut ways: BTreeMap<Index, u64> = BTreeMap::new();
                    while ways.len() < estimates.len() {
                        for (index, estimate) in &estimates {
                            let above = edges.iter().filter(|(_, below)| below == index);
                            let above: Option<Vec<u64>> = above.map(|(above, _)| ways.get(above).copied()).collect();
                            if let Some(above) = above {
                                ways.insert(*index, estimate + above.into_iter().max().unwrap_or(0));
                            }
                        }
                    }
                    for (index, way) in &ways {
                        prop_assert_eq!(graph.get(*index).unwrap().way, *way);
                    }
                }
            }
        }
    }
}
