//! The page of places that nars lie in.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use drover_wire::Timestamp;
use drover_wire::storage::{Moving, PlaceKind, PlaceSummary};
use maud::{Markup, html};

use super::build::fact;
use super::frame::{Here, Page};
use super::words;
use crate::farm::{Farm, PlaceDay};
use crate::serve::call::{Answer, Call};

/// The size of a plot within; it is shown as wide as there is room, and what is written stands around it, for that would be
/// drawn out with it.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
const MARGIN: f64 = 8.0;
/// Milliseconds of a day.
const DAY: u64 = 24 * 3600 * 1000;

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let all = farm.fullness_by_day().await?;
    let now = words::now();
    let main = html! {
        h1 data-key="head" { "Storage" }
        (list(&all))
        @for (place, days) in &all { (one(place, days, now)) }
    };
    let page = Page::new("Storage", main).here(Here::Storage);
    Ok(page.live("kind=storage-low,storage-enough,build-success").answer(&call))
}

fn list(all: &[(PlaceSummary, Vec<PlaceDay>)]) -> Markup {
    html! {
        div .box data-key="places" tabindex="0" role="group" aria-label="All places" {
            table {
                thead {
                    tr {
                        th scope="col" { "Place" }
                        th scope="col" { "State" }
                        th scope="col" .num { "Used" }
                        th scope="col" .num { "Files" }
                        th scope="col" .num { "Room" }
                        th scope="col" .num { "A day, last 7 days" }
                        th scope="col" .num { "A day, last 30 days" }
                        th scope="col" .num { "Full in" }
                    }
                }
                tbody {
                    @for (place, _) in all {
                        tr {
                            th scope="row" { a href={ "#place-" (words::encoded(&place.name)) } { (words::foreign(&place.name)) } }
                            td { (state(place)) }
                            td .num { (words::size(place.bytes)) }
                            td .num { (words::thousands(place.files)) }
                            td .num { @if let Some(room) = place.room { (words::size(room)) } @else { "no end" } }
                            td .num { (growth(place.growth_7_days)) }
                            td .num { (growth(place.growth_30_days)) }
                            td .num { (full_in(place)) }
                        }
                    }
                }
            }
        }
    }
}

