//! The page of a build.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::client::{Attempt, BuildDetails, BuildOutput, Publication, Submission, WaitsFor, Wanted};
use drover_wire::route::clients::{CANCEL, NAR, SUBMIT};
use drover_wire::route::pages::BUILD;
use drover_wire::{BuildId, BuildState, Timestamp};
use maud::{Markup, html};

use super::frame::{Here, Page};
use super::{Viewer, graph, log, words};
use crate::farm::Farm;
use crate::farm::detail::{Below, BuildAround, HeldUp};
use crate::serve::call::{Answer, Call};

/// How many seconds are between two looks at a build that waits for others.
const PAUSE: u32 = 3;

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let build: BuildId = call.part("build")?;
    let around = farm.build_around(build).await?;
    let log = log::end(&farm, build, &around.log, call.viewer()).await?;
    let now = words::now();
    let details = &around.details;
    let name = words::name(&details.summary.derivation).to_owned();
    let drawing = html! { div .drawing data-key="drawing" { (graph::draw(&around)) } };
    let main = html! {
        h1 data-key="head" { (words::foreign(&name)) " " (words::state(details.summary.state)) }
        p .why data-key="why" { (why(details)) }
        (others(&around))
        (facts(details, now))
        @if call.viewer() == Viewer::Session { (actions(&around)) }
        // What it waits for says more than a log that is not there yet.
        @if !details.waits_for.is_empty() { (drawing) (lists(&around)) }
        section data-key="log" { h2 #log { "Log" } (log) }
        @if details.waits_for.is_empty() { (drawing) (lists(&around)) }
        (outputs(&details.outputs, call.viewer(), now))
        (attempts(details, now))
    };
    let title = format!("{name}: {}", words::state_word(details.summary.state));
    let page = Page::new(title, main).here(Here::Queue);
    Ok(match details.summary.state {
        // What it waits for is what goes on.
        BuildState::Waiting | BuildState::DependencyFailed => page.live("").pause(PAUSE),
        _ => page.live(format!("build={build}")),
    }
    .answer(&call))
}

/// Why it is where it is. The name of an agent has no other letter in front because a sentence begins with it.
fn why(details: &BuildDetails) -> Markup {
    match details.summary.state {
        BuildState::Allocated | BuildState::Running => html! { (words::foreign(&details.why)) "." },
        _ => words::sentence(&details.why),
    }
}

/// Builds that say more about this one than it does itself.
fn others(around: &BuildAround) -> Markup {
    html! {
        @if let Some(root) = &around.root {
            p data-key="root" {
                "What failed is " (words::build(root.build, &root.derivation)) " " (words::state(root.state)) "."
            }
        }
        @if let Some(newest) = &around.newest {
            p data-key="newest" {
                "There is a newer build of the same outputs: "
                (words::build(newest.build, &newest.derivation)) " " (words::state(newest.state)) "."
            }
        }
    }
}

fn facts(details: &BuildDetails, now: Timestamp) -> Markup {
    let summary = &details.summary;
    let begun = summary.started_at;
    html! {
        dl .facts data-key="facts" {
            (fact("Derivation", words::derivation(&summary.derivation)))
            (fact("System", html! { (words::foreign(&summary.system)) }))
            @if let Some(agent) = &summary.agent { (fact("Agent", words::agent(agent))) }
            @if let Some(phase) = summary.phase { (fact("Now", html! { "its agent " (words::phase(phase)) })) }
            (fact("Submitted", words::ago(summary.submitted_at, now)))
            @if let Some(started) = begun { (fact("Started", words::ago(started, now))) }
            @match (begun, summary.ended_at) {
                (Some(started), Some(ended)) => {
                    (fact("Ended", words::ago(ended, now)))
                    (fact("Took", html! { (words::span(ended.saturating_sub(started))) }))
                }
                (None, Some(ended)) => (fact("Ended", words::ago(ended, now))),
                (Some(started), None) if !summary.state.is_final() => {
                    (fact("Builds for", words::since(started, now)))
                }
                _ => {}
            }
            (fact("Priority", html! { (summary.priority) }))
            (fact("Asked for", html! { (if details.wanted { "yes" } else { "no: others need it" }) }))
            @if let Some(seconds) = details.timeout {
                (fact("May take", html! { (words::span(seconds.saturating_mul(1000))) }))
            }
            @if let Some(seconds) = details.max_silent_time {
                (fact("May be silent for", html! { (words::span(seconds.saturating_mul(1000))) }))
            }
            @if !summary.tags.is_empty() {
                (fact("Tags", words::tags(&summary.tags)))
            }
            (fact("Build", html! { code { (summary.build) } }))
        }
    }
}

