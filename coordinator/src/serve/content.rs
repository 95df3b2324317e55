//! Bytes that do not change, whole or in part, so that a download that broke off can go on, and none comes twice.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    RANGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};
use axum::response::{IntoResponse, Response};
use drover_wire::{Code, Problem};
use futures_util::StreamExt as _;

use super::call::Answer;
use super::file;
use super::problem::Refusal;
use crate::farm::{Farm, NarPlace, Turn};
use crate::storage::Opened;

/// What is sent, and what is said about it.
pub(super) struct Content<'a> {
    /// What it is, in words.
    pub(super) what: &'a str,
    /// The media type.
    pub(super) kind: &'static str,
    /// What tells it from all that was ever at the same address, without quotes.
    pub(super) tag: String,
    /// Who may keep it for how long.
    pub(super) cache: Option<String>,
    /// Where it is.
    pub(super) place: NarPlace,
    /// Whose turn to read from a bucket has to come first.
    pub(super) turn: Option<&'a Turn>,
}

impl Content<'_> {
    /// The answer to a request with these headers.
    pub(super) async fn answer(self, farm: &Arc<Farm>, headers: &HeaderMap) -> Answer {
        let size = self.place.size();
        let tag = format!("\"{}\"", self.tag);
        let mut builder = Response::builder().header(ETAG, &tag).header(ACCEPT_RANGES, "bytes");
        if let Some(cache) = self.cache {
            builder = builder.header(CACHE_CONTROL, cache);
        }
        if is_known(headers, &IF_NONE_MATCH, &tag) {
            return finish(builder.status(StatusCode::NOT_MODIFIED), Body::empty());
        }
        let same = header(headers, &IF_RANGE).is_none_or(|known| known == tag);
        let range = header(headers, &RANGE).filter(|_| same).map_or(Wanted::All, |range| wanted(range, size));
        let (status, range) = match range {
            Wanted::All => (StatusCode::OK, 0..size),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Nothing => return Ok(unsatisfiable(self.what, size)),
        };
        let mut builder = builder
            .status(status)
            .header(CONTENT_TYPE, self.kind)
            .header(CONTENT_LENGTH, range.end - range.start);
        if status == StatusCode::PARTIAL_CONTENT {
            let last = range.end.saturating_sub(1);
            builder = builder.header(CONTENT_RANGE, format!("bytes {}-{last}/{size}", range.start));
        }
        let body = match self.place {
            NarPlace::Bytes(bytes) => Body::from(slice(&bytes, &range)),
            NarPlace::File(file) => {
                let taken = match self.turn.filter(|_| farm.is_in_bucket(&file)) {
                    Some(turn) => Some(turn.take().await?),
                    None => None,
                };
                match farm.open_nar(&file, range.clone()).await? {
                    Opened::File(file) => file::part(file, range),
                    Opened::Stream(chunks) => Body::from_stream(chunks.inspect(move |_| {
                        // Held as long as they come.
                        let _ = &taken;
                    })),
                }
            }
        };
        finish(builder, body)
    }
}

/// Whether this header has the tag, with its quotes.
pub(super) fn is_known(headers: &HeaderMap, name: &HeaderName, tag: &str) -> bool {
    header(headers, name).is_some_and(|known| names_tag(known, tag))
}

fn finish(builder: response::Builder, body: Body) -> Answer {
    builder.body(body).map_err(|error| Refusal::internal(&error))
}

fn slice(bytes: &bytes::Bytes, range: &Range<u64>) -> bytes::Bytes {
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(range.start)..at(range.end))
}

fn unsatisfiable(what: &str, size: u64) -> Response {
    let problem = Problem {
        received: Some(size),
        ..Problem::new(
            Code::WrongOffset,
            format_args!("{what} has {size} bytes, and none where the range is"),
        )
    };
    let mut response = Refusal(problem).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether one of the tags in a header is this.
fn names_tag(known: &str, tag: &str) -> bool {
    let mut tags = known.split(',').map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    Nothing,
}

/// Reads a `Range` header (RFC 9110, 14.2). What is not understood, and more than one part, is all.
fn wanted(header: &str, size: u64) -> Wanted {
    let Some((unit, range)) = header.split_once('=') else { return Wanted::All };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::All;
    }
    let range = match (number(first), number(last)) {
        (Some(first), _) if last.is_empty() => first..size,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (None, Some(last)) if first.is_empty() => size.saturating_sub(last)..size,
        _ => return Wanted::All,
    };
    if range.start < range.end { Wanted::Part(range) } else { Wanted::Nothing }
}

/// Digits alone; a number that is too large is beyond every end.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_range_is_cut_to_what_there_is() {
        assert_eq!(wanted("bytes=0-0", 10), Wanted::Part(0..1));
        assert_eq!(wanted("bytes=3-", 10), Wanted::Part(3..10));
        assert_eq!(wanted("Bytes=3-99999999999999999999", 10), Wanted::Part(3..10));
        assert_eq!(wanted("bytes=-4", 10), Wanted::Part(6..10));
        assert_eq!(wanted("bytes=-40", 10), Wanted::Part(0..10));
    }

    #[test]
    fn a_range_without_a_byte_is_told_apart() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(wanted(range, 10), Wanted::Nothing, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn what_is_no_single_range_is_everything() {
        for range in
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-4", "lines=0-1", "bytes=0-1,3-4", "bytes=+1-2"]
        {
            assert_eq!(wanted(range, 10), Wanted::All, "{range}");
        }
    }
}
