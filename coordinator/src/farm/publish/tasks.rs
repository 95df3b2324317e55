//! What is done about publishing from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let mut asked = Asked { cursor: 0, at: None };
        let mut pause = BETWEEN;
        loop {
            let Some(farm) = weak.upgrade() else { return };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = farm.keys.changed.notified() => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let round =
                crate::traced::spawn_blocking(move || round(&farm, &mut asked).map(|pause| (pause, asked)));
            pause = match round.await {
                Ok(Ok((pause, next))) => {
                    asked = next;
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

/// How far the substitute servers were asked for what is waited for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Where to go on; 0: from the beginning.
    cursor: i64,
    /// When it was begun last.
    at: Option<Instant>,
}

/// Does some of what there is to do, and says after which pause there may be more.
fn round(farm: &Farm, asked: &mut Asked) -> Result<Duration, Error> {
    let signed = farm.sign_anew()?;
    let given = farm.give_backlog()?;
    if signed {
        return Ok(BETWEEN);
    }
    // Servers that are down are not asked at the pace of the rest.
    let is_time = asked.cursor != 0 || asked.at.is_none_or(|at| at.elapsed() >= EVERY);
    if is_time && !farm.substitutes.servers().is_empty() {
        if asked.cursor == 0 {
            asked.at = Some(Instant::now());
        }
        asked.cursor = farm.ask_again(asked.cursor)?;
    }
    Ok(match given {
        Given::Some => BETWEEN,
        _ if asked.cursor != 0 => BETWEEN,
        Given::Enough => MEANWHILE,
        Given::Nothing => EVERY,
    })
}
