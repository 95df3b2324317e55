//! Events as the database has them, a page at a time, ready to be sent.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use drover_store::StorePath;
use drover_wire::AgentId;
use drover_wire::event::{Detail, EventKind, FarmEvent};
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::farm::error::Error;
use crate::farm::{paths, unsql};

/// The most events of a page.
const EVENTS: usize = 500;

/// Some events that follow one another.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// The number of the last event before them.
    pub(super) after: u64,
    /// That of the last of them.
    pub(super) last: u64,
    /// All of them, the oldest first.
    pub(super) events: Vec<Sent>,
    /// All of them as they are sent.
    text: Bytes,
    /// Whether there may be more behind it already.
    pub(super) is_full: bool,
}

/// An event, and where in the text of its page it ends.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) event: FarmEvent,
    /// The UUID of the agent that it is about.
    pub(super) agent: Option<AgentId>,
    end: usize,
}

impl Page {
    /// None, after this one.
    pub(super) fn empty(after: u64) -> Self {
        Self { after, last: after, events: Vec::new(), text: Bytes::new(), is_full: false }
    }

    /// Those behind this number that are wanted, as they are sent, and how many that are. Nothing is copied where all are.
    pub(super) fn text(&self, after: u64, wanted: Option<&dyn Fn(&Sent) -> bool>) -> (Bytes, u64) {
        let first = self.events.partition_point(|sent| sent.event.id <= after);
        let start =
            first.checked_sub(1).and_then(|before| self.events.get(before)).map_or(0, |sent| sent.end);
        let Some(wanted) = wanted else {
            let text = self.text.slice(start.min(self.text.len())..);
            return (text, self.events.len().saturating_sub(first) as u64);
        };
        let mut count = 0;
        let mut text = BytesMut::new();
        let mut from = start;
        for sent in self.events.iter().skip(first) {
            if wanted(sent) {
                text.put_slice(self.text.get(from..sent.end).unwrap_or_default());
                count += 1;
            }
            from = sent.end;
        }
        (text.freeze(), count)
    }
}

/// The next events behind this number, of so many bytes but for the last of them.
pub(super) fn read(sql: &Connection, after: u64, bytes: usize) -> Result<Arc<Page>, Error> {
    const NEXT: &str = "SELECT e.id, e.at, e.kind, e.build, e.attempt, e.detail, a.name, b.uuid, d.base, s.name, i.base, a.uuid \
         FROM events e LEFT JOIN agents a ON a.id = e.agent LEFT JOIN builds b ON b.id = e.build \
         LEFT JOIN paths d ON d.id = b.derivation LEFT JOIN derivations n ON n.id = b.derivation \
         LEFT JOIN platforms s ON s.id = n.system LEFT JOIN paths i ON i.id = e.path \
         WHERE e.id > ?1 ORDER BY e.id LIMIT ?2";
    let mut select = sql.prepare_cached(NEXT)?;
    let mut rows = select.query((super::sql(after), EVENTS as i64))?;
    let mut page = Page::empty(after);
    let mut text = BytesMut::new().writer();
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        page.last = unsql(row.get(0)?);
        // One of a later version, whose database this was.
        let Some(event) = event(sql, row)? else { continue };
        print(&mut text, &event);
        let agent = if event.agent.is_some() { Some(paths::agent_id(row, 11)?) } else { None };
        page.events.push(Sent { event, agent, end: text.get_ref().len() });
        if text.get_ref().len() >= bytes {
            page.is_full = true;
            break;
        }
    }
    page.is_full |= count >= EVENTS;
    page.text = text.into_inner().freeze();
    Ok(Arc::new(page))
}

