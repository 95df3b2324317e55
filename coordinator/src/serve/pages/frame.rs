//! What is around every page, and how it is sent.

use std::fmt::Display;

use axum::extract::Query;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use drover_wire::event::EventKind;
use drover_wire::route::Route;
use drover_wire::route::pages::{ACTIVITY, HOOKS, LOG_OUT, QUEUE, SEARCH, SETS, STORAGE};
use drover_wire::{Code, Problem};
use maud::{DOCTYPE, Markup, html};
use serde::de::DeserializeOwned;

use super::assets::{ICON, SCRIPT, STYLES, packed};
use super::{Viewer, words};
use crate::serve::call::Call;
use crate::serve::problem::Refusal;

/// The header with which the script asks for the inside of `main` alone; its value says so.
pub(super) const PART_HEADER: &str = "x-drover-part";

/// Nothing from elsewhere, and nothing that stands within a page: what comes from outside can do nothing even where it is
/// shown wrongly.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What all pages are sent with.
pub(super) const HEAD: [(HeaderName, &str); 6] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // Not “no-referrer”: with that, browsers do not say where our own forms come from either.
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    // Where everybody may look, those who read all pages of the world need not.
    (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
];

/// Where in the farm a page is: the entry of the navigation that is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    Activity,
    Queue,
    Sets,
    Storage,
    Hooks,
}

/// Every entry of the navigation: its page, its name, and whether everybody may see it.
const NAVIGATION: [(Here, Route, &str, bool); 5] = [
    (Here::Activity, ACTIVITY, "Activity", true),
    (Here::Queue, QUEUE, "Queue", true),
    (Here::Sets, SETS, "Sets", true),
    (Here::Storage, STORAGE, "Storage", false),
    (Here::Hooks, HOOKS, "Hooks", false),
];

/// How who asks wants a page.
#[derive(Debug, Clone)]
pub(super) struct Look {
    viewer: Viewer,
    /// Whether only the inside of `main` is wanted.
    part: bool,
    headers: HeaderMap,
}

impl Look {
    pub(super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let part = headers.get(PART_HEADER).is_some_and(|part| part.as_bytes() == b"main");
        let viewer = extensions.get().copied().unwrap_or_default();
        Self { viewer, part, headers: headers.clone() }
    }
}

impl Call {
    /// Who looks at the page.
    pub(super) fn viewer(&self) -> Viewer {
        self.parts.extensions.get().copied().unwrap_or_default()
    }

    /// What the query of the address says, as a form sends it: what was left empty there is not there.
    pub(super) fn question<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let query = self.parts.uri.query().unwrap_or_default();
        let given = query.split('&').filter(|pair| !pair.is_empty() && !pair.ends_with('='));
        let address = format!("/?{}", given.collect::<Vec<_>>().join("&"));
        let bad = |error: &dyn Display| {
            Refusal::new(
                Code::BadRequest,
                format_args!("the query of the address is not one of this page: {error}"),
            )
        };
        let address: Uri = address.parse().map_err(|error| bad(&error))?;
        Query::try_from_uri(&address).map(|Query(query)| query).map_err(|error| bad(&error))
    }
}

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    title: String,
    main: Markup,
    here: Option<Here>,
    live: Option<String>,
    pause: Option<u32>,
    status: StatusCode,
    search: String,
}

impl Page {
    /// A page with this title, and this inside of `main`, which begins with a heading.
    pub(super) fn new(title: impl Into<String>, main: Markup) -> Self {
        Self {
            title: title.into(),
            main,
            here: None,
            live: None,
            pause: None,
            status: StatusCode::OK,
            search: String::new(),
        }
    }

    /// Where it is.
    pub(super) fn here(self, here: Here) -> Self {
        Self { here: Some(here), ..self }
    }

    /// The query of `/events` that what it shows goes by; empty for all events.
    pub(super) fn live(self, events: impl Into<String>) -> Self {
        Self { live: Some(events.into()), ..self }
    }

