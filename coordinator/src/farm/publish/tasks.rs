//! What is done about publishing from time to time.

use std::sync::Arc;
use std::time::Duration;

use crate::farm::Farm;
use crate::farm::error::Error;

/// How often it is looked for something to do.
const EVERY: Duration = Duration::from_secs(60);

/// Starts it; it ends with the farm, or when that stops.
pub(in crate::farm) fn start(farm: &Arc<Farm>) {
    let weak = Arc::downgrade(farm);
    let mut stopping = farm.stopping();
    tokio::spawn(async move {
        let mut cursor = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let Some(farm) = weak.upgrade() else { return };
            let round = tokio::task::spawn_blocking(move || round(&farm, cursor));
            match round.await {
                Ok(Ok(next)) => cursor = next,
                Ok(Err(Error::Stopping)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "looking after what is to be published failed; it is tried again")
                }
            }
        }
    });
}

/// Does what there is to do; gives where to go on with what is waited for.
fn round(farm: &Farm, cursor: i64) -> Result<i64, Error> {
    if farm.substitutes.servers().is_empty() {
        return Ok(0);
    }
    farm.ask_again(cursor)
}