fn event(sql: &Connection, row: &Row<'_>) -> Result<Option<FarmEvent>, Error> {
    let Ok(kind) = row.get_ref(2)?.as_str().unwrap_or_default().parse() else { return Ok(None) };
    let is_there = |column: usize| Ok::<_, Error>(row.get_ref(column)? != rusqlite::types::ValueRef::Null);
    // What a build was may be forgotten before what became of it.
    let build = if is_there(7)? { Some(paths::build_id(row, 7)?) } else { None };
    let path = |column: usize| {
        Ok::<_, Error>(if is_there(column)? { Some(paths::base(row, column)?) } else { None })
    };
    let detail: Option<String> = row.get(5)?;
    Ok(Some(FarmEvent {
        id: unsql(row.get(0)?),
        at: unsql(row.get(1)?),
        kind,
        build,
        derivation: path(8)?,
        system: row.get(9)?,
        tags: if build.is_some() { tags(sql, row.get(3)?)? } else { BTreeMap::new() },
        agent: row.get(6)?,
        attempt: row.get(4)?,
        item: path(10)?,
        detail: detail.map(|detail| self::detail(kind, &detail)).unwrap_or_default(),
    }))
}

/// The coordinator wrote it itself; what does not parse is of another version.
fn detail(kind: EventKind, text: &str) -> Detail {
    if kind == EventKind::MissingInputs {
        let missing: Vec<StorePath> = serde_json::from_str(text).unwrap_or_default();
        return Detail { missing, ..Detail::default() };
    }
    serde_json::from_str(text).unwrap_or_default()
}

fn tags(sql: &Connection, build: Option<i64>) -> Result<BTreeMap<String, String>, Error> {
    let mut select = sql.prepare_cached("SELECT key, value FROM build_tags WHERE build = ?1")?;
    let tags = select.query_map([build], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(tags.collect::<rusqlite::Result<_>>()?)
}

/// An event as it is sent: what JSON makes of a line break is no line break.
pub(super) fn print(text: &mut bytes::buf::Writer<BytesMut>, event: &FarmEvent) {
    // Memory takes all that is written to it.
    let _ = write!(text, "id: {}\nevent: {}\ndata: ", event.id, event.kind);
    let _ = serde_json::to_writer(&mut *text, event);
    let _ = text.write_all(b"\n\n");
}

/// The first and the last event of those that are there, whatever has gone: none is behind the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// The number of the first that is kept.
    pub(super) first: Option<u64>,
    /// That of the last one that happened, kept or not.
    pub(super) last: u64,
}

impl Kept {
    pub(super) fn read(sql: &Connection) -> Result<Self, Error> {
        let last: Option<i64> = sql
            .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?
            .query_row([], |row| row.get(0))
            .optional()?;
        let first: Option<i64> =
            sql.prepare_cached("SELECT min(id) FROM events")?.query_row([], |row| row.get(0))?;
        Ok(Self { first: first.map(unsql), last: last.map_or(0, unsql) })
    }

    /// Why what follows this event cannot all be had, if that is so.
    pub(super) fn gap_after(&self, since: u64) -> Option<String> {
        let first = self.first.unwrap_or(self.last.saturating_add(1));
        if since > self.last {
            return Some(format!(
                "there was no event {since} yet, the last one is {}: is the farm another one, or was it put back to an \
                 earlier time?",
                self.last
            ));
        }
        (since.saturating_add(1) < first && since < self.last).then(|| {
            format!(
                "the events after {since} are not all kept any more: the first that is has the number {first}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_there_or_has_gone_leaves_a_gap_and_nothing_else_does() {
        let kept = |first, last| Kept { first, last };
        for (kept, since) in [
            (kept(None, 0), 0),
            (kept(Some(1), 9), 0),
            (kept(Some(5), 9), 4),
            (kept(Some(5), 9), 9),
            (kept(None, 9), 9),
        ] {
            assert_eq!(kept.gap_after(since), None, "{kept:?} {since}");
        }
        for (kept, since) in
            [(kept(None, 0), 1), (kept(Some(5), 9), 3), (kept(Some(5), 9), 10), (kept(None, 9), 8)]
        {
            assert!(kept.gap_after(since).is_some(), "{kept:?} {since}");
        }
    }
}
