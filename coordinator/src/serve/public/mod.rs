//! What everybody can ask: substitutes, at the addresses where Guix looks for them.
//!
//! Only what was published is there. All else looks the same as nothing at all, whatever is kept here. Nothing waits
//! for the threads of the other listeners, and they for nothing here: this one has threads of its own, which look into
//! the database themselves.

mod contents;
mod log;
mod plain;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drover_store::{Compression, STORE_DIR, StorePath};
use drover_wire::LEAVING_HEADER;
use drover_wire::route::Route;
use drover_wire::route::public::{CACHE_INFO, FILE, KEY, KEYS, LOG, NAR, NARINFO, PUBLISHED};

use super::call::Answer;
use super::content::Content;
use super::imports;
use super::problem::Refusal;
use super::router::{Mounted, at};
use crate::farm::{Farm, HashPart, NarPlace, Shown};

/// The handler of a route; none if it is no route of the public.
pub(super) fn handler(route: &Route) -> Option<Mounted> {
    Some(match *route {
        CACHE_INFO => at(route, cache_info),
        NARINFO => at(route, narinfo),
        NAR => at(route, nar),
        FILE => at(route, contents::file),
        LOG => at(route, log::log),
        KEY => at(route, key),
        KEYS => at(route, keys),
        PUBLISHED => at(route, imports::published),
        _ => return None,
    })
}

type Core = State<Arc<Farm>>;
/// The variable parts of an address; what is not text is nowhere.
type Parts<T> = Result<Path<T>, PathRejection>;

const TEXT: &str = "text/plain; charset=utf-8";
/// Media types as other substitute servers have them.
const NARINFO_TYPE: &str = "application/x-nix-narinfo";
const CACHE_INFO_TYPE: &str = "text/x-nix-cache-info";
const NAR_TYPE: &str = "application/x-nix-nar";

async fn cache_info(State(farm): Core) -> Response {
    // Guix publishes the same priority.
    let text = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 0\nPriority: 100\n");
    let cache = cache(Duration::from_secs(farm.config().narinfo_ttl_seconds));
    ([(CONTENT_TYPE, CACHE_INFO_TYPE), (CACHE_CONTROL, &cache)], text).into_response()
}

async fn narinfo(State(farm): Core, parts: Parts<String>) -> Answer {
    let Some(part) = parts.ok().and_then(|Path(name)| hash_part(&name)) else { return Ok(nothing(&farm)) };
    let Some(shown) = farm.shown_narinfo(part)? else { return Ok(nothing(&farm)) };
    let cache = cache(shown.fresh);
    Ok(([(CONTENT_TYPE, NARINFO_TYPE), (CACHE_CONTROL, &cache)], Body::from(shown.what)).into_response())
}

fn hash_part(name: &str) -> Option<HashPart> {
    name.strip_suffix(".narinfo")?.parse().ok()
}

async fn nar(State(farm): Core, parts: Parts<(String, String)>, headers: HeaderMap) -> Answer {
    let Ok(Path((compression, item))) = parts else { return Ok(nothing(&farm)) };
    let named = (compression.parse::<Compression>(), StorePath::parse_base(&item));
    let (Ok(compression), Ok(path)) = named else { return Ok(nothing(&farm)) };
    // A file may be moved to another place right after it was looked up: the second look finds it there.
    let mut again = true;
    loop {
        let Some(shown) = farm.shown_nar(&path, compression)? else {
            if let Some(there) = farm.shown_elsewhere(&path, compression)? {
                return elsewhere(&there);
            }
            return match compression {
                Compression::None => plain::nar(&farm, &path, &headers).await,
                _ => Ok(nothing(&farm)),
            };
        };
        let (size, nar) = (shown.what.place.size(), shown.what);
        let is_leaving = nar.is_leaving;
        let content = Content {
            what: &format!("the nar of {path}"),
            kind: NAR_TYPE,
            tag: format!("{}-{compression}-{size}", nar.nar_hash),
            cache: Some(cache(shown.fresh)),
            place: nar.place,
            turn: Some(&farm.turns().read_bucket),
        };
        match content.answer(&farm, &headers).await {
            Err(_) if std::mem::take(&mut again) => {}
            Ok(mut answer) if is_leaving => {
                leaving(&mut answer);
                return Ok(answer);
            }
            answer => return answer,
        }
    }
}

/// The key that signs, and it alone: Guix authorizes one at a time, and stumbles over a file with two.
async fn key(State(farm): Core) -> Answer {
    Ok(keys_answer(&farm, format!("{}\n", farm.public_key().trim_end())))
}

/// Nobody else should count on it that this is here.
fn leaving(answer: &mut Response) {
    answer.headers_mut().insert(LEAVING_HEADER, HeaderValue::from_static("yes"));
}

/// Sends whoever asks to another server.
fn elsewhere(there: &Shown<String>) -> Answer {
    let to = HeaderValue::from_str(&there.what).map_err(|error| Refusal::internal(&error))?;
    let cache = cache(there.fresh);
    let head = [(CONTENT_TYPE, TEXT), (CACHE_CONTROL, &cache)];
    let mut answer = (StatusCode::FOUND, head, "Another server has it.\n").into_response();
    answer.headers_mut().insert(LOCATION, to);
    Ok(answer)
}

/// All keys that signatures here may be made with.
async fn keys(State(farm): Core) -> Answer {
    Ok(keys_answer(&farm, farm.valid_keys()?))
}

fn keys_answer(farm: &Farm, keys: String) -> Response {
    // A new key is to be seen soon.
    let cache = cache(Duration::from_secs(farm.config().narinfo_miss_seconds));
    ([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, &cache)], keys).into_response()
}

/// The answer to whoever asks for what the public cannot have: whether it exists is not said.
pub(super) fn nothing(farm: &Farm) -> Response {
    let cache = cache(Duration::from_secs(farm.config().narinfo_miss_seconds));
    let head = [(CONTENT_TYPE, TEXT), (CACHE_CONTROL, &cache)];
    (StatusCode::NOT_FOUND, head, "There is nothing here.\n").into_response()
}

/// What is said about how long something may be kept.
fn cache(fresh: Duration) -> String {
    format!("public, max-age={}", fresh.as_secs())
}

/// As much as this never becomes a page in anybody's browser.
const PLAIN: (axum::http::HeaderName, &str) = (X_CONTENT_TYPE_OPTIONS, "nosniff");
