//! How many rows need each of many things: reachability in a graph, counted exactly, for many things at a time.

/// Words of a mask, which has a bit for each thing of a pass.
const WORDS: usize = 8;
const AT_ONCE: usize = WORDS * 64;
type Mask = [u64; WORDS];

/// What needs what. Nodes are numbered as they are added.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Where in `needs` those of each node end.
    ends: Vec<usize>,
    needs: Vec<u32>,
}

impl Graph {
    /// Adds a node, which needs these. They may come later.
    pub(super) fn add(&mut self, needs: impl IntoIterator<Item = u32>) {
        self.needs.extend(needs);
        self.ends.push(self.needs.len());
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn range(&self, node: usize) -> std::ops::Range<usize> {
        let start = node.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[node]
    }

    fn needs(&self, node: usize) -> &[u32] {
        &self.needs[self.range(node)]
    }
}

/// What [`count`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// For each thing, the rows that are it or need it.
    pub(super) by_thing: Vec<u64>,
    /// For each thing, the first of its nodes that a row is or needs.
    pub(super) at: Vec<Option<u32>>,
    /// The rows that are or need at least one.
    pub(super) rows: u64,
}

/// Counts for each of so many things the rows that are it or need it. `marks` says at which nodes a thing is, which
/// may be several; `rows` how many rows are a node.
pub(super) fn count(graph: &Graph, things: usize, marks: &[(u32, u32)], rows: &[(u32, u32)]) -> Counts {
    let order = Order::of(graph, rows.iter().map(|(node, _)| *node));
    let reduced = Reduced::of(graph, &order, marks);
    let rows: Vec<(u32, u64)> = rows
        .iter()
        .filter_map(|(node, count)| Some((reduced.place(&order, *node)?, u64::from(*count))))
        .collect();
    let mut by_thing = vec![0; things];
    let mut masks = vec![[0; WORDS]; reduced.graph.len()];
    for pass in reduced.passes(things) {
        pass.run(&reduced.graph, &mut masks);
        for (place, count) in &rows {
            pass.each(&masks, *place, |thing| by_thing[thing] += count);
        }
    }
    let mut at = vec![None; things];
    for (node, thing) in marks.iter().filter(|(node, _)| order.group[*node as usize] != NONE) {
        let first: &mut Option<u32> = &mut at[*thing as usize];
        *first = Some(first.map_or(*node, |first| first.min(*node)));
    }
    Counts { by_thing, at, rows: rows.iter().map(|(_, count)| count).sum() }
}

