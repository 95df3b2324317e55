//! What is right around a build, as a drawing: what it waits for or takes on the left, what waits for it or takes what it made
//! on the right. All of it stands in words beside it, so it is for the eye and the pointer alone.

use drover_store::StorePath;
use drover_wire::client::WaitsFor;
use drover_wire::route::pages::{BUILD, DERIVATION};
use drover_wire::{BuildId, BuildState};
use maud::{Markup, html};

use super::words;
use crate::farm::detail::BuildAround;

/// The most that is drawn on a side.
const MOST: usize = 8;
/// The most characters of a name that are drawn.
const NAME: usize = 27;
/// Sizes of boxes and what lies between them.
const WIDTH: usize = 250;
const HEIGHT: usize = 24;
const ROW: usize = 32;
const GAP: usize = 70;

/// A box.
struct Node {
    sign: &'static str,
    class: String,
    name: String,
    /// The page about it.
    page: Option<String>,
}

impl Node {
    fn of(name: &str, state: Option<BuildState>) -> Self {
        Self {
            sign: state.map_or("?", words::sign),
            class: state.map_or_else(|| "is-missing".to_owned(), |state| format!("is-{state}")),
            name: name.to_owned(),
            page: None,
        }
    }

    fn build(build: BuildId, derivation: &StorePath, state: BuildState) -> Self {
        let page = Some(words::address(&BUILD, &[&build]));
        Self { page, ..Self::of(words::name(derivation), Some(state)) }
    }

    fn derivation(path: &StorePath) -> Self {
        let page = Some(words::address(&DERIVATION, &[&path.base_name()]));
        Self { page, ..Self::of(words::name(path), None) }
    }
}

/// The drawing; nothing where there is nothing around it.
pub(super) fn draw(around: &BuildAround) -> Markup {
    let details = &around.details;
    let waits_for = details.waits_for.iter().map(|one| match one {
        WaitsFor::Input { path, build: Some(build), state: Some(state) } => Node::build(*build, path, *state),
        WaitsFor::Input { path, .. } => Node::derivation(path),
        WaitsFor::Source { path, .. } => Node::of(path.name(), None),
    });
    let takes = around.below.iter().map(|one| match one.build {
        Some((build, state)) => Node::build(build, &one.derivation, state),
        // It is here, or this would wait for it; nobody had to build it.
        None => Node { sign: "·", class: "is-canceled".to_owned(), ..Node::derivation(&one.derivation) },
    });
    let above = around.above.iter().map(|held| Node::build(held.build, &held.derivation, held.state));
    let below = some(waits_for.chain(takes), details.waits_for_count + around.below_count);
    let above = some(above, around.above_count);
    if below.is_empty() && above.is_empty() {
        return html! {};
    }
    let rows = below.len().max(above.len());
    // The column on the left is there if there is something in it, and so is that on the right.
    let own_x = if below.is_empty() { 0 } else { WIDTH + GAP };
    let above_x = own_x + WIDTH + GAP;
    let (width, height) = (if above.is_empty() { own_x + WIDTH } else { above_x + WIDTH }, rows * ROW);
    let middle = height / 2;
    let own = Node::of(words::name(&details.summary.derivation), Some(details.summary.state));
    let y = |number: usize, of: usize| (rows - of) * ROW / 2 + number * ROW + ROW / 2;
    html! {
        svg .graph-drawing viewBox=(format!("0 0 {width} {height}")) width=(width) height=(height) aria-hidden="true" {
            @for (number, node) in below.iter().enumerate() {
                @let at = y(number, below.len());
                (edge(WIDTH, at, own_x, middle))
                (self::node(node, 0, at))
            }
            @for (number, node) in above.iter().enumerate() {
                @let at = y(number, above.len());
                (edge(own_x + WIDTH, middle, above_x, at))
                (self::node(node, above_x, at))
            }
            g .own { (node(&own, own_x, middle)) }
        }
    }
}

/// The first of them, and how many more there are.
fn some(all: impl Iterator<Item = Node>, count: u64) -> Vec<Node> {
    let mut some: Vec<Node> = all.take(MOST).collect();
    if count > some.len() as u64 {
        some.truncate(MOST - 1);
        let left = count - some.len() as u64;
        let name = format!("{} more", words::thousands(left));
        some.push(Node { sign: "+", class: "is-canceled".to_owned(), name, page: None });
    }
    some
}

fn node(node: &Node, x: usize, middle: usize) -> Markup {
    let long = node.name.chars().count() > NAME;
    let mut name: String = node.name.chars().take(NAME).collect();
    if long {
        name.pop();
        name.push('…');
    }
    let drawn = html! {
        rect x=(x + 1) y=(middle - HEIGHT / 2) width=(WIDTH - 2) height=(HEIGHT) rx="5" class=(node.class) {}
        text x=(x + 10) y=(middle + 4) class=(node.class) { (node.sign) }
        text x=(x + 28) y=(middle + 4) { (words::foreign(&name)) }
    };
    html! {
        @match &node.page {
            // The same link stands in words below, for the keyboard and for who listens.
            Some(page) => { a href=(page) tabindex="-1" { (drawn) } }
            None => (drawn),
        }
    }
}

fn edge(x: usize, y: usize, to_x: usize, to_y: usize) -> Markup {
    let turn = (x + to_x) / 2;
    html! { path d=(format!("M{x} {y}C{turn} {y} {turn} {to_y} {to_x} {to_y}")) {} }
}
