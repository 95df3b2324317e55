//! The page of a derivation.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::build::{fact, outputs};
use super::frame::Page;
use super::{sets, words};
use crate::farm::Farm;
use crate::farm::detail::DerivationDetails;
use crate::serve::call::{Answer, Call};

/// How many seconds are between two looks while nothing is known to be going on.
const PAUSE: u32 = 5;

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let details = farm.derivation(call.item()?).await?;
    let now = words::now();
    let name = words::name(&details.path).to_owned();
    let main = html! {
        h1 data-key="head" { (words::foreign(&name)) }
        p { code .path { (details.path) } }
        (facts(&details))
        (builds(&details, now))
        (outputs(&details.outputs, call.viewer(), now))
        (inputs(&details))
        (needed_by(&details))
        (sources(&details))
        (variables(&details))
    };
    let newest = details.builds.first();
    let page = Page::new(name, main);
    let page = match newest {
        // Its newest build is what changes something here.
        Some(newest) if !newest.state.is_final() => page.live(format!("build={}", newest.build)),
        // Somebody may ask for one, or for what provides its inputs.
        _ => page.live(sets::STATES).pause(PAUSE),
    };
    Ok(page.answer(&call))
}

fn facts(details: &DerivationDetails) -> Markup {
    html! {
        dl .facts data-key="facts" {
            (fact("System", words::foreign(&details.system)))
            (fact("Builder", html! { code .path { (words::foreign(&details.builder)) } }))
            (fact("Arguments", html! { (details.arguments) }))
            @if let Some(fixed) = &details.fixed {
                (fact("Fixed by", html! { code .hash { (words::foreign(fixed)) } }))
            }
        }
    }
}

fn builds(details: &DerivationDetails, now: drover_wire::Timestamp) -> Markup {
    html! {
        section data-key="builds" {
            h2 #builds { "Builds" }
            @if details.builds.is_empty() {
                p { "Nobody has asked for a build of it, and nothing that was asked for needed one." }
            } @else {
                div .box tabindex="0" role="group" aria-labelledby="builds" {
                    table {
                        thead {
                            tr {
                                th scope="col" { "Build" }
                                th scope="col" { "State" }
                                th scope="col" { "Agent" }
                                th scope="col" { "Submitted" }
                                th scope="col" { "Took" }
                            }
                        }
                        tbody {
                            @for build in &details.builds {
                                tr {
                                    th scope="row" { (words::build(build.build, &build.derivation)) }
                                    td { (words::state(build.state)) }
                                    td {
                                        @if let Some(agent) = &build.agent { (words::agent(agent)) } @else { "–" }
                                    }
                                    td { (words::ago(build.submitted_at, now)) }
                                    td {
                                        @match (build.started_at, build.ended_at) {
                                            (Some(started), Some(ended)) => (words::span(ended.saturating_sub(started))),
                                            (Some(started), None) => (words::since(started, now)),
                                            _ => "–",
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn inputs(details: &DerivationDetails) -> Markup {
    html! {
        section data-key="inputs" {
            h2 #inputs { "Inputs (" (words::thousands(details.inputs_count as u64)) ")" }
            @if details.inputs.is_empty() { p { "It takes no outputs of other derivations." } }
            ul .names {
                @for input in &details.inputs {
                    li {
                        @if input.missing {
                            span .state .is-missing { span aria-hidden="true" { "?" } " missing" } " "
                        }
                        (words::derivation(&input.derivation))
                        @if input.outputs != ["out"] { " (" (words::foreign(&input.outputs.join(", "))) ")" }
                    }
                }
                (more(details.inputs.len(), details.inputs_count as u64))
            }
        }
    }
}

fn needed_by(details: &DerivationDetails) -> Markup {
    html! {
        section data-key="needed-by" {
            h2 #needed-by { "Needed by (" (words::thousands(details.needed_by_count)) ")" }
            @if details.needed_by.is_empty() { p { "No derivation that is here takes its outputs." } }
            ul .names {
                @for above in &details.needed_by { li { (words::derivation(above)) } }
                (more(details.needed_by.len(), details.needed_by_count))
            }
        }
    }
}

fn sources(details: &DerivationDetails) -> Markup {
    html! {
        @if details.sources_count > 0 {
            section data-key="sources" {
                h2 #sources { "Sources (" (words::thousands(details.sources_count as u64)) ")" }
                ul .names {
                    @for source in &details.sources {
                        li {
                            @if !source.held {
                                span .state .is-missing { span aria-hidden="true" { "?" } " missing" } " "
                            }
                            code title=(source.path) { (source.path.name()) }
                        }
                    }
                    (more(details.sources.len(), details.sources_count as u64))
                }
            }
        }
    }
}

fn variables(details: &DerivationDetails) -> Markup {
    html! {
        section data-key="environment" {
            h2 #environment { "Environment (" (words::thousands(details.variables_count as u64)) ")" }
            ul .names {
                @for (name, size) in &details.variables {
                    li { code { (words::foreign(name)) } " " span .hint { (words::size(*size as u64)) } }
                }
                (more(details.variables.len(), details.variables_count as u64))
            }
        }
    }
}

/// What is not shown of a list.
fn more(shown: usize, all: u64) -> Markup {
    let left = all.saturating_sub(shown as u64);
    html! { @if left > 0 { li .more { "and " (words::thousands(left)) " more" } } }
}
