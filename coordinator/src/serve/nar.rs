//! Nars as they are kept, for agents and clients.

use std::sync::Arc;

use axum::extract::State;
use drover_wire::NAR_TYPE;

use super::call::{Answer, Call};
use super::content::Content;
use super::transcode;
use crate::farm::{Farm, Held};

/// The nar of a store item, for both listeners.
pub(super) async fn download(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let path = call.item()?;
    let info = farm.item(&path, false).await?;
    let place = match farm.nar(&path).await? {
        Held::Zstd(place) => place,
        Held::Otherwise(file) => return transcode::answer(&farm, file).await,
    };
    // The size, too: the same nar could be compressed otherwise at another time.
    let tag = format!("{}-{}", info.nar_hash, place.size());
    let what = format!("the nar of {path}");
    Content { what: &what, kind: NAR_TYPE, tag, cache: None, place, turn: None }
        .answer(&farm, &call.parts.headers)
        .await
}
