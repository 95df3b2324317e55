//! Nars that are kept in a compression which agents do not take, compressed anew as they go. How long that becomes is
//! not known before its end, and a part of it cannot be had; but it comes out the same each time.

use std::io::{self, Read};
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_TYPE};
use axum::response::IntoResponse;
use bytes::Bytes;
use drover_wire::NAR_TYPE;
use futures_util::stream;
use tokio::sync::mpsc;

use super::call::Answer;
use crate::farm::Farm;
use crate::storage::{NarFile, Plain};

const CHUNK: usize = 128 * 1024;
/// Chunks that wait for the connection.
const QUEUE: usize = 4;
/// Quick: what is kept stays as it is, so this is done each time.
const LEVEL: i32 = 1;

/// The nar in this file, zstd-compressed.
pub(super) async fn answer(farm: &Arc<Farm>, file: NarFile) -> Answer {
    let taken = farm.turns().repack.take().await?;
    let opened = farm.open_nar(&file, 0..file.size).await?;
    let (chunks, coming) = mpsc::channel(QUEUE);
    crate::traced::spawn_blocking(move || {
        let _taken = taken;
        let plain = Plain::new(file.compression, opened.reader(file.size));
        let packed = plain.and_then(|plain| zstd::stream::read::Encoder::new(plain, LEVEL));
        if let Err(error) = packed.and_then(|packed| send(packed, &chunks)) {
            tracing::warn!(file = file.name, %error, "a nar could not be compressed anew");
            // The connection breaks: nobody takes it for the whole.
            let _ = chunks.blocking_send(Err(error));
        }
    });
    let body = stream::unfold(coming, async |mut coming| Some((coming.recv().await?, coming)));
    let head = [(CONTENT_TYPE, NAR_TYPE), (ACCEPT_RANGES, "none")];
    Ok((head, Body::from_stream(body)).into_response())
}

fn send(mut packed: impl Read, chunks: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0;
        while filled < chunk.len() {
            match packed.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        chunk.truncate(filled);
        // Who asked may be gone.
        if filled == 0 || chunks.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}