/// The nodes that can be reached, in groups, each after all that it needs. A group is one node, or several that need
/// each other: derivations never do, but the builds that make the same outputs by other ways could.
struct Order {
    nodes: Vec<u32>,
    /// The group of each node; [`NONE`] if it cannot be reached.
    group: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Order {
    /// Tarjan's algorithm, without recursion: real graphs are thousands deep.
    fn of(graph: &Graph, from: impl Iterator<Item = u32>) -> Self {
        let mut order = Self { nodes: Vec::new(), group: vec![NONE; graph.len()] };
        // When a node was first seen, from 1; the earliest that it leads back to; and the way to where we are.
        let (mut seen, mut low) = (vec![0_u32; graph.len()], vec![0_u32; graph.len()]);
        let (mut clock, mut groups) = (0, 0);
        let (mut open, mut way) = (Vec::new(), Vec::new());
        for start in from {
            if seen[start as usize] == 0 {
                way.push((start, graph.range(start as usize)));
            }
            while let Some((node, rest)) = way.last_mut() {
                let at = *node as usize;
                if seen[at] == 0 {
                    clock += 1;
                    (seen[at], low[at]) = (clock, clock);
                    open.push(*node);
                }
                if let Some(edge) = rest.next() {
                    let next = graph.needs[edge] as usize;
                    if seen[next] == 0 {
                        way.push((graph.needs[edge], graph.range(next)));
                    } else if order.group[next] == NONE {
                        low[at] = low[at].min(seen[next]);
                    }
                    continue;
                }
                if low[at] == seen[at] {
                    while let Some(member) = open.pop() {
                        order.group[member as usize] = groups;
                        order.nodes.push(member);
                        if member as usize == at {
                            break;
                        }
                    }
                    groups += 1;
                }
                way.pop();
                if let Some((above, _)) = way.last() {
                    let above = *above as usize;
                    low[above] = low[above].min(low[at]);
                }
            }
        }
        order
    }
}

/// The groups below which there is a thing, without the rest: each after all that it needs.
struct Reduced {
    graph: Graph,
    /// The node here of each group; [`NONE`] if it has nothing below it.
    kept: Vec<u32>,
    /// Nodes here and the things at them, in the order of the nodes.
    marks: Vec<(u32, u32)>,
}

impl Reduced {
    fn of(graph: &Graph, order: &Order, marks: &[(u32, u32)]) -> Self {
        let mut by_group: Vec<(u32, u32)> = marks
            .iter()
            .map(|(node, thing)| (order.group[*node as usize], *thing))
            .filter(|(group, _)| *group != NONE)
            .collect();
        by_group.sort_unstable();
        by_group.dedup();
        let mut rest = by_group.into_iter().peekable();
        let mut reduced = Self { graph: Graph::default(), kept: Vec::new(), marks: Vec::new() };
        let group_of = |node: &u32| order.group[*node as usize];
        for members in order.nodes.chunk_by(|a, b| group_of(a) == group_of(b)) {
            let (group, new) = (reduced.kept.len() as u32, reduced.graph.len() as u32);
            let marked = reduced.marks.len();
            while let Some((_, thing)) = rest.next_if(|(of, _)| *of == group) {
                reduced.marks.push((new, thing));
            }
            let before = reduced.graph.needs.len();
            for member in members {
                let below = graph.needs(*member as usize).iter().map(group_of).filter(|of| *of != group);
                let kept = &reduced.kept;
                reduced.graph.needs.extend(below.map(|of| kept[of as usize]).filter(|place| *place != NONE));
            }
            if marked < reduced.marks.len() || before < reduced.graph.needs.len() {
                reduced.graph.add([]);
                reduced.kept.push(new);
            } else {
                reduced.kept.push(NONE);
            }
        }
        reduced
    }

    fn place(&self, order: &Order, node: u32) -> Option<u32> {
        let place = self.kept[order.group[node as usize] as usize];
        Some(place).filter(|place| *place != NONE)
    }

    /// All things, in the order in which they are met, so that a pass can begin at its first.
    fn passes(&self, things: usize) -> Vec<Pass> {
        let mut passes: Vec<Pass> = Vec::new();
        let mut places = vec![None; things];
        let mut met = 0;
        for (node, thing) in &self.marks {
            let (pass, bit) = *places[*thing as usize].get_or_insert_with(|| {
                let place = (met / AT_ONCE, met % AT_ONCE);
                met += 1;
                place
            });
            if pass == passes.len() {
                passes.push(Pass::default());
            }
            let pass = &mut passes[pass];
            if bit == pass.things.len() {
                pass.things.push(*thing as usize);
            }
            pass.marks.push((*node, bit));
        }
        passes
    }
}

/// Some of the things, as many as a mask has bits.
#[derive(Default)]
struct Pass {
    /// The thing of each bit.
    things: Vec<usize>,
    /// Nodes and the bits at them, in the order of the nodes.
    marks: Vec<(u32, usize)>,
}

impl Pass {
    fn first(&self) -> u32 {
        self.marks.first().map_or(NONE, |(node, _)| *node)
    }

    /// Gives each node the mask of what it is or needs. Those before the first mark keep what they had.
    fn run(&self, graph: &Graph, masks: &mut [Mask]) {
        let first = self.first();
        let mut rest = self.marks.iter().peekable();
        for node in first as usize..graph.len() {
            let mut mask = [0; WORDS];
            for need in graph.needs(node).iter().filter(|need| **need >= first) {
                for (word, below) in mask.iter_mut().zip(&masks[*need as usize]) {
                    *word |= below;
                }
            }
            while let Some((_, bit)) = rest.next_if(|(of, _)| *of as usize == node) {
                mask[bit / 64] |= 1 << (bit % 64);
            }
            masks[node] = mask;
        }
    }

