//! What happens on the farm: events out of a stream that is taken up again where it broke off.

use std::io::{self, BufRead as _, BufReader, Read as _};

use drover_wire::event::{EventKind, EventsQuery, FarmEvent};
use drover_wire::route::clients;

use super::http::is_silence;
use super::retry::Patience;
use super::{ClientError, Coordinator, Watch};

/// The most bytes of a line: an event has a few hundred, and tags of a few KiB at most.
const LINE_LIMIT: u64 = 16 << 20;

/// Calls `found` with every event that the query asks for, until that fails, or, with `once`, until there are no more. A
/// connection that breaks is made again; no event is left out or comes twice without an event `reset` that says so.
///
/// # Errors
/// What `found` says, a refusal, and with `once` a coordinator that stays away.
pub fn events(
    coordinator: &Coordinator,
    query: &EventsQuery,
    mut found: impl FnMut(FarmEvent) -> Result<(), ClientError>,
    watch: &dyn Watch,
) -> Result<(), ClientError> {
    let patience = || if query.once { Patience::some() } else { Patience::endless() };
    let mut query = query.clone();
    let mut waits = patience();
    let mut first = true;
    loop {
        let (before, mut lasted) = (query.since, false);
        let ended = read(coordinator, &mut query, &mut lasted, &mut found);
        if lasted || query.since != before {
            waits = patience();
            first = false;
        }
        match ended {
            Ok(End::Whole) if query.once => return Ok(()),
            Ok(End::Part) if query.once => {
                let error = io::Error::other("the events that there are did not all come");
                waits.wait_after(coordinator.broken(DOING, &error), watch)?;
            }
            // It was cut off, or the coordinator stops.
            Ok(_) => std::thread::sleep(waits.pause()),
            Err(error) if error.is_temporary() && !first => waits.wait_after(error, watch)?,
            Err(error) => return Err(error),
        }
        first = false;
    }
}

const DOING: &str = "reading events";

/// How an answer ended.
enum End {
    /// As one does that is over.
    Whole,
    /// In the middle of something, or nothing came for too long.
    Part,
}

/// Reads one answer, and notes how far it is, and whether it went on for so long that there was a heartbeat.
fn read(
    coordinator: &Coordinator,
    query: &mut EventsQuery,
    lasted: &mut bool,
    found: &mut impl FnMut(FarmEvent) -> Result<(), ClientError>,
) -> Result<End, ClientError> {
    let stream = coordinator.stream(DOING, &clients::EVENTS, &[], query, None)?;
    let mut stream = BufReader::new(stream);
    let mut block = Block::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stream).take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) if block.is_empty() => return Ok(End::Whole),
            // Half an event, or half a line: what it was about comes again.
            Ok(0) => return Ok(End::Part),
            Ok(_) if line.last() != Some(&b'\n') => return Ok(End::Part),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_silence(&error) => return Ok(End::Part),
            Err(error) => return Err(coordinator.broken(DOING, &error)),
        }
        *lasted |= line.starts_with(b":");
        let Some(ended) = block.line(&line) else { continue };
        if let Some(data) = ended.data {
            match serde_json::from_slice::<FarmEvent>(&data) {
                Ok(event) => found(event)?,
                // A later coordinator knows of more than this program.
                Err(_) if !is_ours(&data) => {}
                Err(error) => return Err(coordinator.odd(DOING, &error.to_string())),
            }
        }
        // After it was taken: what was not, comes again.
        query.since = ended.id.or(query.since);
    }
}

/// Whether it is of a kind that this program knows.
fn is_ours(data: &[u8]) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    let Some(value) = value else { return true };
    value.get("kind").and_then(|kind| kind.as_str()).is_none_or(|kind| kind.parse::<EventKind>().is_ok())
}

/// The lines of an event that have come so far.
#[derive(Debug, Default)]
struct Block {
    id: Option<u64>,
    data: Option<Vec<u8>>,
}

impl Block {
    fn is_empty(&self) -> bool {
        self.id.is_none() && self.data.is_none()
    }

    /// One more; gives all of it when it was the last.
    fn line(&mut self, line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Some(std::mem::take(self));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"id" => self.id = std::str::from_utf8(value).ok().and_then(|id| id.parse().ok()),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            },
            // Of the kind the data speak themselves.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_lines_are_read_as_the_standard_says() {
        let mut block = Block::default();
        let text =
            b"retry: 2000\nid: 7\n\n: a comment\ndata: one\ndata:two\r\nid: 9\nevent: x\n\n:\nid: 12\n\n";
        let ended: Vec<_> = text
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| block.line(line))
            .map(|block| (block.id, block.data.map(|data| String::from_utf8(data).unwrap())))
            .collect();
        assert_eq!(ended, [(Some(7), None), (Some(9), Some("one\ntwo".to_owned())), (Some(12), None)]);
    }

    #[test]
    fn what_a_later_coordinator_tells_of_is_passed_over_and_what_is_broken_is_not() {
        assert!(!is_ours(br#"{"id":1,"at":1,"kind":"moon-landed"}"#));
        assert!(is_ours(br#"{"id":"x","at":1,"kind":"published"}"#) && is_ours(b"{"));
    }
}
