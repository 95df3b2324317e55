//! The page of a set: red and green by package and system, what is newly broken, and what holds it up.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use drover_wire::route::pages::{BUILD, DERIVATION, SET};
use drover_wire::set::{
    Blocker, Blockers, Difference, DifferenceKind, Estimate, RowState, SetDetails, SetDiff, SetRef,
};
use drover_wire::{BuildState, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;

use super::build::fact;
use super::frame::{Here, Page};
use super::sets::{STATES, tally, tally_head};
use super::{Viewer, words};
use crate::farm::{Error, Farm, PackageRow, PackageRows, SetAnswer, SetLook, SetQuestion};
use crate::serve::call::{Answer, Call};

/// The most differences of a kind that are shown.
const SHOWN: usize = 500;
/// How many seconds are between two looks at what takes its time.
const PAUSE: u32 = 10;

#[derive(Debug, Default, Deserialize)]
struct Query {
    #[serde(default)]
    show: Show,
    #[serde(default)]
    after: String,
    #[serde(default)]
    name: String,
}

/// What is told about a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Show {
    #[default]
    Packages,
    Broken,
    Changes,
    Blockers,
}

impl Show {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Packages, "", "Packages"),
        (Self::Broken, "broken", "What is broken"),
        (Self::Changes, "changes", "Newly broken"),
        (Self::Blockers, "blockers", "Blockers"),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(one, ..)| *one == self).map_or("", |(_, word, _)| word)
    }
}

pub(super) async fn show(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let named: SetRef = call.part("set")?;
    if call.viewer() == Viewer::Public && farm.private_sets().await?.contains(&named.set) {
        // As one that there is not.
        return Err(Error::NotFound { what: "set", name: named.to_string() }.into());
    }
    let query: Query = call.question()?;
    let question = match query.show {
        Show::Changes => SetQuestion::Changes,
        Show::Blockers => SetQuestion::Blockers,
        Show::Packages | Show::Broken => SetQuestion::Packages {
            after: query.after.clone(),
            name: query.name.clone(),
            broken: query.show == Show::Broken,
        },
    };
    let look = farm.look_at_set(named.clone(), question).await?;
    let now = words::now();
    let details = &look.details;
    let address = Address { set: words::address(&SET, &[&named]) };
    let main = html! {
        h1 data-key="head" { (details.set) "@" (details.revision) }
        @if !details.current {
            p data-key="old" {
                "This revision was superseded: " a href=(words::address(&SET, &[&details.set])) { "the current one" } "."
            }
        }
        (summary(details, now))
        nav .tabs aria-label="About this set" {
            @for (show, word, name) in Show::ALL {
                a href=(address.question(&[("show", word)])) aria-current=[(show == query.show).then_some("page")] {
                    (name)
                }
                " "
            }
        }
        (answer(&look, &query, &address))
        (revisions(details, now))
    };
    let page = Page::new(format!("{}@{}", details.set, details.revision), main).here(Here::Sets);
    let page = page.live(STATES);
    // What takes its time is not looked up again whenever a build ends.
    let takes_time = matches!(query.show, Show::Changes | Show::Blockers);
    Ok(if takes_time { page.pause(PAUSE) } else { page }.answer(&call))
}

/// The address of a set's page.
struct Address {
    set: String,
}

impl Address {
    fn question(&self, query: &[(&str, &str)]) -> String {
        let query = words::query(query);
        if query.is_empty() { self.set.clone() } else { format!("{}?{query}", self.set) }
    }
}

fn summary(details: &SetDetails, now: Timestamp) -> Markup {
    html! {
        dl .facts data-key="facts" {
            (fact("Submitted", words::ago(details.submitted_at, now)))
            (fact("Builds of older revisions", html! { (if details.keep { "go on" } else { "are canceled" }) }))
            @if let Some(estimate) = &details.estimate { (fact("Done in", self::estimate(estimate))) }
        }
        div .box data-key="parts" tabindex="0" role="group" aria-label="By system" {
            table {
                thead { tr { th scope="col" { "System" } (tally_head()) th scope="col" { "Done in" } } }
                tbody {
                    @for part in &details.parts {
                        tr {
                            th scope="row" { (words::foreign(&column(&part.system, part.target.as_deref()))) }
                            (tally(&part.tally))
                            td { @if let Some(estimate) = &part.estimate { (self::estimate(estimate)) } @else { "–" } }
                        }
                    }
                }
                tfoot { tr { th scope="row" { "All" } (tally(&details.total)) td {} } }
            }
        }
    }
}