    /// The things that a node is or needs.
    fn each(&self, masks: &[Mask], node: u32, mut found: impl FnMut(usize)) {
        if node < self.first() {
            return;
        }
        for (number, word) in masks[node as usize].iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                found(self.things[number * 64 + word.trailing_zeros() as usize]);
                word &= word - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// As it is said, one row after the other.
    fn one_by_one(needs: &[Vec<u32>], things: usize, marks: &[(u32, u32)], rows: &[(u32, u32)]) -> Counts {
        let mut counts = Counts { by_thing: vec![0; things], at: vec![None; things], rows: 0 };
        for (node, count) in rows {
            let (mut seen, mut open) = (BTreeSet::from([*node]), vec![*node]);
            while let Some(node) = open.pop() {
                open.extend(needs[node as usize].iter().filter(|need| seen.insert(**need)));
            }
            let found: BTreeSet<u32> =
                marks.iter().filter(|(node, _)| seen.contains(node)).map(|(_, thing)| *thing).collect();
            for (node, thing) in marks.iter().filter(|(node, _)| seen.contains(node)) {
                let first = &mut counts.at[*thing as usize];
                *first = Some(first.unwrap_or(*node).min(*node));
            }
            found.iter().for_each(|thing| counts.by_thing[*thing as usize] += u64::from(*count));
            counts.rows += if found.is_empty() { 0 } else { u64::from(*count) };
        }
        counts
    }

    fn graph(needs: &[Vec<u32>]) -> Graph {
        let mut graph = Graph::default();
        needs.iter().for_each(|needs| graph.add(needs.iter().copied()));
        graph
    }

    fn check(needs: &[Vec<u32>], things: usize, marks: &[(u32, u32)], rows: &[(u32, u32)]) {
        let right = one_by_one(needs, things, marks, rows);
        assert_eq!(count(&graph(needs), things, marks, rows), right, "{needs:?} {marks:?} {rows:?}");
    }

    proptest! {
        #[test]
        fn each_thing_has_the_rows_that_need_it(
            needs in proptest::collection::vec(proptest::collection::vec(any::<u32>(), 0..4), 1..40),
            marks in proptest::collection::vec((any::<u32>(), 0..7_u32), 0..9),
            rows in proptest::collection::vec((any::<u32>(), 1..5_u32), 0..30),
            circles in any::<bool>(),
        ) {
            let len = needs.len() as u32;
            let some = |node: usize, need: u32| match (circles, node as u32) {
                (true, _) => Some(need % len),
                (false, 0) => None,
                (false, node) => Some(need % node),
            };
            let needs: Vec<Vec<u32>> = needs
                .iter()
                .enumerate()
                .map(|(node, needs)| needs.iter().filter_map(|need| some(node, *need)).collect())
                .collect();
            let at = |all: &[(u32, u32)]| all.iter().map(|(node, other)| (node % len, *other)).collect::<Vec<_>>();
            check(&needs, 7, &at(&marks), &at(&rows));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

        #[test]
        fn so_has_each_of_more_things_than_fit_in_one_pass(
            picks in proptest::collection::vec(any::<u32>(), 900..1000),
        ) {
            // Each needs one of all below it and one of the nearest, but a third that needs nothing. The lower two
            // thirds are things, some of which are at two nodes; all are rows.
            let below = |node: u32| match (node, picks[node as usize]) {
                (0, _) => Vec::new(),
                (_, pick) if pick % 3 == 0 => Vec::new(),
                (node, pick) => vec![pick % node, node - 1 - pick % node.min(9)],
            };
            let len = picks.len() as u32;
            let needs: Vec<Vec<u32>> = (0..len).map(below).collect();
            let things = len * 2 / 3;
            let mut marks: Vec<_> = (0..things).map(|node| (node, node)).collect();
            marks.extend((things..len).step_by(7).map(|node| (node, node - things)));
            let rows: Vec<_> = (0..len).map(|node| (node, 1)).collect();
            check(&needs, things as usize, &marks, &rows);
        }
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let needs: Vec<Vec<u32>> =
            (0..200_000_u32).map(|node| node.checked_sub(1).into_iter().collect()).collect();
        let counts = count(&graph(&needs), 1, &[(0, 0)], &[(199_999, 3)]);
        assert_eq!(counts, Counts { by_thing: vec![3], at: vec![Some(0)], rows: 3 });
    }
}
