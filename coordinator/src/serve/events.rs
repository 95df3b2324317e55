//! Events as they happen, as server-sent events.

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use bytes::Bytes;
use drover_wire::event::{EVENTS_TYPE, EventsQuery, LAST_EVENT_HEADER};
use futures_util::{Stream, stream};

use super::call::{Answer, Call};
use super::pass::while_let_in;
use crate::farm::{EventReader, Farm};

/// Sends events until the reader goes away, is too slow, or the coordinator stops.
pub(super) async fn stream(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let query: EventsQuery = call.query()?;
    // Bytes that are no text are no event of ours either.
    let last = call.parts.headers.get(LAST_EVENT_HEADER);
    let last = last.map(|last| String::from_utf8_lossy(last.as_bytes()).into_owned());
    let reader = farm.read_events(query, last).await?;
    // nginx would keep back what comes until its buffer is full.
    let head = [
        (CONTENT_TYPE.as_str(), EVENTS_TYPE),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    let pieces = while_let_in(&farm, &call.parts.extensions, pieces(reader));
    Ok((head, pieces).into_response())
}

fn pieces(reader: EventReader) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(reader, |mut reader| async move {
        let piece = reader.next().await.map_err(|error| {
            tracing::warn!(%error, "events could not be read on; the reader is cut off");
            io::Error::other(error)
        })?;
        Ok(piece.map(|piece| (piece, reader)))
    })
}
