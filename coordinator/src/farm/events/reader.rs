//! One reader: first what it missed, out of the database, then what happens, as it does. No event is left out or sent
//! twice, and who does not read as fast as things happen is cut off, and can come back.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use drover_wire::event::{Detail, EventKind, EventsQuery, FarmEvent};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};

use super::filter::Filter;
use super::page::{self, Kept, Page};
use crate::farm::error::Error;
use crate::farm::turns::Taken;
use crate::farm::{Farm, now};

/// How often something is sent although nothing happens that is wanted: proxies and readers see that the other end is
/// there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How soon a reader should come back, in milliseconds.
const RETRY_MS: u64 = 2000;
/// The bytes that are sent at once, about.
const AT_ONCE: usize = 64 << 10;

/// Reads events.
#[derive(Debug)]
pub struct EventReader {
    farm: Arc<Farm>,
    filter: Filter,
    once: bool,
    /// The last event that was sent, or passed over.
    cursor: u64,
    /// There may be more in the database.
    is_behind: bool,
    live: broadcast::Receiver<Arc<Page>>,
    stopping: watch::Receiver<bool>,
    /// What is sent before everything else.
    first: Option<Bytes>,
    /// When something was sent last.
    sent: Instant,
    _turn: Taken,
    _counted: Counted,
}

/// A reader that is counted as long as this is there.
#[derive(Debug)]
struct Counted(Arc<Farm>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.numbers.stream.readers.dec();
    }
}

impl Farm {
    /// Reads events: those after the last one that the reader saw, where it says so. `last_event` is what a header says,
    /// which is no number when it is not of ours.
    ///
    /// # Errors
    /// When the database cannot be read, or there are too many readers.
    pub async fn read_events(
        self: &Arc<Self>,
        query: EventsQuery,
        last_event: Option<String>,
    ) -> Result<EventReader, Error> {
        let turn = self.turns.read_events.take().await?;
        // Before the first look, so that nothing falls in between.
        let live = self.feed.subscribe();
        let once = query.once;
        let (filter, kept, query) = self
            .database
            .read::<_, Error>(move |sql| Ok((Filter::new(sql, &query)?, Kept::read(sql)?, query)))
            .await?;
        let since = match last_event.as_deref().map(str::trim).filter(|last| !last.is_empty()) {
            Some(last) => Some(last.parse().unwrap_or(u64::MAX)),
            None => query.since,
        };
        let gap = since.and_then(|since| kept.gap_after(since));
        let cursor = if gap.is_some() { kept.last } else { since.unwrap_or(kept.last) };
        self.numbers.stream.readers.inc();
        Ok(EventReader {
            farm: Arc::clone(self),
            filter,
            once,
            cursor,
            is_behind: true,
            live,
            stopping: self.stopping(),
            first: Some(head(cursor, gap)),
            sent: Instant::now(),
            _turn: turn,
            _counted: Counted(Arc::clone(self)),
        })
    }
}

impl EventReader {
    /// The next bytes of the stream; none at its end.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            if *self.stopping.borrow() {
                return Ok(None);
            }
            if !self.is_behind && self.once {
                return Ok(None);
            }
            let text = if self.is_behind { self.catch_up().await? } else { self.hear().await };
            match text {
                None => return Ok(None),
                Some(text) if !text.is_empty() => {
                    self.sent = Instant::now();
                    return Ok(Some(text));
                }
                Some(_) if self.sent.elapsed() >= HEARTBEAT => {
                    self.sent = Instant::now();
                    return Ok(Some(heartbeat(self.cursor)));
                }
                Some(_) => {}
            }
        }
    }

    /// The next page out of the database.
    async fn catch_up(&mut self) -> Result<Option<Bytes>, Error> {
        let _turn = self.farm.turns.catch_up.take().await?;
        let after = self.cursor;
        let page = self.farm.database.read(move |sql| page::read(sql, after)).await?;
        self.is_behind = page.is_full;
        Ok(Some(self.take(&page)))
    }

    /// What happens, or nothing for so long that a heartbeat is due. None: it was too slow, or the farm ends.
    async fn hear(&mut self) -> Option<Bytes> {
        let due = self.sent + HEARTBEAT;
        let heard = tokio::select! {
            heard = timeout_at(due, self.live.recv()) => heard,
            _ = self.stopping.wait_for(|stopping| *stopping) => return None,
        };
        let mut page = match heard {
            Err(_) => return Some(Bytes::new()),
            Ok(Err(RecvError::Closed)) => return None,
            Ok(Err(RecvError::Lagged(_))) => return self.cut_off(),
            Ok(Ok(page)) => page,
        };
        let mut text = self.heard(&page);
        // All that has come meanwhile goes at once.
        while !self.is_behind && text.len() < AT_ONCE {
            page = match self.live.try_recv() {
                Ok(page) => page,
                Err(TryRecvError::Lagged(_)) => return self.cut_off(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            };
            let more = self.heard(&page);
            text = if text.is_empty() { more } else { joined(&text, &more) };
        }
        Some(text)
    }

    fn heard(&mut self, page: &Page) -> Bytes {
        if page.after > self.cursor {
            // Between what it read and this there was something.
            self.is_behind = true;
            return Bytes::new();
        }
        self.take(page)
    }

    fn take(&mut self, page: &Page) -> Bytes {
        let wanted = |event: &FarmEvent| self.filter.wants(event);
        let wanted: Option<&dyn Fn(&FarmEvent) -> bool> =
            if self.filter.is_open() { None } else { Some(&wanted) };
        let (text, count) = page.text(self.cursor, wanted);
        self.farm.numbers.stream.sent.inc_by(count);
        self.cursor = self.cursor.max(page.last);
        text
    }

    fn cut_off(&self) -> Option<Bytes> {
        tracing::debug!(cursor = self.cursor, "a reader of events was too slow and is cut off");
        self.farm.numbers.stream.cut_off.inc();
        None
    }
}

fn joined(one: &Bytes, other: &Bytes) -> Bytes {
    let mut both = BytesMut::with_capacity(one.len() + other.len());
    both.extend_from_slice(one);
    both.extend_from_slice(other);
    both.freeze()
}

/// Where it starts, so that who is cut off before the first event comes back to that; after a gap, that there is one.
fn head(cursor: u64, gap: Option<String>) -> Bytes {
    use bytes::BufMut as _;
    use std::io::Write as _;

    let mut text = BytesMut::new().writer();
    // Memory takes all that is written to it.
    let _ = write!(text, "retry: {RETRY_MS}\nid: {cursor}\n\n");
    if let Some(gap) = gap {
        let said = format!("{gap}; take the snapshot (GET /state) and go on from the event that it names");
        let reset = FarmEvent {
            id: cursor,
            at: now(),
            kind: EventKind::Reset,
            build: None,
            derivation: None,
            system: None,
            tags: std::collections::BTreeMap::new(),
            agent: None,
            attempt: None,
            item: None,
            detail: Detail { text: Some(said), ..Detail::default() },
        };
        page::print(&mut text, &reset);
    }
    text.into_inner().freeze()
}

/// A comment; and how far it is, for who wants little and is cut off.
fn heartbeat(cursor: u64) -> Bytes {
    format!(":\nid: {cursor}\n\n").into()
}
