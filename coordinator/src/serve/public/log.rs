//! Logs of builds, by the outputs that the builds made: `guix build --log-file` looks for them here.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY,
};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use drover_store::StorePath;

use super::super::call::Answer;
use super::super::{file, log};
use super::{Core, PLAIN, Parts, TEXT, cache, nothing};

/// The log of the newest try at an output or a derivation that has one.
pub(super) async fn log(State(farm): Core, parts: Parts<String>, headers: HeaderMap) -> Answer {
    let path = parts.ok().and_then(|Path(base)| StorePath::parse_base(&base).ok());
    let Some(path) = path else { return Ok(nothing(&farm)) };
    let Some(shown) = farm.shown_logs(&path)? else { return Ok(nothing(&farm)) };
    let packed_will_do = takes_zstd(&headers);
    let cache = cache(shown.fresh);
    let answer = |body: Body| -> Response {
        let head = [(CONTENT_TYPE, TEXT), (CACHE_CONTROL, &cache), (VARY, "Accept-Encoding"), PLAIN];
        (head, body).into_response()
    };
    for place in shown.what {
        if packed_will_do {
            if let Ok((size, body)) = file::whole(place.packed.clone()).await {
                let mut answer = answer(body);
                answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
                answer.headers_mut().insert(CONTENT_LENGTH, size.into());
                return Ok(answer);
            }
        }
        // It may not be packed yet.
        if let Some(body) = log::whole(place, &farm).await? {
            return Ok(answer(body));
        }
    }
    Ok(nothing(&farm))
}

/// Whether a client takes the form in which logs are kept.
fn takes_zstd(headers: &HeaderMap) -> bool {
    let all = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|one| {
        let mut words = one.split(';').map(str::trim);
        let zstd = words.next().is_some_and(|coding| coding.eq_ignore_ascii_case("zstd"));
        let refused = words.any(|word| {
            word.strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).is_some_and(|q| q <= 0.0)
        });
        zstd && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_says_so_takes_zstd() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            takes_zstd(&headers)
        };
        assert!(takes("gzip, Zstd;q=0.5"));
        assert!(takes("zstd"));
        for value in ["", "gzip, deflate, br", "zstd;q=0", "zstd; q=0.0", "*"] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_zstd(&HeaderMap::new()));
    }
}