fn state(place: &PlaceSummary) -> Markup {
    let soon = place.full_in_days.is_some_and(|days| days < 7.0);
    let (sign, class, word) = match place {
        PlaceSummary { moving: Some(Moving { ended_at: None, .. }), .. } => ("▶", "is-running", "is emptied"),
        PlaceSummary { moving: Some(_), .. } => ("–", "is-canceled", "emptied"),
        PlaceSummary { kind: PlaceKind::Adopted, .. } => ("–", "is-canceled", "adopted"),
        PlaceSummary { open: false, .. } => ("–", "is-canceled", "closed"),
        PlaceSummary { room: Some(0), .. } => ("✗", "is-failed", "full"),
        _ if soon => ("!", "is-timed-out", "full soon"),
        _ => ("✓", "is-succeeded", "open"),
    };
    html! { span class={ "state " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
}

fn growth(bytes: i64) -> String {
    let size = words::size(bytes.unsigned_abs());
    match bytes {
        0 => "0".to_owned(),
        1.. => format!("+{size}"),
        _ => format!("−{size}"),
    }
}

fn full_in(place: &PlaceSummary) -> String {
    match place.full_in_days {
        Some(days) if days < 1.0 => "less than a day".to_owned(),
        Some(days) if days < 2.0 => "a day".to_owned(),
        Some(days) if days > 3650.0 => "more than ten years".to_owned(),
        Some(days) => format!("{days:.0} days"),
        None => "–".to_owned(),
    }
}

fn one(place: &PlaceSummary, days: &[PlaceDay], now: Timestamp) -> Markup {
    let id = format!("place-{}", words::encoded(&place.name));
    html! {
        section data-key=(id) {
            h2 id=(id) { (words::foreign(&place.name)) }
            dl .facts {
                (fact("Kind", html! { (place.kind) }))
                @if !place.location.is_empty() {
                    (fact("Where", html! { code .path { (words::foreign(&place.location)) } }))
                }
                @if let Some(capacity) = place.capacity { (fact("Capacity", html! { (words::size(capacity)) })) }
                @if place.reserve > 0 { (fact("Stays free", html! { (words::size(place.reserve)) })) }
                @if let Some(free) = place.disk_free { (fact("Free on its disk", html! { (words::size(free)) })) }
                @if let Some(moving) = &place.moving { (self::moving(moving, now)) }
            }
            @if days.len() > 1 {
                (plot(place, days)) (table(days, &id))
            } @else {
                p .hint { "How it grows is drawn from the second day on." }
            }
        }
    }
}

fn moving(moving: &Moving, now: Timestamp) -> Markup {
    html! {
        (fact("Emptied since", words::ago(moving.started_at, now)))
        @if let Some(to) = &moving.to { (fact("To", words::foreign(to))) }
        (fact("Moved", html! { (words::count(moving.moved, "file", "files")) ", " (words::size(moving.moved_bytes)) }))
        @if moving.failed > 0 {
            (fact("Could not be moved", html! {
                (words::count(moving.failed, "file", "files"))
                @if let Some(error) = &moving.error { ": " (words::foreign(error)) }
            }))
        }
        @if let Some(ended) = moving.ended_at { (fact("Empty since", words::ago(ended, now))) }
    }
}

/// The bytes at the end of each day, as a line, with what there is room for.
#[allow(clippy::cast_precision_loss, reason = "a plot has some hundred points")]
fn plot(place: &PlaceSummary, days: &[PlaceDay]) -> Markup {
    let (Some(first), Some(last)) = (days.first(), days.last()) else { return html! {} };
    let most = days.iter().map(|day| day.bytes).max().unwrap_or(0);
    // The most that it can have is shown where it is near.
    let end = place.room.map(|room| place.bytes.saturating_add(room)).filter(|end| *end / 4 <= most);
    let top = end.unwrap_or(0).max(most).max(1) as f64;
    let x = |day: u64| {
        let span = (last.day - first.day).max(1) as f64;
        MARGIN + (day.saturating_sub(first.day)) as f64 / span * (WIDTH - 2.0 * MARGIN)
    };
    let y = |bytes: u64| HEIGHT - MARGIN - bytes as f64 / top * (HEIGHT - 2.0 * MARGIN);
    let mut line = String::new();
    for day in days {
        let sign = if line.is_empty() { 'M' } else { 'L' };
        // Writing to a string does not fail.
        let _ = write!(line, "{sign}{:.1} {:.1}", x(day.day), y(day.bytes));
    }
    let bottom = HEIGHT - MARGIN;
    let area = format!("{line}L{:.1} {bottom:.1}L{:.1} {bottom:.1}Z", x(last.day), x(first.day));
    let id = words::encoded(&place.name);
    let said = format!(
        "From {} on {} to {} on {}",
        words::size(first.bytes),
        date(first.day),
        words::size(last.bytes),
        date(last.day)
    );
    html! {
        figure {
            p .ends aria-hidden="true" { span { (words::size(end.unwrap_or(0).max(most))) } }
            svg .plot role="img" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none"
                aria-labelledby={ "plot-" (id) " about-" (id) } {
                title id={ "plot-" (id) } { "Bytes in " (words::foreign(&place.name)) " by day" }
                desc id={ "about-" (id) } { (said) }
                line .axis x1=(MARGIN) y1=(bottom) x2=(WIDTH - MARGIN) y2=(bottom) {}
                @if let Some(end) = end {
                    line .limit x1=(MARGIN) y1=(format!("{:.1}", y(end))) x2=(WIDTH - MARGIN)
                        y2=(format!("{:.1}", y(end))) {}
                }
                path .area d=(area) {}
                path .line d=(line) {}
            }
            p .ends aria-hidden="true" { span { (date(first.day)) } span { (date(last.day)) } }
            figcaption {
                (said)
                @if end.is_some() { "; the line above is where it is full" }
            }
        }
    }
}

fn date(day: u64) -> String {
    let mut text = crate::cli::text::time(day.saturating_mul(DAY));
    text.truncate(10);
    text
}

fn table(days: &[PlaceDay], id: &str) -> Markup {
    html! {
        details {
            summary { "As a table" }
            div .box tabindex="0" role="group" aria-labelledby=(id) {
                table {
                    thead {
                        tr {
                            th scope="col" { "Day" }
                            th scope="col" .num { "Added" }
                            th scope="col" .num { "Removed" }
                            th scope="col" .num { "There at its end" }
                        }
                    }
                    tbody {
                        @for day in days.iter().rev() {
                            tr {
                                th scope="row" { (date(day.day)) }
                                td .num { (words::size(day.added)) }
                                td .num { (words::size(day.removed)) }
                                td .num { (words::size(day.bytes)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