/// A name and what it stands for.
pub(super) fn fact(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// What can be done about it; the script sends it.
fn actions(around: &BuildAround) -> Markup {
    let summary = &around.details.summary;
    let build = summary.build;
    let again = match summary.state {
        BuildState::Succeeded => false,
        state => state.is_final() && around.newest.is_none(),
    };
    let wanted = Submission {
        builds: vec![Wanted {
            derivation: summary.derivation.clone(),
            priority: summary.priority,
            tags: summary.tags.clone(),
            timeout: around.details.timeout,
            max_silent_time: around.details.max_silent_time,
        }],
    };
    html! {
        div .actions data-key="actions" {
            @if !summary.state.is_final() {
                form method="post" action=(CANCEL.path(&[&build])) data-api
                    data-confirm="Cancel this build, and with it all that wait for it?" {
                    button { "Cancel" }
                }
            }
            @if again {
                // What cannot be written as JSON cannot be submitted either.
                @let body = serde_json::to_string(&wanted).unwrap_or_default();
                form method="post" action=(SUBMIT.path(&[])) data-api data-body=(body)
                    data-to=(words::address(&BUILD, &[&""])) {
                    button { "Build it again" }
                }
            }
        }
    }
}

/// What it waits for, or takes, and what waits for it, or takes what it made.
fn lists(around: &BuildAround) -> Markup {
    let details = &around.details;
    let shown = details.waits_for.len() as u64;
    html! {
        @if !details.waits_for.is_empty() {
            section data-key="below" {
                h2 #below { "It waits for " (words::count(details.waits_for_count, "thing", "things")) }
                ul .graph {
                    @for waits_for in &details.waits_for { li { (self::waits_for(waits_for)) } }
                    @if details.waits_for_count > shown {
                        li .more { "and " (words::thousands(details.waits_for_count - shown)) " more" }
                    }
                }
            }
        }
        @if !around.below.is_empty() {
            section data-key="takes" {
                h2 #takes { "It takes the outputs of " (words::count(around.below_count, "derivation", "derivations")) }
                ul .graph {
                    @for below in &around.below { li { (self::below(below)) } }
                    @let shown = around.below.len() as u64;
                    @if around.below_count > shown {
                        li .more { "and " (words::thousands(around.below_count - shown)) " more" }
                    }
                }
            }
        }
        @if !around.above.is_empty() {
            section data-key="above" {
                h2 #above {
                    (words::count(around.above_count, "build", "builds"))
                    @if around.above_more { " or more" }
                    @match (details.summary.state, around.above_count) {
                        (BuildState::Succeeded, 1) => " takes its outputs",
                        (BuildState::Succeeded, _) => " take its outputs",
                        (_, 1) => " waits for it",
                        _ => " wait for it",
                    }
                }
                ul .graph {
                    @for held in &around.above { li { (held_up(held)) } }
                    @let shown = around.above.len() as u64;
                    @if around.above_count > shown {
                        li .more { "and " (words::thousands(around.above_count - shown)) " more" }
                    }
                }
            }
        }
    }
}

fn waits_for(waits_for: &WaitsFor) -> Markup {
    match waits_for {
        WaitsFor::Input { path, build: Some(build), state: Some(state) } => html! {
            (words::state(*state)) " " (words::build(*build, path))
            @if *state == BuildState::Succeeded { " built it, but it is not here any more; submit its derivation" }
        },
        WaitsFor::Input { path, .. } => html! {
            span .state .is-missing { span aria-hidden="true" { "?" } " missing" } " "
            (words::derivation(path)) ": nobody builds it; submit its derivation"
        },
        WaitsFor::Source { path, derivation } => html! {
            span .state .is-missing { span aria-hidden="true" { "?" } " missing" } " source "
            code title=(path) { (path.name()) } " of " (words::derivation(derivation))
            ": nobody has uploaded it"
        },
    }
}

fn below(below: &Below) -> Markup {
    html! {
        @match below.build {
            Some((build, state)) => { (words::state(state)) " " (words::build(build, &below.derivation)) }
            None => { (words::derivation(&below.derivation)) }
        }
    }
}

fn held_up(held: &HeldUp) -> Markup {
    html! { (words::state(held.state)) " " (words::build(held.build, &held.derivation)) }
}

/// The outputs of a derivation.
pub(super) fn outputs(outputs: &[BuildOutput], viewer: Viewer, now: Timestamp) -> Markup {
    html! {
        section data-key="outputs" {
            h2 #outputs { "Outputs" }
            div .box tabindex="0" role="group" aria-labelledby="outputs" {
                table {
                    thead {
                        tr {
                            th scope="col" { "Output" }
                            th scope="col" { "Store item" }
                            th scope="col" .num { "Size" }
                            th scope="col" { "Published" }
                            th scope="col" { "SHA-256 of its nar" }
                        }
                    }
                    tbody { @for output in outputs { (self::output(output, viewer, now)) } }
                }
            }
        }
    }
}

