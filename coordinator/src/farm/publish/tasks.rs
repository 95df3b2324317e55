//! What is done about publishing from time to time.

use std::sync::Arc;
use std::time::Duration;

use super::backlog::Given;
use crate::farm::Farm;
use crate::farm::error::Error;

/// How often it is looked for something to do.
const EVERY: Duration = Duration::from_secs(60);
/// How long others have the database between two of many small jobs.
const BETWEEN: Duration = Duration::from_millis(50);
/// How long the hook has for what waits for it, before it is given more.
const MEANWHILE: Duration = Duration::from_secs(2);

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
                tokio::task::spawn_blocking(move || round(&farm, &mut cursor).map(|pause| (pause, cursor)));
            pause = match round.await {
                Ok(Ok((pause, next))) => {
                    cursor = next;
                    pause
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

/// Does some of what there is to do, and says after which pause there may be more.
fn round(farm: &Farm, cursor: &mut i64) -> Result<Duration, Error> {
    if farm.sign_anew()? {
        return Ok(BETWEEN);
    }
    let given = farm.give_backlog()?;
    if !farm.substitutes.servers().is_empty() {
        *cursor = farm.ask_again(*cursor)?;
    }
    Ok(match given {
        Given::Some => BETWEEN,
        _ if *cursor != 0 => BETWEEN,
        Given::Enough => MEANWHILE,
        Given::Nothing => EVERY,
    })
}
