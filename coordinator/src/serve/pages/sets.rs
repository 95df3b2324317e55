//! The page of all sets.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::Timestamp;
use drover_wire::route::pages::{SET, SETS};
use drover_wire::set::{SetSummary, SetsQuestion, Tally};
use maud::{Markup, html};

use super::frame::{Here, Page};
use super::{Viewer, words};
use crate::farm::Farm;
use crate::serve::call::{Answer, Call};

/// The events with which a build gets another state, by which lists of builds and what counts them go.
pub(super) const STATES: &str = "kind=build-submitted,build-allocated,build-started,build-success,build-failure,\
                                 build-dependency-failed,build-canceled,build-requeued,build-reopened";

pub(super) async fn list(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let question: SetsQuestion = call.question()?;
    let mut all = farm.sets(question).await?;
    if call.viewer() == Viewer::Public {
        let private = farm.private_sets().await?;
        all.retain(|set| !private.contains(&set.set));
    }
    let now = words::now();
    let main = html! {
        h1 data-key="head" { @if question.dropped { "Sets that were dropped" } @else { "Sets" } }
        @if all.is_empty() {
            p data-key="none" { "There are none. " code { "drover set submit" } " makes one." }
        } @else {
            (table(&all, now))
        }
        nav .pages aria-label="Other sets" {
            @if question.dropped { a href=(SETS.pattern) { "Those that were not dropped" } }
            @else { a href=(words::question(&SETS, &[("dropped", "true")])) { "Those that were dropped" } }
        }
    };
    let page = Page::new("Sets", main).here(Here::Sets);
    Ok(if question.dropped { page } else { page.live(STATES) }.answer(&call))
}

fn table(all: &[SetSummary], now: Timestamp) -> Markup {
    html! {
        div .box tabindex="0" role="group" aria-label="All sets" {
            table {
                thead {
                    tr {
                        th scope="col" { "Set" }
                        th scope="col" { "Revision" }
                        th scope="col" { "Submitted" }
                        (tally_head())
                    }
                }
                tbody {
                    @for set in all {
                        tr data-key={ "set-" (set.set) } {
                            th scope="row" {
                                @if set.dropped_at.is_some() { (set.set) }
                                @else { a href=(words::address(&SET, &[&set.set])) { (set.set) } }
                            }
                            td { (set.revision) }
                            td { (words::ago(set.submitted_at, now)) }
                            (tally(&set.total))
                        }
                    }
                }
            }
        }
    }
}

/// The heads of the columns of [`tally`].
pub(super) fn tally_head() -> Markup {
    html! {
        th scope="col" .num { "Done" }
        th scope="col" .num { "Wanted" }
        th scope="col" .num { "Built" }
        th scope="col" .num { "Failed" }
        th scope="col" .num { "Held up" }
        th scope="col" .num { "Running" }
        th scope="col" .num { "Waiting" }
        th scope="col" .num { "Canceled" }
        th scope="col" .num { "Not evaluated" }
    }
}

/// How rows stand, as cells of a table.
pub(super) fn tally(tally: &Tally) -> Markup {
    let count = |number: u64, class: &'static str, sign: &'static str| {
        html! {
            td .num {
                @if number > 0 {
                    span class={ "state " (class) } { span aria-hidden="true" { (sign) } " " (words::thousands(number)) }
                } @else { "–" }
            }
        }
    };
    html! {
        td .num {
            @match tally.per_myriad() {
                Some(done) => { (format!("{}.{} %", done / 100, done % 100 / 10)) " " (bar(tally)) }
                None => "–",
            }
        }
        td .num { (words::thousands(tally.wanted)) }
        (count(tally.done, "is-succeeded", "✓"))
        (count(tally.failed, "is-failed", "✗"))
        (count(tally.dependency_failed, "is-dependency-failed", "⊘"))
        (count(tally.running, "is-running", "▶"))
        (count(tally.waiting, "is-waiting", "…"))
        (count(tally.canceled, "is-canceled", "–"))
        (count(tally.not_evaluated, "is-missing", "?"))
    }
}

/// A tally as a bar; what it says stands beside it.
#[allow(clippy::cast_precision_loss, reason = "a bar is a hundred wide")]
fn bar(tally: &Tally) -> Markup {
    let broken = tally.failed + tally.dependency_failed + tally.not_evaluated;
    let width = |number: u64| number as f64 * 100.0 / tally.wanted.max(1) as f64;
    let parts = [
        (0, tally.done, "is-succeeded"),
        (tally.done, tally.running, "is-running"),
        (tally.done + tally.running, broken, "is-failed"),
    ];
    html! {
        svg .bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect .rest x="0" y="0" width="100" height="8" {}
            @for (from, number, class) in parts {
                rect class=(class) x=(format!("{:.2}", width(from))) y="0" width=(format!("{:.2}", width(number)))
                    height="8" {}
            }
        }
    }
}
