//! Builds and derivations by their names.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::BuildId;
use drover_wire::client::{BuildFilter, BuildSummary};
use drover_wire::route::pages::SEARCH;
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::Page;
use super::words;
use crate::farm::{Farm, Found};
use crate::serve::call::{Answer, Call};

/// How many builds a page has.
const PAGE: u32 = 50;

#[derive(Default, Deserialize)]
struct Question {
    #[serde(default)]
    q: String,
    before: Option<BuildId>,
}

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let question: Question = call.question()?;
    // A name has no spaces; what was copied may have some around it.
    let name = question.q.trim().to_owned();
    let main = if name.is_empty() {
        html! { h1 { "Search" } p { "A part of a package’s name finds its builds and derivations." } }
    } else {
        let filter = BuildFilter {
            name: Some(name.clone()),
            before: question.before,
            limit: Some(PAGE),
            ..BuildFilter::default()
        };
        render(&name, question.before, &farm.search(filter).await?)
    };
    Ok(Page::new("Search", main).search(name).answer(&call))
}

fn render(name: &str, before: Option<BuildId>, found: &Found) -> Markup {
    let now = words::now();
    html! {
        h1 { "Search for “" (words::foreign(name)) "”" }
        section aria-labelledby="builds" {
            h2 #builds { "Builds" }
            @if found.builds.builds.is_empty() {
                p { "No build’s name contains it." }
            } @else {
                (words::table("Builds that were found", html! {
                    thead { tr {
                        th scope="col" { "State" }
                        th scope="col" { "Build" }
                        th scope="col" { "System" }
                        th scope="col" { "Agent" }
                        th .num scope="col" { "Asked for" }
                        th .num scope="col" { "Ended" }
                    } }
                    tbody { @for build in &found.builds.builds { (row(build, now)) } }
                }))
            }
            @let address = |before: &str| words::question(&SEARCH, &[("q", name), ("before", before)]);
            (words::pages(
                before.map(|_| address("")),
                found.builds.builds.last().filter(|_| found.builds.more).map(|last| address(&last.build.to_string())),
            ))
        }
        @if before.is_none() {
            section aria-labelledby="derivations" {
                h2 #derivations { "Derivations" }
                @if found.derivations.is_empty() {
                    p { "No derivation’s name contains it." }
                } @else {
                    ul .names { @for path in &found.derivations { li { (words::derivation(path)) } } }
                }
                @if found.more { p .hint { "There are more. A longer part of the name finds fewer." } }
            }
        }
    }
}

fn row(build: &BuildSummary, now: u64) -> Markup {
    html! {
        tr {
            td { (words::state(build.state)) }
            td { (words::build(build.build, &build.derivation)) }
            td { (words::foreign(&build.system)) }
            td { @if let Some(agent) = &build.agent { (words::agent(agent)) } }
            td .num { (words::ago(build.submitted_at, now)) }
            td .num { @if let Some(at) = build.ended_at { (words::ago(at, now)) } }
        }
    }
}
