//! Answers without an end go on only as long as who asked would still be let in: they end soon after a logout, and after the
//! end of a session or a token.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Extensions;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};

use crate::farm::Farm;
use crate::farm::browsers::Standing;

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
    let watched = Watched { farm: Arc::clone(farm), pass, bytes: Box::pin(bytes) };
    Body::from_stream(stream::try_unfold(watched, |mut watched| async move {
        Ok::<_, io::Error>(watched.next().await?.map(|bytes| (bytes, watched)))
    }))
}

struct Watched {
    farm: Arc<Farm>,
    pass: Option<Pass>,
    bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

impl Watched {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(pass) = &mut self.pass else { return self.bytes.next().await.transpose() };
        loop {
            let due = pass.looked + self.farm.beat();
            // Before anything else goes out, however fast it comes.
            if due <= Instant::now() {
                if !self.farm.stands(pass.standing).await.map_err(io::Error::other)? {
                    tracing::info!(
                        "an answer that went on was broken off: who asked would not be let in any more"
                    );
                    return Err(io::Error::from(io::ErrorKind::PermissionDenied));
                }
                pass.looked = Instant::now();
                continue;
            }
            tokio::select! {
                bytes = self.bytes.next() => return bytes.transpose(),
                () = sleep_until(due) => {}
            }
        }
    }
}
