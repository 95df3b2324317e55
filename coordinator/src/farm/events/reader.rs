//! One reader: first what it missed, out of the database, then what happens, as it does. No event is left out or sent
//! twice, and who does not read as fast as things happen is cut off, and can come back.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use drover_wire::event::{Detail, EventKind, EventsQuery, FarmEvent};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};

use super::filter::Filter;
use super::page::{self, Kept, Page, Sent};
use crate::farm::error::Error;
use crate::farm::turns::Taken;
use crate::farm::{Farm, now};

/// How soon a reader should come back, in milliseconds.
const RETRY_MS: u64 = 2000;
/// The bytes that are sent at once, about: what each reader that does not read has here at most, beside those of its
/// connection.
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
        let kept = self.database.read(Kept::read).await?;
        let since = match last_event.as_deref().map(str::trim).filter(|last| !last.is_empty()) {
            Some(last) => Some(last.parse().unwrap_or(u64::MAX)),
            None => query.since,
        };
        let gap = since.and_then(|since| kept.gap_after(since));
        let cursor = if gap.is_some() { kept.last } else { since.unwrap_or(kept.last) };
        self.numbers.stream.readers.inc();
        Ok(EventReader {
            farm: Arc::clone(self),
            filter: Filter::new(&query),
            once: query.once,
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
    /// When the database cannot be read, and when the coordinator stops before one that wants only what there is has it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let beat = self.farm.beat;
        loop {
            if !self.is_behind && self.once {
                return Ok(None);
            }
            if *self.stopping.borrow() {
                return if self.once { Err(Error::Stopping) } else { Ok(None) };
            }
            let text = if self.is_behind { self.catch_up().await? } else { self.hear().await };
            match text {
                None => return Ok(None),
                Some(text) if !text.is_empty() => {
                    self.sent = Instant::now();
                    return Ok(Some(text));
                }
                Some(_) if self.sent.elapsed() >= beat => {
                    self.sent = Instant::now();
                    return Ok(Some(sign(self.cursor)));
                }
                Some(_) => {}
            }
        }
    }

    /// The next page out of the database.
    async fn catch_up(&mut self) -> Result<Option<Bytes>, Error> {
        let _turn = self.farm.turns.catch_up.take().await?;
        // What was told meanwhile is in the database: nobody is too slow who still reads there.
        self.live = self.live.resubscribe();
        let after = self.cursor;
        let (kept, page) = self
            .farm
            .database
            .read::<_, Error>(move |sql| Ok((Kept::read(sql)?, page::read(sql, after, AT_ONCE)?)))
            .await?;
        if let Some(gap) = kept.gap_after(after) {
            // What comes next went by its age while this reader took its time.
            (self.cursor, self.is_behind) = (kept.last, false);
            return Ok(Some(reset(kept.last, gap)));
        }
        self.is_behind = page.is_full;
        Ok(Some(self.take(&page)))
    }

    /// What happens, or nothing for so long that a heartbeat is due. None: it was too slow, or the farm ends.
    async fn hear(&mut self) -> Option<Bytes> {
        let due = self.sent + self.farm.beat;
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
        let wanted = |sent: &Sent| self.filter.wants(sent);
        let wanted: Option<&dyn Fn(&Sent) -> bool> = if self.filter.is_open() { None } else { Some(&wanted) };
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
    let head = format!("retry: {RETRY_MS}\nid: {cursor}\n\n").into();
    match gap {
        Some(gap) => joined(&head, &reset(cursor, gap)),
        None => head,
    }
}

/// There is a gap before what follows this event.
fn reset(cursor: u64, gap: String) -> Bytes {
    use bytes::BufMut as _;

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
    let mut text = BytesMut::new().writer();
    page::print(&mut text, &reset);
    text.into_inner().freeze()
}

/// A comment; and how far it is, for who wants little and is cut off.
fn sign(cursor: u64) -> Bytes {
    format!(":\nid: {cursor}\n\n").into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    /// Some of these are a piece.
    const LARGE: usize = AT_ONCE / 4;

    fn open() -> (Arc<Farm>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), disk_reserve_mib: 0, ..Config::default() };
        let farm = tokio::task::block_in_place(|| Farm::open_with(config, Duration::from_secs(60)));
        (farm.unwrap(), folder)
    }

    /// From the beginning on, with the head behind it.
    async fn read(farm: &Arc<Farm>, once: bool) -> EventReader {
        let query = EventsQuery { since: Some(0), once, ..EventsQuery::default() };
        let mut reader = farm.read_events(query, None).await.unwrap();
        assert!(text(&mut reader).await.starts_with("retry:"));
        reader
    }

    async fn text(reader: &mut EventReader) -> String {
        let next = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.unwrap();
        String::from_utf8(next.unwrap().expect("it goes on").to_vec()).unwrap()
    }

    /// Reads until this event was there, and nothing twice or left out.
    async fn up_to(reader: &mut EventReader, from: u64, last: u64) {
        let mut next = from;
        while next <= last {
            for id in text(reader).await.lines().filter_map(|line| line.strip_prefix("id: ")) {
                assert_eq!(id, next.to_string());
                next += 1;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_is_outrun_by_the_age_of_what_it_reads_is_told_of_the_gap() {
        let (farm, _folder) = open();
        tokio::task::block_in_place(|| (0..20).for_each(|_| farm.happen(LARGE)));
        let mut reader = read(&farm, true).await;
        let first = text(&mut reader).await;
        assert!(first.contains("id: 1\n") && !first.contains("id: 9\n"), "{}", first.len());
        tokio::task::block_in_place(|| farm.change("DELETE FROM events WHERE id < 10"));
        let gap = text(&mut reader).await;
        assert!(gap.starts_with("id: 20\nevent: reset\n") && gap.contains("GET /state"), "{gap}");
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_still_reads_what_is_over_is_not_too_slow_for_what_happens() {
        let (farm, _folder) = open();
        crate::farm::events::start(&farm);
        let mut slow = read(&farm, false).await;
        let mut fast = read(&farm, false).await;
        // Many more pages than anybody may be behind.
        for id in 1..=100 {
            tokio::task::block_in_place(|| farm.happen(LARGE));
            up_to(&mut fast, id, id).await;
        }
        up_to(&mut slow, 1, 100).await;
        // One more out of the database, and then as it happens.
        for id in 101..=102 {
            tokio::task::block_in_place(|| farm.happen(LARGE));
            up_to(&mut slow, id, id).await;
        }
        assert_eq!(farm.numbers.stream.cut_off.get(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_is_no_end_of_what_there_is() {
        let (farm, _folder) = open();
        tokio::task::block_in_place(|| (0..20).for_each(|_| farm.happen(LARGE)));
        let (mut all, mut stays) = (read(&farm, true).await, read(&farm, false).await);
        text(&mut all).await;
        farm.stop();
        assert!(matches!(all.next().await, Err(Error::Stopping)), "who has a part takes it for the whole");
        // Who would have stayed knows that there is more.
        assert!(stays.next().await.unwrap().is_none());
    }
}
