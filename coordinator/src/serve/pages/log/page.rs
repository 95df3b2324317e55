//! The page of a log, and how its end is shown in other pages.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use drover_wire::BuildId;
use drover_wire::client::BuildDetails;
use drover_wire::route::clients::LOG;
use drover_wire::route::pages::{BUILD_LOG, BUILD_LOG_LIVE};
use maud::{Markup, PreEscaped, html};
use serde::Deserialize;

use super::html::Numbers;
use super::window::{PAGE, Part, Wanted, read};
use crate::farm::detail::{Log, LogState};
use crate::farm::{Farm, LogPlace};
use crate::serve::call::{Answer, Call, blocking};
use crate::serve::pages::frame::Page;
use crate::serve::pages::{Viewer, words};
use crate::serve::problem::Refusal;

#[derive(Debug, Deserialize)]
struct Query {
    attempt: Option<u32>,
    from: Option<u64>,
}

/// A log, a page of it.
pub(in crate::serve::pages) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let build: BuildId = call.part("build")?;
    let query: Query = call.question()?;
    let (details, log) = farm.build_log(build, query.attempt).await?;
    let name = words::name(&details.summary.derivation);
    let title = format!("Log of {name}");
    let (text, status) = match (&log.state, &log.attempt) {
        (LogState::There(place), Some(attempt)) => {
            let length = length(place, attempt.log_size);
            match part(&farm, place, length, Wanted::Page(query.from.unwrap_or(0))).await? {
                Some(part) => {
                    let at = At { build, attempt: attempt.number, length, viewer: call.viewer() };
                    (whole(&at, &part, place.growing.is_some()), StatusCode::OK)
                }
                None => (html! { p { "Nothing was written to this log." } }, StatusCode::OK),
            }
        }
        _ => (none(&log.state), StatusCode::NOT_FOUND),
    };
    let main = html! {
        h1 { "Log of " (words::build(build, &details.summary.derivation)) }
        (tries(&details, &log))
        (text)
    };
    Ok(Page::new(title, main).status(status).answer(&call))
}

/// Where a log is shown, and to whom.
struct At {
    build: BuildId,
    attempt: u32,
    length: u64,
    viewer: Viewer,
}

impl At {
    fn page(&self, from: u64) -> String {
        let address = words::address(&BUILD_LOG, &[&self.build]);
        format!("{address}?attempt={}&from={from}", self.attempt)
    }

    /// The bytes as they are; on the public's listener they are not served by these addresses.
    fn raw(&self) -> Option<String> {
        let address = format!("{}?attempt={}", LOG.path(&[&self.build]), self.attempt);
        (self.viewer != Viewer::Public).then_some(address)
    }

    /// Where the script goes on.
    fn live(&self, part: &Part) -> String {
        let address = words::address(&BUILD_LOG_LIVE, &[&self.build]);
        let line = match part.made.numbers {
            Numbers::Lines(line) => format!("&line={line}"),
            Numbers::Bytes => String::new(),
        };
        format!("{address}?attempt={}&from={}{line}", self.attempt, part.made.at)
    }
}

/// Whether its lines are numbered by where they begin: these are long numbers.
fn is_far(part: &Part) -> bool {
    part.made.numbers == Numbers::Bytes
}

/// How long a log is now.
fn length(place: &LogPlace, noted: u64) -> u64 {
    place.growing.as_ref().map_or(noted, |growing| growing.borrow().bytes)
}

async fn part(farm: &Farm, place: &LogPlace, length: u64, wanted: Wanted) -> Result<Option<Part>, Refusal> {
    let taken = farm.turns().show_log.take().await?;
    let (place, shown) = (place.clone(), place.packed.display().to_string());
    let read = blocking(move || {
        let read = read(&place, length, wanted);
        drop(taken);
        read
    });
    let read = read.await?;
    read.map_err(|error| Refusal::internal(&format_args!("{shown}: {error}")))
}

fn none(state: &LogState) -> Markup {
    match state {
        LogState::NotYet => html! { p { "There is no log yet: nobody has started the build." } },
        LogState::Removed(at) => html! {
            p {
                "This log was removed by its age on " (words::at(*at))
                "; the coordinator's " code { "[retention.ages]" } " says how long logs are kept."
            }
        },
        LogState::There(_) => html! {},
    }
}

/// Links to the logs of all tries.
fn tries(details: &BuildDetails, log: &Log) -> Markup {
    let address = words::address(&BUILD_LOG, &[&details.summary.build]);
    let shown = log.attempt.as_ref().map(|attempt| attempt.number);
    html! {
        @if details.attempts.len() > 1 {
            nav aria-label="Tries" .pages {
                @for attempt in &details.attempts {
                    a href=(format!("{address}?attempt={}", attempt.number))
                        aria-current=[(shown == Some(attempt.number)).then_some("page")] {
                        "Try " (attempt.number) " on " (words::foreign(&attempt.agent))
                    }
                    " "
                }
            }
        }
    }
}

fn whole(at: &At, part: &Part, grows: bool) -> Markup {
    let last = at.length.saturating_sub(PAGE);
    let paged = part.from > 0 || part.more;
    let pages = html! {
        nav aria-label="Parts of the log" .pages {
            @if paged {
                @if part.from > 0 {
                    a href=(at.page(0)) { "Beginning" } " "
                    a href=(at.page(part.from.saturating_sub(PAGE))) rel="prev" { "Earlier" } " "
                }
                span {
                    "Bytes " (words::thousands(part.from)) " to " (words::thousands(part.made.at))
                    " of " (words::thousands(at.length))
                }
                @if part.more {
                    " " a href=(at.page(part.made.at)) rel="next" { "Later" }
                    " " a href=(at.page(last)) { "End" }
                }
            } @else {
                span { (words::size(at.length)) }
            }
            @if let Some(raw) = at.raw() { " " a href=(raw) { "Raw text" } }
        }
    };
    let live = (grows && !part.more).then(|| at.live(part));
    html! {
        (pages)
        div .log .whole .far[is_far(part)] data-key={ "try-" (at.attempt) } data-log=[live] { (PreEscaped(&part.made.html)) }
        @if paged { (pages) }
    }
}

/// The end of a build's log, as a part of its page.
pub(in crate::serve::pages) async fn end(
    farm: &Farm,
    build: BuildId,
    log: &Log,
    viewer: Viewer,
) -> Result<Markup, Refusal> {
    let (LogState::There(place), Some(attempt)) = (&log.state, &log.attempt) else {
        return Ok(none(&log.state));
    };
    let length = length(place, attempt.log_size);
    let Some(part) = part(farm, place, length, Wanted::End).await? else {
        return Ok(html! { p { "Nothing was written to it." } });
    };
    let at = At { build, attempt: attempt.number, length, viewer };
    let live = place.growing.is_some().then(|| at.live(&part));
    Ok(html! {
        p .pages {
            @if part.from > 0 {
                "The end of " (words::size(length)) ". "
                a href=(at.page(0)) { "All of it" }
            } @else {
                a href=(at.page(0)) { "On a page of its own" }
            }
            @if let Some(raw) = at.raw() { " · " a href=(raw) { "Raw text" } }
        }
        div .log tabindex="0" role="region" aria-label="The end of the log" {
            div .text .far[is_far(&part)] data-key={ "try-" (attempt.number) } data-log=[live] { (PreEscaped(&part.made.html)) }
        }
    })
}

/// The address of the page of a try's log.
pub(in crate::serve::pages) fn address(build: BuildId, attempt: u32) -> String {
    format!("{}?attempt={attempt}", words::address(&BUILD_LOG, &[&build]))
}
