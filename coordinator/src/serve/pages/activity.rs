//! What goes on: every agent and what it builds, what just ended, what comes next.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use drover_wire::agent::Machine;
use drover_wire::client::BuildSummary;
use drover_wire::route::pages::{AGENT, BUILD, QUEUE, SEARCH};
use drover_wire::{BuildState, Timestamp};
use maud::{Markup, html};

use super::frame::{Here, Page};
use super::words::{self, thousands};
use crate::farm::{Activity, Count, Farm, Task, Worker};
use crate::serve::call::{Answer, Call};

/// How many builds of an agent are shown; its own page has all.
const TASKS: usize = 8;

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let activity = farm.activity().await?;
    let page = Page::new("Activity", render(&activity, words::now()));
    Ok(page.here(Here::Activity).live("").answer(&call))
}

fn render(activity: &Activity, now: Timestamp) -> Markup {
    let Activity { counts, agents, ended, next } = activity;
    html! {
        h1 { "Activity" }
        (states(counts))
        nav .jump aria-label="On this page" {
            @for (place, name) in [("agents", "Agents"), ("systems", "Systems"), ("ended", "Just ended"), ("next", "Next")] {
                a href={ "#" (place) } { (name) }
            }
        }
        div .columns {
            section aria-labelledby="agents" {
                h2 #agents { "Agents" }
                (workers(agents, now))
            }
            div .side {
                section aria-labelledby="systems" {
                    h2 #systems { "Systems" }
                    (systems(counts, agents))
                }
                section aria-labelledby="ended" {
                    h2 #ended { "Just ended" }
                    @if ended.is_empty() {
                        p .hint { "Nothing has ended yet." }
                    } @else {
                        (few("Builds that just ended", "Outcome", "Ended", ended.iter().map(|build| ended_row(build, now))))
                    }
                }
                section aria-labelledby="next" {
                    h2 #next { "Next" }
                    @if next.is_empty() {
                        @if counts.iter().any(|count| count.state == BuildState::Ready) {
                            p .hint { "No agent that is online builds for what is ready." }
                            p .more { a href=(QUEUE.pattern) { "The whole queue" } }
                        } @else {
                            p .hint { "Nothing is ready to be built." }
                        }
                    } @else {
                        (few("Builds that come next", "Priority", "Asked for", next.iter().map(|build| next_row(build, now))))
                        p .more { a href=(QUEUE.pattern) { "The whole queue" } }
                    }
                }
            }
        }
    }
}

/// The states in which a build can be found here, those of work in front.
const SHOWN: [BuildState; 9] = [
    BuildState::Running,
    BuildState::Allocated,
    BuildState::Ready,
    BuildState::Waiting,
    BuildState::DependencyFailed,
    BuildState::Succeeded,
    BuildState::Failed,
    BuildState::TimedOut,
    BuildState::Canceled,
];

/// How many builds there are in each state.
fn states(counts: &[Count]) -> Markup {
    let sum =
        |state| -> u64 { counts.iter().filter(|count| count.state == state).map(|count| count.count).sum() };
    html! {
        ul .tiles aria-label="Builds by state" {
            @for state in SHOWN {
                @let count = sum(state);
                li class=[(count == 0).then_some("none")] {
                    @if super::queue::STATES.contains(&state) {
                        a href=(words::question(&QUEUE, &[("state", state.as_str())])) { (tile(state, count)) }
                    } @else {
                        a href=(words::question(&SEARCH, &[("state", state.as_str())])) { (tile(state, count)) }
                    }
                }
            }
        }
    }
}

fn tile(state: BuildState, count: u64) -> Markup {
    html! { b { (thousands(count)) } " " (words::state(state)) }
}

/// A row for each system: what waits for it, and who could build it.
fn systems(counts: &[Count], agents: &[Worker]) -> Markup {
    let mut systems: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
    for count in counts {
        let column = match count.state {
            BuildState::Running | BuildState::Allocated => 0,
            BuildState::Ready => 1,
            BuildState::Waiting => 2,
            _ => continue,
        };
        systems.entry(&count.system).or_default()[column] += count.count;
    }
    for agent in agents.iter().filter(|agent| agent.online) {
        for system in &agent.systems {
            let row = systems.entry(system).or_default();
            row[3] += 1;
            row[4] += u64::from(agent.accepting);
        }
    }
    if systems.is_empty() {
        return html! { p .hint { "Nothing has been submitted, and no agent has come." } };
    }
    words::table(
        "Builds and agents by system",
        html! {
            thead { tr {
                th scope="col" { "System" }
                @for title in ["In hand", "Ready", "Waiting", "Agents", "Slots"] { th .num scope="col" { (title) } }
            } }
            tbody {
                @for (system, numbers) in &systems {
                    tr data-key={ "system " (system) } {
                        th scope="row" {
                            a href=(words::question(&QUEUE, &[("system", system)])) { (words::foreign(system)) }
                        }
                        @for number in &numbers[..3] { td .num .none[*number == 0] { (thousands(*number)) } }
                        @for number in &numbers[3..] {
                            // Which builtins an agent has is not said here.
                            td .num { @if system.starts_with("builtin:") { "–" } @else { (thousands(*number)) } }
                        }
                    }
                }
            }
        },
    )
}

