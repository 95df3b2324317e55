//! What is done about publishing from time to time.

use std::sync::Arc;
use std::time::Duration;

use crate::farm::Farm;
use crate::farm::error::Error;

/// How often it is looked for something to do.
const EVERY: Duration = Duration::from_secs(60);
/// How long others have the database between two of many small jobs.
const BETWEEN: Duration = Duration::from_millis(50);

/// Starts it; it ends with the farm, or when that stops.
pub(in crate::farm) fn start(farm: &Arc<Farm>) {
    let weak = Arc::downgrade(farm);
    let mut stopping = farm.stopping();
    tokio::spawn(async move {
        let mut cursor = 0;
        let mut pause = BETWEEN;
        loop {
            let Some(farm) = weak.upgrade() else { return };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = farm.keys.changed.notified() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let round =
                tokio::task::spawn_blocking(move || round(&farm, &mut cursor).map(|more| (more, cursor)));
            pause = match round.await {
                Ok(Ok((more, next))) => {
                    cursor = next;
                    if more { BETWEEN } else { EVERY }
                }
                Ok(Err(Error::Stopping)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "looking after what is to be published failed; it is tried again");
                    EVERY
                }
            };
        }
    });
}

/// Does some of what there is to do. True: there is more.
fn round(farm: &Farm, cursor: &mut i64) -> Result<bool, Error> {
    if farm.sign_anew()? {
        return Ok(true);
    }
    if !farm.substitutes.servers().is_empty() {
        *cursor = farm.ask_again(*cursor)?;
    }
    Ok(*cursor != 0)
}
