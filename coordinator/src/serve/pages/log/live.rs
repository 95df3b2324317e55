//! A log as it grows, for the script of a page.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use drover_wire::BuildId;
use drover_wire::client::LogQuery;
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::html::Numbers;
use super::pieces::Pieces;
use crate::farm::{Farm, LogLength, LogPlace, Taken};
use crate::serve::call::{Answer, Call};
use crate::serve::log;
use crate::serve::pages::frame::HEAD;
use crate::serve::pages::{Viewer, words};
use crate::serve::pass::while_let_in;

/// So much time lies between two pieces: a builder that writes letter by letter, or without an end, is not to keep browsers
/// busy.
const PAUSE: Duration = Duration::from_millis(200);
/// Who is so far behind goes on near the end: nobody reads so much as it comes.
const FAR: u64 = 1 << 20;
const NEAR: u64 = 64 << 10;
/// The last piece, when the try has ended.
const OVER: &[u8] = b"<div data-over=\"\"></div>\n";

/// Where to go on.
#[derive(Debug, Deserialize)]
struct Query {
    from: Option<u64>,
    /// The number of the line that begins there.
    line: Option<u64>,
    attempt: Option<u32>,
}

/// Pieces of a log, a line of text each, from a byte on, until the try ends.
pub(in crate::serve::pages) async fn follow(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let build: BuildId = call.part("build")?;
    let query: Query = call.query()?;
    let from = query.from.unwrap_or(0);
    let numbers = match query.line {
        Some(line) => Numbers::Lines(line),
        None if from == 0 => Numbers::Lines(1),
        None => Numbers::Bytes,
    };
    let place =
        farm.log(build, LogQuery { attempt: query.attempt, follow: true, ..LogQuery::default() }).await?;
    // As long as they read, and that may be long: of everybody only so many do.
    let taken = match call.viewer() {
        Viewer::Public => Some(farm.turns().follow_log.take().await?),
        _ => None,
    };
    let growing = Growing {
        bytes: Box::pin(log::follow(place.clone(), from, farm.stopping())),
        place,
        stopping: farm.stopping(),
        pieces: Pieces::from(from, numbers),
        at: from,
        pause: Instant::now(),
        over: false,
        _taken: taken,
    };
    // Who opens it by itself gets it under the policy of a page. nginx would keep back what comes until its buffer is full.
    let pieces = while_let_in(&farm, &call.parts.extensions, growing.into_stream());
    Ok((HEAD, [("x-accel-buffering", "no")], pieces).into_response())
}

/// A log on its way out.
struct Growing {
    place: LogPlace,
    stopping: watch::Receiver<bool>,
    bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    pieces: Pieces,
    /// Where the next of the bytes are in the log.
    at: u64,
    pause: Instant,
    over: bool,
    _taken: Option<Taken>,
}

impl Growing {
    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::try_unfold(self, |mut log| async move { Ok(log.next().await?.map(|piece| (piece, log))) })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.over {
            return Ok(None);
        }
        sleep_until(self.pause).await;
        self.pause = Instant::now() + PAUSE;
        if let Some(left_out) = self.catch_up() {
            return Ok(Some(left_out.into()));
        }
        while let Some(chunk) = self.bytes.next().await {
            let chunk = chunk?;
            self.at += chunk.len() as u64;
            if let Some(piece) = self.pieces.push(&chunk) {
                return Ok(Some(piece.into()));
            }
        }
        self.over = true;
        let ended = self.length().is_none_or(|length| length.ended);
        // The coordinator stops: the script asks again where it was.
        if !ended {
            return Ok(None);
        }
        let mut last = self.pieces.finish().unwrap_or_default().into_bytes();
        last.extend_from_slice(OVER);
        Ok(Some(last.into()))
    }

    /// How long the log is; none if it has ended before.
    fn length(&self) -> Option<LogLength> {
        self.place.growing.as_ref().map(|growing| *growing.borrow())
    }

    /// Goes to the end, when that is far; the piece says what is left out.
    fn catch_up(&mut self) -> Option<String> {
        let length = self.length()?.bytes;
        if length.saturating_sub(self.at) <= FAR {
            return None;
        }
        let from = length.saturating_sub(NEAR);
        let left_out = words::size(from - self.at);
        self.bytes = Box::pin(log::follow(self.place.clone(), from, self.stopping.clone()));
        (self.at, self.pieces) = (from, Pieces::from(from, Numbers::Bytes));
        Some(format!(
            "<div data-at=\"{from}\"><div class=\"lines\"><div class=\"on\">… {left_out} are left out here …</div></div></div>\n"
        ))
    }
}