fn estimate(estimate: &Estimate) -> Markup {
    let rests_on = format!(
        "{} ended in the last {}",
        words::count(estimate.ended, "build", "builds"),
        words::span(estimate.within.saturating_mul(1000))
    );
    html! { span title=(rests_on) { "about " (words::span(estimate.seconds.saturating_mul(1000))) } }
}

/// A system, and what it is cross-compiled for.
fn column(system: &str, target: Option<&str>) -> String {
    match target {
        Some(target) => format!("{system} → {target}"),
        None => system.to_owned(),
    }
}

fn answer(look: &SetLook, query: &Query, address: &Address) -> Markup {
    match &look.answer {
        SetAnswer::Packages(packages, more) => html! {
            (packages_of(look, packages, query, address))
            nav .pages aria-label="More packages" {
                @if !query.after.is_empty() {
                    a href=(address.question(&[("show", query.show.word()), ("name", &query.name)])) { "Beginning" } " "
                }
                @if let Some(last) = more {
                    a rel="next" href=(address.question(&[
                        ("show", query.show.word()), ("name", &query.name), ("after", last),
                    ])) { "More" }
                }
            }
        },
        SetAnswer::Changes(Some(diff)) => changes(diff),
        SetAnswer::Changes(None) => html! { p { "There is no revision before this one." } },
        SetAnswer::Blockers(blockers) => self::blockers(blockers),
    }
}

