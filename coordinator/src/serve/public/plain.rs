//! Nars for clients that know no compression that they are kept in: uncompressed on their way out.

use std::io::{self, Cursor, Read, Write as _};
use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use drover_store::{Compression, StorePath};

use super::super::bundle::{ToChannel, poured};
use super::super::call::{Answer, blocking};
use super::super::content::is_known;
use super::{NAR_TYPE, NarPlace, cache, leaving, nothing};
use crate::farm::{Error, Farm};
use crate::storage::Plain;

/// The nar of a published item, all of it: parts of it would have to be looked for from its beginning.
pub(super) async fn nar(farm: &Arc<Farm>, path: &StorePath, headers: &HeaderMap) -> Answer {
    let mut found = None;
    for compression in Compression::ALL.into_iter().rev() {
        if found.is_none() {
            found = farm.shown_nar(path, compression)?;
        }
    }
    let Some(shown) = found else { return Ok(nothing(farm)) };
    let nar = shown.what;
    let (cache, tag) = (cache(shown.fresh), format!("\"{}-none\"", nar.nar_hash));
    let head = [(CACHE_CONTROL, cache), (ETAG, tag.clone())];
    if is_known(headers, &IF_NONE_MATCH, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    let taken = farm.turns().unpack.take().await?;
    let (size, is_leaving) = (nar.nar_size, nar.is_leaving);
    let (mut out, chunks) = ToChannel::new();
    let of_thread = Arc::clone(farm);
    let writing = crate::traced::spawn(blocking(move || {
        let _taken = taken;
        let failed = |source| Error::io(format!("unpack the nar of {}", nar.path), source);
        let from: Box<dyn Read> = match nar.place {
            NarPlace::File(file) => of_thread.open_file(&file, 0..file.size)?.reader(file.size),
            NarPlace::Bytes(bytes) => Box::new(Cursor::new(bytes)),
        };
        // The length was said: nothing longer is sent, and what is shorter breaks off.
        let sent = Plain::new(nar.compression, from)
            .and_then(|plain| io::copy(&mut plain.take(size), &mut out))
            .and_then(|sent| out.flush().map(|()| sent))
            .map_err(failed)?;
        if sent == size { Ok(()) } else { Err(failed(io::ErrorKind::UnexpectedEof.into())) }
    }));
    let body = poured(chunks, writing, "an uncompressed nar was cut off on its way out");
    let mut answer = (head, [(CONTENT_LENGTH, size)], [(CONTENT_TYPE, NAR_TYPE)], body).into_response();
    if is_leaving {
        leaving(&mut answer);
    }
    Ok(answer)
}
