//! What waits, by system and tag, in the order in which it will go.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::client::BuildSummary;
use drover_wire::route::pages::QUEUE;
use drover_wire::{BuildState, Timestamp};
use maud::{Markup, html};

use super::frame::{Here, Page};
use super::words::{self, thousands};
use crate::farm::{Count, Farm, Queue, QueueQuestion};
use crate::serve::call::{Answer, Call};

/// The states of the queue.
pub(super) const STATES: [BuildState; 5] = [
    BuildState::Ready,
    BuildState::Waiting,
    BuildState::Allocated,
    BuildState::Running,
    BuildState::DependencyFailed,
];

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let mut question: QueueQuestion = call.question()?;
    // Those that have ended are not in the queue.
    question.state = question.state.filter(|state| STATES.contains(state));
    let queue = farm.queue(question.clone()).await?;
    // Events name the system of the derivation, also where a builtin builds it.
    let system = question.system.as_deref().filter(|system| !system.starts_with("builtin:"));
    let live = words::query(&[
        ("system", system.unwrap_or_default()),
        ("tag", question.tag.as_deref().unwrap_or_default()),
    ]);
    let page = Page::new("Queue", render(&queue, &question, words::now()));
    Ok(page.here(Here::Queue).live(live).answer(&call))
}

fn render(queue: &Queue, question: &QueueQuestion, now: Timestamp) -> Markup {
    let state = question.state.unwrap_or(BuildState::Ready);
    html! {
        h1 { "Queue" }
        (choice(&queue.counts, question, state))
        p .hint { (explained(state)) }
        @if queue.builds.is_empty() {
            p {
                @if question.after.is_some() { "There are no more." } @else { "There is no such build." }
            }
        } @else {
            (words::table("Builds", html! {
                thead { tr {
                    th .num scope="col" { "Priority" }
                    th scope="col" { "Build" }
                    th scope="col" { "System" }
                    th scope="col" { "Tags" }
                    @if state != BuildState::Ready && state != BuildState::Waiting { th scope="col" { "Agent" } }
                    th .num scope="col" { "Asked for" }
                } }
                tbody { @for build in &queue.builds { (row(build, state, now)) } }
            }))
        }
        (pages(queue, question))
    }
}

/// In which order they are shown.
fn explained(state: BuildState) -> &'static str {
    match state {
        BuildState::Waiting => "Some of their inputs or sources are not here yet. The oldest first.",
        BuildState::Allocated => "An agent has them and has not started them. The oldest first.",
        BuildState::Running => "An agent builds them, or uploads what it built. The oldest first.",
        BuildState::DependencyFailed => {
            "They go on if what failed below them succeeds after all. The oldest first."
        }
        _ => {
            "In the order in which they will go: the highest priority, and then the oldest, for every agent that comes."
        }
    }
}

/// The form that chooses, and how many there are of what can be chosen.
fn choice(counts: &[Count], question: &QueueQuestion, state: BuildState) -> Markup {
    let mut systems: Vec<&str> = counts.iter().map(|count| count.system.as_str()).collect();
    systems.sort_unstable();
    systems.dedup();
    let chosen = question.system.as_deref().unwrap_or_default();
    let tag = question.tag.as_deref().unwrap_or_default();
    let number = |state: BuildState| -> u64 {
        let these = counts.iter().filter(|count| count.state == state);
        these.filter(|count| chosen.is_empty() || count.system == chosen).map(|count| count.count).sum()
    };
    html! {
        ul .tiles aria-label="States" {
            @for one in STATES {
                @let address = words::question(&QUEUE, &[
                    ("state", if one == BuildState::Ready { "" } else { one.as_str() }), ("system", chosen), ("tag", tag),
                ]);
                li class=[(number(one) == 0).then_some("none")] {
                    a href=(address) aria-current=[(one == state).then_some("true")] {
                        b { (thousands(number(one))) } " " (words::state(one))
                    }
                }
            }
        }
        form .filter action=(QUEUE.pattern) {
            @if state != BuildState::Ready { input type="hidden" name="state" value=(state); }
            label for="system" { "System" }
            select #system name="system" {
                option value="" { "all" }
                @for system in systems {
                    option value=(system) selected[system == chosen] { (words::foreign(system)) }
                }
                @if !chosen.is_empty() && !counts.iter().any(|count| count.system == chosen) {
                    option value=(chosen) selected { (words::foreign(chosen)) }
                }
            }
            label for="tag" { "Tag" }
            input #tag name="tag" value=(tag) placeholder="key or key=value" autocomplete="off" spellcheck="false";
            button { "Show" }
        }
        @if !tag.is_empty() { p .hint { "The numbers are of builds with any tags." } }
    }
}

fn row(build: &BuildSummary, state: BuildState, now: Timestamp) -> Markup {
    html! {
        tr data-key=(build.build) {
            td .num { (build.priority) }
            td {
                (words::build(build.build, &build.derivation))
                @if let Some(phase) = build.phase { " " span .hint { (words::phase(phase)) } }
            }
            td { (words::foreign(&build.system)) }
            td { (words::tags(&build.tags)) }
            @if state != BuildState::Ready && state != BuildState::Waiting {
                td { @if let Some(agent) = &build.agent { (words::agent(agent)) } }
            }
            td .num { (words::ago(build.submitted_at, now)) }
        }
    }
}

fn pages(queue: &Queue, question: &QueueQuestion) -> Markup {
    let address = |after: &str| {
        words::question(
            &QUEUE,
            &[
                ("state", question.state.map_or("", BuildState::as_str)),
                ("system", question.system.as_deref().unwrap_or_default()),
                ("tag", question.tag.as_deref().unwrap_or_default()),
                ("after", after),
            ],
        )
    };
    words::pages(
        question.after.map(|_| address("")),
        queue.builds.last().filter(|_| queue.more).map(|last| address(&last.build.to_string())),
    )
}
