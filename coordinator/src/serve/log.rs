//! Logs as they are, and as they grow.

use std::io::{self, Read};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use drover_wire::client::{LOG_OFFSET_HEADER, LOG_SIZE_HEADER, LogQuery};
use drover_wire::{BuildId, Code};
use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::call::{Answer, Call, blocking};
use super::listen::stops;
use super::pass::while_let_in;
use super::problem::Refusal;
use crate::farm::{Farm, LogLength, LogPlace, Taken};
use crate::storage::{Effort, LogReader, log_length};

const CHUNK: u64 = 128 * 1024;

/// A build's log from an offset on; followed, it ends with the try, or when the coordinator stops.
pub(super) async fn download(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let build: BuildId = call.part("build")?;
    let query: LogQuery = call.query()?;
    let (offset, tail, follow) = (query.offset, query.tail, query.follow);
    if offset.is_some() && tail.is_some() {
        let message = "a log is read from an offset on, or its last bytes are; not both (offset, tail)";
        return Err(Refusal::new(Code::BadRequest, message));
    }
    let stopping = farm.stopping();
    let place = farm.log(build, query).await?;
    let size = size(&place, if tail.is_some() { Effort::Any } else { Effort::Little }).await?;
    let offset = match tail {
        Some(tail) => size.unwrap_or(0).saturating_sub(tail),
        None => offset.unwrap_or(0),
    };
    let log = Growing { place, offset, follow, stopping, reader: None, _taken: None };
    let head = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CACHE_CONTROL, "no-store"),
        // A log is whatever a builder wrote: no browser is to find out what it might be.
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let bytes = while_let_in(&farm, &call.parts.extensions, log.into_stream());
    let mut answer = (head, bytes).into_response();
    answer.headers_mut().insert(LOG_OFFSET_HEADER, offset.into());
    if let Some(size) = size {
        answer.headers_mut().insert(LOG_SIZE_HEADER, size.into());
    }
    Ok(answer)
}

/// How long a log is by now; none if that would take more effort.
async fn size(place: &LogPlace, effort: Effort) -> Result<Option<u64>, Refusal> {
    if let Some(growing) = &place.growing {
        return Ok(Some(growing.borrow().bytes));
    }
    let (raw, packed) = (place.raw.clone(), place.packed.clone());
    let length = blocking(move || log_length(&raw, &packed, effort)).await?;
    length.map_err(|error| Refusal::internal(&format_args!("{}: {error}", place.packed.display())))
}

/// A log from an offset on, as it grows, to the end of its try; it ends earlier when the coordinator stops.
pub(super) fn follow(
    place: LogPlace,
    offset: u64,
    stopping: watch::Receiver<bool>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    Growing { place, offset, follow: true, stopping, reader: None, _taken: None }.into_stream()
}

/// All of a log that has ended, when it has its turn; none if there is none.
pub(super) async fn whole(place: LogPlace, farm: &Farm) -> Result<Option<Body>, Refusal> {
    let (raw, packed) = (place.raw.clone(), place.packed.clone());
    let opened = blocking(move || LogReader::open(&raw, &packed, 0)).await?;
    let reader =
        opened.map_err(|error| Refusal::internal(&format_args!("{}: {error}", place.packed.display())))?;
    let Some(reader) = reader else { return Ok(None) };
    // Nothing is unpacked yet.
    let taken = farm.turns().read_log.take().await?;
    let stopping = farm.stopping();
    let log =
        Growing { place, offset: 0, follow: false, stopping, reader: Some(reader), _taken: Some(taken) };
    Ok(Some(Body::from_stream(log.into_stream())))
}

/// A log on its way out.
struct Growing {
    place: LogPlace,
    offset: u64,
    follow: bool,
    stopping: watch::Receiver<bool>,
    reader: Option<LogReader>,
    /// Held as long as it is read.
    _taken: Option<Taken>,
}

impl Growing {
    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::try_unfold(self, |mut log| async move { Ok(log.next().await?.map(|chunk| (chunk, log))) })
    }

    /// The next bytes, as soon as there are any.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let length = self.length();
            if self.offset < length.bytes {
                return self.read((length.bytes - self.offset).min(CHUNK)).await;
            }
            if length.ended || !self.follow || !self.grown().await {
                return Ok(None);
            }
        }
    }

    /// How long it is now. What lies behind that in the file is not whole yet.
    fn length(&mut self) -> LogLength {
        match &mut self.place.growing {
            Some(growing) => *growing.borrow_and_update(),
            None => LogLength { bytes: u64::MAX, ended: true },
        }
    }

    /// Waits until it has changed; false when nothing more will come from here.
    async fn grown(&mut self) -> bool {
        let Some(growing) = &mut self.place.growing else { return false };
        tokio::select! {
            changed = growing.changed() => changed.is_ok(),
            () = stops(&mut self.stopping) => false,
        }
    }

    /// Reads at most so many bytes, on a thread where it may take its time.
    async fn read(&mut self, most: u64) -> io::Result<Option<Bytes>> {
        let reader = self.reader.take();
        let (raw, packed, offset) = (self.place.raw.clone(), self.place.packed.clone(), self.offset);
        let read = crate::traced::spawn_blocking(move || {
            let Some(mut reader) = (match reader {
                Some(reader) => Some(reader),
                None => LogReader::open(&raw, &packed, offset)?,
            }) else {
                return Ok(None);
            };
            let mut chunk = BytesMut::zeroed(usize::try_from(most).unwrap_or(0));
            let mut filled = 0;
            while filled < chunk.len() {
                match reader.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            chunk.truncate(filled);
            Ok::<_, io::Error>(Some((reader, chunk.freeze())))
        });
        let Some((reader, chunk)) = read.await.map_err(io::Error::other)?? else { return self.nothing() };
        if chunk.is_empty() {
            return self.nothing();
        }
        self.reader = Some(reader);
        self.offset += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Where bytes were awaited there are none: the end, unless they are known to have been there.
    fn nothing(&self) -> io::Result<Option<Bytes>> {
        match self.place.growing {
            None => Ok(None),
            Some(_) => {
                let log = self.place.raw.display().to_string();
                tracing::error!(log, offset = self.offset, "a log is shorter than it was");
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}
