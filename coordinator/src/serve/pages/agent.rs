//! The page of an agent.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::Timestamp;
use drover_wire::client::AgentSummary;
use drover_wire::route::pages::AGENT;
use maud::{Markup, html};
use serde::Deserialize;

use super::build::{fact, log_link, message, outcome, took};
use super::frame::{Here, Page};
use super::{Viewer, words};
use crate::farm::Farm;
use crate::farm::detail::AgentDetails;
use crate::serve::call::{Answer, Call};

#[derive(Debug, Deserialize)]
struct Query {
    /// The tries before this lease.
    before: Option<u64>,
}

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let named: String = call.part("agent")?;
    let Query { before } = call.question()?;
    let details = farm.agent(named, before).await?;
    let now = words::now();
    let name = details.summary.name.clone();
    let main = html! {
        h1 data-key="head" { (words::foreign(&name)) " " (online(&details.summary, now)) }
        (facts(&details, call.viewer(), now))
        @if before.is_none() { (holds(&details.summary, now)) }
        (tries(&details, before.is_some(), now))
    };
    let page = Page::new(format!("Agent {name}"), main).here(Here::Activity);
    // What was goes on being what it was.
    let page = if before.is_none() { page.live(format!("agent={}", words::encoded(&name))) } else { page };
    Ok(page.answer(&call))
}

fn online(agent: &AgentSummary, now: Timestamp) -> Markup {
    match (agent.online, agent.seen_at) {
        (true, _) => html! { span .state .is-succeeded { span aria-hidden="true" { "●" } " online" } },
        (false, Some(seen)) => html! {
            span .state .is-failed {
                span aria-hidden="true" { "○" } " away, seen " (words::ago(seen, now))
            }
        },
        (false, None) => html! {
            span .state .is-canceled { span aria-hidden="true" { "○" } " never seen" }
        },
    }
}

fn facts(details: &AgentDetails, viewer: Viewer, now: Timestamp) -> Markup {
    let agent = &details.summary;
    let machine = &agent.machine;
    let size = |bytes: u64| html! { (words::size(bytes)) };
    let builtins: Vec<String> = agent.builtins.iter().map(|name| format!("builtin:{name}")).collect();
    let counted: u64 = details.outcomes.values().sum();
    html! {
        dl .facts data-key="facts" {
            (fact("Systems", words::foreign(&agent.systems.join(", "))))
            @if !builtins.is_empty() { (fact("Builtins", words::foreign(&builtins.join(", ")))) }
            (fact("Builds", html! { (agent.builds.len()) " of " (agent.accepting) " that it takes" }))
            @if let Some(load) = machine.load_1min {
                (fact("Load", html! {
                    (format!("{load:.2}"))
                    @if let Some(processors) = machine.processors {
                        " of " (words::count(processors.into(), "processor", "processors"))
                    }
                }))
            } @else if let Some(processors) = machine.processors {
                (fact("Processors", html! { (processors) }))
            }
            @if let Some(bytes) = machine.memory_available { (fact("Memory available", size(bytes))) }
            @if let Some(bytes) = machine.store_free { (fact("Free in its store", size(bytes))) }
            @if let Some(bytes) = machine.state_free { (fact("Free in its folder", size(bytes))) }
            @if let Some(version) = &agent.version { (fact("Version", words::foreign(version))) }
            (fact("Made", words::ago(details.created_at, now)))
            // By these it says who it is, if not only by them.
            @if viewer != Viewer::Public {
                @if let Some(hardware) = &agent.hardware { (fact("Machine", words::foreign(hardware))) }
                (fact("UUID", html! { code { (agent.agent) } }))
            }
            @if counted > 0 {
                (fact("Its last tries", html! {
                    @for (word, count) in &details.outcomes {
                        (outcome(Some(word))) " " (words::thousands(*count)) " "
                    }
                }))
            }
        }
    }
}

fn holds(agent: &AgentSummary, now: Timestamp) -> Markup {
    html! {
        section data-key="holds" {
            h2 #holds { "What it has" }
            @if agent.builds.is_empty() {
                p { "It has no build." }
            } @else {
                div .box tabindex="0" role="group" aria-labelledby="holds" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Build" }
                                th scope="col" { "System" }
                                th scope="col" { "It" }
                                th scope="col" { "For" }
                                th scope="col" .num { "Priority" }
                            }
                        }
                        tbody {
                            @for build in &agent.builds {
                                tr {
                                    th scope="row" { (words::build(build.build, &build.derivation)) }
                                    td { (words::foreign(&build.system)) }
                                    td {
                                        @match build.phase {
                                            Some(phase) => (words::phase(phase)),
                                            None => (words::state(build.state)),
                                        }
                                    }
                                    td {
                                        @match build.started_at {
                                            Some(started) => (words::since(started, now)),
                                            None => "–",
                                        }
                                    }
                                    td .num { (build.priority) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn tries(details: &AgentDetails, earlier: bool, now: Timestamp) -> Markup {
    let address = words::address(&AGENT, &[&details.summary.name]);
    html! {
        section data-key="tries" {
            h2 #tries { @if earlier { "Earlier tries" } @else { "Its last tries" } }
            @if details.tries.tries.is_empty() {
                p { "There are none." }
            } @else {
                div .box tabindex="0" role="group" aria-labelledby="tries" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Build" }
                                th scope="col" { "Outcome" }
                                th scope="col" { "Given" }
                                th scope="col" { "Took" }
                                th scope="col" { "Log" }
                                th scope="col" { "What it said" }
                            }
                        }
                        tbody {
                            @for one in &details.tries.tries {
                                tr {
                                    th scope="row" { (words::build(one.build, &one.derivation)) }
                                    td { (outcome(one.attempt.outcome.as_deref())) }
                                    td { (words::ago(one.attempt.allocated_at, now)) }
                                    td { (took(&one.attempt, now)) }
                                    td { (log_link(one.build, &one.attempt)) }
                                    td .message { (message(&one.attempt)) }
                                }
                            }
                        }
                    }
                }
            }
            @if earlier || details.tries.more.is_some() {
                nav .pages aria-label="More tries" {
                    @if earlier { a href=(address) { "The last ones" } " " }
                    @if let Some(more) = details.tries.more {
                        a href=(format!("{address}?before={more}")) rel="next" { "Earlier ones" }
                    }
                }
            }
        }
    }
}