fn output(output: &BuildOutput, viewer: Viewer, now: Timestamp) -> Markup {
    html! {
        tr {
            th scope="row" { (words::foreign(&output.name)) }
            td {
                code .path { (output.path) }
                @if output.kept.is_some() && viewer != Viewer::Public {
                    " " a href=(NAR.path(&[&output.path.base_name()])) { "nar" }
                }
            }
            @match &output.kept {
                Some(kept) => {
                    td .num { (words::size(kept.nar_size)) }
                    td { (publication(output.publication.as_ref(), now)) }
                    td { code .hash { (kept.nar_hash.base32()) } }
                }
                None => td colspan="3" { "not here" }
            }
        }
    }
}

fn publication(publication: Option<&Publication>, now: Timestamp) -> Markup {
    match publication {
        Some(Publication::Published { since, until }) => html! {
            span .is-succeeded .whole { "✓ " (words::ago(*since, now)) }
            @if let Some(until) = until { ", until " (words::at(*until)) }
        },
        Some(Publication::Waiting { waits_for, count }) => html! {
            "… waits for " (words::count(*count, "item", "items"))
            @for wait in waits_for.iter().take(3) {
                br;
                code title=(wait.path) { (wait.path.name()) }
                @if let Some(never) = &wait.never { ": never: " (words::foreign(never)) }
                @else if wait.held { ": waits itself" }
                @else { ": not here" }
            }
        },
        Some(Publication::Never { why }) => html! { "✗ never: " (words::foreign(why)) },
        Some(Publication::Pending) => html! { "not looked at yet" },
        None => html! { "–" },
    }
}

fn attempts(details: &BuildDetails, now: Timestamp) -> Markup {
    html! {
        @if !details.attempts.is_empty() {
            section data-key="tries" {
                h2 #tries { "Tries" }
                div .box tabindex="0" role="group" aria-labelledby="tries" {
                    table {
                        thead {
                            tr {
                                th scope="col" .num { "Try" }
                                th scope="col" { "Outcome" }
                                th scope="col" { "Agent" }
                                th scope="col" { "Given" }
                                th scope="col" { "Took" }
                                th scope="col" { "Log" }
                                th scope="col" { "What the agent said" }
                            }
                        }
                        tbody {
                            @for attempt in details.attempts.iter().rev() {
                                tr {
                                    th scope="row" .num { (attempt.number) }
                                    td { (outcome(attempt.outcome.as_deref())) }
                                    td { (words::agent(&attempt.agent)) }
                                    td { (words::ago(attempt.allocated_at, now)) }
                                    td { (took(attempt, now)) }
                                    td { (log_link(details.summary.build, attempt)) }
                                    td .message { (message(attempt)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How long a try took, or takes.
pub(super) fn took(attempt: &Attempt, now: Timestamp) -> Markup {
    match (attempt.started_at, attempt.ended_at) {
        (Some(started), Some(ended)) => html! { (words::span(ended.saturating_sub(started))) },
        (Some(started), None) => words::since(started, now),
        (None, _) => html! { "–" },
    }
}

/// A link to the log of a try.
pub(super) fn log_link(build: BuildId, attempt: &Attempt) -> Markup {
    html! {
        @if attempt.log_size > 0 || attempt.ended_at.is_none() {
            a href=(log::address(build, attempt.number)) { (words::size(attempt.log_size)) }
        } @else { "–" }
    }
}

/// What an agent said about a try.
pub(super) fn message(attempt: &Attempt) -> Markup {
    html! {
        @if let Some(step) = attempt.step {
            // The step is a word on the wire.
            @let step = serde_json::to_value(step).ok();
            @if let Some(step) = step.as_ref().and_then(|step| step.as_str()) { b { (step) } ": " }
        }
        @if let Some(message) = &attempt.message { (words::foreign(message)) }
    }
}

/// How a try ended, with a sign.
pub(super) fn outcome(outcome: Option<&str>) -> Markup {
    let (sign, class, word) = match outcome {
        None => ("▶", "is-running", "goes on"),
        Some("succeeded") => ("✓", "is-succeeded", "succeeded"),
        Some("failed") => ("✗", "is-failed", "failed"),
        Some("timed-out") => ("!", "is-timed-out", "timed out"),
        Some("canceled") => ("–", "is-canceled", "canceled"),
        Some("setup-failed") => ("⊘", "is-dependency-failed", "setup failed"),
        Some("missing-inputs") => ("?", "is-missing", "missing inputs"),
        Some("handed-back") => ("↩", "is-canceled", "handed back"),
        Some("lease-lost") => ("⌁", "is-missing", "lease lost"),
        Some(other) => ("·", "is-canceled", other),
    };
    html! { span class={ "state " (class) } { span aria-hidden="true" { (sign) } " " (words::foreign(word)) } }
}
