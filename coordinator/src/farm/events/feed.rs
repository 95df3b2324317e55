//! What is sent to all readers at once: a task reads each event out of the database once, and all that read get the same
//! bytes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast};

use super::page::{self, Kept, Page};
use crate::farm::Farm;
use crate::farm::error::Error;

/// What happens within this time is sent together: a thousand readers cost a thousand writes.
const BEAT: Duration = Duration::from_millis(40);
/// The bytes of a page, about.
const BYTES: usize = 256 << 10;
/// Pages that a reader may be behind before it is cut off: some MiB at most, of which all have the same.
const PAGES: usize = 64;
/// How long the database is left in peace after it could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// Where readers hear of what happens.
#[derive(Debug)]
pub(crate) struct Feed {
    pages: broadcast::Sender<Arc<Page>>,
    wake: Notify,
}

impl Default for Feed {
    fn default() -> Self {
        Self { pages: broadcast::channel(PAGES).0, wake: Notify::new() }
    }
}

impl Feed {
    /// There are new events.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Hears what comes from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Page>> {
        self.pages.subscribe()
    }
}

/// Sends what happens, until the farm stops.
pub(in crate::farm) fn start(farm: &Arc<Farm>) {
    let (farm, feed) = (Arc::downgrade(farm), Arc::clone(&farm.feed));
    tokio::spawn(async move {
        // None: nobody read, so that nothing was looked at.
        let mut sent: Option<u64> = None;
        loop {
            feed.wake.notified().await;
            loop {
                let Some(farm) = farm.upgrade() else { return };
                if *farm.stopping.borrow() {
                    return;
                }
                if feed.pages.receiver_count() == 0 {
                    sent = None;
                    break;
                }
                match next(&farm, sent).await {
                    Ok(page) => {
                        let is_over = page.events.is_empty() && sent == Some(page.last);
                        sent = Some(page.last);
                        if is_over {
                            break;
                        }
                        // Nobody reads any more: nobody needs to know.
                        let _ = feed.pages.send(page);
                        drop(farm);
                        tokio::time::sleep(BEAT).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "events could not be read; it is tried again");
                        drop(farm);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    });
}

/// What comes after what was sent. The first time nothing but where it is now: readers that are behind that see that they
/// are, and read for themselves.
async fn next(farm: &Farm, sent: Option<u64>) -> Result<Arc<Page>, Error> {
    farm.database
        .read(move |sql| match sent {
            Some(sent) => page::read(sql, sent, BYTES),
            None => Ok(Arc::new(Page::empty(Kept::read(sql)?.last))),
        })
        .await
}
