//! Fixed outputs that are one file, by their hash: what other servers have lost can be had here.

use std::io::{self, BufReader, Cursor, Read, Write as _};

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use drover_store::nar::{self, Limits, Visitor};
use drover_store::path::check_name;
use drover_store::{Compression, Sha256Hash};
use tokio::sync::oneshot;

use super::super::bundle::{ToChannel, poured};
use super::super::call::{Answer, blocking};
use super::super::content::is_known;
use super::super::problem::Refusal;
use super::{Core, NarPlace, PLAIN, Parts, cache, elsewhere, nothing};
use crate::farm::Error;
use crate::storage::Plain;

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
    let (out, chunks) = ToChannel::new();
    let (sized, size) = oneshot::channel();
    let nar = shown.what;
    let writing = tokio::spawn(blocking(move || {
        let _taken = taken;
        let failed = |source| Error::io(format!("unpack the nar of {}", nar.path), source);
        let from: Box<dyn Read> = match nar.place {
            NarPlace::File(file) => farm.open_file(&file, 0..file.size)?.reader(file.size),
            NarPlace::Bytes(bytes) => Box::new(Cursor::new(bytes)),
        };
        unpack(from, nar.compression, OneFile { out, size: Some(sized) }).map_err(failed)
    }));
    match size.await {
        Ok(size) => {
            let body = poured(chunks, writing, "the contents of a file were cut off on their way out");
            let head = (head, [(CONTENT_LENGTH, size)], [(CONTENT_TYPE, "application/octet-stream"), PLAIN]);
            Ok((head.0, head.1, head.2, body).into_response())
        }
        Err(_) => match writing.await {
            Ok(Ok(Err(error))) => Err(error.into()),
            _ => Err(Refusal::internal(&format_args!("the nar of {hash} has no file in it"))),
        },
    }
}

fn unpack(from: Box<dyn Read>, compression: Compression, mut to: OneFile) -> io::Result<()> {
    let mut nar = BufReader::with_capacity(nar::BUFFER, Plain::new(compression, from)?);
    nar::parse(&mut nar, Limits::default(), &mut to)?;
    to.out.flush()
}

/// The one file of a nar on its way out.
struct OneFile {
    out: ToChannel,
    /// Hears how long it is.
    size: Option<oneshot::Sender<u64>>,
}

/// A nar of anything else is none that is asked for so; its fixed hash was checked when it came.
fn unfit() -> nar::Error {
    nar::Error::Io { action: "unpack", error: io::Error::other("it is not one file") }
}

impl Visitor for OneFile {
    fn regular(&mut self, _: bool, size: u64) -> Result<(), nar::Error> {
        let told = self.size.take().ok_or_else(unfit)?.send(size);
        told.map_err(|_| nar::Error::Io { action: "send", error: io::ErrorKind::BrokenPipe.into() })
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), nar::Error> {
        self.out.write_all(bytes).map_err(|error| nar::Error::Io { action: "send", error })
    }

    fn end_regular(&mut self) -> Result<(), nar::Error> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8]) -> Result<(), nar::Error> {
        Err(unfit())
    }

    fn directory(&mut self) -> Result<(), nar::Error> {
        Err(unfit())
    }

    fn entry(&mut self, _: &[u8]) -> Result<(), nar::Error> {
        Err(unfit())
    }

    fn leave(&mut self) -> Result<(), nar::Error> {
        Err(unfit())
    }
}