    /// Made anew once in so many seconds at most: it takes its time.
    pub(super) fn pause(self, seconds: u32) -> Self {
        Self { pause: Some(seconds), ..self }
    }

    /// With another status than 200.
    pub(super) fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// With this text in the field to search in.
    pub(super) fn search(self, text: impl Into<String>) -> Self {
        Self { search: text.into(), ..self }
    }

    /// It as the answer to a request.
    pub(super) fn answer(self, call: &Call) -> Response {
        self.send(&Look::of(&call.parts.headers, &call.parts.extensions))
    }

    /// It as the answer to who wants it like this.
    pub(super) fn send(self, look: &Look) -> Response {
        let status = self.status;
        let text = if look.part { self.main.into_string() } else { self.whole(look.viewer).into_string() };
        let mut response = packed(&look.headers, text);
        *response.status_mut() = status;
        for (name, value) in HEAD {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }

    fn whole(self, viewer: Viewer) -> Markup {
        // Events are for clients alone.
        let live = self.live.as_deref().filter(|_| matches!(viewer, Viewer::Client | Viewer::Session));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (words::foreign(&self.title)) " · drover" }
                    link rel="icon" type="image/svg+xml" href=(ICON.address());
                    link rel="stylesheet" href=(STYLES.address());
                    script src=(SCRIPT.address()) defer {}
                }
                body {
                    a .skip href="#main" { "Skip to content" }
                    (header(viewer, self.here, &self.search))
                    main #main tabindex="-1" data-live=[live] data-kinds=[live.map(|_| kinds())]
                        data-pause=[self.pause.filter(|_| live.is_some())]
                        data-poll=[(self.live.is_some() && viewer == Viewer::Public).then_some("30")] { (self.main) }
                    (footer(viewer))
                }
            }
        }
    }
}

/// All kinds of events: a browser hears only of those that it names.
fn kinds() -> String {
    EventKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" ")
}

fn header(viewer: Viewer, here: Option<Here>, search: &str) -> Markup {
    html! {
        header {
            a .brand href=(ACTIVITY.pattern) { "drover" }
            @if viewer != Viewer::Nobody {
                nav aria-label="Pages" {
                    ul {
                        @for (entry, route, name, for_all) in NAVIGATION {
                            @if for_all || viewer != Viewer::Public {
                                li {
                                    a href=(route.pattern) aria-current=[(here == Some(entry)).then_some("page")] {
                                        (name)
                                    }
                                }
                            }
                        }
                    }
                }
                form .search role="search" action=(SEARCH.pattern) {
                    label .unseen for="q" { "Name of a package" }
                    input #q type="search" name="q" value=(search) placeholder="Find a package" maxlength="200"
                        autocomplete="off" spellcheck="false";
                    button { "Find" }
                }
            }
            // What the script has to say stands here; without it there is nothing.
            span #live role="status" {}
            @if viewer == Viewer::Session {
                form .logout method="post" action=(LOG_OUT.pattern) { button { "Log out" } }
            }
        }
    }
}

fn footer(viewer: Viewer) -> Markup {
    html! {
        footer {
            span { "drover " (env!("CARGO_PKG_VERSION")) }
            span { "as of " (words::as_of(words::now())) " UTC" }
            @if viewer == Viewer::Public { span { "You see what everybody may see." } }
        }
    }
}

/// What was refused, as a page with the same status and what else the refusal came with.
pub(super) fn refusal(look: &Look, refused: Response, problem: &Problem) -> Response {
    let status = refused.status();
    let title = match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::UNAUTHORIZED => "Who are you?",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::SERVICE_UNAVAILABLE => "Not now",
        status if status.is_server_error() => "Something went wrong",
        _ => "That did not work",
    };
    let main = html! {
        h1 { (title) }
        p { (words::sentence(&problem.message)) }
        @if !problem.paths.is_empty() {
            ul { @for path in &problem.paths { li { code { (path) } } } }
        }
    };
    let mut page = Page::new(title, main).status(status).send(look);
    for name in [RETRY_AFTER, WWW_AUTHENTICATE] {
        if let Some(value) = refused.headers().get(&name) {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}
