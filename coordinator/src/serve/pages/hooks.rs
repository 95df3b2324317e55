//! The page of hooks.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::Timestamp;
use drover_wire::hook::{FailedRuns, HookSummary};
use drover_wire::route::clients::HOOK_RETRY;
use drover_wire::route::pages::BUILD;
use maud::{Markup, html};

use super::frame::{Here, Page};
use super::{Viewer, words};
use crate::farm::Farm;
use crate::serve::call::{Answer, Call};

/// The most failed runs of a hook that are shown.
const SHOWN: usize = 20;

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let all = farm.hooks_with_failed().await?;
    let now = words::now();
    let may = call.viewer() == Viewer::Session;
    let main = html! {
        h1 data-key="head" { "Hooks" }
        @if all.is_empty() {
            p data-key="none" { "There are no hooks: nothing is done when something happens." }
        } @else {
            (list(&all))
        }
        @for (hook, failed) in &all {
            @if failed.failed > 0 { (failures(hook, failed, may, now)) }
        }
    };
    Ok(Page::new("Hooks", main).here(Here::Hooks).live("kind=hook-failing,published").answer(&call))
}

fn list(all: &[(HookSummary, FailedRuns)]) -> Markup {
    html! {
        div .box tabindex="0" role="group" aria-label="All hooks" {
            table {
                thead {
                    tr {
                        th scope="col" { "Hook" }
                        th scope="col" { "State" }
                        th scope="col" { "It does" }
                        th scope="col" { "On" }
                        th scope="col" .num { "Waiting" }
                        th scope="col" .num { "Running" }
                        th scope="col" .num { "Given up" }
                        th scope="col" { "The last error" }
                    }
                }
                tbody { @for (hook, _) in all { (row(hook)) } }
            }
        }
    }
}

fn row(hook: &HookSummary) -> Markup {
    let on: Vec<&str> = hook.on.iter().map(|event| event.as_str()).collect();
    let (sign, class, word) = match (hook.kind, hook.enabled, hook.failed) {
        (None, ..) => ("?", "is-missing", "not configured"),
        (_, false, _) => ("–", "is-canceled", "off"),
        (_, true, 0) => ("✓", "is-succeeded", "on"),
        (_, true, _) => ("✗", "is-failed", "failing"),
    };
    html! {
        tr data-key={ "hook-" (hook.hook) } {
            th scope="row" { (hook.hook) }
            td { span class={ "state " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
            td { @if let Some(kind) = hook.kind { (kind) } @else { "–" } }
            td { (on.join(", ")) }
            td .num { (words::thousands(hook.waiting)) }
            td .num { (words::thousands(hook.running)) }
            td .num { (words::thousands(hook.failed)) }
            td .message { @if let Some(error) = &hook.last_error { (words::foreign(error)) } @else { "–" } }
        }
    }
}

fn failures(hook: &HookSummary, failed: &FailedRuns, may: bool, now: Timestamp) -> Markup {
    let shown = failed.runs.len().min(SHOWN) as u64;
    let id = format!("failed-{}", hook.hook);
    html! {
        section data-key=(id) {
            h2 id=(id) {
                "What " (hook.hook) " gave up (" (words::thousands(failed.failed)) ")"
            }
            @if may {
                div .actions {
                    form method="post" action=(HOOK_RETRY.path(&[&hook.hook])) data-api {
                        button { "Try all of it again" }
                    }
                }
            }
            div .box tabindex="0" role="group" aria-labelledby=(id) {
                table {
                    thead {
                        tr {
                            th scope="col" { "Event" }
                            th scope="col" { "About" }
                            th scope="col" { "Queued" }
                            th scope="col" .num { "Tries" }
                            th scope="col" { "Error" }
                        }
                    }
                    tbody {
                        @for run in failed.runs.iter().take(SHOWN) {
                            tr {
                                th scope="row" { (run.event) }
                                td {
                                    @if let Some(build) = run.build {
                                        a href=(words::address(&BUILD, &[&build])) { code { (build) } } " "
                                    }
                                    @if let Some(item) = &run.item { code title=(item) { (item.name()) } }
                                }
                                td { (words::ago(run.queued_at, now)) }
                                td .num { (run.tries) }
                                td .message { (words::foreign(&run.error)) }
                            }
                        }
                    }
                }
            }
            @if failed.failed > shown {
                p .more { "and " (words::thousands(failed.failed - shown)) " more" }
            }
        }
    }
}
