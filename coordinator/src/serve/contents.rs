//! Items that are one file, unpacked from their nars on their way out.

use std::io::{self, BufReader, Cursor, Read, Write as _};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::IntoResponse;
use drover_store::nar::{self, Limits, Visitor};
use drover_store::{Compression, Sha256Hash};
use tokio::sync::oneshot;

use super::bundle::{ToChannel, poured};
use super::call::{Answer, Call, blocking};
use super::problem::Refusal;
use crate::farm::{Error, Farm, KeptNar, NarPlace, Taken};
use crate::storage::Plain;

/// Anything at all.
pub(super) const CONTENTS_TYPE: &str = "application/octet-stream";

/// The contents of a fixed output, for agents. The name in the address says nothing that its hash does not.
pub(super) async fn download(State(farm): State<Arc<Farm>>, call: Call) -> Answer {
    let text: String = call.part("hash")?;
    let hash = Sha256Hash::from_base32(&text)
        .map_err(|error| Error::BadRequest(format!("{text} in the address is no hash in base32: {error}")))?;
    let nar = farm.file(hash).await?;
    let taken = farm.turns().unpack_file.take().await?;
    let (size, body) = unpacked(farm, nar, taken).await?;
    Ok(([(CONTENT_LENGTH, size)], [(CONTENT_TYPE, CONTENTS_TYPE)], body).into_response())
}

/// The file that is in a nar, and how long it is. The turn that was taken ends with it.
pub(super) async fn unpacked(farm: Arc<Farm>, nar: KeptNar, taken: Taken) -> Result<(u64, Body), Refusal> {
    let path = nar.path.clone();
    let (out, chunks) = ToChannel::new();
    let (sized, size) = oneshot::channel();
    let writing = crate::traced::spawn(blocking(move || {
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
            Ok((size, poured(chunks, writing, "the contents of a file were cut off on their way out")))
        }
        Err(_) => match writing.await {
            Ok(Ok(Err(error))) => Err(error.into()),
            _ => Err(Refusal::internal(&format_args!("the nar of {path} has no file in it"))),
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
