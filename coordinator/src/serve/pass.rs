//! Answers without an end go on only as long as who asked would still be let in: they end soon after a logout, and after the
//! end of a session or a token.

use std::future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Extensions;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::farm::browsers::Standing;
use crate::farm::{self, Farm};
use crate::traced;

/// How long a look may take.
const LONGEST: Duration = Duration::from_secs(15);

/// With what a request was let in, and when that was last looked at: in the extensions of every request of a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    standing: Standing,
    looked: Instant,
}

impl Pass {
    /// With something that was looked at just now.
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing, looked: Instant::now() }
    }
}

/// These bytes, as long as whoever made the request with these extensions would still be let in. Then the answer is broken
/// off, so that nobody takes what they have for the whole. Everybody, where there is nothing to be let in with, may read on.
pub(super) fn while_let_in(
    farm: &Arc<Farm>,
    request: &Extensions,
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Body {
    let pass = request.get::<Pass>().copied();
    let watched = Watched { farm: Arc::clone(farm), pass, look: None, bytes: Box::pin(bytes) };
    Body::from_stream(stream::try_unfold(watched, |mut watched| async move {
        Ok::<_, io::Error>(watched.next().await?.map(|bytes| (bytes, watched)))
    }))
}

/// A look, and until when it is waited for.
type Look = (JoinHandle<Result<Option<Instant>, farm::Error>>, Instant);

struct Watched {
    farm: Arc<Farm>,
    pass: Option<Pass>,
    /// A look that is under way: when it was, if all is well. A task of its own, since nobody may ask for more bytes for long.
    look: Option<Look>,
    bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

impl Watched {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(pass) = &mut self.pass else { return self.bytes.next().await.transpose() };
        loop {
            let due = pass.looked + self.farm.beat();
            if self.look.is_none() && due <= Instant::now() {
                let (farm, Pass { standing, looked }) = (Arc::clone(&self.farm), *pass);
                let look = traced::spawn(async move { farm.still_stands(standing, looked).await });
                self.look = Some((look, Instant::now() + LONGEST));
            }
            let look = async {
                match &mut self.look {
                    Some((look, end)) => timeout_at(*end, look).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                found = look => {
                    self.look = None;
                    pass.looked = read_on(found)?;
                }
                bytes = self.bytes.next() => return bytes.transpose(),
                () = sleep_until(due), if due > Instant::now() => {}
            }
        }
    }
}

/// When it was seen that somebody may.
fn read_on(
    found: Result<Result<Result<Option<Instant>, farm::Error>, JoinError>, Elapsed>,
) -> io::Result<Instant> {
    let found = found.map_err(io::Error::from)?.map_err(io::Error::other)?.map_err(io::Error::other)?;
    found.ok_or_else(|| {
        tracing::info!("an answer that went on was broken off: who asked would not be let in any more");
        io::ErrorKind::PermissionDenied.into()
    })
}
