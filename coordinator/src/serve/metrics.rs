//! Numbers about the farm, for Prometheus and those who read what it reads.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::response::IntoResponse;

use super::call::Answer;
use crate::farm::Farm;
use crate::farm::numbers::Format;

/// All of them, as of now, in the format that is asked for.
pub(super) async fn metrics(State(farm): State<Arc<Farm>>, headers: HeaderMap) -> Answer {
    let format = wanted(&headers);
    let text = farm.all_numbers(format).await?;
    let head = [(CONTENT_TYPE, format.media_type()), (CACHE_CONTROL, "no-store"), (VARY, "Accept")];
    Ok((head, text).into_response())
}

/// OpenMetrics for those who say that they read it; else what everybody reads.
fn wanted(headers: &HeaderMap) -> Format {
    let mut all = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let reads = |value: &str| {
        let mut kinds = value.split(',').filter_map(|kind| kind.split(';').next());
        kinds.any(|kind| kind.trim().eq_ignore_ascii_case("application/openmetrics-text"))
    };
    if all.any(reads) { Format::OpenMetrics } else { Format::Prometheus }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let format = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            wanted(&headers)
        };
        assert_eq!(
            format("text/html, application/OpenMetrics-text; version=1.0.0;q=0.8"),
            Format::OpenMetrics
        );
        for accept in ["*/*", "text/plain;version=0.0.4", "application/openmetrics-textual"] {
            assert_eq!(format(accept), Format::Prometheus, "{accept}");
        }
        assert_eq!(wanted(&HeaderMap::new()), Format::Prometheus);
    }
}
