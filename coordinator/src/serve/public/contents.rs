//! Fixed outputs that are one file, by their hash: what other servers have lost can be had here.

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use drover_store::Sha256Hash;
use drover_store::path::check_name;

use super::super::call::Answer;
use super::super::content::is_known;
use super::super::contents::{CONTENTS_TYPE, unpacked};
use super::{Core, PLAIN, Parts, cache, elsewhere, nothing};
use crate::farm::KeptNar;

/// The contents of a fixed output. The name in the address says nothing that its hash does not.
pub(super) async fn file(State(farm): Core, parts: Parts<(String, String)>, headers: HeaderMap) -> Answer {
    let Ok(Path((name, hash))) = parts else { return Ok(nothing(&farm)) };
    let hash = Sha256Hash::from_base32(&hash).or_else(|_| Sha256Hash::from_hex(&hash));
    let (Ok(hash), Ok(())) = (hash, check_name(&name)) else { return Ok(nothing(&farm)) };
    let Some(shown) = farm.shown_file(&hash)? else {
        return match farm.shown_file_elsewhere(&hash)? {
            Some(there) => elsewhere(&there),
            None => Ok(nothing(&farm)),
        };
    };
    let (cache, tag) = (cache(shown.fresh), format!("\"{}\"", hash.hex()));
    let head = [(CACHE_CONTROL, &cache), (ETAG, &tag)];
    if is_known(&headers, &IF_NONE_MATCH, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    let taken = farm.turns().unpack.take().await?;
    let nar = KeptNar { path: shown.what.path, compression: shown.what.compression, place: shown.what.place };
    let (size, body) = unpacked(farm, nar, taken).await?;
    let head = (head, [(CONTENT_LENGTH, size)], [(CONTENT_TYPE, CONTENTS_TYPE), PLAIN]);
    Ok((head.0, head.1, head.2, body).into_response())
}
