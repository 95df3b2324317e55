//! Builds and derivations by their names, and builds by their state.

use std::sync::Arc;

use axum::extract::State;
use drover_store::StorePath;
use drover_wire::client::{BuildFilter, BuildSummary};
use drover_wire::route::pages::{BUILD, DERIVATION, SEARCH};
use drover_wire::{BuildId, BuildState};
use maud::{Markup, html};
use serde::Deserialize;

use super::frame::Page;
use super::login::see;
use super::{sets, words};
use crate::farm::{Farm, Found};
use crate::serve::call::{Answer, Call};

/// How many builds a page has.
const PAGE: u32 = 50;

/// How many seconds are between two looks: all names are looked through.
const PAUSE: u32 = 10;

#[derive(Default, Deserialize)]
struct Question {
    #[serde(default)]
    q: String,
    /// Only builds in this state.
    state: Option<BuildState>,
    before: Option<BuildId>,
}

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let question: Question = call.question()?;
    // A name has no spaces; what was copied may have some around it.
    let name = question.q.trim().to_owned();
    if let Some(page) = page_of(&name) {
        return see(&page);
    }
    if name.is_empty() && question.state.is_none() {
        let main =
            html! { h1 { "Search" } p { "A part of a package’s name finds its builds and derivations." } };
        return Ok(Page::new("Search", main).answer(&call));
    }
    let mut filter = BuildFilter {
        name: Some(name.clone()).filter(|name| !name.is_empty()),
        state: question.state,
        before: question.before,
        limit: Some(PAGE),
        ..BuildFilter::default()
    };
    let mut found = farm.search(filter.clone()).await?;
    let small = name.to_ascii_lowercase();
    if small != name && found.builds.builds.is_empty() && found.derivations.is_empty() {
        // Names of packages have no capital letters, but for a few that were found as they are.
        filter.name = Some(small);
        found = farm.search(filter).await?;
    }
    let main = render(&name, &question, &found);
    Ok(Page::new("Search", main).live(sets::STATES).pause(PAUSE).search(name).answer(&call))
}

/// The page about what was named as a whole: a build by its UUID, or something in the store by its path.
fn page_of(text: &str) -> Option<String> {
    if let Ok(build) = text.parse::<BuildId>() {
        return Some(words::address(&BUILD, &[&build]));
    }
    let path = StorePath::parse(text).or_else(|_| StorePath::parse_base(text)).ok()?;
    Some(words::address(&DERIVATION, &[&path.base_name()]))
}

fn render(name: &str, question: &Question, found: &Found) -> Markup {
    let now = words::now();
    let state = question.state;
    html! {
        h1 data-key="head" {
            @match (name, state) {
                ("", Some(state)) => { "Builds: " (words::state(state)) }
                (name, None) => { "Search for “" (words::foreign(name)) "”" }
                (name, Some(state)) => { "Search for “" (words::foreign(name)) "”: " (words::state(state)) }
            }
        }
        section aria-labelledby="builds" {
            h2 #builds { "Builds" }
            @if found.builds.builds.is_empty() {
                p { @if state.is_some() { "There is no such build." } @else { "No build’s name contains it." } }
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
            @let address = |before: &str| {
                let state = state.map_or("", BuildState::as_str);
                words::question(&SEARCH, &[("q", name), ("state", state), ("before", before)])
            };
            (words::pages(
                question.before.map(|_| address("")),
                found.builds.builds.last().filter(|_| found.builds.more).map(|last| address(&last.build.to_string())),
            ))
        }
        @if question.before.is_none() && state.is_none() {
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
        tr data-key=(build.build) {
            td { (words::state(build.state)) }
            td { (words::build(build.build, &build.derivation)) }
            td { (words::foreign(&build.system)) }
            td { @if let Some(agent) = &build.agent { (words::agent(agent)) } }
            td .num { (words::ago(build.submitted_at, now)) }
            td .num { @if let Some(at) = build.ended_at { (words::ago(at, now)) } }
        }
    }
}