fn packages_of(look: &SetLook, packages: &[PackageRows], query: &Query, address: &Address) -> Markup {
    let columns: BTreeSet<(&str, Option<&str>)> =
        look.details.parts.iter().map(|part| (part.system.as_str(), part.target.as_deref())).collect();
    html! {
        form .filter action=(address.set) {
            label for="name" { "Packages whose name contains " }
            input #name type="search" name="name" value=(query.name) maxlength="200" autocomplete="off";
            @if query.show == Show::Broken { input type="hidden" name="show" value="broken"; }
            " " button { "Show" }
        }
        @if packages.is_empty() {
            p {
                @if query.show == Show::Broken { "Nothing of it is broken." } @else { "There are no such packages." }
            }
        } @else {
            div .box tabindex="0" role="group" aria-label="Packages by system" {
                table .matrix {
                    thead {
                        tr {
                            th scope="col" { "Package" }
                            @for (system, target) in &columns {
                                th scope="col" { (words::foreign(&column(system, *target))) }
                            }
                        }
                    }
                    tbody {
                        @for package in packages {
                            tr data-key={ "package-" (package.package) } {
                                th scope="row" { (words::foreign(&package.package)) }
                                @for (system, target) in &columns {
                                    td { (cell(package, system, *target)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(package: &PackageRows, system: &str, target: Option<&str>) -> Markup {
    let here = |row: &&PackageRow| row.system == system && row.target.as_deref() == target;
    html! { @for row in package.rows.iter().filter(here) { (row_state(&row.state)) " " } }
}

/// How a row stands, as a link to what is known about it.
fn row_state(state: &RowState) -> Markup {
    let version = if state.version.is_empty() { "–" } else { &state.version };
    let (sign, class, word) = match (&state.derivation, state.state) {
        (None, _) => ("?", "is-missing".to_owned(), "not evaluated"),
        (_, None) => ("–", "is-canceled".to_owned(), "no build"),
        (_, Some(state)) => (words::sign(state), format!("is-{state}"), words::state_word(state)),
    };
    let inside = html! {
        span class={ "state " (class) } {
            span aria-hidden="true" { (sign) } " " (words::foreign(version)) span .unseen { " " (word) }
        }
    };
    html! {
        @match (&state.derivation, state.build) {
            (Some(_), Some(build)) => {
                a .plain href=(words::address(&BUILD, &[&build])) title=(word) { (inside) }
            }
            (Some(derivation), None) => {
                a .plain title=(word) href=(words::address(
                    &DERIVATION, &[&derivation.base_name()],
                )) { (inside) }
            }
            (None, _) => {
                (inside)
                @if let Some(error) = &state.error { " " span .message { (words::foreign(error)) } }
            }
        }
    }
}

fn changes(diff: &SetDiff) -> Markup {
    const KINDS: [(DifferenceKind, &str); 4] = [
        (DifferenceKind::NewlyBroken, "Newly broken"),
        (DifferenceKind::Broken, "Broken, and not known before"),
        (DifferenceKind::Fixed, "Fixed"),
        (DifferenceKind::StillBroken, "Still broken"),
    ];
    html! {
        p { "From " (diff.a) " to " (diff.b) "." }
        @for (kind, name) in KINDS {
            @let count = diff.counts.get(&kind).copied().unwrap_or(0);
            section {
                h2 id=(kind_id(kind)) { (name) " (" (words::thousands(count)) ")" }
                @if count > 0 {
                    (differences(diff.changes.iter().filter(|change| change.kind == kind).take(SHOWN), kind))
                    @if count > SHOWN as u64 { p .more { "and " (words::thousands(count - SHOWN as u64)) " more" } }
                }
            }
        }
    }
}

fn kind_id(kind: DifferenceKind) -> &'static str {
    match kind {
        DifferenceKind::NewlyBroken => "newly-broken",
        DifferenceKind::Broken => "broken",
        DifferenceKind::Fixed => "fixed",
        DifferenceKind::StillBroken => "still-broken",
        DifferenceKind::New => "new",
        DifferenceKind::Gone => "gone",
        DifferenceKind::Changed => "changed",
    }
}

fn differences<'d>(all: impl Iterator<Item = &'d Difference>, kind: DifferenceKind) -> Markup {
    html! {
        div .box tabindex="0" role="group" aria-labelledby=(kind_id(kind)) {
            table {
                thead {
                    tr {
                        th scope="col" { "Package" }
                        th scope="col" { "System" }
                        th scope="col" { "Before" }
                        th scope="col" { "After" }
                    }
                }
                tbody {
                    @for change in all {
                        tr {
                            th scope="row" { (words::foreign(&change.package)) }
                            td { (words::foreign(&column(&change.system, change.target.as_deref()))) }
                            td { @if let Some(before) = &change.before { (row_state(before)) } @else { "–" } }
                            td { @if let Some(after) = &change.after { (row_state(after)) } @else { "–" } }
                        }
                    }
                }
            }
        }
    }
}

fn blockers(blockers: &Blockers) -> Markup {
    html! {
        p {
            @if blockers.count == 0 {
                "Nothing that failed or is missing holds it up."
            } @else {
                (words::count(blockers.rows, "row is", "rows are")) " held up by "
                (words::count(blockers.count, "thing that failed or is missing.", "things that failed or are missing."))
            }
        }
        @if !blockers.blockers.is_empty() {
            div .box tabindex="0" role="group" aria-label="Blockers" {
                table {
                    thead {
                        tr {
                            th scope="col" .num { "Holds up" }
                            th scope="col" { "State" }
                            th scope="col" { "What" }
                            th scope="col" { "System" }
                        }
                    }
                    tbody { @for blocker in &blockers.blockers { (self::blocker(blocker)) } }
                }
            }
        }
        @let shown = blockers.blockers.len() as u64;
        @if blockers.count > shown { p .more { "and " (words::thousands(blockers.count - shown)) " more" } }
    }
}

fn blocker(blocker: &Blocker) -> Markup {
    let missing = |word: &'static str| {
        html! { span .state .is-missing { span aria-hidden="true" { "?" } " " (word) } }
    };
    html! {
        tr {
            td .num { (words::thousands(blocker.holds_up)) }
            td {
                @match (&blocker.missing_source, blocker.state) {
                    (Some(_), _) => (missing("missing source")),
                    (None, Some(BuildState::Succeeded)) | (None, None) => (missing("no build")),
                    (None, Some(state)) => (words::state(state)),
                }
            }
            th scope="row" {
                @match (&blocker.missing_source, blocker.build) {
                    (Some(source), _) => {
                        code title=(source) { (source.name()) } " of " (words::derivation(&blocker.derivation))
                    }
                    (None, Some(build)) => (words::build(build, &blocker.derivation)),
                    (None, None) => (words::derivation(&blocker.derivation)),
                }
            }
            td { (words::foreign(&blocker.system)) }
        }
    }
}

fn revisions(details: &SetDetails, now: Timestamp) -> Markup {
    html! {
        section {
            h2 #revisions { "Revisions" }
            ol .names reversed {
                @for revision in &details.revisions {
                    @let named = format!("{}@{}", details.set, revision.revision);
                    li {
                        a href=(words::address(&SET, &[&named])) { (revision.revision) } ", "
                        (words::count(revision.rows, "row", "rows")) ", " (words::ago(revision.submitted_at, now))
                    }
                }
            }
        }
    }
}
