//! What pages are made of: styles, the script and the icon, within the program.
//!
//! Their names have the hash of what is in them, so a browser keeps each for ever, and asks for another when there is one.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use drover_store::Sha256Hash;
use drover_wire::Code;
use drover_wire::route::pages::ASSET;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::serve::call::{Answer, Call};
use crate::serve::problem::Refusal;

/// A file that pages refer to.
#[derive(Debug)]
pub(super) struct Asset {
    name: String,
    kind: &'static str,
    plain: Bytes,
    packed: Option<Bytes>,
}

/// How all pages look.
pub(super) static STYLES: LazyLock<Asset> = LazyLock::new(|| {
    let all = concat!(include_str!("assets/drover.css"), "\n", include_str!("assets/details.css"));
    Asset::new("drover", "css", "text/css; charset=utf-8", all)
});
/// What makes pages live.
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("drover", "js", "text/javascript; charset=utf-8", include_str!("assets/drover.js"))
});
/// What browsers show beside a page's title.
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("assets/icon.svg")));

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = Sha256Hash::of(text.as_bytes());
        let hash = data_encoding::HEXLOWER.encode(&hash.as_bytes()[..8]);
        Self {
            name: format!("{stem}-{hash}.{extension}"),
            kind,
            plain: Bytes::from_static(text.as_bytes()),
            packed: pack(text.as_bytes(), Compression::best()),
        }
    }

    /// Where it is.
    pub(super) fn address(&self) -> String {
        ASSET.path(&[&self.name])
    }
}

pub(super) async fn file(call: Call) -> Answer {
    let name: String = call.part("file")?;
    let all: [&Asset; 3] = [&STYLES, &SCRIPT, &ICON];
    let Some(asset) = all.into_iter().find(|asset| asset.name == name) else {
        return Err(Refusal::new(Code::NotFound, "no page is made of a file with this name"));
    };
    let head = [
        (CONTENT_TYPE, asset.kind),
        (CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (VARY, "accept-encoding"),
    ];
    Ok(match &asset.packed {
        Some(packed) if takes_gzip(&call.parts.headers) => {
            (head, [(CONTENT_ENCODING, "gzip")], Body::from(packed.clone())).into_response()
        }
        _ => (head, Body::from(asset.plain.clone())).into_response(),
    })
}

/// Whether who asks can read what is compressed with gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for coding in all.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        if !name.eq_ignore_ascii_case("gzip") && name != "*" {
            continue;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let refused = weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0));
        if name != "*" {
            return !refused;
        }
        any = !refused;
    }
    any
}

/// Compresses bytes with gzip; none when that is not worth it.
pub(super) fn pack(bytes: &[u8], level: Compression) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), level);
    encoder.write_all(bytes).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() < bytes.len()).then(|| packed.into())
}

/// A response whose body is compressed for those who can read that.
pub(super) fn packed(headers: &HeaderMap, text: String) -> Response {
    /// What is shorter fits into a packet as it is.
    const SHORT: usize = 1024;
    if text.len() > SHORT && takes_gzip(headers) {
        // A third of the time of the usual level, for a tenth more bytes.
        if let Some(packed) = pack(text.as_bytes(), Compression::new(3)) {
            return ([(CONTENT_ENCODING, "gzip"), (VARY, "accept-encoding")], Body::from(packed))
                .into_response();
        }
    }
    ([(VARY, "accept-encoding")], Body::from(text)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_for_those_who_say_so() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            takes_gzip(&headers)
        };
        for value in ["gzip", "br, GZIP;q=0.5", "*", "gzip;q=1, *;q=0", "identity;q=0, *;q=0.1"] {
            assert!(takes(value), "{value}");
        }
        for value in ["", "br", "gzip;q=0", "*;q=0", "gzip; q=0.0, br", "*;q=1, gzip;q=0"] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
