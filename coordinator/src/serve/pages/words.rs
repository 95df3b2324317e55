//! Words and signs that all pages have for the same things: states, times, sizes, names, links.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fmt::Write as _;

use drover_store::StorePath;
use drover_wire::route::Route;
use drover_wire::route::pages::{AGENT, BUILD, DERIVATION, QUEUE};
use drover_wire::{BuildId, BuildState, Phase, Timestamp};
use maud::{Markup, html};

use crate::cli::text::{self, clean};
pub(super) use crate::cli::text::{count, now, size, span, thousands};

/// A build's state, as a word, a colour and a sign.
pub(super) fn state(state: BuildState) -> Markup {
    html! { span class={ "state is-" (state) } { span aria-hidden="true" { (sign(state)) } " " (state_word(state)) } }
}

/// A sign for a state: no two that mean something else look the same without colour.
pub(super) fn sign(state: BuildState) -> &'static str {
    match state {
        BuildState::Waiting => "…",
        BuildState::Ready => "○",
        BuildState::Allocated => "◐",
        BuildState::Running => "▶",
        BuildState::Succeeded => "✓",
        BuildState::Failed => "✗",
        BuildState::TimedOut => "!",
        BuildState::DependencyFailed => "⊘",
        BuildState::Canceled => "–",
    }
}

/// The word for a state.
pub(super) fn state_word(state: BuildState) -> &'static str {
    match state {
        BuildState::TimedOut => "timed out",
        BuildState::DependencyFailed => "dependency failed",
        state => state.as_str(),
    }
}

/// What an agent does with a build.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "waits for a slot",
        Phase::FetchingInputs => "fetches inputs",
        Phase::Building => "builds it",
        Phase::UploadQueued => "waits for its upload",
        Phase::Uploading => "uploads",
    }
}

/// When something was, in words: `3 min ago`. The script keeps it right.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(machine(at)) title=(text::time(at)) { (text::ago(at, now)) } }
}

/// For how long something has been going on: `3 min`. The script keeps it right.
pub(super) fn since(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(machine(at)) title={ "since " (text::time(at)) } data-form="for" { (text::age(at, now)) } }
}

/// A point of time, as it is.
pub(super) fn at(at: Timestamp) -> Markup {
    html! { time datetime=(machine(at)) data-form="at" { (text::time(at)) } }
}

/// When a page was made, as the time of day in UTC: `18:30:13`. The script keeps it right.
pub(super) fn as_of(at: Timestamp) -> Markup {
    let s = at / 1000;
    let of_day = format!("{:02}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60);
    html! { time #as-of datetime=(machine(at)) data-form="at" { (of_day) } }
}

/// `2026-11-23T18:30:13Z`.
fn machine(at: Timestamp) -> String {
    let mut text = text::time(at).replacen(' ', "T", 1);
    text.truncate(text.len().saturating_sub(" UTC".len()));
    text.push('Z');
    text
}

/// Text from outside, with what would turn the direction of the rest, or not be seen, made visible. It is escaped as all text
/// of a page is.
pub(super) fn foreign(text: &str) -> Markup {
    html! { (clean(text)) }
}

/// A message as a sentence: with a capital letter in front and a full stop behind.
pub(super) fn sentence(message: &str) -> Markup {
    let message = clean(message);
    let mut chars = message.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    let end = if message.ends_with(['.', '!', '?']) { "" } else { "." };
    html! { (first) (chars.as_str()) (end) }
}

/// What a person calls a derivation: its name without `.drv`.
pub(super) fn name(derivation: &StorePath) -> &str {
    let name = derivation.name();
    name.strip_suffix(".drv").unwrap_or(name)
}

/// A link to a build, by its derivation's name.
pub(super) fn build(build: BuildId, derivation: &StorePath) -> Markup {
    html! { a href=(address(&BUILD, &[&build])) title=(derivation) { (name(derivation)) } }
}

/// A link to a derivation, by its name.
pub(super) fn derivation(path: &StorePath) -> Markup {
    html! { a href=(address(&DERIVATION, &[&path.base_name()])) title=(path) { (name(path)) } }
}

/// A link to an agent, by its name.
pub(super) fn agent(name: &str) -> Markup {
    html! { a href=(address(&AGENT, &[&name])) { (foreign(name)) } }
}

/// The address of a page; its variable parts may have any characters.
pub(super) fn address(route: &Route, parts: &[&dyn Display]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| encoded(&part.to_string())).collect();
    let parts: Vec<&dyn Display> = parts.iter().map(|part| part as &dyn Display).collect();
    route.path(&parts)
}

/// The address of a page with a query, without those of its values that are empty.
pub(super) fn question(route: &Route, query: &[(&str, &str)]) -> String {
    let query = self::query(query);
    if query.is_empty() { route.pattern.to_owned() } else { format!("{}?{query}", route.pattern) }
}

/// A query, without those of its values that are empty.
pub(super) fn query(query: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        let sign = if text.is_empty() { "" } else { "&" };
        let _ = write!(text, "{sign}{name}={}", encoded(value));
    }
    text
}

/// A table in a box that it can be scrolled in, also by keyboard, where the screen is too narrow for it.
pub(super) fn table(label: &str, rows: Markup) -> Markup {
    html! { div .box tabindex="0" role="group" aria-label=(label) { table { (rows) } } }
}

/// A build's tags, each of which leads to the queue of those with the same.
pub(super) fn tags(tags: &BTreeMap<String, String>) -> Markup {
    html! {
        @if !tags.is_empty() {
            ul .tags {
                @for (key, value) in tags {
                    @let tag = if value.is_empty() { key.clone() } else { format!("{key}={value}") };
                    @let shown = clean(&tag);
                    li { a href=(question(&QUEUE, &[("tag", &tag)])) title=(shown) { (shown) } }
                }
            }
        }
    }
}

/// Where the first and the next page of a list is.
pub(super) fn pages(first: Option<String>, next: Option<String>) -> Markup {
    html! {
        @if first.is_some() || next.is_some() {
            nav .pages aria-label="Pages of the list" {
                @if let Some(first) = first { a href=(first) { "First page" } " " }
                @if let Some(next) = next { a rel="next" href=(next) { "Next page" } }
            }
        }
    }
}

/// Text as a part of an address.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_can_be_a_part_of_an_address() {
        assert_eq!(encoded("a b/ü?&+<"), "a%20b%2F%C3%BC%3F%26%2B%3C");
        assert_eq!(address(&AGENT, &[&"x?y"]), "/agents/x%3Fy");
        let question = question(&AGENT, &[("a", "1&2"), ("b", ""), ("c", "ü")]);
        assert_eq!(question, "/agents/{agent}?a=1%262&c=%C3%BC");
    }

    #[test]
    fn every_state_has_its_own_sign() {
        let signs: std::collections::HashSet<_> = BuildState::ALL.iter().map(|state| sign(*state)).collect();
        assert_eq!(signs.len(), BuildState::ALL.len());
    }

    #[test]
    fn what_comes_from_outside_is_text() {
        assert_eq!(foreign("<script>\u{202e}").into_string(), "&lt;script&gt;\\u{202e}");
        assert_eq!(sentence("there is no <b>").into_string(), "There is no &lt;b&gt;.");
        assert_eq!(
            ago(951_782_400_000, 951_782_580_000).into_string(),
            "<time datetime=\"2000-02-29T00:00:00Z\" title=\"2000-02-29 00:00:00 UTC\">3 min ago</time>"
        );
    }
}