fn workers(agents: &[Worker], now: Timestamp) -> Markup {
    if agents.is_empty() {
        return html! { p .hint { "No agent is known. “drover agent new” makes one, “drover agent token” lets them make themselves." } };
    }
    let online = agents.iter().filter(|agent| agent.online).count();
    let busy = agents.iter().filter(|agent| !agent.tasks.is_empty()).count();
    html! {
        p .hint {
            (words::count(agents.len() as u64, "agent", "agents")) ", " (thousands(online as u64)) " online, "
            (thousands(busy as u64)) " at work."
        }
        div .box tabindex="0" role="group" aria-label="Agents and what they build" {
            table .stack {
                thead { tr {
                    th scope="col" { "Agent" }
                    th scope="col" { "Systems" }
                    th .num scope="col" { "Slots" }
                    th .num scope="col" { "Load" }
                    th .num scope="col" { "Memory free" }
                    th .num scope="col" { "Disk free" }
                    th scope="col" { "Builds" }
                } }
                tbody { @for agent in agents { (worker(agent, now)) } }
            }
        }
    }
}

fn worker(agent: &Worker, now: Timestamp) -> Markup {
    let Machine { load_1min, processors, store_free, memory_available, .. } = &agent.machine;
    // As many as it has, and as it wants to have: it may just have been told to take fewer.
    let slots = u64::from(agent.accepting).max(agent.tasks.len() as u64);
    html! {
        tr class=[(!agent.online).then_some("offline")] data-key=(agent.agent) {
            th scope="row" {
                span .whole {
                    @if agent.online {
                        span .is-succeeded aria-hidden="true" { "●" } " " (words::agent(&agent.name))
                    } @else {
                        span .is-canceled aria-hidden="true" { "○" } " " (words::agent(&agent.name))
                    }
                }
                @match (agent.online, agent.seen_at) {
                    (true, _) => { span .unseen { " is online" } }
                    (false, Some(at)) => { " " span .hint { "offline, seen " (words::ago(at, now)) } }
                    (false, None) => { " " span .hint { "never seen" } }
                }
            }
            td data-label="Systems" {
                @for (n, system) in agent.systems.iter().enumerate() {
                    @if n > 0 { ", " }
                    span .whole { (words::foreign(system)) }
                }
            }
            td .num data-label="Slots" {
                @if agent.online { (agent.tasks.len()) "/" (slots) } @else { "–" }
            }
            td .num data-label="Load" {
                @match (load_1min, processors) {
                    (Some(load), Some(processors)) => { (format!("{load:.1}")) span .hint { "/" (processors) } }
                    (Some(load), None) => { (format!("{load:.1}")) }
                    _ => { "–" }
                }
            }
            td .num data-label="Memory free" { (free(*memory_available)) }
            td .num data-label="Disk free" { (free(*store_free)) }
            td .tasks-of data-label="Builds" {
                @if agent.tasks.is_empty() {
                    span .none { "nothing" }
                } @else {
                    ul .tasks {
                        @for held in agent.tasks.iter().take(TASKS) { (task(held, now)) }
                        @if agent.tasks.len() > TASKS {
                            li { a href=(words::address(&AGENT, &[&agent.name])) { "and " (agent.tasks.len() - TASKS) " more" } }
                        }
                    }
                }
            }
        }
    }
}

fn free(bytes: Option<u64>) -> Markup {
    html! { @match bytes { Some(bytes) => { (words::size(bytes)) } None => { "–" } } }
}

fn task(task: &Task, now: Timestamp) -> Markup {
    html! {
        li {
            // Without the whole path: a thousand of them would be most of the page.
            a href=(words::address(&BUILD, &[&task.build])) { (words::name(&task.derivation)) } " "
            span .hint {
                @match task.phase { Some(phase) => { (words::phase(phase)) } None => { "was given it" } }
                ", " (words::since(task.started_at.unwrap_or(task.allocated_at), now))
            }
        }
    }
}

/// A narrow table of a few builds.
fn few(label: &str, first: &str, last: &str, rows: impl Iterator<Item = Markup>) -> Markup {
    words::table(
        label,
        html! {
            thead { tr {
                th scope="col" { (first) }
                th scope="col" { "Build" }
                th .num scope="col" { (last) }
            } }
            tbody { @for row in rows { (row) } }
        },
    )
}

fn ended_row(build: &BuildSummary, now: Timestamp) -> Markup {
    html! {
        tr data-key={ "ended " (build.build) } {
            td { (words::state(build.state)) }
            td {
                (words::build(build.build, &build.derivation)) " "
                span .hint {
                    (words::foreign(&build.system))
                    @if let Some(agent) = &build.agent { " on " (words::agent(agent)) }
                    @if let (Some(from), Some(to)) = (build.started_at, build.ended_at) {
                        ", " (words::span(to.saturating_sub(from)))
                    }
                }
            }
            td .num { @if let Some(at) = build.ended_at { (words::ago(at, now)) } }
        }
    }
}

fn next_row(build: &BuildSummary, now: Timestamp) -> Markup {
    html! {
        tr data-key={ "next " (build.build) } {
            td .num { (build.priority) }
            td {
                (words::build(build.build, &build.derivation)) " "
                span .hint { (words::foreign(&build.system)) }
            }
            td .num { (words::ago(build.submitted_at, now)) }
        }
    }
}
